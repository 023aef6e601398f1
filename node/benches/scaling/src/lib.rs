//! A scaling simulator: a trace of invocations is replayed, on virtual time, through policies that decide
//! how many instances there are. One of them is Muster itself, its planner, autoscaler and scheduler as the
//! leader runs them.
//!
//! Read in this order: [`trace`] (what is asked), [`machine`] (the world), [`policies`] (who decides),
//! [`measure`] (what it cost), [`report`] and [`picture`] (how that is shown). [`workloads`] makes traces.

pub mod dice;
pub mod machine;
pub mod measure;
pub mod picture;
pub mod policies;
pub mod report;
pub mod trace;
pub mod workloads;
