//! Real Muster clusters to test and to break.
//!
//! Read [`cluster::Cluster`] first: real `muster-node` processes in a folder of their own, with what
//! can be done to them (kill, pause, restart, slow down) and asked of them. [`Settings`] says what
//! kind of cluster; [`wait`] waits for what must come true and watches what must stay true; [`load`]
//! keeps requests coming and remembers how each ended; [`functions`] holds the specs to deploy.
//!
//! The tests of a whole cluster stand in `tests/`, one file per subject. At most two clusters run at
//! a time on one machine, whoever starts them (see [`cluster::CLUSTERS_MAX`]), so `cargo test` and
//! nextest both may run tests side by side.
//!
//! **Invariant.** Whatever happens to a test, its cluster leaves nothing behind: no process, no
//! container, no network, no file. A test that ends takes its cluster down; a test process that is
//! killed has a guard that does.

pub mod chaos;
pub mod cluster;
pub mod functions;
pub mod load;
pub mod mutants;
pub mod wait;

pub use cluster::{Cluster, Engine, Settings};
