//! Images that functions are of and this host's Docker Engine lacks: pulled as soon as a function is of one, and when a
//! launch needs one, each once at a time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use muster_consensus::Consensus;
use muster_core::functions::Source;
use muster_engine::{Engine, Progress};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pulled ahead at the same time.
const PULLS_MAX: usize = 2;
/// Changes of the state are looked at together.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The state need not change for a registry to come back, or for somebody to remove an image.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Before an image is tried again that could not be had, doubled each time up to the most.
const RETRY_FIRST: Duration = Duration::from_secs(5);
const RETRY_MOST: Duration = Duration::from_secs(300);
/// How often it is told how far a pull is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// A clone is a handle.
#[derive(Clone)]
pub(crate) struct Images {
    consensus: Consensus,
    /// The Docker Engine, once it is there, if images are to be pulled.
    engine: Arc<OnceLock<Arc<dyn Engine>>>,
    pulls: Arc<Mutex<BTreeMap<String, watch::Receiver<Pull>>>>,
}

/// How far a pull is.
#[derive(Clone, Debug, Default)]
struct Pull {
    progress: Progress,
    /// What came of it, once that is known.
    ended: Option<Result<(), String>>,
}

impl Images {
    pub(crate) fn new(consensus: Consensus) -> Images {
        Images { consensus, engine: Arc::default(), pulls: Arc::default() }
    }

    /// Begins to pull with this engine. To be called once.
    pub(crate) fn serve(&self, engine: Arc<dyn Engine>) {
        // A second call would be a mistake in the wiring; the first one counts.
        let _first_counts = self.engine.set(engine);
    }

    /// Pulls an image, or waits for the pull that is under way. Why not, if it cannot be had. The pull goes on
    /// where who waits does not.
    pub(crate) async fn obtain(&self, image: &str) -> Result<(), String> {
        let Some(engine) = self.engine.get() else { return Err("this node pulls no images".into()) };
        let mut pull = match self.pulls().entry(image.to_owned()) {
            // One whose task is gone without a word must not stand in the way of the next.
            Entry::Occupied(under_way) if under_way.get().has_changed().is_ok() => under_way.get().clone(),
            place => {
                let (told, pull) = watch::channel(Pull::default());
                place.insert_entry(pull.clone());
                tokio::spawn(self.clone().pull(Arc::clone(engine), image.to_owned(), told));
                pull
            }
        };
        match pull.wait_for(|pull| pull.ended.is_some()).await {
            Ok(pull) => pull.ended.clone().expect("it was waited for"),
            Err(_dropped) => Err("the node is stopping".into()),
        }
    }

    /// How far the pull of an image is, if one is under way.
    pub(crate) fn progress(&self, image: &str) -> Option<impl fmt::Display + use<>> {
        self.pulls().get(image).map(|pull| pull.borrow().progress)
    }

    async fn pull(self, engine: Arc<dyn Engine>, image: String, told: watch::Sender<Pull>) {
        tracing::info!(image, "pulling an image");
        let began = Instant::now();
        let last = Mutex::new(began);
        let tell = |progress: Progress| {
            told.send_modify(|pull| pull.progress = progress);
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed() >= TELL_EVERY {
                *last = Instant::now();
                tracing::info!(image, %progress, "pulling an image");
            }
        };
        let done = engine.pull(&image, &tell).await.map_err(|error| error.reason());
        match &done {
            Ok(()) => tracing::info!(image, seconds = began.elapsed().as_secs_f32(), "an image was pulled"),
            Err(why) => tracing::warn!(image, why, "an image could not be pulled"),
        }
        self.pulls().remove(&image);
        told.send_modify(|pull| pull.ended = Some(done));
    }

    /// Pulls what present versions of functions are of, before anybody calls them.
    pub(crate) async fn pull_ahead(self, stop: CancellationToken) {
        let keeping = async {
            let mut states = self.consensus.changes();
            let mut failed: BTreeMap<String, (Instant, Duration)> = BTreeMap::new();
            loop {
                self.look(&mut failed).await;
                sleep(LOOK_PAUSE).await;
                let _elapsed = timeout(LOOK_EVERY, states.changed()).await;
            }
        };
        tokio::select! {
            () = keeping => {}
            () = stop.cancelled() => {}
        }
    }

    /// `failed`: when to try an image again, and the pause before.
    async fn look(&self, failed: &mut BTreeMap<String, (Instant, Duration)>) {
        let Some(engine) = self.engine.get() else { return };
        let wanted = self.wanted();
        failed.retain(|image, _| wanted.contains(image));
        let now = Instant::now();
        let due: Vec<String> =
            wanted.into_iter().filter(|image| failed.get(image).is_none_or(|(at, _)| *at <= now)).collect();
        let mut done = stream::iter(due)
            .map(|image| async move {
                // Docker does not answer: it is asked again by the next look.
                if engine.has_image(&image).await.unwrap_or(true) {
                    return (image, Ok(()));
                }
                let obtained = self.obtain(&image).await;
                (image, obtained)
            })
            .buffer_unordered(PULLS_MAX);
        while let Some((image, obtained)) = done.next().await {
            if obtained.is_ok() {
                failed.remove(&image);
                continue;
            }
            let pause = failed.get(&image).map_or(RETRY_FIRST, |(_, last)| *last * 2).min(RETRY_MOST);
            failed.insert(image, (Instant::now() + pause, pause));
        }
    }

    fn wanted(&self) -> std::collections::BTreeSet<String> {
        self.consensus.with_state(|state| {
            let sources = state.functions.iter().map(|(_, function)| &function.current().spec.source);
            sources
                .filter_map(|source| match source {
                    Source::Image(image) => Some(image.clone()),
                    _ => None,
                })
                .collect()
        })
    }

    fn pulls(&self) -> MutexGuard<'_, BTreeMap<String, watch::Receiver<Pull>>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Images")
    }
}
