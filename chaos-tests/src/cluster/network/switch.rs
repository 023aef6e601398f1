//! The one place where all packets pass: a thread that reads them from every TUN device and writes
//! them to the one they are for, at once, later or never.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::rules::{Fate, Link, Rules};

/// More than any device's packets have: a read takes one whole packet.
const PACKET_MAX: usize = 16 * 1024;
/// Packets read from one device before the next has its turn.
const BURST: usize = 64;
/// Packets that wait to be delivered late; those beyond are lost, as in any router.
const LATE_MAX: usize = 20_000;

/// Runs until it is dropped.
#[derive(Debug)]
pub(super) struct Switch {
    /// Its end stops the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Switch {
    /// Connects the stations, each with its device's file.
    pub(super) fn start(
        network: [u8; 3],
        stations: BTreeMap<u8, (u64, File)>,
        rules: Arc<Mutex<Rules>>,
    ) -> Result<Self> {
        let (stopped, stop) = std::io::pipe().context("cannot make a pipe")?;
        let late = BinaryHeap::new();
        let exchange = Exchange { network, stations, rules, late, received: 0 };
        let thread = thread::Builder::new().name("switch".into()).spawn(move || exchange.run(&stopped));
        Ok(Switch { stop: Some(stop), thread: Some(thread.context("cannot start the switch")?) })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.stop.take());
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("the switch between the nodes had failed: {error:#}"),
            Some(Err(_)) => eprintln!("the switch between the nodes had panicked"),
            Some(Ok(Ok(()))) | None => {}
        }
    }
}

struct Exchange {
    network: [u8; 3],
    /// By the last byte of their address.
    stations: BTreeMap<u8, (u64, File)>,
    rules: Arc<Mutex<Rules>>,
    late: BinaryHeap<Reverse<Late>>,
    received: u64,
}

/// Ordered by when it is due, and of those due together by when it came.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Late {
    due: Instant,
    number: u64,
    to: u8,
    packet: Vec<u8>,
}

impl Exchange {
    fn run(mut self, stopped: &PipeReader) -> Result<()> {
        let mut buffer = vec![0; PACKET_MAX];
        loop {
            let (ready, stop) = self.wait(stopped)?;
            if stop {
                return Ok(());
            }
            for at in ready {
                self.forward_from(at, &mut buffer)?;
            }
            self.deliver_late()?;
        }
    }

    /// Waits for packets, for the time of a late one, or for the end. Answers the stations that have
    /// sent something, and whether it is over.
    fn wait(&self, stopped: &PipeReader) -> Result<(Vec<u8>, bool)> {
        let mut asked: Vec<PollFd<'_>> =
            self.stations.values().map(|(_, tun)| PollFd::new(tun.as_fd(), PollFlags::POLLIN)).collect();
        asked.push(PollFd::new(stopped.as_fd(), PollFlags::POLLIN));
        match poll(&mut asked, self.until_next()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for packets"),
        }
        let has_something = |asked: &PollFd<'_>| asked.any().unwrap_or(true);
        let ready = self.stations.keys().zip(&asked).filter(|(_, asked)| has_something(asked));
        let ready = ready.map(|(at, _)| *at).collect();
        Ok((ready, asked.last().is_some_and(has_something)))
    }

    /// Rounded up, since a late packet must not be early.
    fn until_next(&self) -> PollTimeout {
        let Some(Reverse(next)) = self.late.peek() else { return PollTimeout::NONE };
        let left = next.due.saturating_duration_since(Instant::now());
        let millis = u32::try_from(left.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    }

    fn forward_from(&mut self, at: u8, buffer: &mut [u8]) -> Result<()> {
        for _ in 0..BURST {
            let Some((from, tun)) = self.stations.get_mut(&at) else { return Ok(()) };
            let from = *from;
            let length = match tun.read(buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(error) => return Err(error).context("cannot read from a device"),
            };
            self.forward(from, &buffer[..length])?;
        }
        Ok(())
    }

    fn forward(&mut self, from: u64, packet: &[u8]) -> Result<()> {
        // What is for nobody here ends here: multicast of IPv6, and addresses of no node.
        let Some(at) = destination(packet, self.network) else { return Ok(()) };
        let Some((to, _)) = self.stations.get(&at) else { return Ok(()) };
        let (link, now) = (Link { from, to: *to }, Instant::now());
        let fate = self.rules.lock().unwrap_or_else(PoisonError::into_inner).fate(link, now);
        match fate {
            Fate::Lost => Ok(()),
            Fate::Delivered => self.deliver(at, packet),
            Fate::Late(due) => {
                self.received += 1;
                if self.late.len() < LATE_MAX {
                    let late = Late { due, number: self.received, to: at, packet: packet.to_vec() };
                    self.late.push(Reverse(late));
                }
                Ok(())
            }
        }
    }

    fn deliver_late(&mut self) -> Result<()> {
        let now = Instant::now();
        while self.late.peek().is_some_and(|Reverse(next)| next.due <= now) {
            let Some(Reverse(late)) = self.late.pop() else { break };
            self.deliver(late.to, &late.packet)?;
        }
        Ok(())
    }

    fn deliver(&mut self, to: u8, packet: &[u8]) -> Result<()> {
        let Some((_, tun)) = self.stations.get_mut(&to) else { return Ok(()) };
        match tun.write(packet) {
            Ok(_) => Ok(()),
            // The kernel has no room for it: lost, as on any network.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::OutOfMemory) => Ok(()),
            Err(error) => Err(error).context("cannot write to a device"),
        }
    }
}

/// The last byte of the address that an IPv4 packet is for, if that is one of the network's.
fn destination(packet: &[u8], network: [u8; 3]) -> Option<u8> {
    let is_ipv4 = packet.first()? >> 4 == 4;
    let (prefix, last) = packet.get(16..20)?.split_at(3);
    (is_ipv4 && prefix == network).then_some(last[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let to = |version: u8, address: [u8; 4]| {
            let mut packet = vec![0; 40];
            packet[0] = version << 4 | 5;
            packet[16..20].copy_from_slice(&address);
            destination(&packet, [198, 19, 3])
        };
        assert_eq!(to(4, [198, 19, 3, 2]), Some(2));
        assert_eq!(to(4, [198, 19, 4, 2]), None);
        assert_eq!(to(6, [198, 19, 3, 2]), None);
        assert_eq!(destination(&[0x45; 19], [0x45; 3]), None);
        assert_eq!(destination(&[], [198, 19, 3]), None);
    }
}
