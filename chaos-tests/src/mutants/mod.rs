//! Proves the checks: each seeded bug of the product must be caught where the [`table`] says.
//!
//! [`programs`] builds the node with the feature `mutants` into a folder of its own; [`trial`] runs
//! one proof, a chaos run or tests, with one bug alive or none; [`campaign`] runs all proofs and
//! tells what came of them.
//!
//! **Invariant.** Each proof is also run with no bug alive, in the same build, and must find nothing
//! then: else a check that always fails would pass for one that catches.

pub mod campaign;
pub mod programs;
pub mod table;
pub mod trial;
