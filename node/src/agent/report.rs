//! This host's loads and queues on their way to the leader: a few times a second, and at once when a
//! queue forms.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster_core::functions::Source;
use muster_core::observation::{InstanceLoad, NodeReport, QueueLoad};
use tokio::sync::watch;
use tokio::time::timeout;

use super::Tools;

/// The least time between two reports, however many requests begin to wait.
const PAUSE: Duration = Duration::from_millis(5);
/// How often the engine is asked which images it has.
const IMAGES_EVERY: Duration = Duration::from_secs(10);
/// Images asked about at a time.
const IMAGES_MAX: usize = 1_000;

pub(super) async fn report_for_ever(tools: Arc<Tools>) {
    let images = watch::Sender::new(BTreeSet::new());
    // Side by side: a host whose reports wait for its engine would be taken for down.
    tokio::join!(look_for_images(&tools, &images), send_for_ever(&tools, images.subscribe()));
}

async fn look_for_images(tools: &Tools, images: &watch::Sender<BTreeSet<String>>) {
    loop {
        images.send_replace(present_images(tools).await);
        tokio::time::sleep(IMAGES_EVERY).await;
    }
}

async fn send_for_ever(tools: &Tools, images: watch::Receiver<BTreeSet<String>>) {
    let every = Duration::from_millis(tools.settings.report_every_ms);
    let pressure = tools.gateway.pressure();
    loop {
        let report = report(tools, &images.borrow());
        tools.controller.report(report).await;
        tokio::time::sleep(PAUSE).await;
        // In time or at once: both are reports.
        let _elapsed = timeout(every, pressure.notified()).await;
    }
}

fn report(tools: &Tools, images: &BTreeSet<String>) -> NodeReport {
    let instances = tools.gateway.host().loads().into_iter().map(|load| InstanceLoad {
        instance: load.instance,
        in_flight: load.in_flight,
        busy_ms: load.busy_ms,
        ready_ms: load.ready_ms,
        completed: load.completed,
    });
    let queues = tools.gateway.queues().into_iter().map(|queue| QueueLoad {
        function: queue.function,
        waiting: queue.waiting,
        oldest_ms: queue.oldest_ms,
        accounts: queue.accounts,
    });
    NodeReport {
        node: tools.node,
        incarnation: tools.incarnation,
        instances: instances.collect(),
        queues: queues.collect(),
        images: images.clone(),
    }
}

/// The images and packages of registered functions that need not be fetched here.
async fn present_images(tools: &Tools) -> BTreeSet<String> {
    let wanted: BTreeMap<String, Source> = tools.consensus.with_state(|state| {
        let sources = state.functions.iter().map(|(_, function)| &function.current().spec.source);
        let needs = sources.filter_map(|source| Some((source.needs()?, source.clone())));
        needs.take(IMAGES_MAX).collect()
    });
    let mut present = BTreeSet::new();
    for (need, source) in wanted {
        let Some(engine) = tools.engines.get(&source.engine()) else { continue };
        let here = match &source {
            Source::Image(image) => engine.has_image(image).await,
            _ => engine.has_package(&source).await,
        };
        if matches!(here, Ok(true)) {
            present.insert(need);
        }
    }
    present
}
