//! The cluster version: one small number for what every member understands. It says which commands may be in the
//! log, and in which formats snapshots and peer messages are written. A rolling upgrade is this number going up.
//!
//! * Each release supports a range of versions. History:
//!   * 1, 2026-11: everything before there was a cluster version, so also a state that has none;
//!   * 2, 2026-11: the version itself is in the state, and packages are;
//!   * 3, 2026-11: snapshots are compressed.
//! * It goes up by one at a time, by a command of the leader, once every member has just said that it supports the
//!   next one. It never goes down: there may be something in the log that an older release cannot read.
//! * Until then no member writes anything that a member of the version in effect could not read, so it can still
//!   be replaced by its older release.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::mutant;
use crate::rejection::Rejection;

/// A version of the cluster. Not that of the software: most releases change nothing that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(pub u16);

impl Version {
    /// That of a state which has none.
    pub const FIRST: Version = Version(1);

    #[must_use]
    pub fn next(self) -> Version {
        Version(self.0.checked_add(1).expect("nobody writes 65,535 versions"))
    }

    /// The one before; the first has none, and is its own.
    #[must_use]
    pub fn previous(self) -> Version {
        Version(self.0.saturating_sub(1)).max(Version::FIRST)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The versions that a release supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub oldest: Version,
    pub newest: Version,
}

/// What this release supports.
pub const SUPPORTED: Range = Range { oldest: Version(1), newest: Version(3) };

impl Range {
    pub fn includes(&self, version: Version) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// # Errors
    /// Where a node of this range cannot take part at that version, with the way out.
    pub fn check(self, in_effect: Version) -> Result<(), Unsupported> {
        if in_effect > self.newest {
            return Err(Unsupported::TooNew { in_effect, own: self });
        }
        if in_effect < self.oldest {
            return Err(Unsupported::TooOld { in_effect, own: self });
        }
        Ok(())
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

/// A cluster's data, or its word, in the hands of a release that does not understand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    #[error(
        "the cluster is at version {in_effect}, and this muster-node supports only {own}. Nothing was changed: run \
         the release that the other nodes run, or a newer one; a version that was raised is never lowered \
         (docs/OPERATIONS.md, \"Rolling upgrade\")"
    )]
    TooNew { in_effect: Version, own: Range },
    #[error(
        "the cluster is at version {in_effect}, and this muster-node supports only {own}. Nothing was changed: first \
         run all nodes with a release between the two, until `muster cluster status` shows version {} \
         (docs/OPERATIONS.md, \"Rolling upgrade\")", own.oldest
    )]
    TooOld { in_effect: Version, own: Range },
}

/// A change of the version. Repeating a command is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A new cluster begins there. Proposed by the founder, together with the bootstrap.
    Begin { version: Version },
    /// Every member supports the next version: from here on it holds.
    Raise { to: Version },
}

impl Command {
    /// The version that holds once it is applied, if it is not refused.
    pub fn leads_to(&self) -> Version {
        match self {
            Command::Begin { version } => *version,
            Command::Raise { to } => *to,
        }
    }
}

/// The version of a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InEffect(Option<Version>);

impl InEffect {
    pub fn get(&self) -> Version {
        self.0.unwrap_or(Version::FIRST)
    }

    /// `pristine`: nobody has registered, so nobody can have relied on what held before.
    pub(crate) fn begin(&mut self, version: Version, pristine: bool) -> Result<(), Rejection> {
        if self.get() == version {
            return Ok(());
        }
        if self.0.is_some() || !pristine {
            return Err(Rejection::Conflict(format!("the cluster is at version {} already", self.get())));
        }
        if version < Version::FIRST {
            return Err(Rejection::Conflict(format!("there is no version {version}")));
        }
        self.0 = Some(version);
        Ok(())
    }

    pub(crate) fn raise(&mut self, to: Version) -> Result<(), Rejection> {
        let own = self.get();
        if to == own {
            return Ok(());
        }
        if to < own {
            return Err(Rejection::Stale(format!("the cluster is at version {own}")));
        }
        if to != own.next() {
            return Err(Rejection::Conflict(format!(
                "the cluster is at version {own}; the next is {}",
                own.next()
            )));
        }
        self.0 = Some(to);
        Ok(())
    }
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    pub range: Range,
    /// Its operator wants the version to stay, so that there is a way back.
    pub holds: bool,
}

/// Why a member stands in the way of the next version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// It did not answer, or is too old to understand the question. It may be old, and come back.
    Silent,
    Unsupported(Range),
    /// As its configuration says.
    Holds,
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Obstacle::Silent => write!(f, "does not say what it supports"),
            Obstacle::Unsupported(range) => write!(f, "supports {range}"),
            Obstacle::Holds => write!(f, "has `raft.hold_version` set"),
        }
    }
}

/// What is to be done about the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nobody knows of a next one.
    Newest,
    Raise {
        to: Version,
    },
    Held {
        to: Version,
        by: BTreeMap<NodeId, Obstacle>,
    },
}

/// The next step from the version in effect. `members` are all to whom the log is or will be sent, voters,
/// learners and those that join, each with what it has said just now, if it has.
pub fn next(in_effect: Version, members: &BTreeMap<NodeId, Option<Support>>) -> Step {
    let to = in_effect.next();
    if !members.values().flatten().any(|support| support.range.includes(to)) {
        return Step::Newest;
    }
    let obstacle = |support: &Option<Support>| match support {
        None if mutant!("silent-members-agree") => None,
        None => Some(Obstacle::Silent),
        Some(support) if !support.range.includes(to) => Some(Obstacle::Unsupported(support.range)),
        Some(support) if support.holds => Some(Obstacle::Holds),
        Some(_) => None,
    };
    let by: BTreeMap<NodeId, Obstacle> =
        members.iter().filter_map(|(node, support)| Some((*node, obstacle(support)?))).collect();
    if by.is_empty() { Step::Raise { to } } else { Step::Held { to, by } }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
