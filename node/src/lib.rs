//! A Muster dispatcher node: the parts, wired together.
//!
//! Read [`node`] first: it starts everything and names what feeds what. Then `agent` (makes what
//! runs here match the replicated assignment), `controller` (the leader's loop: observe, plan,
//! propose), `meter` (usage on its way to the ledger), `http` (the admin API) and `peer` (what other
//! nodes may ask). The log, the store, the engines and the invocation path are crates of their own.

mod agent;
mod bootstrap;
mod config;
mod controller;
mod host;
mod http;
mod meter;
mod node;
mod peer;
mod plane;
mod random;

pub use config::Config;
pub use node::Node;
