//! Instances that have served nobody for a while are paused, and go on when the next request comes: they keep
//! their memory, and cost no CPU time.
//!
//! **Invariant.** A request is sent to an instance only while it holds one of its slots and has seen the instance
//! awake since it took it. An instance is put to rest only while none of its slots is taken, which is looked up
//! after it was marked: whoever takes one later sees the mark, and wakes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use muster_core::ids::InstanceId;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::host::{Host, Instance};
use crate::outside::Pausing;
use crate::pool::Pool;

/// How often at most it is looked who has served nobody.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Whether an instance may be paused.
pub(crate) struct Rest {
    /// It is paused, or was told to, or told to go on and not heard to.
    resting: AtomicBool,
    /// Held by who pauses it or has it go on.
    turn: Mutex<()>,
}

impl Rest {
    pub(crate) fn new(resting: bool) -> Rest {
        Rest { resting: AtomicBool::new(resting), turn: Mutex::default() }
    }
}

/// When an instance was first seen to have served so many, and no more since.
struct Idle {
    completed: u64,
    since: Instant,
    /// It was paused since then, or it was tried.
    over: bool,
}

impl Instance {
    /// Has it go on, if it may be paused. For who holds one of its slots.
    pub(crate) async fn wake(&self, host: &Host) -> Result<(), String> {
        if !self.rest.resting.load(SeqCst) {
            return Ok(());
        }
        let _turn = self.rest.turn.lock().await;
        if !self.rest.resting.load(SeqCst) {
            return Ok(());
        }
        let pausing = host.pausing.get().ok_or("it may stand still, and nothing here can have it go on")?;
        pausing.resume(self.id).await?;
        self.rest.resting.store(false, SeqCst);
        host.metrics.resumed();
        Ok(())
    }

    /// Pauses it, unless it is `busy` by then. What is not known to have come of it counts as paused.
    async fn put_to_rest(&self, host: &Host, pausing: &dyn Pausing, busy: impl FnOnce() -> bool) {
        let _turn = self.rest.turn.lock().await;
        if self.rest.resting.swap(true, SeqCst) {
            return;
        }
        if busy() {
            self.rest.resting.store(false, SeqCst);
            return;
        }
        host.metrics.paused();
        if let Err(error) = pausing.pause(self.id).await {
            tracing::debug!(instance = %self.id, error, "an instance that serves nobody could not be paused");
        }
    }
}

impl Host {
    /// Says how instances are paused and have to go on. Only the first word counts.
    pub fn pause_through(&self, pausing: Arc<dyn Pausing>) {
        let _first_word_holds = self.pausing.set(pausing);
    }

    /// Pauses instances that have served nobody for so long, until this is dropped. They go on when they are sent a
    /// request. To be called once, after [`pause_through`](Self::pause_through).
    pub async fn pause_idle(&self, after: Duration) {
        let Some(pausing) = self.pausing.get().map(Arc::clone) else { return };
        let every = (after / 4).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
        let mut known = HashMap::new();
        loop {
            sleep(every).await;
            for (instance, pool) in self.idle_since(after, &mut known) {
                instance.put_to_rest(self, pausing.as_ref(), || pool.in_flight(&instance) > 0).await;
            }
        }
    }

    /// Whether an instance here may be paused.
    pub fn may_rest(&self, id: InstanceId) -> bool {
        self.instances().get(&id).is_some_and(|known| known.instance.rest.resting.load(SeqCst))
    }

    /// Those that have served nobody for so long since they were last looked at, each once.
    fn idle_since(
        &self,
        after: Duration,
        known: &mut HashMap<InstanceId, Idle>,
    ) -> Vec<(Arc<Instance>, Arc<Pool>)> {
        let loads: HashMap<InstanceId, u64> = self
            .loads()
            .into_iter()
            .filter(|load| load.in_flight == 0)
            .map(|load| (load.instance, load.completed))
            .collect();
        known.retain(|id, idle| loads.get(id) == Some(&idle.completed));
        let now = Instant::now();
        let mut due = Vec::new();
        for (id, completed) in loads {
            let idle = known.entry(id).or_insert(Idle { completed, since: now, over: false });
            if !idle.over && now.duration_since(idle.since) >= after {
                idle.over = true;
                due.push(id);
            }
        }
        let instances = self.instances();
        let found = due.iter().filter_map(|id| instances.get(id));
        found.map(|known| (Arc::clone(&known.instance), Arc::clone(&known.pool))).collect()
    }
}
