//! Faults, by name. Each one is a file here and a line in [`all`].

mod build_kill;
mod client_cut;
pub(super) mod clock_drift;
mod clock_jump;
mod crowd;
mod delay;
mod disk_full;
mod docker_fail;
mod docker_hang;
mod docker_lost_replies;
mod docker_slow;
mod docker_trouble;
mod ending;
mod filling;
mod flap;
mod frame;
mod herd;
mod instance_hang;
mod instance_kill;
mod instances;
mod kill;
mod links;
mod loss;
mod membership;
mod never_ready;
mod one_way;
mod oom;
mod partial;
mod partition;
mod pause;
mod power_cut;
mod slow_clients;
mod slow_disk;
mod snapshot_kill;
mod sync_error;
mod vanishing_clients;
mod wipe;

use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use http::Method;
use serde::{Deserialize, Serialize};

use super::workload::Stage;
use crate::Cluster;
use crate::cluster::READY_WITHIN;
use crate::wait::until;

pub use frame::{Frame, Needs, OVER_BY_ITSELF_MS};

/// Something that can be done to nodes and undone. It must notice whether it has worked: a fault
/// that was not felt has tested nothing.
#[async_trait]
pub trait Fault: Send + Sync {
    fn frame(&self) -> &Frame;

    /// Who suffers when it is done to the nodes of `hit` in a cluster of `all`.
    fn reach(&self, hit: &Hit, all: &[u64]) -> Reach {
        let _not_all_of_them = all;
        Reach { nodes: hit.nodes.clone(), severed: Vec::new() }
    }

    /// Does it. Answers which of those that suffer were seen to.
    ///
    /// # Errors
    /// Where it could not be done.
    async fn strike(&self, cluster: &Cluster, hit: &Hit) -> Result<Vec<u64>>;

    /// Which of those that suffer were seen to by the end, besides those that `strike` has seen. Asked
    /// before it is undone.
    async fn felt(&self, cluster: &Cluster, hit: &Hit) -> Vec<u64> {
        let _strike_has_seen_all = (cluster, hit);
        Vec::new()
    }

    /// Undoes it. What is over by itself needs nothing.
    ///
    /// # Errors
    /// Where it could not be undone.
    async fn mend(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        let _over_by_itself = (cluster, hit);
        Ok(())
    }

    /// Waits until the mended nodes are themselves again; those that never suffered are not waited for.
    ///
    /// # Errors
    /// Where one does not become ready.
    async fn back(&self, cluster: &Cluster, hit: &Hit) -> Result<()> {
        for node in &hit.nodes {
            match self.frame() {
                Frame { restarts: true, .. } => cluster.await_ready(*node).await?,
                frame if frame.layer.is_of_node() => await_readyz(cluster, *node).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What of a node is broken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    #[default]
    Process,
    Network,
    Disk,
    Clock,
    /// What runs the instances, or the instances themselves.
    Engine,
    /// What clients do.
    Load,
    /// Who belongs to the cluster.
    Members,
}

impl Layer {
    /// Whether the node itself suffers: it may then be slow, silent or gone. One whose engine or
    /// clients misbehave, or who gets a new neighbour, owes everyone a typed answer in time, and counts for the
    /// quorum.
    pub fn is_of_node(self) -> bool {
        !matches!(self, Layer::Engine | Layer::Load | Layer::Members)
    }
}

/// Who suffers a fault.
#[derive(Clone, Debug)]
pub struct Reach {
    pub nodes: Vec<u64>,
    /// Pairs of nodes that cannot rely on talking to each other, where that is all that is broken: a
    /// majority without such a pair is whole. Empty: it is the nodes themselves that cannot be relied on.
    pub severed: Vec<(u64, u64)>,
}

/// Whom a fault hits.
#[derive(Clone, Debug)]
pub struct Hit {
    /// Never empty.
    pub nodes: Vec<u64>,
    /// The plan's choice where the fault has one to make.
    pub choice: u64,
    /// How long it will stay in place.
    pub span: Duration,
    /// For faults that need more than the cluster: those that are operations themselves write them
    /// into the history as everyone does. Absent where nothing is done, only asked.
    pub stage: Option<Stage>,
}

impl Hit {
    fn stage(&self) -> &Stage {
        self.stage.as_ref().expect("whoever strikes sets the stage")
    }
}

async fn await_readyz(cluster: &Cluster, node: u64) -> Result<()> {
    until(&format!("node {node} is ready again"), READY_WITHIN, || readyz(cluster, node)).await
}

async fn readyz(cluster: &Cluster, node: u64) -> Result<()> {
    let answer = cluster.request(node, Method::GET, "/readyz", None).timeout(ASK_LIMIT).send().await?;
    ensure!(answer.status() == 200, "/readyz answers {}", answer.status());
    Ok(())
}

const ASK_LIMIT: Duration = Duration::from_secs(1);

/// All faults there are.
pub fn all() -> Vec<Box<dyn Fault>> {
    vec![
        // Process.
        Box::new(kill::Kill),
        Box::new(pause::Pause),
        Box::new(wipe::Wipe),
        Box::new(power_cut::PowerCut),
        Box::new(snapshot_kill::SnapshotKill),
        Box::new(build_kill::BuildKill),
        // Engine.
        Box::new(docker_hang::DOCKER_HANG),
        Box::new(docker_slow::DOCKER_SLOW),
        Box::new(docker_fail::DOCKER_FAIL),
        Box::new(docker_lost_replies::DOCKER_LOST_REPLIES),
        Box::new(instance_kill::InstanceKill::default()),
        Box::new(instance_hang::InstanceHang::default()),
        Box::new(oom::Oom),
        // Load.
        Box::new(herd::Herd),
        Box::new(slow_clients::SlowClients),
        Box::new(vanishing_clients::VanishingClients),
        Box::new(never_ready::NeverReady),
        // Members.
        Box::new(membership::Membership::default()),
        // Disk.
        Box::new(disk_full::DiskFull),
        Box::new(sync_error::SyncError),
        Box::new(slow_disk::SlowDisk),
        // Clock.
        Box::new(clock_jump::ClockJump),
        Box::new(clock_drift::ClockDrift),
        // Network.
        links::fault(partition::PARTITION),
        links::fault(one_way::ONE_WAY),
        links::fault(partial::PARTIAL),
        links::fault(flap::FLAP),
        links::fault(loss::LOSS),
        links::fault(delay::DELAY),
        links::fault(client_cut::CLIENT_CUT),
    ]
}

pub fn by_name(name: &str) -> Option<Box<dyn Fault>> {
    all().into_iter().find(|fault| fault.frame().name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_spans_are_ranges() {
        let mut names: Vec<&str> = all().iter().map(|fault| fault.frame().name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        for fault in all() {
            let (least, most) = fault.frame().span_ms;
            assert!(0 < least && least < most, "{}", fault.frame().name);
            assert!(by_name(fault.frame().name).is_some());
        }
        assert!(by_name("rain").is_none());
    }
}
