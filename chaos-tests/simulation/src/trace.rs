//! A fingerprint of all that happened, to tell whether a seed is repeated exactly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A handle; clones share the fingerprint.
#[derive(Clone, Debug)]
pub struct Trace(Arc<AtomicU64>);

impl Trace {
    #[expect(clippy::new_without_default, reason = "a trace begins with a simulation, not by default")]
    pub fn new() -> Trace {
        Trace(Arc::new(AtomicU64::new(OFFSET)))
    }

    /// Takes an event in (FNV-1a over its words).
    pub fn note(&self, words: &[u64]) {
        let hash = words.iter().fold(self.0.load(Ordering::Relaxed), |hash, word| step(hash, *word));
        self.0.store(hash, Ordering::Relaxed);
    }

    pub fn fingerprint(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

fn step(hash: u64, word: u64) -> u64 {
    word.to_le_bytes().iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

/// A fingerprint of bytes.
pub fn of_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}
