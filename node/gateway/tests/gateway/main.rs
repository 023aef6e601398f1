//! The gateway over real sockets: one to three gateways in one process, wired to a state that is
//! built by applying real commands, with small HTTP servers as functions.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod cluster;
mod function;

mod answers;
mod failures;
mod limits;
mod queueing;
mod refusals;
mod resting;
mod scaling;
mod usage;
