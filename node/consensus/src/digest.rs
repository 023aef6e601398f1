//! A chain over everything that was applied, so that replicas can be compared.
//!
//! Two nodes that have applied the same entries up to an index, with the same outcomes, have the same digest
//! there, whenever and however each came to it: by the log or by a snapshot. It covers each entry's bytes, its log id,
//! and of every answer whether it was a refusal, and which one; not a refusal's words, which may
//! change from one version to the next.

use std::fmt;

use muster_core::{Answer, Applied};
use muster_storage::codec;
use openraft::Entry;
use serde::{Deserialize, Serialize};

use crate::types::TypeConfig;

/// Of what is hashed, so that a change of it is a change of format.
const FORMAT: u8 = 1;

/// BLAKE3 over the digest before, the entry, and what came of it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest behind one more entry; `outcome` is absent for entries that change no state.
    #[must_use]
    pub(crate) fn then(self, entry: &Entry<TypeConfig>, outcome: Option<&Applied>) -> Self {
        let encoded = codec::encode(FORMAT, entry).expect("an entry was encoded before it came here");
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(&encoded);
        match outcome {
            None => {}
            Some(Applied::Repeated) => drop(hasher.update(&[0])),
            Some(Applied::Answers(answers)) => {
                hasher.update(&[1]);
                for answer in answers {
                    hasher.update(&essence(answer));
                }
            }
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// What must be the same on every replica of any version.
fn essence(answer: &Answer) -> Vec<u8> {
    match answer {
        Ok(reply) => codec::encode(FORMAT, reply).expect("a reply is plain data"),
        // bincode puts a variant's number first, and an answer is at least that.
        Err(rejection) => {
            let encoded = codec::encode(FORMAT, rejection).expect("a rejection is plain data");
            vec![u8::MAX, encoded[1]]
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use muster_core::ids::NodeId;
    use muster_core::rejection::{Kind, Rejection};
    use muster_core::{Reply, units::Timestamp};
    use openraft::{CommittedLeaderId, EntryPayload, LogId};

    use super::*;

    fn entry(index: u64, at: u64) -> Entry<TypeConfig> {
        let proposal = muster_core::ProposalId {
            node: NodeId(1),
            incarnation: muster_core::ids::Incarnation(1),
            sequence: index,
        };
        let entry = muster_core::Entry { at: Timestamp(at), proposal, commands: Vec::new() };
        Entry {
            log_id: LogId::new(CommittedLeaderId::new(1, NodeId(1)), index),
            payload: EntryPayload::Normal(entry),
        }
    }

    fn refused(name: &str) -> Applied {
        Applied::Answers(vec![Err(Rejection::NotFound { kind: Kind::Function, name: name.into() })])
    }

    #[test]
    fn every_entry_and_every_outcome_counts_and_words_do_not() {
        let start = Digest::default();
        let done = Applied::Answers(vec![Ok(Reply::Done)]);
        let reference = start.then(&entry(1, 7), Some(&done));
        assert_eq!(reference, start.then(&entry(1, 7), Some(&done)));
        assert_eq!(reference.to_string().len(), 64);
        for (name, other) in [
            ("another index", start.then(&entry(2, 7), Some(&done))),
            ("another entry", start.then(&entry(1, 8), Some(&done))),
            ("a repetition", start.then(&entry(1, 7), Some(&Applied::Repeated))),
            ("a refusal", start.then(&entry(1, 7), Some(&refused("f")))),
            ("a history", reference.then(&entry(1, 7), Some(&done))),
            ("no outcome", start.then(&entry(1, 7), None)),
        ] {
            assert_ne!(reference, other, "{name}");
        }
        assert_eq!(
            start.then(&entry(1, 7), Some(&refused("in these words"))),
            start.then(&entry(1, 7), Some(&refused("in others"))),
        );
    }
}
