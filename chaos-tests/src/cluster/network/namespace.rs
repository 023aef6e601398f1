//! Network namespaces without names: the kernel keeps one while a process runs in it or its file is
//! open, so nothing is left behind even by a process that is killed.

use std::fs::File;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use super::tun;

/// What every namespace calls its way out.
const DEVICE: &str = "chaos";
/// Packets that wait in a device for the switch: only rules shall lose any.
const DEVICE_QUEUE: u32 = 5_000;
/// Networks looked at for one that nobody uses, by the third byte of their addresses.
const NETWORKS_MAX: u8 = 255;

/// Why there can be no namespaces here, if there can be none: root in a container may lack the right.
pub(super) fn unfit() -> Option<String> {
    for program in ["ip", "nsenter"] {
        let ran = Command::new(program).arg("-V").stdin(Stdio::null()).output();
        if let Err(error) = ran {
            return Some(format!("cannot run {program}: {error}"));
        }
    }
    let made = thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    let refusal = made.expect("a system call does not panic").err()?;
    Some(format!("cannot make a network namespace: {refusal}"))
}

/// A namespace whose only way out is a TUN device.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one that has `address`, with the device's file.
    pub(super) fn create(address: Ipv4Addr) -> Result<(Self, File)> {
        // A namespace belongs to a thread: this one enters it and ends.
        let make = move || {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            let tun = tun::open(DEVICE).with_context(|| format!("cannot make the device {DEVICE}"))?;
            ip(&["link", "set", "lo", "up"])?;
            configure(DEVICE, address)?;
            let file = File::open("/proc/thread-self/ns/net").context("cannot keep the namespace")?;
            Ok((Namespace { file }, tun))
        };
        thread::spawn(make).join().map_err(|_| anyhow!("the thread that makes a namespace panicked"))?
    }

    /// Words that go before a program's to run it inside, for as long as this process lives. The
    /// program replaces them: its process is the one that was started.
    pub(super) fn wrapper(&self) -> Vec<String> {
        let file = format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        vec!["nsenter".into(), format!("--net={file}"), "--".into()]
    }

    /// Does something inside: sockets made there stay there.
    pub(super) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let enter = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(enter).join())
            .map_err(|_| anyhow!("what was done inside a namespace panicked"))?
    }
}

/// Claims a network that nobody on this machine uses, and makes a device in it for this process's own
/// namespace: its file, and the first three bytes of the network's addresses.
pub(super) fn claim(clients: u8) -> Result<(File, [u8; 3])> {
    for number in 0..NETWORKS_MAX {
        let device = format!("{DEVICE}{number}");
        let tun = match tun::open(&device) {
            // The device is the claim: of all processes here only one has it.
            Err(error) if error.kind() == ErrorKind::ResourceBusy => continue,
            made => made.with_context(|| format!("cannot make the device {device}"))?,
        };
        // From the block that RFC 2544 sets apart for tests of network devices: no host has it.
        let network = [198, 19, number];
        let [a, b, c] = network;
        configure(&device, Ipv4Addr::new(a, b, c, clients))?;
        return Ok((tun, network));
    }
    Err(anyhow!("all {NETWORKS_MAX} networks are in use"))
}

fn configure(device: &str, address: Ipv4Addr) -> Result<()> {
    ip(&["address", "add", &format!("{address}/24"), "dev", device])?;
    ip(&["link", "set", device, "txqueuelen", &DEVICE_QUEUE.to_string(), "up"])
}

/// Runs `ip` in the calling thread's namespace.
fn ip(words: &[&str]) -> Result<()> {
    let ran =
        Command::new("ip").args(words).stdin(Stdio::null()).output().context("cannot run ip (iproute2)")?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "ip {} ended with {}: {}", words.join(" "), ran.status, said.trim());
    Ok(())
}
