//! What an engine is asked to run, and what it reports to be running.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use muster_core::functions::Spec;
use muster_core::ids::{ClusterId, FunctionName, Generation, InstanceId, NodeId};
use muster_core::units::Timestamp;

use crate::logs::Origin;

/// One instance to run, all choices already made.
#[derive(Clone, Debug)]
pub struct Launch {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub instance: InstanceId,
    pub generation: Generation,
    pub function: FunctionName,
    /// The version of the function that `spec` is.
    pub version: u64,
    /// When the function was created: tells it from an earlier one that had its name.
    pub born: Timestamp,
    pub spec: Arc<Spec>,
}

/// How much of something has arrived, in bytes. What is not known yet is not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub all: u64,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MB: u64 = 1_000_000;
        write!(f, "{} of {} MB", self.done / MB, self.all.div_ceil(MB))
    }
}

/// One instance as it is on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub instance: InstanceId,
    pub generation: Generation,
    pub function: FunctionName,
    pub state: RunState,
    /// It stands still, whoever has had it do so.
    pub paused: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Created, not started.
    Starting,
    /// Started; it may or may not listen yet.
    Running {
        addr: SocketAddr,
    },
    /// It has ended, and how is not known yet; a later list tells.
    Ended,
    Exited(Exit),
}

/// How an instance ended, and the last it had to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i64>,
    pub signal: Option<i32>,
    /// It exceeded its memory. Only the Docker engine can tell.
    pub oom_killed: bool,
    /// The last lines of its output, at most [`LAST_OUTPUT_MAX`] bytes, without control characters.
    pub last_output: String,
}

/// The most bytes of output in an [`Exit`]: it becomes part of a replicated failure reason.
pub const LAST_OUTPUT_MAX: usize = 512;

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.oom_killed, self.code, self.signal) {
            (true, _, _) => f.write_str("ran out of memory and was killed")?,
            (false, Some(code), _) => write!(f, "exited with code {code}")?,
            (false, None, Some(signal)) => write!(f, "killed by signal {signal}")?,
            (false, None, None) => f.write_str("exited")?,
        }
        if self.last_output.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.last_output.replace('\n', " | "))
    }
}

impl Launch {
    pub(crate) fn origin(&self) -> Origin {
        Origin {
            instance: self.instance,
            generation: self.generation,
            function: self.function.clone(),
            born: self.born,
        }
    }

    /// The environment an instance gets on either engine. What Muster sets wins over the spec.
    pub(crate) fn environment(&self, port: u16) -> BTreeMap<String, String> {
        let mut env = self.spec.env.clone();
        env.insert("PORT".into(), port.to_string());
        env.insert("MUSTER_INSTANCE".into(), self.instance.to_string());
        env.insert("MUSTER_FUNCTION".into(), self.function.to_string());
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_reads_as_a_sentence() {
        let exit = |code, signal, oom_killed, last_output: &str| Exit {
            code,
            signal,
            oom_killed,
            last_output: last_output.into(),
        };
        for (exit, text) in [
            (exit(Some(3), None, false, "no such table"), "exited with code 3: no such table"),
            (exit(Some(0), None, false, ""), "exited with code 0"),
            (exit(None, Some(11), false, "a\nb"), "killed by signal 11: a | b"),
            (exit(None, Some(9), true, ""), "ran out of memory and was killed"),
            (exit(None, None, false, ""), "exited"),
        ] {
            assert_eq!(exit.to_string(), text);
        }
    }
}
