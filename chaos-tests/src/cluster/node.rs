//! One `muster-node` process: started, signalled, seen to its end.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::programs;
use super::settings::Address;

/// How a node's process is started, beside its configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Launch {
    /// Words before the program's, such as those that enter a network namespace.
    pub(super) wrapper: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// A node of a test cluster, running or not.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: Address,
    config: PathBuf,
    log: PathBuf,
    log_filter: String,
    launch: Launch,
    /// The cluster versions that it claims to support, from its next start on; `None`: those that it does.
    claim: Mutex<Option<String>>,
    process: Mutex<Process>,
}

#[derive(Debug, Default)]
struct Process {
    /// `None` before the first start and after the end was seen.
    child: Option<Child>,
    /// How often it was started.
    starts: u64,
    /// How the last one ended.
    ended: Option<ExitStatus>,
    /// How much was in the log when the last one was started.
    log_bytes: usize,
    /// Whether the last one was killed since it was started.
    killed: bool,
}

impl Node {
    pub(super) fn new(dir: &Path, address: Address, log_filter: &str, launch: Launch) -> Self {
        let name = format!("node{}", address.id);
        Node {
            config: dir.join(format!("{name}.toml")),
            log: dir.join(format!("{name}.log")),
            log_filter: log_filter.to_owned(),
            launch,
            claim: Mutex::default(),
            address,
            process: Mutex::default(),
        }
    }

    pub(super) fn config_file(&self) -> &Path {
        &self.config
    }

    pub(super) fn write_config(&self, text: &str) -> Result<()> {
        fs::write(&self.config, text).with_context(|| format!("cannot write {}", self.config.display()))
    }

    /// Starts the process; what it logs goes behind what earlier ones have logged.
    pub(super) fn start(&self) -> Result<()> {
        self.start_in(&mut self.process())
    }

    /// Starts it again if it has ended by itself; whoever has killed it does so himself. `last_words`
    /// are what it may have said as it ended. Answers whether it was started.
    pub(super) fn revive(&self, last_words: &[&str]) -> Result<bool> {
        let mut process = self.process();
        let Some(status) = process.look()? else { return Ok(false) };
        if process.killed {
            return Ok(false);
        }
        let log = self.log();
        let said = log.get(process.log_bytes..).unwrap_or_default();
        ensure!(
            last_words.iter().any(|words| said.contains(words)),
            "node {} ended by itself with {status}, and said none of {last_words:?}:\n{said}",
            self.address.id
        );
        self.start_in(&mut process).map(|()| true)
    }

    /// Makes it older than it is, from its next start on.
    pub(super) fn claim(&self, versions: Option<&str>) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = versions.map(str::to_owned);
    }

    fn start_in(&self, process: &mut Process) -> Result<()> {
        ensure!(process.child.is_none(), "node {} runs already", self.address.id);
        let log = File::options().create(true).append(true).open(&self.log).context("cannot open its log")?;
        let log_bytes = log.metadata().context("cannot measure its log")?.len();
        let node = programs::built().join("muster-node");
        let claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut words = self.launch.wrapper.iter().map(AsRef::as_ref).chain([node.as_os_str()]);
        let started = Command::new(words.next().expect("the node's program is among them"))
            .args(words)
            .arg("--config")
            .arg(&self.config)
            .envs(self.launch.env.iter().map(|(name, value)| (name, value)))
            .envs(claim.map(|versions| ("MUSTER_CLAIM_VERSIONS", versions)))
            .env("MUSTER_LOG", &self.log_filter)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share its log")?)
            .stderr(log)
            .spawn()
            .context("cannot start muster-node")?;
        process.child = Some(started);
        process.starts += 1;
        process.log_bytes = usize::try_from(log_bytes).context("too long a log")?;
        process.killed = false;
        Ok(())
    }

    pub(super) fn starts(&self) -> u64 {
        self.process().starts
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
        self.process().look()
    }

    /// SIGKILL, and waits until it is gone. Does nothing where nothing runs.
    pub(super) fn kill(&self) -> Result<()> {
        let mut process = self.process();
        process.killed = true;
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

    pub(super) fn log_bytes(&self) -> u64 {
        fs::metadata(&self.log).map_or(0, |log| log.len())
    }

    /// What it has logged behind so many bytes. A log that is long is not read whole again and again.
    pub(super) fn log_since(&self, bytes: u64) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut log = File::open(&self.log)?;
            log.seek(SeekFrom::Start(bytes))?;
            let mut said = Vec::new();
            log.read_to_end(&mut said)?;
            Ok(said)
        };
        read().map(|said| String::from_utf8_lossy(&said).into_owned()).unwrap_or_default()
    }

    /// All it has logged.
    pub(super) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    /// How the last one ended, if it has.
    fn look(&mut self) -> Result<Option<ExitStatus>> {
        if let Some(running) = self.child.as_mut() {
            self.ended = running.try_wait().context("cannot ask for a node's end")?;
            if self.ended.is_some() {
                self.child = None;
            }
        }
        Ok(self.ended)
    }
}
