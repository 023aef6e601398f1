//! What a disk can be told, one JSON line each; it answers each with its counters.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command", deny_unknown_fields)]
pub enum Command {
    /// The power is cut and comes back at once: what is unsynced is forgotten, and every file that
    /// is open answers EIO for good. Whoever opens anew finds what was durable.
    Cut { survivors: Survivors },
    /// The same as soon as something has been written: then something is unsynced for certain.
    CutAtWrite { survivors: Survivors },
    /// Writes that take new room are refused with ENOSPC until [`Command::Heal`], and so is a sync of
    /// what had taken room before it, whose data is then lost. With `overwrites` every write is
    /// refused, as by a file system that never writes in place.
    Full { overwrites: bool },
    /// So many of the next syncs answer EIO, and lose what they should have written.
    SyncError { syncs: u32 },
    /// Each sync takes this much longer, until [`Command::Heal`].
    Slow { sync_ms: u64, jitter_ms: u64 },
    /// Ends what was begun.
    Heal,
    /// Only asks.
    Counters,
}

/// What of the unsynced data a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Survivors {
    None,
    /// By chance, from a seed: each write is lost, whole, or torn at sectors; directory changes
    /// survive up to some moment.
    Some {
        seed: u64,
    },
}

/// What has happened to a disk since it was mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub writes: u64,
    pub written_bytes: u64,
    /// Syncs of files and directories that succeeded.
    pub syncs: u64,
    /// Writes, creations and syncs refused because the disk was full.
    pub refused_full: u64,
    pub failed_syncs: u64,
    pub slowed_syncs: u64,
    pub cuts: u64,
    /// Unsynced bytes that cuts have dropped.
    pub dropped_bytes: u64,
    /// Unsynced bytes that survived cuts by chance.
    pub survived_bytes: u64,
    pub torn_writes: u64,
    /// Directory changes that cuts have dropped.
    pub dropped_entries: u64,
    /// Requests on files that were open when the power was cut.
    pub stale_requests: u64,
    /// Unsynced now.
    pub dirty_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_read_as_they_are_written() {
        for (command, text) in [
            (Command::Cut { survivors: Survivors::None }, r#"{"command":"cut","survivors":"none"}"#),
            (
                Command::Cut { survivors: Survivors::Some { seed: 7 } },
                r#"{"command":"cut","survivors":{"some":{"seed":7}}}"#,
            ),
            (Command::SyncError { syncs: 1 }, r#"{"command":"sync-error","syncs":1}"#),
            (Command::Full { overwrites: false }, r#"{"command":"full","overwrites":false}"#),
        ] {
            assert_eq!(serde_json::to_string(&command).unwrap(), text);
            assert_eq!(serde_json::from_str::<Command>(text).unwrap(), command);
        }
        assert!(serde_json::from_str::<Command>(r#"{"command":"explode"}"#).is_err());
    }
}
