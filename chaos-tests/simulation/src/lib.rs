//! Whole Muster clusters in one process, on virtual time, each run from one seed.
//!
//! What runs is the product's own [`muster_node::parts::Parts`]: consensus over openraft, state
//! machine, snapshots, proposer, reads, controller, agent, meter, the admin API and the gateway's books.
//! Simulated are the disk below the store ([`muster_storage::Memory`]), the [`network`], the container
//! engine ([`containers`]), and the process's time and randomness ([`system`]). Not run: sockets, HTTP
//! below the admin API's router, sled, real containers, and invocations beyond the usage that they leave.
//!
//! Reading order: [`run`] is a run from boot to verdict; [`host`] one simulated host; [`faults`] what
//! befalls them; [`workload`] what clients do and what its answers promise, [`admin`] the part of it that
//! goes through the admin API; [`checks`] what must hold at every moment.
//!
//! **Invariant.** The same seed does the same, to the last message: one thread, no real clock, no
//! randomness but the seed's. A process runs one simulation, because tokio numbers its runtimes per
//! process and seeds `select!` with that number.

pub mod admin;
pub mod checks;
pub mod containers;
pub mod faults;
pub mod host;
pub mod network;
pub mod run;
pub mod system;
pub mod trace;
pub mod workload;
