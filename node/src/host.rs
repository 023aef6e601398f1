//! What this host has to give, read from the system.

use std::collections::BTreeSet;

use anyhow::Context;
use muster_core::functions::EngineKind;
use muster_core::nodes::{Profile, Resources};

use crate::config::Config;

/// What this node tells the cluster about itself.
pub(crate) fn profile(config: &Config, engines: BTreeSet<EngineKind>) -> anyhow::Result<Profile> {
    let capacity = Resources {
        memory_mb: match config.capacity.memory_mb {
            Some(memory_mb) => memory_mb,
            None => total_memory_mb().context("cannot read the host's memory; set `capacity.memory_mb`")?,
        },
        cpu_millis: match config.capacity.cpu_millis {
            Some(cpu_millis) => cpu_millis,
            None => cpu_millis().context("cannot count the host's cores; set `capacity.cpu_millis`")?,
        },
    };
    Ok(Profile {
        http: config.http_address(),
        peer: config.peer_address(),
        capacity,
        engines,
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

fn cpu_millis() -> std::io::Result<u64> {
    Ok(std::thread::available_parallelism()?.get() as u64 * 1000)
}

fn total_memory_mb() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    parse_memory_mb(&text).context("/proc/meminfo has no MemTotal")
}

fn parse_memory_mb(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        let text = "MemTotal:       24632468 kB\nMemFree:        1 kB\n";
        assert_eq!(parse_memory_mb(text), Some(24_055));
        assert_eq!(parse_memory_mb("MemFree: 1 kB"), None);
    }
}
