//! Faults, by name. Each one is a file here and a line in [`all`].

mod kill;
mod pause;

use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use http::Method;

use crate::Cluster;
use crate::cluster::READY_WITHIN;
use crate::wait::until;

/// Something that can be done to a node and undone. It must notice whether it has worked: a fault
/// that was not felt has tested nothing.
#[async_trait]
pub trait Fault: Send + Sync {
    fn name(&self) -> &'static str;

    /// The shortest and the longest time it is left in place.
    fn span_ms(&self) -> (u64, u64);

    /// Does it. Answers whether the node was seen to suffer it.
    ///
    /// # Errors
    /// Where it could not be done.
    async fn strike(&self, cluster: &Cluster, node: u64) -> Result<bool>;

    /// Undoes it.
    ///
    /// # Errors
    /// Where it could not be undone.
    async fn mend(&self, cluster: &Cluster, node: u64) -> Result<()>;

    /// Waits until a mended node is itself again.
    ///
    /// # Errors
    /// Where it does not become ready.
    async fn back(&self, cluster: &Cluster, node: u64) -> Result<()> {
        until(&format!("node {node} is ready again"), READY_WITHIN, || async {
            let answer =
                cluster.request(node, Method::GET, "/readyz", None).timeout(ASK_LIMIT).send().await?;
            ensure!(answer.status() == 200, "/readyz answers {}", answer.status());
            Ok(())
        })
        .await
    }
}

const ASK_LIMIT: Duration = Duration::from_secs(1);

/// All faults there are.
pub fn all() -> Vec<Box<dyn Fault>> {
    vec![Box::new(kill::Kill), Box::new(pause::Pause)]
}

pub fn by_name(name: &str) -> Option<Box<dyn Fault>> {
    all().into_iter().find(|fault| fault.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_spans_are_ranges() {
        let mut names: Vec<&str> = all().iter().map(|fault| fault.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all().len());
        for fault in all() {
            let (least, most) = fault.span_ms();
            assert!(0 < least && least < most, "{}", fault.name());
            assert!(by_name(fault.name()).is_some());
        }
        assert!(by_name("rain").is_none());
    }
}
