//! What each node does about packages by itself: fetches what functions here may need, and removes what the
//! cluster has forgotten. The leader alone proposes what is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use muster_core::Command;
use muster_core::functions::Source;
use muster_core::ids::PackageDigest;
use muster_core::packages;
use muster_core::units::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{FETCHES_MAX, Packages};

/// Changes of the state are looked at together.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// The state need not change for a holder to come back.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Before a package is tried again that could not be had, doubled each time up to the most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// A file that the cluster does not know stays this long at most: it may be about to.
const UNKNOWN_FOR: Duration = Duration::from_secs(600);
const TIDY_EVERY: Duration = Duration::from_secs(5);

impl Packages {
    pub(crate) async fn keep(self, stop: CancellationToken) {
        if self.files.is_none() {
            return;
        }
        tokio::select! {
            ((), ()) = async { tokio::join!(self.fetch_ahead(), self.tidy()) } => {}
            () = stop.cancelled() => {}
        }
    }

    /// Fetches, and has the engines take, what present versions of functions are of.
    async fn fetch_ahead(&self) {
        let mut states = self.consensus.changes();
        let mut failed: BTreeMap<PackageDigest, (Instant, Duration)> = BTreeMap::new();
        let mut taken = BTreeSet::new();
        loop {
            let wanted = self.wanted();
            taken.retain(|source| wanted.contains(source));
            let digest = |source: &Source| source.package().expect("those wanted have one");
            failed.retain(|package, _| wanted.iter().any(|source| digest(source) == *package));
            let now = Instant::now();
            let due = wanted.into_iter().filter(|source| {
                !taken.contains(source) && failed.get(&digest(source)).is_none_or(|(at, _)| *at <= now)
            });
            let due: Vec<Source> = due.collect();
            let mut done = stream::iter(due)
                .map(|source| async move { (self.provide(&source).await, source) })
                .buffer_unordered(FETCHES_MAX);
            while let Some((provided, source)) = done.next().await {
                let package = digest(&source);
                match provided {
                    Ok(()) => {
                        failed.remove(&package);
                        taken.insert(source);
                    }
                    Err(why) => {
                        let pause = failed.get(&package).map_or(RETRY_FIRST, |(_, last)| *last * 2);
                        let pause = pause.min(RETRY_MOST);
                        tracing::warn!(%package, why, "a package is not ready here yet");
                        failed.insert(package, (Instant::now() + pause, pause));
                    }
                }
            }
            sleep(LOOK_PAUSE).await;
            let _elapsed = tokio::time::timeout(LOOK_EVERY, states.changed()).await;
        }
    }

    /// Sources with a package that an engine here runs.
    fn wanted(&self) -> Vec<Source> {
        let Some(engines) = self.engines.get() else { return Vec::new() };
        let mut wanted = BTreeMap::new();
        self.consensus.with_state(|state| {
            for (_, function) in state.functions.iter() {
                let source = &function.current().spec.source;
                if let Some(package) = source.package()
                    && engines.contains_key(&source.engine())
                {
                    wanted.insert((package, source.image().map(str::to_owned)), source.clone());
                }
            }
        });
        wanted.into_values().collect()
    }

    async fn tidy(&self) {
        let mut unknown: BTreeMap<PackageDigest, Instant> = BTreeMap::new();
        loop {
            sleep(TIDY_EVERY.min(self.keep_unused.max(Duration::from_millis(100)))).await;
            self.propose_forgetting().await;
            // A replica that lags would take what is new for forgotten.
            if self.consensus.linearize().await.is_err() {
                continue;
            }
            let known: BTreeSet<PackageDigest> =
                self.consensus.with_state(|state| state.packages.iter().map(|(digest, _)| digest).collect());
            self.remove_all_but(&known, &mut unknown);
            for engine in self.engines.get().into_iter().flat_map(|engines| engines.values()) {
                if let Err(error) = engine.retain_packages(&known).await {
                    tracing::warn!("packages that nobody needs could not be removed: {}", error.reason());
                }
            }
        }
    }

    fn remove_all_but(
        &self,
        known: &BTreeSet<PackageDigest>,
        unknown: &mut BTreeMap<PackageDigest, Instant>,
    ) {
        let Some(files) = &self.files else { return };
        let here = match files.list() {
            Ok(here) => here,
            Err(error) => return tracing::warn!(%error, "the folder of packages cannot be read"),
        };
        unknown.retain(|package, _| here.contains(package) && !known.contains(package));
        for package in here.into_iter().filter(|package| !known.contains(package)) {
            let since = *unknown.entry(package).or_insert_with(Instant::now);
            if since.elapsed() < UNKNOWN_FOR.min(self.keep_unused) {
                continue;
            }
            match files.remove(package) {
                Ok(true) => tracing::info!(%package, "a package that nobody needs was removed"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%package, %error, "a package could not be removed"),
            }
        }
    }

    /// As leader, proposes to forget what has been unused for long enough.
    async fn propose_forgetting(&self) {
        if !self.consensus.is_leader() {
            return;
        }
        let keep_ms = u64::try_from(self.keep_unused.as_millis()).unwrap_or(u64::MAX);
        let before = Timestamp(self.consensus.now().0.saturating_sub(keep_ms));
        let due = self.consensus.with_state(|state| state.packages.unused_before(before));
        if due.is_empty() {
            return;
        }
        let command = Command::Packages(packages::Command::Forget { packages: due });
        if let Err(error) = self.consensus.propose(command).await {
            tracing::warn!(%error, "forgetting packages could not be committed");
        }
    }
}
