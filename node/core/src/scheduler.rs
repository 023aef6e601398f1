//! Where an instance should go. Exact fit, explicit preferences, no ties: the same candidates give
//! the same node, whatever their order.

use std::collections::BTreeMap;
use std::fmt;

use crate::functions::EngineKind;
use crate::ids::NodeId;
use crate::nodes::{Condition, Resources};

/// A node as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    pub condition: Condition,
    /// Its reports arrive. A node that has just died is still ready in the replicated state.
    pub heard: bool,
    pub has_engine: bool,
    pub free: Resources,
    /// It need not pull the image. True where the engine needs none.
    pub has_image: bool,
    /// Requests for this function wait there.
    pub has_demand: bool,
    /// Instances of this function that it has, wanted ones.
    pub instances: u32,
    /// Of the launches of this function that have failed in a row, those that failed there.
    pub failures: u32,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub resources: Resources,
    pub engine: EngineKind,
}

/// Why no node can take an instance: each node counted once, under the first thing it lacks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NoPlace {
    pub need: Need,
    pub nodes: BTreeMap<Obstacle, u32>,
}

/// What keeps a node from taking an instance, in the order they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    Down,
    Unheard,
    Draining,
    Engine,
    Memory,
    Cpu,
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes.is_empty() {
            return f.write_str("there are no nodes");
        }
        for (place, (obstacle, count)) in self.nodes.iter().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            let (nodes, is, lacks) = match count {
                1 => ("node", "is", "lacks"),
                _ => ("nodes", "are", "lack"),
            };
            write!(f, "{separator}{count} {nodes} ")?;
            match obstacle {
                Obstacle::Down => write!(f, "{is} down")?,
                Obstacle::Unheard => write!(f, "{is} silent")?,
                Obstacle::Draining => write!(f, "{is} being drained")?,
                Obstacle::Engine => write!(f, "{lacks} the {} engine", self.need.engine)?,
                Obstacle::Memory => write!(f, "{lacks} memory: need {} MB", self.need.resources.memory_mb)?,
                Obstacle::Cpu => {
                    write!(f, "{lacks} cpu: need {} thousandths of a core", self.need.resources.cpu_millis)?;
                }
            }
        }
        Ok(())
    }
}

/// The node for one instance, of those that can take it:
///
/// 1. the one where the fewest launches of the function have failed in a row: what is wrong may be the node's disk or
///    its engine, and where nothing starts there is always room;
/// 2. one that has the image: pulling takes longer than anything else;
/// 3. the one with the fewest instances of the function, where requests that wait at a node make up
///    for one instance (more than that, and losing the one entry node would lose the function);
/// 4. where requests wait; 5. the most free memory; 6. the lowest id.
pub fn choose(candidates: &[Candidate], need: Need) -> Result<NodeId, NoPlace> {
    let mut nodes = BTreeMap::new();
    let mut fitting = Vec::new();
    for candidate in candidates {
        match obstacle(candidate, &need) {
            Some(obstacle) => *nodes.entry(obstacle).or_default() += 1,
            None => fitting.push(candidate),
        }
    }
    let rank = |c: &&Candidate| {
        let crowding = (2 * u64::from(c.instances)).saturating_sub(2 * u64::from(c.has_demand));
        (c.failures, !c.has_image, crowding, !c.has_demand, u64::MAX - c.free.memory_mb, c.node)
    };
    fitting.into_iter().min_by_key(rank).map(|c| c.node).ok_or(NoPlace { need, nodes })
}

fn obstacle(candidate: &Candidate, need: &Need) -> Option<Obstacle> {
    let Candidate { condition, free, .. } = candidate;
    match condition {
        Condition::Down => return Some(Obstacle::Down),
        Condition::Draining => return Some(Obstacle::Draining),
        Condition::Ready => {}
    }
    if !candidate.heard {
        return Some(Obstacle::Unheard);
    }
    if !candidate.has_engine {
        return Some(Obstacle::Engine);
    }
    if need.resources.memory_mb > free.memory_mb {
        return Some(Obstacle::Memory);
    }
    (need.resources.cpu_millis > free.cpu_millis).then_some(Obstacle::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEED: Need =
        Need { resources: Resources { memory_mb: 512, cpu_millis: 1000 }, engine: EngineKind::Docker };

    fn candidate(node: u64) -> Candidate {
        Candidate {
            node: NodeId(node),
            condition: Condition::Ready,
            heard: true,
            has_engine: true,
            free: Resources { memory_mb: 1024, cpu_millis: 2000 },
            has_image: true,
            has_demand: false,
            instances: 0,
            failures: 0,
        }
    }

    type Edit = fn(&mut Candidate);

    #[test]
    fn the_better_of_two_nodes() {
        let rows: [(&str, Edit, Edit, u64); 16] = [
            ("a tie goes to the lowest id", |_| {}, |_| {}, 1),
            ("a launch that failed", |c| c.failures = 1, |c| (c.has_image, c.instances) = (false, 5), 2),
            ("more that failed", |c| c.failures = 2, |c| c.failures = 1, 2),
            ("the image", |c| c.has_image = false, |_| {}, 2),
            ("the image beats spreading", |c| c.has_image = false, |c| c.instances = 5, 2),
            ("fewest instances", |c| c.instances = 1, |_| {}, 2),
            ("fewest instances beats memory", |c| c.instances = 1, |c| c.free.memory_mb = 512, 2),
            ("demand", |_| {}, |c| c.has_demand = true, 2),
            ("demand makes up for one", |_| {}, |c| (c.has_demand, c.instances) = (true, 1), 2),
            ("but not for two", |_| {}, |c| (c.has_demand, c.instances) = (true, 2), 1),
            ("demand beats memory", |c| c.has_demand = true, |c| c.free.memory_mb = 9999, 1),
            ("most free memory", |_| {}, |c| c.free.memory_mb = 1025, 2),
            ("an exact fit is a fit", |c| c.free = NEED.resources, |c| c.free.memory_mb = 511, 1),
            ("down", |c| c.condition = Condition::Down, |_| {}, 2),
            ("draining", |c| c.condition = Condition::Draining, |_| {}, 2),
            ("silent", |c| c.heard = false, |c| c.instances = 9, 2),
        ];
        for (case, first, second, want) in rows {
            let mut nodes = [candidate(1), candidate(2)];
            first(&mut nodes[0]);
            second(&mut nodes[1]);
            assert_eq!(choose(&nodes, NEED), Ok(NodeId(want)), "{case}");
            nodes.reverse();
            assert_eq!(choose(&nodes, NEED), Ok(NodeId(want)), "{case}, listed the other way round");
        }
    }

    #[test]
    fn why_there_is_no_place() {
        let rows: [(&[Edit], &str); 4] = [
            (&[], "there are no nodes"),
            (
                &[
                    |c| c.free.memory_mb = 511,
                    |c| c.condition = Condition::Down,
                    |c| c.free = Resources::default(),
                ],
                "1 node is down; 2 nodes lack memory: need 512 MB",
            ),
            (
                &[|c| c.free.cpu_millis = 999, |c| c.has_engine = false],
                "1 node lacks the docker engine; 1 node lacks cpu: need 1000 thousandths of a core",
            ),
            (
                &[|c| c.heard = false, |c| c.heard = false, |c| c.condition = Condition::Draining],
                "2 nodes are silent; 1 node is being drained",
            ),
        ];
        for (edits, text) in rows {
            let nodes: Vec<_> = (1..)
                .zip(edits)
                .map(|(id, edit)| {
                    let mut node = candidate(id);
                    edit(&mut node);
                    node
                })
                .collect();
            assert_eq!(choose(&nodes, NEED).map_err(|e| e.to_string()), Err(text.to_owned()));
        }
    }
}
