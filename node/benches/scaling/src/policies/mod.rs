//! The policies that are compared. Each decides for the whole fleet.

mod fixed;
mod knative;
mod muster;
mod seed;
mod wild;

use muster_core::functions::KeepAlive;
use muster_core::units::Millis;

pub use fixed::Fixed;
pub use knative::Knative;
pub use muster::{Cluster, Muster};
pub use seed::Seed;
pub use wild::Wild;

use crate::machine::Fleet;
use crate::trace::Trace;

pub trait Policy {
    fn name(&self) -> &str;

    /// How long after a decision the next is due; `waiting`: requests wait.
    fn tick_ms(&self, waiting: bool) -> u64;

    /// Whether a decision is due at once for a request that has begun to wait.
    fn reacts(&self, fleet: &Fleet<'_>, function: usize) -> bool;

    fn decide(&mut self, fleet: &mut Fleet<'_>);
}

pub const TEN_MINUTES: Millis = Millis::from_secs(600);

/// All of them, the one that the others are compared with first.
pub fn all(trace: &Trace, cluster: Cluster) -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Fixed::new("fixed 10 min", TEN_MINUTES.0)),
        Box::new(Knative::new(trace)),
        Box::new(Seed::default()),
        Box::new(Wild::new(trace)),
        Box::new(Muster::new("muster, fixed 10 min", trace, KeepAlive::Fixed(TEN_MINUTES), cluster)),
        Box::new(Muster::new("muster, adaptive", trace, KeepAlive::Adaptive, cluster)),
    ]
}

/// Numbers for instances.
#[derive(Clone, Debug, Default)]
struct Ids(u64);

impl Ids {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// Launches what is missing, or drains what is too much: the youngest first.
fn steer(fleet: &mut Fleet<'_>, ids: &mut Ids, function: usize, desired: u32) {
    let (starting, ready) = fleet.wanted(function);
    for _ in starting + ready..desired {
        fleet.launch(ids.next(), function, 1);
    }
    let wanted = fleet.demand[function].instances.iter().filter(|id| !fleet.instances[id].draining);
    let surplus: Vec<u64> = wanted.copied().skip(desired as usize).collect();
    surplus.into_iter().for_each(|id| fleet.drain(id));
}
