//! One process from its start to its end: its output is read, its end awaited, its group cleared away.
//!
//! A process id names its process only until it is reaped. So an end is first seen without reaping
//! (`WNOWAIT`), then the group is killed, and only then, under the lock that guards every signal, is
//! the process reaped: no signal can reach a stranger that got the same number.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muster_core::ids::PackageDigest;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::OUTPUT_MAX;
use crate::instance::{Exit, Launch};
use crate::logs::splitting::Splitter;
use crate::logs::{Nanos, Origin, Stream, Writer};
use crate::output::Tail;

/// How long the rest of the output is awaited after the end. It is there at once, unless a process
/// that left the group holds the other end open.
const DRAIN_DEADLINE: Duration = Duration::from_millis(250);
const READ_BYTES: usize = 8 * 1024;

/// A process, and after its end what is left to tell.
#[derive(Debug)]
pub(super) struct Child {
    pub origin: Origin,
    pub addr: SocketAddr,
    /// Whose folder it works in.
    pub package: Option<PackageDigest>,
    /// The process and the group it leads. `None` once reaped.
    leader: Mutex<Option<Pid>>,
    paused: AtomicBool,
    output: Mutex<Tail>,
    exit: watch::Sender<Option<Exit>>,
}

impl Child {
    pub(super) fn new(launch: &Launch, addr: SocketAddr, pid: Pid) -> Self {
        Child {
            origin: launch.origin(),
            addr,
            package: launch.spec.source.package(),
            leader: Mutex::new(Some(pid)),
            paused: AtomicBool::new(false),
            output: Mutex::new(Tail::new(OUTPUT_MAX)),
            exit: watch::Sender::new(None),
        }
    }

    /// How it ended, once it has.
    pub(super) fn exit(&self) -> Option<Exit> {
        self.exit.borrow().clone()
    }

    pub(super) async fn ends_within(&self, limit: Duration) -> bool {
        let mut exit = self.exit.subscribe();
        timeout(limit, exit.wait_for(Option::is_some)).await.is_ok()
    }

    /// Signals the whole group. After the end this does nothing.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = *self.leader() {
            // It fails only where the group has just ended.
            let _ = killpg(pid, signal);
        }
    }

    /// Stops the whole group, or has it go on.
    pub(super) fn set_paused(&self, paused: bool) {
        self.signal(if paused { Signal::SIGSTOP } else { Signal::SIGCONT });
        self.paused.store(paused, Relaxed);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    pub(super) fn output(&self) -> Vec<u8> {
        self.tail().to_vec()
    }

    fn leader(&self) -> MutexGuard<'_, Option<Pid>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process has ended; it stays a zombie, so its number stays its own.
    fn has_ended(&self) -> bool {
        let Some(pid) = *self.leader() else { return true };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive) | Err(Errno::EINTR))
    }

    /// Kills what is left of the group and lets the process go.
    fn reap(&self) -> Exit {
        let mut leader = self.leader();
        let Some(pid) = leader.take() else { return Exit::default() };
        let _ = killpg(pid, Signal::SIGKILL);
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => Exit { code: Some(code.into()), ..Exit::default() },
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit { signal: Some(signal as i32), ..Exit::default() },
            // A signal without a name, or a child reaped by someone else: it ended, that much is known.
            _ => Exit::default(),
        }
    }
}

/// Follows a process to its end. `outputs` are its stdout and stderr; `ends` must have been listening
/// since before it began.
pub(super) async fn follow(
    child: Arc<Child>,
    outputs: [pipe::Receiver; 2],
    writer: Writer,
    mut ends: tokio::signal::unix::Signal,
    changes: Arc<Notify>,
) {
    let mut output = Output {
        splitters: [Splitter::new(Stream::Stdout), Splitter::new(Stream::Stderr)],
        last: Nanos::default(),
        writer: &writer,
        child: &child,
    };
    let mut read_all = false;
    {
        let reading = output.read(outputs);
        tokio::pin!(reading);
        while !child.has_ended() {
            tokio::select! {
                () = &mut reading, if !read_all => read_all = true,
                // Some child of this process ended or stopped; whether this one did is looked up.
                _ = ends.recv() => {}
            }
        }
        let mut exit = child.reap();
        if !read_all {
            let _ = timeout(DRAIN_DEADLINE, reading).await;
        }
        exit.last_output = child.tail().last_lines();
        child.exit.send_replace(Some(exit));
        changes.notify_one();
    }
    output.finish();
    writer.end().await;
}

/// Where the output of a process goes: its end into memory, all of it to the logs.
struct Output<'c> {
    splitters: [Splitter; 2],
    last: Nanos,
    writer: &'c Writer,
    child: &'c Child,
}

impl Output<'_> {
    /// Reads until nobody can write any more. What is there of both streams is read stdout first: for
    /// a program that says on stderr why it ends, that is the order.
    async fn read(&mut self, outputs: [pipe::Receiver; 2]) {
        let [mut stdout, mut stderr] = outputs;
        let (mut one, mut two) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
        let mut open = [true, true];
        while open != [false, false] {
            tokio::select! {
                biased;
                count = stdout.read(&mut one), if open[0] => open[0] = self.take(0, &one, count),
                count = stderr.read(&mut two), if open[1] => open[1] = self.take(1, &two, count),
            }
        }
    }

    /// False at the end of the stream.
    fn take(&mut self, stream: usize, buffer: &[u8], count: std::io::Result<usize>) -> bool {
        let Ok(count @ 1..) = count else { return false };
        self.child.tail().push(&buffer[..count]);
        self.writer.offer(self.splitters[stream].push(&buffer[..count], &mut self.last));
        true
    }

    fn finish(&mut self) {
        let Output { splitters, last, .. } = self;
        let rest: Vec<_> = splitters.iter_mut().filter_map(|splitter| splitter.rest(last)).collect();
        self.writer.offer(rest);
    }
}
