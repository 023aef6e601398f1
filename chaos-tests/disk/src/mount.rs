//! A disk in a process of its own, for tests: it must outlive a killed node, and lose its power apart
//! from others.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command as Process, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::mount::{MntFlags, umount2};

use crate::control::{Command, Counters};

/// Why no such disk can be mounted here, if it cannot.
pub fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("a FUSE mount needs root".into());
    }
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/fuse: {error}")),
    }
}

/// A mounted disk. Dropping it unmounts it, whoever still uses it.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    daemon: Mutex<Daemon>,
}

#[derive(Debug)]
struct Daemon {
    process: Child,
    /// Its end is the daemon's: closed when this process dies, however it dies.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Mount {
    /// Starts `program`, which is `muster-faultdisk`, and has it mount a new, empty disk.
    ///
    /// # Errors
    /// What the program says, where it cannot.
    pub fn start(program: &Path, point: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(point)?;
        let mut process = Process::new(program)
            // Where it mounts it is told: it must not look like one of the processes that use it.
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("it was asked for"));
        let daemon = Mutex::new(Daemon { process, orders, answers });
        let mount = Mount { point: point.to_owned(), daemon };
        let point = point.to_str().ok_or_else(|| io::Error::other("the mount point is not UTF-8"))?;
        mount.ask(point)?;
        Ok(mount)
    }

    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Gives a command. Answers the counters as they are after it.
    ///
    /// # Errors
    /// Where the daemon is gone.
    pub fn tell(&self, command: &Command) -> io::Result<Counters> {
        self.ask(&serde_json::to_string(command)?)
    }

    fn ask(&self, line: &str) -> io::Result<Counters> {
        let mut daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = daemon.orders.as_mut().expect("it is closed only by drop");
        orders.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        daemon.answers.read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::other(format!("the disk at {} is gone", self.point.display())));
        }
        Ok(serde_json::from_str(&answer)?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let daemon = self.daemon.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop(daemon.orders.take());
        let _whatever_it_says = daemon.process.wait();
        // Only where the daemon died before it could.
        let _unmounted = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}
