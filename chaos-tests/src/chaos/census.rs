//! How many instances there are, looked at again and again while a run goes on: as each node knows
//! them, and as they really run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::Method;
use muster_api::Instance;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::workload::{Seen, Stage, rest};
use crate::cluster::{Body, Kind};

/// Between two looks: a launch takes about as long.
const LOOK_EVERY: Duration = Duration::from_millis(300);
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// Phases in which an instance counts towards its function's maximum. One that drains is on its way
/// out, and its successor may come before it is gone.
const WANTED: [&str; 3] = ["placed", "starting", "ready"];
/// Doubles kept: the first tell enough.
const DOUBLES_MAX: usize = 20;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Looks at what nodes know.
    pub asked: u64,
    /// Looks at what runs.
    pub looked: u64,
    /// By function and version, the most instances that any node has known at one time, and when.
    pub most: BTreeMap<String, (u32, u64)>,
    /// By function, the most that really ran at one time.
    pub most_running: BTreeMap<String, (u32, u64)>,
    /// Instances seen to run more than once at the same time, and when.
    pub doubles: Vec<(String, u64)>,
}

impl Census {
    /// A node that does not answer, or Docker, leaves a gap; how many looks there were is told.
    fn add(
        &mut self,
        at_us: u64,
        known: Option<Vec<Instance>>,
        bodies: Option<Vec<Body>>,
        doubles: BTreeSet<String>,
    ) {
        if let Some(known) = known {
            self.asked += 1;
            // While a new version takes over, those of the one before serve on beside it.
            let names: Vec<String> = known.iter().map(|i| format!("{} v{}", i.function, i.version)).collect();
            raise(&mut self.most, names.iter().map(String::as_str), at_us);
        }
        if let Some(bodies) = bodies {
            self.looked += 1;
            raise(&mut self.most_running, bodies.iter().map(|body| body.function.as_str()), at_us);
        }
        let room = DOUBLES_MAX.saturating_sub(self.doubles.len());
        self.doubles.extend(doubles.into_iter().take(room).map(|instance| (instance, at_us)));
    }
}

/// Looks until it is stopped.
pub(super) async fn watch(
    stage: Stage,
    nodes: u64,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
) -> Result<()> {
    for turn in 0.. {
        if stop.is_cancelled() {
            break;
        }
        let known = known(&stage, turn % nodes + 1).await;
        let at_us = stage.recorder.now_us();
        let bodies = stage.cluster.bodies().await.ok();
        let doubles = match &bodies {
            Some(bodies) => still_doubled(&stage, bodies).await,
            None => BTreeSet::new(),
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner).census.add(at_us, known, bodies, doubles);
        rest(&stop, LOOK_EVERY).await;
    }
    Ok(())
}

/// The wanted instances in one node's state: each replica has been through every state in turn.
async fn known(stage: &Stage, node: u64) -> Option<Vec<Instance>> {
    let path = "/v1/instances?consistency=local";
    let request = stage.cluster.request(node, Method::GET, path, Some(stage.cluster.root_key()));
    let answer = request.timeout(ASK_LIMIT).send().await.ok()?.error_for_status().ok()?;
    let mut instances: Vec<Instance> = answer.json().await.ok()?;
    instances.retain(|instance| WANTED.contains(&instance.phase.as_str()));
    Some(instances)
}

/// Bodies are listed one after the other: of two with the same name the first may have ended before
/// the second began. They are doubles only if a second look finds both.
async fn still_doubled(stage: &Stage, bodies: &[Body]) -> BTreeSet<String> {
    let doubled = doubled(bodies);
    if doubled.is_empty() {
        return BTreeSet::new();
    }
    let again = stage.cluster.bodies().await.unwrap_or_default();
    let both: Vec<Body> = again.into_iter().filter(|body| bodies.contains(body)).collect();
    self::doubled(&both).intersection(&doubled).cloned().collect()
}

fn doubled(bodies: &[Body]) -> BTreeSet<String> {
    let mut by_instance: BTreeMap<&str, Vec<&Kind>> = BTreeMap::new();
    for body in bodies {
        by_instance.entry(&body.instance).or_default().push(&body.kind);
    }
    by_instance.retain(|_, kinds| kinds.len() > 1);
    by_instance.into_keys().map(str::to_owned).collect()
}

fn raise<'a>(most: &mut BTreeMap<String, (u32, u64)>, functions: impl Iterator<Item = &'a str>, at_us: u64) {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for function in functions {
        *counts.entry(function).or_default() += 1;
    }
    for (function, count) in counts {
        let known = most.entry(function.to_owned()).or_default();
        if count > known.0 {
            *known = (count, at_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_are_kept_and_doubles_are_seen() {
        let mut most = BTreeMap::new();
        raise(&mut most, ["a", "b", "a"].into_iter(), 1);
        raise(&mut most, ["a", "b", "b"].into_iter(), 2);
        assert_eq!(most, BTreeMap::from([("a".to_owned(), (2, 1)), ("b".to_owned(), (2, 2))]));
        let body = |instance: &str, pid| Body {
            node: 1,
            instance: instance.into(),
            function: "f".into(),
            kind: Kind::Process(pid),
        };
        let bodies = [body("i-1", 1), body("i-2", 2), body("i-1", 3)];
        assert_eq!(doubled(&bodies), BTreeSet::from(["i-1".to_owned()]));
        assert!(doubled(&bodies[..2]).is_empty());
    }
}
