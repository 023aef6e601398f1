//! What each member's software supports, as its leader asks and tells it, and the end of a node that cannot go along.
//!
//! The leader asks every member, every second, and tells it on the way which version is in effect and what the others
//! have said. Nothing of it is replicated: an old member could not read it. So what is known is what a running
//! process says of itself; who is down, or too old to be asked, says nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use muster_core::ids::NodeId;
use muster_core::mutant;
use muster_core::version::{self, Range, Step, Support, Unsupported, Version};
use muster_core::{ClusterState, Command};
use muster_storage::LogStore;
use openraft::{EntryPayload, RaftLogReader};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::types::TypeConfig;
use crate::{Consensus, formats};

/// For one member to answer.
const ASK_LIMIT: Duration = Duration::from_millis(500);
/// What a leader has told is of no use after this: it asks more often.
const TOLD_HOLDS: Duration = Duration::from_secs(10);

/// What every member has said of itself; `None` of those that said nothing.
pub type Said = BTreeMap<NodeId, Option<Support>>;

/// What a leader tells as it asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Notice {
    in_effect: Version,
    said: Said,
}

impl Notice {
    pub(crate) fn new(in_effect: Version, said: Said) -> Self {
        Notice { in_effect, said }
    }
}

/// What this node supports and what it knows of the others. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct Versions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Support,
    /// By whoever led at last, and when.
    told: ArcSwapOption<(Instant, Said)>,
    /// Set once this node has heard of a version that it does not support.
    ended: watch::Sender<Option<Unsupported>>,
}

impl Versions {
    pub fn new(own: Support) -> Self {
        let (told, ended) = (ArcSwapOption::empty(), watch::Sender::new(None));
        Versions(Arc::new(Inner { own, told, ended }))
    }

    /// Those of this release, as it is built.
    pub fn of_release() -> Self {
        Versions::new(Support { range: version::SUPPORTED, holds: false })
    }

    pub(crate) fn own(&self) -> Support {
        self.0.own
    }

    pub(crate) fn range(&self) -> Range {
        self.0.own.range
    }

    /// Whether this node can go along with a state. If it cannot, it ends.
    pub(crate) fn check(&self, state: &ClusterState) -> Result<(), Unsupported> {
        // Before there is a cluster there is no version either.
        if state.cluster.is_none() || mutant!("any-version-applied") {
            Ok(())
        } else {
            self.check_version(state.version.get())
        }
    }

    fn check_version(&self, in_effect: Version) -> Result<(), Unsupported> {
        self.range().check(in_effect).inspect_err(|unsupported| {
            self.0.ended.send_replace(Some(*unsupported));
        })
    }

    /// The reason, once this node cannot go along.
    pub(crate) fn ended(&self) -> watch::Receiver<Option<Unsupported>> {
        self.0.ended.subscribe()
    }

    /// Takes a leader's word, and answers with this node's.
    pub(crate) fn answer(&self, notice: Notice) -> Support {
        // A version is never lowered, so an old leader's word is true, too.
        if self.check_version(notice.in_effect).is_ok() {
            self.note(notice.said);
        }
        self.own()
    }

    pub(crate) fn note(&self, said: Said) {
        self.0.told.store(Some(Arc::new((Instant::now(), said))));
    }

    pub(crate) fn told(&self) -> Said {
        let told = self.0.told.load();
        let fresh = told.as_ref().filter(|told| told.0.elapsed() < TOLD_HOLDS);
        fresh.map(|told| told.1.clone()).unwrap_or_default()
    }
}

/// Why a log cannot be read, if a later release has written it: what leads to its version stands before what only
/// that one can read. Names the last of them that can be read.
pub(crate) async fn raised_beyond(
    mut log: LogStore<TypeConfig>,
    own: Range,
    mut index: u64,
) -> Option<Unsupported> {
    let mut raised = None;
    while let Some(entry) = log.try_get_log_entries(index..=index).await.ok().and_then(|mut read| read.pop())
    {
        if let EntryPayload::Normal(entry) = entry.payload {
            for command in &entry.commands {
                if let Command::Version(command) = command
                    && command.leads_to() > own.newest
                {
                    raised = raised.max(Some(command.leads_to()));
                }
            }
        }
        index += 1;
    }
    raised.map(|in_effect| Unsupported::TooNew { in_effect, own })
}

impl Consensus {
    /// The version in effect, as far as this node has applied.
    pub fn version(&self) -> Version {
        self.with_state(|state| state.version.get())
    }

    /// The format of reports to the leader, at the version in effect.
    pub fn report_format(&self) -> u8 {
        formats::of(self.version()).report
    }

    /// The versions that this node supports.
    pub fn supported(&self) -> Range {
        self.versions.range()
    }

    /// What the members have said of themselves, as the leader told it at last; empty where none did lately.
    pub fn members_support(&self) -> Said {
        self.versions.told()
    }

    /// What stands in the way of the next version, by what the leader told.
    pub fn next_version(&self) -> Step {
        version::next(self.version(), &self.members_support())
    }

    /// Asks every member what it supports, and tells them what is known. For the leader.
    pub async fn ask_members(&self) -> Said {
        let own = self.node();
        let members = self.everyone();
        let notice = Notice::new(self.version(), self.members_support());
        let asked = members.iter().filter(|(id, _)| **id != own).map(|(id, peer)| {
            let (peers, notice) = (&self.peers, &notice);
            async move { (*id, peers.support(*id, peer, notice, ASK_LIMIT).await.ok()) }
        });
        let mut said: Said = join_all(asked).await.into_iter().collect();
        said.insert(own, Some(self.versions.own()));
        self.versions.note(said.clone());
        said
    }

    /// All to whom the log is sent, or will be, with their addresses.
    fn everyone(&self) -> BTreeMap<NodeId, String> {
        let status = self.status();
        let mut all: BTreeMap<NodeId, String> =
            status.members.into_iter().map(|(id, status)| (id, status.member.peer)).collect();
        let published = self.state();
        for (id, enrolled) in published.state.members.enrolled() {
            all.entry(id).or_insert_with(|| enrolled.addresses.peer.clone());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_hears_of_a_version_it_does_not_support_ends_and_keeps_saying_what_it_is() {
        let range = Range { oldest: Version(1), newest: Version(1) };
        let own = Support { range, holds: false };
        let versions = Versions::new(own);
        let said = Said::from([(NodeId(1), Some(own)), (NodeId(2), None)]);
        let notice = |version| Notice::new(Version(version), said.clone());
        assert_eq!(versions.answer(notice(1)), own);
        assert_eq!((versions.told(), *versions.ended().borrow()), (said.clone(), None));
        assert_eq!(versions.answer(notice(2)), own);
        let ended = *versions.ended().borrow();
        assert_eq!(ended, Some(Unsupported::TooNew { in_effect: Version(2), own: range }));
    }
}
