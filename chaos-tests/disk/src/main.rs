//! `muster-faultdisk`: reads where to mount, then commands, a line each, from stdin; answers each with
//! a line. Unmounts and ends when stdin ends.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use muster_faultdisk::disk::Disk;
use muster_faultdisk::{Command, serve};
use nix::mount::{MntFlags, umount2};

fn main() -> Result<()> {
    let mut lines = stdin().lock().lines();
    let point = PathBuf::from(lines.next().context("stdin does not say where to mount")??);
    let disk = Arc::new(Mutex::new(Disk::default()));
    let session =
        serve(Arc::clone(&disk), &point).with_context(|| format!("cannot mount at {}", point.display()))?;
    let served = obey(&disk, lines);
    // At once, whoever is still in there: they are to find nothing any more.
    umount2(&point, MntFlags::MNT_DETACH)
        .with_context(|| format!("cannot unmount {}", point.display()))
        .and(served)?;
    // The end of the process closes the connection; the session would wait for the last user.
    std::mem::forget(session);
    Ok(())
}

fn obey(disk: &Mutex<Disk>, lines: impl Iterator<Item = std::io::Result<String>>) -> Result<()> {
    let answer = |command: &Command| -> Result<()> {
        let counters = disk.lock().unwrap_or_else(PoisonError::into_inner).obey(command);
        let mut out = stdout().lock();
        serde_json::to_writer(&mut out, &counters)?;
        out.write_all(b"\n")?;
        out.flush().context("nobody listens")
    };
    answer(&Command::Counters)?;
    for line in lines {
        let line = line?;
        let command = serde_json::from_str(&line).with_context(|| format!("no command: {line}"))?;
        answer(&command)?;
    }
    Ok(())
}
