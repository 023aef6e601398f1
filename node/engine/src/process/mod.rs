//! Instances as child processes, for hosts without a container engine. They are limited in less than
//! containers are (no memory or CPU bound, no file system of their own) and end with the node, so what
//! a node knows of them it may keep in memory.
//!
//! [`spawn`] starts them, on a thread of its own; [`reaper`] follows each one to its end.

mod reaper;
mod spawn;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::functions::{EngineKind, Source};
use muster_core::ids::{ClusterId, FunctionName, InstanceId, NodeId, PackageDigest};
use muster_core::units::{Millis, Timestamp};
use nix::sys::signal::Signal;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::instance::{Launch, RunState, Running};
use crate::logs::{LogRead, LogStream, Origin, Store};
use crate::package::{self, PackageError};
use crate::{Engine, EngineError};
use reaper::Child;
use spawn::Request;

/// Instances one engine holds, ended ones included: each costs its output and a folder.
pub(crate) const PROCESSES_MAX: usize = 2048;
/// Launches waiting for the spawning thread, which takes milliseconds for each.
const QUEUE_MAX: usize = 64;
/// Where packages are unpacked, in the engine's folder.
const PACKAGES_DIR: &str = "packages";
/// The end of the name of what is not whole, or is being removed.
const LEFT_OVER: &str = ".partial";
/// A process that survives SIGKILL this long hangs in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs instances as children of this process. Each has its own process group, a free port on
/// 127.0.0.1, an environment of its own and an empty working folder, which is removed when it is
/// stopped; one of a package works in the folder of the package, which it shares with others. A relative program is looked up as a shell would where the node was started; relative
/// paths among its arguments are relative to the instance's folder.
///
/// If the node dies, however it dies, the kernel kills its instances. What an instance itself has
/// started dies with the instance, but may survive a node that is killed.
#[derive(Debug)]
pub struct ProcessEngine {
    cluster: ClusterId,
    node: NodeId,
    table: Arc<Table>,
    requests: mpsc::Sender<Request>,
}

/// The instances by id, shared with the spawning thread.
#[derive(Debug)]
struct Table {
    work_dir: PathBuf,
    logs: Store,
    children: Mutex<BTreeMap<InstanceId, Arc<Child>>>,
    changes: Arc<Notify>,
    /// Held while packages are unpacked or removed.
    unpacking: Mutex<()>,
}

impl Table {
    fn children(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, instance: InstanceId) -> Option<Arc<Child>> {
        self.children().get(&instance).cloned()
    }

    fn packages_dir(&self) -> PathBuf {
        self.work_dir.join(PACKAGES_DIR)
    }

    /// Where a package is unpacked.
    fn package(&self, package: PackageDigest) -> PathBuf {
        self.packages_dir().join(package.hex())
    }

    fn folder(&self, instance: InstanceId) -> PathBuf {
        self.work_dir.join(instance.to_string())
    }
}

impl ProcessEngine {
    /// Must be called inside a tokio runtime, which follows the processes. `work_dir` is the engine's
    /// alone; what an earlier run left in it is removed. Output goes to `logs`.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        work_dir: impl Into<PathBuf>,
        logs: Store,
    ) -> Result<ProcessEngine, EngineError> {
        let work_dir = work_dir.into();
        prepare(&work_dir).map_err(|error| EngineError::Refused {
            operation: "prepare the folder of the process engine",
            source: error.into(),
        })?;
        let table = Table {
            work_dir,
            logs,
            children: Mutex::default(),
            changes: Arc::new(Notify::new()),
            unpacking: Mutex::default(),
        };
        let table = Arc::new(table);
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        spawn::start_thread(table.clone(), queue).map_err(|error| EngineError::Refused {
            operation: "start the thread that spawns processes",
            source: error.into(),
        })?;
        Ok(ProcessEngine { cluster, node, table, requests })
    }

    /// Stops an instance and what it has started, or has it go on, if it is there.
    fn set_paused(&self, instance: InstanceId, paused: bool) {
        if let Some(child) = self.table.get(instance) {
            child.set_paused(paused);
        }
    }
}

impl Drop for ProcessEngine {
    fn drop(&mut self) {
        for child in self.table.children().values() {
            child.signal(Signal::SIGKILL);
        }
    }
}

#[async_trait::async_trait]
impl Engine for ProcessEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Process
    }

    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        assert_eq!((launch.cluster, launch.node), (self.cluster, self.node), "a launch for another node");
        let operation = "spawn the process";
        let (reply, answer) = oneshot::channel();
        let gone = || EngineError::Unexpected { operation, problem: "the spawning thread is gone".into() };
        self.requests.send(Request { launch: launch.clone(), reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    async fn list(&self) -> Result<Vec<Running>, EngineError> {
        let running = |(instance, child): (&InstanceId, &Arc<Child>)| Running {
            instance: *instance,
            generation: child.origin.generation,
            function: child.origin.function.clone(),
            state: child.exit().map_or(RunState::Running { addr: child.addr }, RunState::Exited),
            paused: child.is_paused(),
        };
        Ok(self.table.children().iter().map(running).collect())
    }

    async fn stop(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError> {
        let Some(child) = self.table.get(instance) else { return Ok(()) };
        child.signal(Signal::SIGTERM);
        child.set_paused(false);
        if !child.ends_within(grace.to_duration()).await {
            child.signal(Signal::SIGKILL);
            if !child.ends_within(KILL_DEADLINE).await {
                return Err(EngineError::Deadline { operation: "kill the process" });
            }
        }
        // Blocking, and short: the folder of a program that was meant to hold nothing.
        if let Err(error) = std::fs::remove_dir_all(self.table.folder(instance)) {
            tracing::warn!(%instance, %error, "working folder not removed");
        }
        self.table.children().remove(&instance);
        Ok(())
    }

    async fn pause(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.set_paused(instance, true);
        Ok(())
    }

    async fn resume(&self, instance: InstanceId) -> Result<(), EngineError> {
        self.set_paused(instance, false);
        Ok(())
    }

    fn changes(&self) -> Arc<Notify> {
        self.table.changes.clone()
    }

    async fn has_image(&self, _image: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    async fn has_package(&self, source: &Source) -> Result<bool, EngineError> {
        Ok(source.package().is_some_and(|package| self.table.package(package).is_dir()))
    }

    async fn take_package(&self, source: &Source, file: &Path) -> Result<(), EngineError> {
        let Source::PackagedCommand { package, .. } = source else {
            return Err(EngineError::WrongEngine { engine: EngineKind::Process });
        };
        let (package, table, file) = (*package, Arc::clone(&self.table), file.to_owned());
        let unpacking = tokio::task::spawn_blocking(move || {
            // One at a time: two of the same would be in each other's way, and the disk is one.
            let _alone = table.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            unpack(&table, package, &file)
        });
        let unpacked = unpacking.await.map_err(|_panicked| EngineError::Unexpected {
            operation: "unpack the package",
            problem: "it panicked".into(),
        })?;
        unpacked.map_err(|source| EngineError::BadPackage { package, source })
    }

    async fn retain_packages(&self, packages: &BTreeSet<PackageDigest>) -> Result<(), EngineError> {
        let (table, keep) = (Arc::clone(&self.table), packages.clone());
        let removing = tokio::task::spawn_blocking(move || {
            let _alone = table.unpacking.lock().unwrap_or_else(PoisonError::into_inner);
            let entries = match std::fs::read_dir(table.packages_dir()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let digest = entry.file_name().to_str().and_then(PackageDigest::from_hex);
                let children = table.children();
                let used = children.values().any(|child| child.package.is_some() && child.package == digest);
                if used || digest.is_some_and(|digest| keep.contains(&digest)) {
                    continue;
                }
                let away = table.packages_dir().join(format!("{}{LEFT_OVER}", entry.file_name().display()));
                std::fs::rename(entry.path(), &away)?;
                drop(children);
                std::fs::remove_dir_all(away)?;
            }
            io::Result::Ok(())
        });
        let removed = removing.await.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let operation = "remove the folder of a package";
        removed.map_err(|error| EngineError::Refused { operation, source: error.into() })
    }

    async fn output(&self, instance: InstanceId) -> Result<Vec<u8>, EngineError> {
        let child = self.table.get(instance).ok_or(EngineError::NoSuchInstance { instance })?;
        Ok(child.output())
    }

    async fn logged(&self, function: &FunctionName) -> Result<Vec<Origin>, EngineError> {
        let mut logged = self.table.logs.list(function).await;
        // Those that have written nothing yet have no file.
        let silent = |origin: &&Origin| {
            origin.function == *function && !logged.iter().any(|known| known.instance == origin.instance)
        };
        let running: Vec<Origin> =
            self.table.children().values().map(|child| &child.origin).filter(silent).cloned().collect();
        logged.extend(running);
        Ok(logged)
    }

    async fn logs(
        &self,
        function: &FunctionName,
        instance: InstanceId,
        read: LogRead,
    ) -> Result<LogStream, EngineError> {
        let found = self.table.logs.read(function, instance, read).await;
        found.ok_or(EngineError::NoSuchInstance { instance })
    }

    async fn retain_logs(&self, functions: BTreeMap<FunctionName, Timestamp>) {
        self.table.logs.retain(functions).await;
    }
}

/// Unpacks beside its place and then moves it there: what is there is whole.
fn unpack(table: &Table, package: PackageDigest, file: &Path) -> Result<(), PackageError> {
    let folder = table.package(package);
    if folder.is_dir() {
        return Ok(());
    }
    let beside = table.packages_dir().join(format!("{}{LEFT_OVER}", package.hex()));
    if beside.exists() {
        std::fs::remove_dir_all(&beside)?;
    }
    std::fs::create_dir_all(&beside)?;
    let unpacked = package::unpack(file, &beside);
    match unpacked {
        Ok(()) => Ok(std::fs::rename(&beside, &folder)?),
        Err(error) => {
            // Why it failed matters more than what is left, which the next attempt or start removes.
            let _left = std::fs::remove_dir_all(&beside);
            Err(error)
        }
    }
}

/// Makes the folder and clears it of the folders of instances, which no longer run.
fn prepare(work_dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(work_dir)?;
    // Packages are unpacked anew: whether what is there reached the disk before a power cut nobody knows.
    match std::fs::remove_dir_all(work_dir.join(PACKAGES_DIR)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for entry in std::fs::read_dir(work_dir)? {
        let entry = entry?;
        let left_behind = entry.file_name().to_str().is_some_and(|name| name.parse::<InstanceId>().is_ok());
        if left_behind {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
