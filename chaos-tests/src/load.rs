//! Requests that keep coming until they are stopped, and how each of them ended.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Outcomes one worker keeps: a test that makes more has lost its way.
const OUTCOMES_MAX: usize = 1_000_000;

/// Something done once, and when.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    pub began: Instant,
    pub ended: Instant,
    pub value: T,
}

/// Workers that each do one thing after the other.
#[derive(Debug)]
pub struct Load<T> {
    stop: CancellationToken,
    workers: JoinSet<Vec<Outcome<T>>>,
}

impl<T: Send + 'static> Load<T> {
    /// Starts `workers`, which call `work(worker, turn)` again and again, `pause` apart, each call
    /// after the last has ended.
    pub fn start<F, W>(workers: usize, pause: Duration, work: W) -> Self
    where
        W: Fn(usize, usize) -> F + Clone + Send + 'static,
        F: Future<Output = T> + Send,
    {
        let mut load = Load { stop: CancellationToken::new(), workers: JoinSet::new() };
        for worker in 0..workers {
            let (work, stop) = (work.clone(), load.stop.clone());
            load.workers.spawn(async move {
                let mut outcomes = Vec::new();
                while !stop.is_cancelled() && outcomes.len() < OUTCOMES_MAX {
                    let began = Instant::now();
                    let value = work(worker, outcomes.len()).await;
                    outcomes.push(Outcome { began, ended: Instant::now(), value });
                    // Stopped or rested: the loop's head tells.
                    let _rested = tokio::time::timeout(pause, stop.cancelled()).await;
                }
                outcomes
            });
        }
        load
    }

    /// Lets what is under way end, and answers all there was, in the order it ended.
    ///
    /// # Panics
    /// If a worker has panicked.
    pub async fn stop(mut self) -> Vec<Outcome<T>> {
        self.stop.cancel();
        let mut all = Vec::new();
        while let Some(outcomes) = self.workers.join_next().await {
            all.extend(outcomes.expect("a worker does not panic"));
        }
        all.sort_by_key(|outcome| outcome.ended);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_outcome_is_kept_in_order() {
        let load = Load::start(2, Duration::from_millis(1), |worker, turn| async move { (worker, turn) });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let outcomes = load.stop().await;
        for worker in 0..2 {
            let turns: Vec<usize> =
                outcomes.iter().filter(|o| o.value.0 == worker).map(|o| o.value.1).collect();
            assert!(!turns.is_empty() && turns.iter().copied().eq(0..turns.len()), "{turns:?}");
        }
        assert!(outcomes.is_sorted_by_key(|o| o.ended));
    }
}
