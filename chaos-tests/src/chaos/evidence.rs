//! What a run leaves behind to be judged. Plain data: a judgement can be repeated on it.

use std::collections::{BTreeMap, BTreeSet};

use muster_api::{Instance, Usage};
use serde::{Deserialize, Serialize};

use super::history::Entry;
use super::plan::{Plan, Role};

/// The promises a run holds the cluster to, where the documentation leaves the number open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// After a revocation's acknowledgement, a node that has had a quorum for as long admits nobody
    /// on the strength of what was revoked.
    pub revocation_ms: u64,
    /// While a majority of nodes is undisturbed, writes are acknowledged again within this.
    pub recovery_ms: u64,
    /// After the last fault is mended, every node writes and invokes within this.
    pub liveness_ms: u64,
    /// An invocation ends within its function's deadline and this.
    pub margin_ms: u64,
    /// After healing, instances and processes agree, and replicas too, within this.
    pub settle_ms: u64,
    /// Usage with `usage_durability = "interval"` that a crash may lose is at most this old.
    pub usage_loss_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            revocation_ms: 3_000,
            recovery_ms: 5_000,
            liveness_ms: 30_000,
            margin_ms: 3_000,
            settle_ms: 30_000,
            // 100 ms by promise, and a sync on a busy disk.
            usage_loss_ms: 1_000,
        }
    }
}

/// A fault as it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    pub fault: String,
    pub role: Role,
    pub nodes: Vec<u64>,
    /// Those of the nodes that were seen to suffer it.
    pub felt: Vec<u64>,
    pub begin_us: u64,
    /// When it was being mended.
    pub mended_us: u64,
    /// When its nodes were ready again.
    pub end_us: u64,
}

/// What one node believed at one time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub at_us: u64,
    pub node: u64,
    pub leader: Option<u64>,
    pub term: u64,
}

/// What was asked of one node after everything was mended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Liveness {
    pub node: u64,
    pub what: String,
    /// How long until it succeeded; absent if it did not within the bound.
    pub after_ms: Option<u64>,
    pub detail: String,
}

/// The registers as one node answered at the end, with linearizable reads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FinalView {
    pub begin_us: u64,
    pub end_us: u64,
    /// By [`Op::register`](super::op::Op::register); absent ones are not listed.
    pub registers: BTreeMap<String, u64>,
    /// Ids of all keys.
    pub keys: BTreeSet<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Finals {
    pub views: BTreeMap<u64, FinalView>,
    /// By node, the local views at the same applied index, as one text per path.
    pub replicas: BTreeMap<u64, BTreeMap<String, String>>,
    pub applied: BTreeMap<u64, u64>,
    pub usage: Vec<Usage>,
    pub instances: Vec<Instance>,
    /// How often each invocation was executed, by operation; absent where functions cannot tell.
    pub executions: Option<BTreeMap<u64, u64>>,
    /// Instances by what is really running: how many processes or containers each has.
    pub running: BTreeMap<String, u64>,
    /// Lines of node logs that tell of a panic, with the node.
    pub panics: Vec<(u64, String)>,
    /// Nodes whose process ended though nobody killed it.
    pub ended: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    pub plan: Plan,
    pub bounds: Bounds,
    pub version: String,
    pub entries: Vec<Entry>,
    pub windows: Vec<Window>,
    /// Strikes that found no node to hit.
    pub missed: Vec<String>,
    pub samples: Vec<Sample>,
    /// When the machine itself stood still: a write to disk, or a timer, of this program took long.
    pub stalls: Vec<(u64, u64)>,
    /// Until when operations were sent without rest.
    pub busy_until_us: u64,
    pub liveness: Vec<Liveness>,
    pub finals: Finals,
}

impl Evidence {
    /// Whether a fault was on `node`, or had just been, or the quorum was missing, at some time
    /// between the two; `after_us` widens each fault behind its end.
    pub fn disturbed(&self, node: u64, from_us: u64, to_us: u64, after_us: u64) -> bool {
        let overlaps = |begin: u64, end: u64| begin <= to_us && from_us <= end + after_us;
        let hit = self.windows.iter().any(|w| w.nodes.contains(&node) && overlaps(w.begin_us, w.end_us));
        hit || self.without_quorum().iter().any(|(begin, end)| overlaps(*begin, *end))
    }

    /// The times in which faults held so many nodes that the others are no majority.
    pub fn without_quorum(&self) -> Vec<(u64, u64)> {
        let mut edges: Vec<u64> = self.windows.iter().flat_map(|w| [w.begin_us, w.end_us]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for pair in edges.windows(2) {
            let (begin, end) = (pair[0], pair[1]);
            let held: BTreeSet<u64> = self
                .windows
                .iter()
                .filter(|w| w.begin_us <= begin && end <= w.end_us)
                .flat_map(|w| w.nodes.iter().copied())
                .collect();
            let left = self.plan.nodes - held.len() as u64;
            if 2 * left > self.plan.nodes {
                continue;
            }
            match spans.last_mut() {
                Some(last) if last.1 == begin => last.1 = end,
                _ => spans.push((begin, end)),
            }
        }
        spans
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::op::{Mode, Op, Outcome, Verdict};
    use super::*;
    use crate::Engine;

    /// A run in which nothing happened.
    pub(crate) fn evidence() -> Evidence {
        let plan = Plan::new(1, 10, 3, Engine::Process, &[]);
        Evidence {
            plan,
            bounds: Bounds::default(),
            version: String::new(),
            entries: Vec::new(),
            windows: Vec::new(),
            missed: Vec::new(),
            samples: Vec::new(),
            stalls: Vec::new(),
            busy_until_us: u64::MAX,
            liveness: Vec::new(),
            finals: Finals::default(),
        }
    }

    /// Adds an operation through node 1. `end` absent: it never ended.
    pub(crate) fn push(to: &mut Evidence, begin_ms: u64, end: Option<(u64, Outcome)>, op: Op) -> u64 {
        let id = to.entries.len() as u64;
        let end = end.map(|(ms, outcome)| (ms * 1_000, outcome));
        to.entries.push(Entry { id, worker: 0, node: 1, op, begin_us: begin_ms * 1_000, end });
        id
    }

    pub(crate) fn done() -> Outcome {
        Outcome::new(Verdict::Done).status(200)
    }

    pub(crate) fn unknown() -> Outcome {
        Outcome::new(Verdict::Unknown)
    }

    pub(crate) fn put(name: &str, rev: u64) -> Op {
        Op::PutFunction { name: name.into(), rev }
    }

    pub(crate) fn read(name: &str) -> Op {
        Op::ReadFunction { name: name.into(), local: false }
    }

    pub(crate) fn invoke(function: &str, caller: &str) -> Op {
        Op::Invoke { function: function.into(), caller: caller.into(), work_ms: 0, mode: Mode::Answer }
    }

    pub(crate) fn window(nodes: &[u64], begin_ms: u64, end_ms: u64) -> Window {
        Window {
            fault: "kill".into(),
            role: Role::Leader,
            nodes: nodes.to_vec(),
            felt: nodes.to_vec(),
            begin_us: begin_ms * 1_000,
            mended_us: end_ms * 1_000,
            end_us: end_ms * 1_000,
        }
    }

    /// Marks a view by node as if each node had answered the same registers at the end.
    pub(crate) fn end_with(to: &mut Evidence, registers: &[(&str, u64)]) {
        for node in 1..=to.plan.nodes {
            let registers = registers.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
            let view =
                FinalView { begin_us: 900_000_000, end_us: 900_001_000, registers, ..FinalView::default() };
            to.finals.views.insert(node, view);
        }
    }

    #[test]
    fn overlapping_faults_take_the_quorum() {
        let mut run = evidence();
        run.windows = vec![window(&[1], 0, 10), window(&[2], 5, 20), window(&[3], 8, 9)];
        assert_eq!(run.without_quorum(), [(5_000, 10_000)]);
        assert!(run.disturbed(1, 3_000, 4_000, 0));
        assert!(!run.disturbed(3, 3_000, 4_000, 0));
        assert!(run.disturbed(3, 6_000, 6_500, 0), "without a quorum everyone is disturbed");
        assert!(!run.disturbed(1, 11_000, 12_000, 0));
        assert!(run.disturbed(1, 11_000, 12_000, 2_000));
    }
}
