//! A Muster dispatcher node: the parts, wired together.
//!
//! Read [`node`] first: it starts everything and names what feeds what, then [`parts`], all of it that
//! is not a listener. Then `agent` (makes what
//! runs here match the replicated assignment), `controller` (the leader's loop: observe, plan,
//! propose), `meter` (usage on its way to the ledger), `enrollment` and `leaving` (how a node comes and
//! goes), `http` (the admin API), `logs` (what instances write, through any node), `peer` (what other nodes
//! may ask), `packages` and `images` (what functions are of, fetched before it is needed) and `credentials`
//! (how they know it is this one). `offline` works on a node's data while it does not run. The log, the store,
//! the engines and the invocation path are crates of their own.

mod agent;
mod bootstrap;
mod config;
mod controller;
mod credentials;
mod enrollment;
mod host;
mod host_engines;
mod http;
mod images;
mod leaving;
mod listeners;
mod logs;
mod meter;
mod node;
pub mod offline;
mod packages;
pub mod parts;
mod peer;
mod plane;
mod random;
mod transport;

pub use config::Config;
pub use node::Node;
