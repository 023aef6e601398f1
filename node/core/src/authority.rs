//! What the cluster's certificate authority is made of.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The seed of the authority's key. Whoever has it can make certificates of any node, so it is replicated and
/// stored, and shown to nobody.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySeed(pub [u8; 32]);

impl fmt::Debug for AuthoritySeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthoritySeed(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};
    use crate::{ClusterState, Command, Entry, ProposalId};

    #[test]
    fn a_seed_is_kept_and_not_shown() {
        let seed = AuthoritySeed([0xab; 32]);
        let mut state = ClusterState::default();
        for sequence in 1..=2 {
            let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence };
            let commands = vec![Command::SetAuthority { seed }];
            let entry = Entry { at: crate::units::Timestamp(1), proposal, commands };
            state.apply(&entry);
            assert_eq!(state.authority, Some(seed));
            let shown = format!("{entry:?} {state:?}");
            assert!(!shown.contains("171"), "{shown}");
        }
    }
}
