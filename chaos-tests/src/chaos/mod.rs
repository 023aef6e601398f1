//! Chaos runs: a real cluster, a seeded workload, faults, one history, and a verdict.
//!
//! Reading order: [`plan`] turns a seed into what will be done; [`op`] is one operation and how it
//! ended; [`history`] writes both down; [`workload`] and [`nemesis`] carry the plan out; [`run`] is
//! the whole run from start to verdict; [`evidence`] is what is judged; [`invariants`] judge;
//! [`report`] tells, and [`page`] shows it.
//!
//! * A new fault is a file in [`faults`] and a line in its registry.
//! * A new invariant is a file in [`invariants`] and a line in its registry.
//!
//! **Invariant.** An oracle shares no code with the node: it knows the wire types and what the
//! documentation promises, nothing else.
//!
//! **Invariant.** Every operation is written down before it is sent. One whose outcome is not known
//! stays unknown: nothing downstream guesses.

pub mod catalog;
pub mod census;
pub mod clients;
pub mod dice;
pub mod disturbance;
pub mod evidence;
pub mod faults;
pub mod figures;
pub mod gather;
pub mod history;
pub mod invariants;
#[cfg(test)]
mod long;
pub mod machine;
pub mod nemesis;
pub mod notes;
pub mod op;
pub mod page;
pub mod perform;
pub mod plan;
pub mod recorder;
pub mod report;
pub mod run;
pub mod soak;
pub mod summary;
mod watch;
pub mod workload;
