//! Who may speak for which node.
//!
//! A voter that lost its data has forgotten what it voted and acknowledged; if it took part under its old
//! id, a quorum could be less than one. Addresses change hands, too. So each message between nodes
//! names the node it is for with the data it was last known to have, and the sender with its own.
//!
//! It names the cluster, too: after a cluster was made anew from a backup or a survivor, the old one's nodes
//! still have its addresses and ids, and are not heard.
//!
//! Until a node has claimed its data in the log, in the first moments of its life, nobody knows it, and
//! its id alone counts.

use std::sync::Arc;

use arc_swap::ArcSwap;
use muster_core::ids::{ClusterId, Incarnation, NodeId, StoreId};
use muster_core::mutant;
use muster_core::version::Version;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::RpcError;
use crate::machine::Published;

/// One node as it presents itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub node: NodeId,
    pub store: StoreId,
    pub incarnation: Incarnation,
}

/// What stands before every request to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) sender: Identity,
    target: NodeId,
    /// What the sender knows of the target.
    store: Option<StoreId>,
    incarnation: Option<Incarnation>,
    /// The sender's cluster; none until it has learnt of one.
    cluster: Option<ClusterId>,
}

/// This node's identity and what it knows of the others'.
#[derive(Clone, Debug)]
pub(crate) struct Identities {
    own: Identity,
    /// As the store remembers it: the state may be that of a while ago, until the log is read again.
    remembered: Option<ClusterId>,
    published: Arc<ArcSwap<Published>>,
    /// Set once a peer knows this node with other data than it has.
    disowned: Arc<watch::Sender<Option<String>>>,
}

impl Identities {
    pub(crate) fn new(
        own: Identity,
        remembered: Option<ClusterId>,
        published: Arc<ArcSwap<Published>>,
    ) -> Self {
        Identities { own, remembered, published, disowned: Arc::new(watch::Sender::new(None)) }
    }

    fn cluster(&self, published: &Published) -> Option<ClusterId> {
        self.remembered.or(published.state.cluster)
    }

    /// The cluster version, as far as this node has applied.
    pub(crate) fn version(&self) -> Version {
        self.published.load().state.version.get()
    }

    pub(crate) fn own(&self) -> Identity {
        self.own
    }

    /// The reason, once this node has been told that its data is not what the cluster knows.
    pub(crate) fn disowned(&self) -> watch::Receiver<Option<String>> {
        self.disowned.subscribe()
    }

    pub(crate) fn header(&self, target: NodeId) -> Header {
        let published = self.published.load();
        let store = published.state.stores.get(target);
        let incarnation = published.state.nodes.get(target).map(|node| node.incarnation);
        Header { sender: self.own, target, store, incarnation, cluster: self.cluster(&published) }
    }

    /// Whether a request may be answered. Nothing of it has been looked at yet.
    pub(crate) fn check(&self, header: &Header) -> Result<(), RpcError> {
        let Header { sender, target, store, incarnation, cluster } = *header;
        let published = self.published.load();
        // First: what another cluster knows of a node under this address says nothing about this one.
        if let (Some(own), Some(theirs)) = (self.cluster(&published), cluster)
            && own != theirs
        {
            return Err(RpcError::OtherCluster { node: sender.node, own, theirs });
        }
        if target != self.own.node {
            return Err(RpcError::Misdirected(self.own.node));
        }
        if mutant!("node-id-reused") {
            return Ok(());
        }
        if published.state.members.is_removed(sender.node) {
            return Err(RpcError::Removed(sender.node));
        }
        let claimed = published.state.stores.get(sender.node);
        if claimed.is_some_and(|claimed| claimed != sender.store) {
            return Err(RpcError::Impostor(sender.node));
        }
        let (own, known) = (self.own, (store, incarnation));
        if known.0.is_some_and(|store| store != own.store) {
            return self.disown(format!(
                "the data of node {} was lost or replaced: the cluster knows another than it has",
                own.node
            ));
        }
        if known.0.is_some() && known.1.is_some_and(|incarnation| incarnation > own.incarnation) {
            return self.disown(format!("the data of node {} is an old copy", own.node));
        }
        Ok(())
    }

    fn disown(&self, reason: String) -> Result<(), RpcError> {
        let reason = format!(
            "{reason}. It must not vote again; put its data back as it was, or replace it by a new node: \
             `muster cluster replace {}` (docs/OPERATIONS.md)",
            self.own.node
        );
        self.disowned.send_replace(Some(reason));
        Err(RpcError::Disowned(self.own.node))
    }
}

#[cfg(test)]
mod tests {
    use muster_core::{Command, Entry, ProposalId, nodes};

    use super::*;

    fn identity(node: u64, store: u64, incarnation: u64) -> Identity {
        Identity { node: NodeId(node), store: StoreId(store), incarnation: Incarnation(incarnation) }
    }

    /// Nodes 1 and 2 have claimed the stores 10 and 20; node 2 has registered as incarnation 5.
    fn knowing(own: Identity) -> Identities {
        let mut published = Published::default();
        let state = Arc::make_mut(&mut published.state);
        let profile = nodes::Profile {
            http: String::new(),
            peer: String::new(),
            capacity: nodes::Resources::default(),
            engines: std::collections::BTreeSet::default(),
            labels: std::collections::BTreeMap::default(),
            version: String::new(),
        };
        let commands = vec![
            Command::Nodes(nodes::Command::Claim { node: NodeId(1), store: StoreId(10) }),
            Command::Nodes(nodes::Command::Claim { node: NodeId(2), store: StoreId(20) }),
            Command::Nodes(nodes::Command::Register {
                node: NodeId(2),
                incarnation: Incarnation(5),
                profile,
            }),
        ];
        let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: 1 };
        state.apply(&Entry { at: muster_core::units::Timestamp(1), proposal, commands });
        Identities::new(own, None, Arc::new(ArcSwap::from_pointee(published)))
    }

    #[test]
    fn who_may_speak_with_whom() {
        let sender = knowing(identity(1, 10, 1));
        let header = sender.header(NodeId(2));
        for (name, target, stays) in [
            ("the node that is meant", identity(2, 20, 5), true),
            ("the same after a restart", identity(2, 20, 6), true),
            ("wiped", identity(2, 99, 1), false),
            ("wiped, and restarted often", identity(2, 99, 50), false),
            ("an old copy", identity(2, 20, 4), false),
        ] {
            let target = knowing(target);
            assert_eq!(target.check(&header).is_ok(), stays, "{name}");
            assert_eq!(target.disowned().borrow().is_none(), stays, "{name}");
        }
        let other = knowing(identity(3, 30, 1));
        assert!(matches!(other.check(&header), Err(RpcError::Misdirected(NodeId(3)))));
        assert!(other.disowned().borrow().is_none(), "a stray message says nothing about its own data");
    }

    #[test]
    fn an_impostor_is_refused_and_a_newcomer_is_not() {
        let target = knowing(identity(2, 20, 5));
        for (name, sender, heard) in [
            ("known", identity(1, 10, 1), true),
            ("with other data", identity(1, 11, 1), false),
            ("not known yet", identity(4, 40, 1), true),
        ] {
            let header = Header { sender, target: NodeId(2), store: None, incarnation: None, cluster: None };
            assert_eq!(target.check(&header).is_ok(), heard, "{name}");
        }
        assert!(target.disowned().borrow().is_none());
    }

    #[test]
    fn another_cluster_is_not_heard_and_its_word_does_not_end_a_node() {
        let of = |node, store, cluster: Option<u64>| {
            let mut identities = knowing(identity(node, store, 9));
            identities.remembered = cluster.map(ClusterId);
            identities
        };
        for (name, theirs, own, heard) in [
            ("the same", Some(7), Some(7), true),
            ("an old one", Some(6), Some(7), false),
            ("one that has not learnt of any", None, Some(7), true),
            ("one who asks a newcomer", Some(7), None, true),
        ] {
            // Data that would end the node, if the old cluster were believed.
            let (sender, target) = (of(1, 10, theirs), of(2, if heard { 20 } else { 99 }, own));
            let checked = target.check(&sender.header(NodeId(2)));
            assert_eq!(checked.is_ok(), heard, "{name}");
            assert!(heard || matches!(checked, Err(RpcError::OtherCluster { .. })), "{name}");
            assert!(target.disowned().borrow().is_none(), "{name}");
        }
        // The state may be older than what the store remembers.
        let mut after_restart = of(2, 20, Some(7));
        let mut published = (*after_restart.published.load_full()).clone();
        Arc::make_mut(&mut published.state).cluster = Some(ClusterId(6));
        after_restart.published = Arc::new(ArcSwap::from_pointee(published));
        assert!(after_restart.check(&of(1, 10, Some(6)).header(NodeId(2))).is_err());
    }
}
