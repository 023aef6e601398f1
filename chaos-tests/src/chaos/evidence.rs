//! What a run leaves behind to be judged. Plain data: a judgement can be repeated on it.

use std::collections::{BTreeMap, BTreeSet};

use muster_api::{Instance, Usage};
use serde::{Deserialize, Serialize};

use super::census::Census;
use super::disturbance::{self, Disturbances};
use super::faults::Layer;
use super::history::Entry;
use super::machine::Machine;
use super::plan::{Plan, Role};

/// The promises a run holds the cluster to, where the documentation leaves the number open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bounds {
    /// While a majority of nodes is undisturbed, writes are acknowledged again within this.
    pub recovery_ms: u64,
    /// After the last fault is mended, every node writes and invokes within this.
    pub liveness_ms: u64,
    /// An invocation ends within its function's deadline and this.
    pub margin_ms: u64,
    /// After healing, instances and processes agree, and replicas too, within this.
    pub settle_ms: u64,
    /// A node that has had no quorum for as long does not call itself ready.
    #[serde(default = "readiness_ms")]
    pub readiness_ms: u64,
    /// Usage with `usage_durability = "interval"` that a crash may lose is at most this old.
    pub usage_loss_ms: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            recovery_ms: 5_000,
            liveness_ms: 30_000,
            margin_ms: 3_000,
            settle_ms: 30_000,
            readiness_ms: readiness_ms(),
            // 100 ms by promise, and a sync on a busy disk.
            usage_loss_ms: 1_000,
        }
    }
}

/// As `raft.quorum_fresh_ms` is documented, and a moment in which the last word was under way.
fn readiness_ms() -> u64 {
    3_000
}

/// A fault as it happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    pub fault: String,
    #[serde(default)]
    pub layer: Layer,
    pub role: Role,
    /// All that suffer.
    pub nodes: Vec<u64>,
    /// Pairs of nodes that cannot talk, where nothing else is broken.
    #[serde(default)]
    pub severed: Vec<(u64, u64)>,
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
    /// How often its process had been started.
    #[serde(default)]
    pub start: u64,
    /// The last index it had applied, and a hash over everything until there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<(u64, String)>,
    /// What `/readyz` said when it was asked at this time; absent where it did not answer at once.
    #[serde(default)]
    pub ready: Option<ReadySaid>,
}

/// An answer of `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadySaid {
    pub asked_us: u64,
    pub ready: bool,
}

/// How many instances there were at one time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Population {
    pub at_us: u64,
    /// Live instances by function, as a node listed them; empty where none answered.
    pub listed: BTreeMap<String, u64>,
    /// Processes or containers; absent where nobody could tell.
    pub running: Option<u64>,
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
    /// What each node had applied when all had come to rest.
    #[serde(default)]
    pub samples: Vec<Sample>,
    pub usage: Vec<Usage>,
    pub instances: Vec<Instance>,
    /// How often each invocation was executed, by operation; absent where functions cannot tell.
    pub executions: Option<BTreeMap<u64, u64>>,
    /// Instances by what is really running: how many processes or containers each has.
    pub running: BTreeMap<String, u64>,
    /// Instances of which something is left that does not run: an ended container, a working folder.
    #[serde(default)]
    pub remains: Vec<String>,
    /// The cluster's networks on this host.
    #[serde(default)]
    pub networks: Vec<String>,
    /// What could not be removed when all was over.
    #[serde(default)]
    pub left: Vec<String>,
    /// Lines of node logs that tell of a panic, with the node.
    pub panics: Vec<(u64, String)>,
    /// Nodes whose process ended though nobody killed it.
    pub ended: Vec<u64>,
    /// Why there is nothing else to judge, where nodes panicked or ended and the run could not go on.
    #[serde(default)]
    pub cut_short: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evidence {
    pub plan: Plan,
    pub bounds: Bounds,
    pub version: String,
    #[serde(default)]
    pub machine: Machine,
    pub entries: Vec<Entry>,
    pub windows: Vec<Window>,
    /// Strikes that found no node to hit.
    pub missed: Vec<String>,
    pub samples: Vec<Sample>,
    #[serde(default)]
    pub population: Vec<Population>,
    /// When the machine itself stood still: a write to disk, or a timer, of this program took long.
    pub stalls: Vec<(u64, u64)>,
    /// What ran, looked at again and again.
    #[serde(default)]
    pub census: Census,
    /// Until when operations were sent without rest.
    pub busy_until_us: u64,
    pub liveness: Vec<Liveness>,
    pub finals: Finals,
}

impl Evidence {
    /// The faults that nodes themselves suffered.
    pub fn of_nodes(&self) -> impl Iterator<Item = &Window> {
        self.windows.iter().filter(|window| window.layer.is_of_node())
    }

    /// As [`Disturbances::of`], for one question; who has many keeps the answer to that one.
    pub fn disturbed(&self, node: u64, from_us: u64, to_us: u64, after_us: u64) -> bool {
        Disturbances::of(self).on(node, from_us, to_us, after_us)
    }

    /// Whether a fault of one of these layers was on any node at some time between the two, or within
    /// `after_us` before.
    pub fn faulty(&self, from_us: u64, to_us: u64, after_us: u64, layers: impl Fn(Layer) -> bool) -> bool {
        let overlaps = |w: &Window| w.begin_us <= to_us && from_us <= w.end_us + after_us;
        self.windows.iter().any(|window| layers(window.layer) && overlaps(window))
    }

    /// The times in which faults left no majority whole: no nodes enough, undisturbed and able to talk
    /// to each other.
    pub fn without_quorum(&self) -> Vec<(u64, u64)> {
        disturbance::without_quorum(self.of_nodes(), self.plan.nodes)
    }
}

impl Window {
    /// Whether a set of nodes, told by who is among it, can work together meanwhile.
    pub(super) fn spares(&self, among: &impl Fn(u64) -> bool) -> bool {
        match self.severed.is_empty() {
            true => !self.nodes.iter().any(|node| among(*node)),
            false => !self.severed.iter().any(|(a, b)| among(*a) && among(*b)),
        }
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
            machine: Machine::default(),
            entries: Vec::new(),
            windows: Vec::new(),
            missed: Vec::new(),
            samples: Vec::new(),
            population: Vec::new(),
            stalls: Vec::new(),
            census: Census::default(),
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
            layer: Layer::Process,
            role: Role::Leader,
            nodes: nodes.to_vec(),
            severed: Vec::new(),
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
        for window in &mut run.windows {
            window.layer = Layer::Engine;
        }
        assert!(run.without_quorum().is_empty(), "an engine in trouble takes no node from the quorum");
        assert!(!run.disturbed(1, 3_000, 4_000, 0));
    }

    #[test]
    fn a_majority_that_can_talk_is_a_quorum_whoever_else_suffers() {
        let severed =
            |nodes: &[u64], pairs: &[(u64, u64)]| Window { severed: pairs.to_vec(), ..window(nodes, 0, 10) };
        for (name, windows, whole) in [
            ("one pair: the third talks to both", vec![severed(&[1, 2], &[(1, 2)])], true),
            (
                "one pair, and the third is killed",
                vec![severed(&[1, 2], &[(1, 2)]), window(&[3], 0, 10)],
                false,
            ),
            (
                "one pair, and one of it is killed",
                vec![severed(&[1, 2], &[(1, 2)]), window(&[2], 0, 10)],
                true,
            ),
            ("one alone", vec![severed(&[1], &[(1, 2), (1, 3)])], true),
            ("all alone", vec![severed(&[1, 2, 3], &[(1, 2), (1, 3), (2, 3)])], false),
            ("one alone, another killed", vec![severed(&[1], &[(1, 2), (1, 3)]), window(&[2], 0, 10)], false),
        ] {
            let mut run = evidence();
            run.windows = windows;
            assert_eq!(run.without_quorum().is_empty(), whole, "{name}");
            assert!(run.disturbed(1, 3_000, 4_000, 0), "{name}");
        }
    }
}
