//! The nodes' processes and data: ended, stopped, started again, and waited for.

use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use nix::sys::signal::Signal;

use super::settings::data_dir;
use super::{Cluster, READY_WITHIN};
use crate::wait::{Hopeless, until};

impl Cluster {
    /// SIGKILL; returns when the process is gone.
    pub fn kill(&self, n: u64) -> Result<()> {
        self.paused().remove(&n);
        self.node(n).kill()
    }

    /// SIGKILL to all of them, before the end of any is waited for.
    pub fn kill_all(&self) -> Result<()> {
        for n in self.numbers() {
            if self.node(n).pid().is_some() {
                self.node(n).signal(Signal::SIGKILL)?;
            }
        }
        self.numbers().into_iter().try_for_each(|n| self.kill(n))
    }

    /// SIGSTOP: the node keeps its connections and answers nothing. Does nothing to one that has ended.
    pub fn pause(&self, n: u64) -> Result<()> {
        if self.node(n).ended()?.is_some() {
            return Ok(());
        }
        self.paused().insert(n);
        self.node(n).signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self, n: u64) -> Result<()> {
        self.paused().remove(&n);
        if self.node(n).ended()?.is_some() {
            return Ok(());
        }
        self.node(n).signal(Signal::SIGCONT)
    }

    /// SIGTERM, without waiting; [`ended`](Self::ended) tells when it is through.
    pub fn terminate(&self, n: u64) -> Result<()> {
        self.node(n).signal(Signal::SIGTERM)
    }

    /// Waits until a node's process has ended by itself.
    ///
    /// # Errors
    /// Where it has not, within the time.
    pub async fn ended(&self, n: u64, within: Duration) -> Result<ExitStatus> {
        let node = self.node(n);
        let look = || async { node.ended()?.context("it still runs") };
        until(&format!("node {n} ends"), within, look).await
    }

    /// Kills the node if it runs, starts it again and waits until it is ready and its host has
    /// registered anew.
    ///
    /// # Errors
    /// With the end of its log, where it does not become ready.
    pub async fn restart(&self, n: u64) -> Result<()> {
        self.kill(n)?;
        self.begin(n)?;
        self.await_ready(n).await
    }

    /// Takes a node's data away, as a lost disk does. The node must not run.
    ///
    /// # Errors
    /// Where the folder cannot be moved.
    pub fn set_data_aside(&self, n: u64) -> Result<()> {
        let (data, aside) = self.data_dirs(n);
        fs::rename(&data, &aside).with_context(|| format!("cannot move {}", data.display()))
    }

    /// Undoes [`set_data_aside`](Self::set_data_aside); what the node has written meanwhile is gone.
    ///
    /// # Errors
    /// Where the folder cannot be moved.
    pub fn put_data_back(&self, n: u64) -> Result<()> {
        let (data, aside) = self.data_dirs(n);
        fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
        fs::rename(&aside, &data).with_context(|| format!("cannot move {}", aside.display()))?;
        // What is put back stays, though the power of its disk should be cut.
        let folder = data.parent().context("the data is in no folder")?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).context("cannot sync its folder")
    }

    /// Makes a node older than it is, from its next start on: `1..1` are the cluster versions that it then
    /// supports; `None` undoes it. Only debug builds of the programs listen to it.
    pub fn claim_versions(&self, n: u64, versions: Option<&str>) {
        self.node(n).claim(versions);
    }

    /// Starts a node's process and returns at once.
    pub fn begin(&self, n: u64) -> Result<()> {
        self.node(n).start()
    }

    /// Says whether a fault may now make a node end by itself: who waits for it then waits until it is
    /// [started again](Self::revive).
    pub fn let_end(&self, n: u64, may: bool) {
        let mut may_end = self.may_end.lock().unwrap_or_else(PoisonError::into_inner);
        if may {
            may_end.insert(n)
        } else {
            may_end.remove(&n)
        };
    }

    /// Starts a node that has ended by itself, and answers whether it did. One that was killed is left
    /// to whoever has killed it.
    ///
    /// # Errors
    /// Where it ended, and said none of `last_words`.
    pub fn revive(&self, n: u64, last_words: &[&str]) -> Result<bool> {
        self.node(n).revive(last_words)
    }

    /// Starts all nodes that do not run and waits until all are ready.
    ///
    /// # Errors
    /// As for [`restart`](Self::restart).
    pub async fn start_all(&self) -> Result<()> {
        for n in self.numbers() {
            if self.node(n).pid().is_none() {
                self.begin(n)?;
            }
        }
        for n in self.numbers() {
            self.await_ready(n).await?;
        }
        Ok(())
    }

    /// Waits until a node is ready and has registered its host since it was last seen ready.
    ///
    /// # Errors
    /// With the end of its log.
    pub async fn await_ready(&self, n: u64) -> Result<()> {
        let (known, seen) = self.incarnations().get(&n).copied().unwrap_or_default();
        let look = || async {
            let start = self.node(n).starts();
            // The same process may be waited for more than once.
            let least = if start == seen { known } else { known + 1 };
            self.revive_if_its_port_was_taken(n)?;
            let answer = self.request(n, Method::GET, "/readyz", None).send().await?;
            ensure!(answer.status() == 200, "/readyz answers {}", answer.status());
            let hosts: Vec<muster_api::Node> = self.get(n, "/v1/nodes?consistency=local").await?;
            let host = hosts.into_iter().find(|host| host.id == n).context("its host is unknown")?;
            ensure!(host.incarnation >= least && host.condition == "ready", "its host is {host:?}");
            Ok((host.incarnation, start))
        };
        let waited = until(&format!("node {n} is ready"), READY_WITHIN, look).await;
        let incarnation = waited.with_context(|| format!("the end of its log:\n{}", self.log_tail(n)))?;
        self.incarnations().insert(n, incarnation);
        Ok(())
    }

    /// A port that was free while its node was down may have been lent to someone's connection.
    pub(super) fn revive_if_its_port_was_taken(&self, n: u64) -> Result<()> {
        let node = self.node(n);
        let Some(status) = node.ended()? else { return Ok(()) };
        // While the cluster begins, all its ports are chosen anew instead.
        if !self.id.is_empty() && node.lost_its_port() {
            return node.start();
        }
        let ended = format!("its process ended with {status}");
        match self.may_end.lock().unwrap_or_else(PoisonError::into_inner).contains(&n) {
            true => bail!(ended),
            false => Err(Hopeless(ended).into()),
        }
    }

    pub(super) fn data_dirs(&self, n: u64) -> (PathBuf, PathBuf) {
        let data = data_dir(self.dir.path(), n, self.disks.contains_key(&n));
        let aside = data.with_extension("aside");
        (data, aside)
    }
}
