//! Looks whether instances still answer. One that hangs is as lost as one that has crashed; nobody else would notice.
//!
//! Who serves somebody is left alone: it may have time for one thing only. Unless the last requests have all waited
//! for it in vain.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use muster_core::functions::EngineKind;
use muster_core::ids::{Generation, InstanceId};

use super::{Tools, actions};

/// So many times in a row without an answer, and it is given up.
const MISSED_MAX: u32 = 3;
/// So many requests in a row that got no answer, and it is looked at though it is busy.
const SILENT_MIN: u32 = 3;
const PARALLEL: usize = 16;

struct Subject {
    id: InstanceId,
    generation: Generation,
    engine: EngineKind,
    addr: SocketAddr,
    path: Option<String>,
}

pub(super) async fn look_for_ever(tools: Arc<Tools>) {
    let every_ms = tools.settings.probe_every_ms;
    if every_ms == 0 {
        return std::future::pending().await;
    }
    let mut missed: BTreeMap<InstanceId, u32> = BTreeMap::new();
    loop {
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        let answers: Vec<_> = stream::iter(subjects(&tools))
            .map(|subject| async {
                let engine = actions::engine(&tools, subject.engine)?;
                let answer = engine.probe(subject.addr, subject.path.as_deref()).await;
                // It may have been paused or stopped meanwhile: then nothing was learnt.
                let host = tools.gateway.host();
                let same = host.address(subject.id) == Some(subject.addr) && !host.may_rest(subject.id);
                same.then_some((subject, answer))
            })
            .buffer_unordered(PARALLEL)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let mut still = BTreeMap::new();
        for (subject, answer) in answers {
            let Err(why) = answer else { continue };
            let times = missed.get(&subject.id).copied().unwrap_or(0) + 1;
            if times < MISSED_MAX {
                still.insert(subject.id, times);
                continue;
            }
            let why = anyhow::Error::new(why);
            let reason = format!("it does not answer any more: {times} times in a row {why:#}");
            let Subject { id, generation, engine, .. } = subject;
            let tools = Arc::clone(&tools);
            tokio::spawn(async move { actions::fail(&tools, id, generation, engine, reason).await });
        }
        missed = still;
    }
}

/// Those to look at.
fn subjects(tools: &Tools) -> Vec<Subject> {
    let host = tools.gateway.host();
    let loads = host.loads();
    let due = loads.iter().filter(|load| load.in_flight == 0 || load.silent >= SILENT_MIN);
    let due: Vec<InstanceId> = due.map(|load| load.instance).filter(|id| !host.may_rest(*id)).collect();
    tools.consensus.with_state(|state| {
        let subject = |id: InstanceId| {
            let instance = state.instances.get(id)?;
            let path = actions::spec_of(state, instance).and_then(|spec| spec.readiness_path.clone());
            let (generation, engine) = (instance.generation, instance.engine);
            Some(Subject { id, generation, engine, addr: host.address(id)?, path })
        };
        due.into_iter().filter_map(subject).collect()
    })
}
