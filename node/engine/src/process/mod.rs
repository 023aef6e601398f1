//! Instances as child processes, for hosts without a container engine. They are limited in less than
//! containers are (no memory or CPU bound, no file system of their own) and end with the node, so what
//! a node knows of them it may keep in memory.
//!
//! [`spawn`] starts them, on a thread of its own; [`reaper`] follows each one to its end.

mod reaper;
mod spawn;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, InstanceId, NodeId};
use muster_core::units::Millis;
use nix::sys::signal::Signal;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::instance::{Launch, RunState, Running};
use crate::{Engine, EngineError};
use reaper::Child;
use spawn::Request;

/// Instances one engine holds, ended ones included: each costs its output and a folder.
pub(crate) const PROCESSES_MAX: usize = 2048;
/// Launches waiting for the spawning thread, which takes milliseconds for each.
const QUEUE_MAX: usize = 64;
/// A process that survives SIGKILL this long hangs in the kernel.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Runs instances as children of this process. Each has its own process group, a free port on
/// 127.0.0.1, an environment of its own and an empty working folder, which is removed when it is
/// stopped. A relative program is looked up as a shell would where the node was started; relative
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
    children: Mutex<BTreeMap<InstanceId, Arc<Child>>>,
    changes: Arc<Notify>,
}

impl Table {
    fn children(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Arc<Child>>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, instance: InstanceId) -> Option<Arc<Child>> {
        self.children().get(&instance).cloned()
    }

    fn folder(&self, instance: InstanceId) -> PathBuf {
        self.work_dir.join(instance.to_string())
    }
}

impl ProcessEngine {
    /// Must be called inside a tokio runtime, which follows the processes. `work_dir` is the engine's
    /// alone; what an earlier run left in it is removed.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        work_dir: impl Into<PathBuf>,
    ) -> Result<ProcessEngine, EngineError> {
        let work_dir = work_dir.into();
        prepare(&work_dir).map_err(|error| EngineError::Refused {
            operation: "prepare the folder of the process engine",
            source: error.into(),
        })?;
        let table = Table { work_dir, children: Mutex::default(), changes: Arc::new(Notify::new()) };
        let table = Arc::new(table);
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        spawn::start_thread(table.clone(), queue).map_err(|error| EngineError::Refused {
            operation: "start the thread that spawns processes",
            source: error.into(),
        })?;
        Ok(ProcessEngine { cluster, node, table, requests })
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
            generation: child.generation,
            function: child.function.clone(),
            state: child.exit().map_or(RunState::Running { addr: child.addr }, RunState::Exited),
        };
        Ok(self.table.children().iter().map(running).collect())
    }

    async fn stop(&self, instance: InstanceId, grace: Millis) -> Result<(), EngineError> {
        let Some(child) = self.table.get(instance) else { return Ok(()) };
        child.signal(Signal::SIGTERM);
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

    fn changes(&self) -> Arc<Notify> {
        self.table.changes.clone()
    }

    async fn has_image(&self, _image: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    async fn output(&self, instance: InstanceId) -> Result<Vec<u8>, EngineError> {
        let child = self.table.get(instance).ok_or(EngineError::NoSuchInstance { instance })?;
        Ok(child.output())
    }
}

/// Makes the folder and clears it of the folders of instances, which no longer run.
fn prepare(work_dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(work_dir)?;
    for entry in std::fs::read_dir(work_dir)? {
        let entry = entry?;
        let left_behind = entry.file_name().to_str().is_some_and(|name| name.parse::<InstanceId>().is_ok());
        if left_behind {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
