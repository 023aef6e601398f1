//! Where an instance is in its life, why it was launched and why it is brought down.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::AccountName;

/// placed → starting → ready → draining → stopped; or failed, or lost, from any live phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The leader chose a node; its agent has not begun.
    Placed,
    Starting,
    /// Takes requests.
    Ready,
    /// Takes no new requests; those in flight finish.
    Draining,
    /// Ended as it was asked to.
    Stopped,
    /// Ended by itself, or never became ready.
    Failed,
    /// Its node went down, or came back without it.
    Lost,
}

impl Phase {
    pub fn is_ended(self) -> bool {
        matches!(self, Phase::Stopped | Phase::Failed | Phase::Lost)
    }

    /// Counts towards what the function has or will soon have.
    pub fn is_wanted(self) -> bool {
        matches!(self, Phase::Placed | Phase::Starting | Phase::Ready)
    }

    pub fn is_launching(self) -> bool {
        matches!(self, Phase::Placed | Phase::Starting)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Placed => "placed",
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Stopped => "stopped",
            Phase::Failed => "failed",
            Phase::Lost => "lost",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trigger {
    /// The policy's `min`.
    Minimum,
    /// Requests were waiting.
    Queued,
    /// The instances were busier than the target.
    Utilization,
    /// A new version replaces an old one.
    Rollout,
    /// It is expected to be asked for soon.
    Prewarm,
}

/// The most accounts named in a cause: enough to charge a burst, few enough for a log record.
pub const CAUSE_ACCOUNTS_MAX: usize = 8;

/// Why an instance was launched, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchCause {
    pub trigger: Trigger,
    /// The accounts whose requests caused it, with how many of theirs were waiting or running.
    pub accounts: Vec<(AccountName, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DrainReason {
    /// Utilization stayed low for the whole window.
    LowUtilization,
    /// Nothing was asked of it for the keep-alive time.
    Idle,
    /// A newer version of the function takes its place.
    OldVersion,
    FunctionDeleted,
    NodeDraining,
    /// More are running than the policy's `max`.
    AboveMaximum,
    /// By its habits it will not be asked for soon.
    NotExpected,
}

impl fmt::Display for DrainReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DrainReason::LowUtilization => "utilization stayed low for the whole window",
            DrainReason::Idle => "idle for the keep-alive time",
            DrainReason::OldVersion => "a newer version takes its place",
            DrainReason::FunctionDeleted => "the function was deleted",
            DrainReason::NodeDraining => "its node is being drained",
            DrainReason::AboveMaximum => "more instances than the maximum",
            DrainReason::NotExpected => "by its habits not asked for soon",
        })
    }
}
