//! From which cluster version on each command exists. A new one is put here at the version that its release adds,
//! so that no member finds in the log what it cannot read.

use super::Command;
use crate::version::{self, Version};
use crate::{accounts, functions, habits, instances, ledger, members, nodes, packages};

impl Command {
    /// The version from which on it may be in the log.
    pub fn since(&self) -> Version {
        match self {
            Command::Bootstrap { .. } | Command::SetAuthority { .. } | Command::Refound { .. } => Version(1),
            // A package is a kind of source that there was not before.
            Command::Functions(functions::Command::Put { spec, .. }) if spec.source.package().is_some() => {
                Version(2)
            }
            Command::Functions(functions::Command::Put { .. } | functions::Command::Delete { .. }) => {
                Version(1)
            }
            Command::Accounts(
                accounts::Command::Create { .. }
                | accounts::Command::Delete { .. }
                | accounts::Command::CreateKey { .. }
                | accounts::Command::RevokeKey { .. }
                | accounts::Command::Grant { .. }
                | accounts::Command::Revoke { .. },
            ) => Version(1),
            Command::Nodes(
                nodes::Command::Register { .. }
                | nodes::Command::SetCondition { .. }
                | nodes::Command::Claim { .. },
            ) => Version(1),
            Command::Instances(
                instances::Command::Place { .. }
                | instances::Command::MarkStarting { .. }
                | instances::Command::MarkReady { .. }
                | instances::Command::Drain { .. }
                | instances::Command::MarkStopped { .. }
                | instances::Command::MarkFailed { .. }
                | instances::Command::Record { .. },
            ) => Version(1),
            Command::Ledger(
                ledger::Command::RecordUsage { .. }
                | ledger::Command::Keep { .. }
                | ledger::Command::RollUp { .. },
            ) => Version(1),
            Command::Members(
                members::Command::CreateToken { .. }
                | members::Command::Enroll { .. }
                | members::Command::Remove { .. }
                | members::Command::Leave { .. }
                | members::Command::Expel { .. },
            ) => Version(1),
            Command::Habits(habits::Command::Observe { .. }) => Version(1),
            Command::Packages(packages::Command::Store { .. } | packages::Command::Forget { .. }) => {
                Version(2)
            }
            // Proposed only by who knows of a version beyond the first, for a cluster that has no members yet.
            Command::Version(version::Command::Begin { .. }) => Version(1),
            // Whoever supports a version knows the command that leads to it.
            Command::Version(version::Command::Raise { to }) => to.previous(),
        }
    }
}
