//! Docker's events as hints. An event says that something happened, never what is true now, so all of
//! them become one notification; so does every reconnect, since events may have passed meanwhile.
//!
//! Docker tells of a container's end *before* its own list shows it: it cleans up in between. Whoever
//! listed at once would see it running and hear no more of it, so an end is notified a second time,
//! when an inspection shows it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use muster_core::ids::{ClusterId, NodeId};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::{READ_DEADLINE, container, within};

/// What changes an instance's state. Others, such as `exec`, only cost a list.
const EVENTS: [&str; 4] = ["start", END, "oom", "destroy"];
const END: &str = "die";
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Looks at a container that is said to have ended, and the pause before the second; it doubles. An
/// inspection normally waits for the clean-up, so the first look is the last.
const LOOKS_MAX: u32 = 8;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The watching task; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Notifies `changes` of every event of this node's containers.
pub(super) fn watch(docker: Docker, cluster: ClusterId, node: NodeId, changes: Arc<Notify>) -> Watch {
    Watch(tokio::spawn(follow(docker, cluster, node, changes)).abort_handle())
}

async fn follow(docker: Docker, cluster: ClusterId, node: NodeId, changes: Arc<Notify>) {
    let mut filters: HashMap<String, Vec<String>> = container::filters(cluster, node);
    filters.insert("type".into(), vec!["container".into()]);
    filters.insert("event".into(), EVENTS.map(String::from).to_vec());
    let mut backoff = BACKOFF_MIN;
    loop {
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = std::pin::pin!(docker.events(Some(options)));
        // At most one for each container of this node, and they end with this task.
        let mut looks = JoinSet::new();
        changes.notify_one();
        loop {
            tokio::select! {
                event = events.next() => {
                    let Some(Ok(event)) = event else { break };
                    changes.notify_one();
                    backoff = BACKOFF_MIN;
                    if let Some(id) = ended(event) {
                        looks.spawn(notify_when_ended(docker.clone(), id, changes.clone()));
                    }
                }
                Some(_) = looks.join_next() => {}
            }
        }
        tracing::debug!(%cluster, %node, "Docker's event stream ended; connecting again");
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// The id of the container an event says has ended.
fn ended(event: EventMessage) -> Option<String> {
    if event.action.as_deref() == Some(END) { event.actor?.id } else { None }
}

async fn notify_when_ended(docker: Docker, id: String, changes: Arc<Notify>) {
    for look in 0..LOOKS_MAX {
        let found = within("inspect the container", READ_DEADLINE, docker.inspect_container(&id, None)).await;
        let runs = found.is_ok_and(|found| found.state.and_then(|state| state.running).unwrap_or_default());
        if !runs {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE * 2u32.pow(look)).await;
    }
    changes.notify_one();
}
