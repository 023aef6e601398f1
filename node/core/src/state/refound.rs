//! Another cluster out of an old one's state.

use std::cmp::max;

use imbl::OrdMap;

use super::{Answer, ClusterState, Reply};
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::nodes::Stores;
use crate::rejection::Rejection;

impl ClusterState {
    /// The old cluster's nodes are gone, and what ran there is written off: charged up to the clock, which
    /// is as far as anyone knows. Functions, accounts, keys and the ledger stay.
    ///
    /// Tokens and the old nodes' ids are used up. The authority of the nodes' certificates stays until a founder
    /// that has a secret tells of another.
    ///
    /// The founder goes on numbering its proposals and usage batches from where it was, so nothing of it is
    /// counted twice. The numbers of the others are forgotten: a node that joins later is
    /// another node, and what they have not shipped cannot arrive, since this cluster does not hear them.
    pub(super) fn refound(&mut self, cluster: ClusterId, founder: NodeId) -> Answer {
        match self.cluster {
            Some(known) if known == cluster => return Ok(Reply::Done),
            Some(_) => self.cluster = Some(cluster),
            None => return Err(Rejection::Conflict("there is no cluster yet to make another of".into())),
        }
        let nodes: Vec<NodeId> = self.nodes.iter().map(|(id, _)| id).collect();
        let claimed: Vec<NodeId> = self.stores.nodes().collect();
        self.members.refound(founder, nodes.iter().chain(&claimed).copied());
        for node in nodes {
            self.lose(node, "its cluster was lost", |_| true);
            self.nodes.forget(node);
        }
        self.stores = Stores::default();
        self.proposals = only(&self.proposals, founder);
        self.ledger.keep_mark_of(founder);
        Ok(Reply::Done)
    }

    /// The latest incarnation under which anything is known of a node.
    pub fn last_incarnation(&self, node: NodeId) -> Incarnation {
        let proposed = self.proposals.get(&node).map(|(incarnation, _)| *incarnation);
        let shipped = self.ledger.mark(node).map(|(incarnation, _)| incarnation);
        let registered = self.nodes.get(node).map(|node| node.incarnation);
        max(proposed, max(shipped, registered)).unwrap_or_default()
    }
}

fn only<T: Clone>(of: &OrdMap<NodeId, T>, node: NodeId) -> OrdMap<NodeId, T> {
    of.get(&node).map(|value| OrdMap::unit(node, value.clone())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::accounts::KeyHash;
    use crate::functions::EngineKind;
    use crate::ids::{KeyId, StoreId};
    use crate::ledger::Command::RecordUsage;
    use crate::units::Timestamp;
    use crate::{Command, Entry, ProposalId, nodes};

    fn apply(
        state: &mut ClusterState,
        node: u64,
        incarnation: u64,
        sequence: u64,
        command: Command,
    ) -> Answer {
        let proposal = ProposalId { node: NodeId(node), incarnation: Incarnation(incarnation), sequence };
        let entry = Entry { at: Timestamp(1_000 * sequence), proposal, commands: vec![command] };
        match state.apply(&entry) {
            crate::Applied::Answers(mut answers) => answers.pop().unwrap(),
            crate::Applied::Repeated => panic!("{proposal:?} counts as repeated"),
        }
    }

    fn usage(node: u64, incarnation: u64, batch: u64) -> Command {
        let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
        Command::Ledger(RecordUsage { node, incarnation, batch, rows: Vec::new() })
    }

    #[test]
    fn the_old_nodes_are_gone_and_the_founder_goes_on_counting() {
        let mut state = ClusterState::default();
        let refound = |id, founder| Command::Refound { cluster: ClusterId(id), founder: NodeId(founder) };
        assert!(apply(&mut state, 1, 1, 1, refound(8, 1)).is_err(), "there is nothing to go on from");
        let bootstrap = Command::Bootstrap { cluster: ClusterId(7), key: KeyId(1), hash: KeyHash::of("x") };
        apply(&mut state, 1, 1, 2, bootstrap).unwrap();
        for node in 1..=3 {
            let profile = nodes::Profile {
                http: String::new(),
                peer: String::new(),
                capacity: nodes::Resources::default(),
                engines: BTreeSet::from([EngineKind::Process]),
                labels: BTreeMap::new(),
                version: String::new(),
            };
            let (id, incarnation) = (NodeId(node), Incarnation(4));
            let claim = nodes::Command::Claim { node: id, store: StoreId(node) };
            apply(&mut state, node, 4, 3, Command::Nodes(claim)).unwrap();
            let register = nodes::Command::Register { node: id, incarnation, profile };
            apply(&mut state, node, 4, 4, Command::Nodes(register)).unwrap();
            apply(&mut state, node, 4, 5, usage(node, 4, 9)).unwrap();
        }
        assert_eq!(state.last_incarnation(NodeId(2)), Incarnation(4));
        assert_eq!(state.last_incarnation(NodeId(9)), Incarnation(0));

        apply(&mut state, 2, 5, 1, refound(8, 2)).unwrap();
        assert_eq!(state.cluster, Some(ClusterId(8)));
        assert_eq!((state.nodes.iter().count(), state.stores.get(NodeId(1))), (0, None));
        assert_eq!(state.last_incarnation(NodeId(2)), Incarnation(5));
        assert_eq!(state.ledger.mark(NodeId(2)), Some((Incarnation(4), 9)), "its journal may hold batch 9");
        // Were an old id used again, it would begin at the beginning.
        assert_eq!(state.last_incarnation(NodeId(3)), Incarnation(0));
        apply(&mut state, 3, 1, 1, usage(3, 1, 1)).unwrap();
        assert_eq!(state.ledger.mark(NodeId(3)), Some((Incarnation(1), 1)));
        assert!(state.members.is_removed(NodeId(3)) && !state.members.is_removed(NodeId(2)));
        let before = state.clone();
        apply(&mut state, 2, 5, 2, refound(8, 2)).unwrap();
        assert_eq!(
            (state.nodes, state.ledger),
            (before.nodes, before.ledger),
            "a repetition changes nothing"
        );
    }
}
