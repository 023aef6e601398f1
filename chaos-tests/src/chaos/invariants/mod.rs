//! What must hold, one file each, and the registry. Each has an oracle of its own and finds in the
//! evidence what contradicts it. A checker that has nothing to look at says so: `least` is how much
//! it must have seen for its silence to mean something.

mod administration;
mod durability;
mod executions;
mod history;
mod launches;
mod leaks;
mod linearizability;
mod liveness;
mod outcomes;
mod own_writes;
mod panics;
mod readiness;
mod recency;
mod recovery;
mod replicas;
mod revocation;
mod service;
mod usage;

use serde::Serialize;

pub use usage::{Reconciled, reconcile};

use super::evidence::Evidence;

/// Violations shown of one invariant; the others are counted.
const SHOWN_MAX: usize = 20;

pub trait Invariant {
    fn name(&self) -> &'static str;

    /// What it says, in a sentence.
    fn statement(&self) -> &'static str;

    fn check(&self, run: &Evidence) -> Finding;

    /// Whether it can judge a run that was [cut short](super::evidence::Finals::cut_short).
    fn judges_cut_short(&self) -> bool {
        false
    }
}

/// What one invariant found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Finding {
    pub violations: Vec<String>,
    /// Violations beyond those shown.
    pub more: usize,
    /// How many facts were looked at.
    pub examined: u64,
    /// Fewer than this prove nothing.
    pub least: u64,
    /// Measurements worth telling.
    pub notes: Vec<String>,
    /// Why it could not judge, where it could not.
    pub untested: Vec<String>,
}

impl Finding {
    pub(super) fn needing(least: u64) -> Self {
        Finding { least, ..Finding::default() }
    }

    pub(super) fn violate(&mut self, text: impl Into<String>) {
        match self.violations.len() < SHOWN_MAX {
            true => self.violations.push(text.into()),
            false => self.more += 1,
        }
    }

    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    pub fn saw_enough(&self) -> bool {
        self.examined >= self.least
    }
}

/// All invariants there are.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(durability::Durability),
        Box::new(linearizability::Linearizability),
        Box::new(recency::Recency),
        Box::new(history::History),
        Box::new(own_writes::OwnWrites),
        Box::new(replicas::Replicas),
        Box::new(usage::Usage),
        Box::new(executions::Executions),
        Box::new(revocation::Revocation),
        Box::new(administration::Administration),
        Box::new(outcomes::Outcomes),
        Box::new(leaks::Leaks),
        Box::new(launches::Launches),
        Box::new(service::Service),
        Box::new(readiness::Readiness),
        Box::new(recovery::Recovery),
        Box::new(liveness::Liveness),
        Box::new(panics::Panics),
    ]
}
