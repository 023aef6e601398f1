//! The pure heart of Muster. No clock, randomness, floats, hash maps, async or IO: what it needs
//! from outside arrives as an argument, so every replica computes the same.
//!
//! Read in this order: [`state`] (what is replicated and how it changes), the five aggregates
//! ([`functions`], [`accounts`], [`nodes`], [`instances`], [`ledger`]), then the decisions
//! taken on that state: [`autoscaler`] (how many), [`scheduler`] (where), [`planner`] (the leader's
//! next commands), [`reconcile`] (an agent's next actions) and [`billing`] (who pays).

pub mod accounts;
pub mod autoscaler;
pub mod billing;
pub mod functions;
pub mod ids;
pub mod instances;
pub mod ledger;
pub mod nodes;
pub mod observation;
pub mod planner;
pub mod reconcile;
pub mod rejection;
pub mod scheduler;
pub mod state;
pub mod units;
pub mod window;

pub use rejection::Rejection;
pub use state::{Answer, Applied, ClusterState, Command, Entry, ProposalId, Reply};
