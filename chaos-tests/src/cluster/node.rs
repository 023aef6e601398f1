//! One `muster-node` process: started, signalled, seen to its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::programs;
use super::settings::Address;

/// A node of a test cluster, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    config: PathBuf,
    log: PathBuf,
    log_filter: String,
    process: Mutex<Process>,
}

#[derive(Debug, Default)]
struct Process {
    /// `None` before the first start and after the end was seen.
    child: Option<Child>,
    /// How the last one ended.
    ended: Option<ExitStatus>,
    /// How much was in the log when the last one was started.
    log_bytes: usize,
}

impl Node {
    pub(super) fn new(dir: &Path, address: Address, log_filter: &str) -> Self {
        let name = format!("node{}", address.id);
        Node {
            config: dir.join(format!("{name}.toml")),
            log: dir.join(format!("{name}.log")),
            log_filter: log_filter.to_owned(),
            address,
            process: Mutex::default(),
        }
    }

    pub(super) fn write_config(&self, text: &str) -> Result<()> {
        fs::write(&self.config, text).with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// Starts the process; what it logs goes behind what earlier ones have logged.
    pub(super) fn start(&self) -> Result<()> {
        let mut process = self.process();
        ensure!(process.child.is_none(), "node {} runs already", self.address.id);
        let log = File::options().create(true).append(true).open(&self.log).context("cannot open its log")?;
        let log_bytes = log.metadata().context("cannot measure its log")?.len();
        let started = Command::new(programs::built().join("muster-node"))
            .arg("--config")
            .arg(&self.config)
            .env("MUSTER_LOG", &self.log_filter)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share its log")?)
            .stderr(log)
            .spawn()
            .context("cannot start muster-node")?;
        process.child = Some(started);
        process.log_bytes = usize::try_from(log_bytes).context("too long a log")?;
        Ok(())
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process().child.as_ref().map(Child::id)
    }

    /// Sends a signal to the running process. Its pid is its own until its end is seen here.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process();
        let child =
            process.child.as_ref().with_context(|| format!("node {} does not run", self.address.id))?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("a pid is a positive i32")?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to node {}", self.address.id))
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Result<Option<ExitStatus>> {
        let mut process = self.process();
        if let Some(running) = process.child.as_mut() {
            process.ended = running.try_wait().context("cannot ask for a node's end")?;
            if process.ended.is_some() {
                process.child = None;
            }
        }
        Ok(process.ended)
    }

    /// SIGKILL, and waits until it is gone. Does nothing where nothing runs.
    pub(super) fn kill(&self) -> Result<()> {
        let mut process = self.process();
        let Some(mut running) = process.child.take() else { return Ok(()) };
        running.kill().context("cannot kill a node")?;
        process.ended = Some(running.wait().context("cannot see a node's end")?);
        Ok(())
    }

    /// Whether the process ended because someone else had its port.
    pub(super) fn lost_its_port(&self) -> bool {
        let (ended, before) = {
            let process = self.process();
            (process.child.is_none(), process.log_bytes)
        };
        ended && self.log().get(before..).is_some_and(|log| log.contains("Address already in use"))
    }

    /// All it has logged.
    pub(super) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
