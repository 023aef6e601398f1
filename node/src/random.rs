//! Randomness from the operating system: ids, secrets. Without it no node can serve, so failure is fatal.

/// A random 64-bit id, never zero.
pub(crate) fn id() -> u64 {
    u64::from_le_bytes(bytes()).max(1)
}

pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    bytes
}
