//! What a run ran on: its figures mean little without.

use std::fs;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// RFC 3339.
    pub began_at: String,
    pub cpus: u64,
    pub cpu: String,
    pub memory_mb: u64,
    pub kernel: String,
}

impl Machine {
    /// This one, now. What it does not tell stays empty.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kb: u64 = memory.split(' ').next().and_then(|kb| kb.parse().ok()).unwrap_or(0);
        Machine {
            began_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            cpus: std::thread::available_parallelism().map_or(0, |cpus| cpus.get() as u64),
            cpu: value(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_mb: kb / 1_024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }

    /// In a line; empty where nothing is known.
    pub fn describe(&self) -> String {
        if self.cpus == 0 {
            return String::new();
        }
        let cpu = if self.cpu.is_empty() { String::new() } else { format!(" ({})", self.cpu) };
        format!("{} cores{cpu}, {} GiB", self.cpus, self.memory_mb.div_ceil(1_024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let here = Machine::here();
        assert!(
            here.memory_mb > 0 && !here.kernel.is_empty() && here.describe().contains("cores"),
            "{here:?}"
        );
        assert!(here.began_at.parse::<jiff::Timestamp>().is_ok());
        assert_eq!(Machine::default().describe(), "");
    }
}
