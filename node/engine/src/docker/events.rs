//! Docker's events as hints. An event says that something happened, never what is true now, so all of
//! them become one notification; so does every reconnect, since events may have passed meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use muster_core::ids::{ClusterId, NodeId};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::container;

/// What changes an instance's state. Others, such as `exec`, only cost a list.
const EVENTS: [&str; 5] = ["start", "die", "oom", "destroy", "kill"];
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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
        changes.notify_one();
        while let Some(Ok(_)) = events.next().await {
            changes.notify_one();
            backoff = BACKOFF_MIN;
        }
        tracing::debug!(%cluster, %node, "Docker's event stream ended; connecting again");
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}
