//! The pure heart of Muster. No clock, randomness, floats, hash maps, async or IO: what it needs
//! from outside arrives as an argument, so every replica computes the same.
//!
//! Read in this order: [`state`] (what is replicated and how it changes), the aggregates
//! ([`functions`] with [`packages`], [`accounts`], [`nodes`] with [`members`], [`instances`], [`ledger`], [`habits`]), then
//! the decisions taken on that state: [`autoscaler`] (how many), [`scheduler`] (where), [`planner`] (the
//! leader's next commands), [`membership`] (its next change to who votes), [`version`] (what all members
//! understand), [`reconcile`] (an agent's next actions) and [`billing`] (who pays).

pub mod accounts;
pub mod authority;
pub mod autoscaler;
pub mod billing;
pub mod functions;
pub mod habits;
pub mod ids;
pub mod instances;
pub mod ledger;
mod maps;
pub mod members;
pub mod membership;
pub mod mutants;
pub mod nodes;
pub mod observation;
pub mod packages;
pub mod planner;
pub mod reconcile;
pub mod rejection;
pub mod scheduler;
pub mod state;
pub mod units;
pub mod version;
pub mod window;

pub use rejection::Rejection;
pub use state::{Answer, Applied, ClusterState, Command, Entry, ProposalId, Reply};
