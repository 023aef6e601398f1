//! The end of a cluster: nothing of it is left, and no node has panicked.

use super::{Cluster, Engine, cleanup};

/// What of a node's log is shown when a test fails.
const LOG_TAIL_LINES: usize = 60;

impl Cluster {
    pub(super) fn log_tail(&self, n: u64) -> String {
        tail(&self.log(n))
    }

    pub(super) fn log_tails(&self) -> String {
        let tail = |n: &u64| format!("--- the end of node {n}'s log\n{}", self.log_tail(*n));
        let guest =
            |n: u64| format!("--- the end of the guest {n}'s log\n{}", self::tail(&self.guest_log(n)));
        let guests = self.guest_numbers().into_iter().map(guest);
        self.nodes.keys().map(tail).chain(guests).collect::<Vec<_>>().join("\n")
    }

    fn take_down(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for node in self.nodes.values() {
            if let Err(error) = node.kill() {
                troubles.push(format!("{error:#}"));
            }
        }
        troubles.extend(self.end_guests().err().map(|error| format!("{error:#}")));
        troubles.extend(cleanup::kill_processes_of(self.dir.path()).err());
        if self.engine == Engine::Docker && !self.id.is_empty() {
            troubles.extend(cleanup::remove_containers_of(&self.id).err());
        }
        troubles
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

impl Drop for Cluster {
    /// # Panics
    /// If something could not be removed, or a node has panicked, unless the test fails already.
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            eprintln!("{}", self.log_tails());
        }
        let mut troubles = self.take_down();
        let own = self.nodes.values().chain(&self.retired).map(|node| (node.address.id, node.log()));
        let guests = self.guest_numbers().into_iter().map(|n| (n, self.guest_log(n)));
        for (n, log) in own.chain(guests) {
            let panics = log.lines().filter(|line| line.contains("panicked at")).count();
            if panics > 0 {
                troubles.push(format!("node {n} panicked {panics} times:\n{}", tail(&log)));
            }
        }
        if !troubles.is_empty() {
            eprintln!("{}", troubles.join("\n"));
            assert!(failing, "the cluster did not end well: {}", troubles.join("; "));
        }
    }
}
