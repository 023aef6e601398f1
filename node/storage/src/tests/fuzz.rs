//! Decoders are given what the golden files hold, changed at random: they refuse it or read something, and never
//! panic, ask for all memory or go on for ever.
//!
//! `MUSTER_FUZZ_CASES` says how many cases each target gets; a few seconds' worth unless told.

use std::fs;
use std::path::Path;

use muster_core::ids::NodeId;
use openraft::{Entry, LogId, Vote};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{FileFailurePersistence, TestRunner};

use super::TypeConfig;
use crate::keys::{self, Key, Kind};
use crate::snapshot::Manifest;
use crate::{Memory, codec, identity, log, witness};

/// One change to some bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    CutOff(Index),
    Repeat(Index, usize),
    /// From there on, the end of another sample.
    Splice(Index, Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    // What bincode begins wide numbers with, and what lies at the edges.
    let byte = prop_oneof![Just(0), Just(0x80), 250..=255_u8, any::<u8>()];
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), byte.clone()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (at(), proptest::collection::vec(byte, 1..12)).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), 1..9_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        at().prop_map(Mutation::CutOff),
        (at(), 1..64_usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
        (at(), at(), at()).prop_map(|(at, other, from)| Mutation::Splice(at, other, from)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation, samples: &[Vec<u8>]) {
    let place = |at: &Index, length: usize| at.index(length + 1);
    match mutation {
        Mutation::Flip(at, bit) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Mutation::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Mutation::Insert(at, inserted) => {
            let at = place(at, bytes.len());
            bytes.splice(at..at, inserted.iter().copied());
        }
        Mutation::Remove(at, count) => {
            let at = place(at, bytes.len());
            bytes.drain(at..(at + count).min(bytes.len()));
        }
        Mutation::CutOff(at) => bytes.truncate(place(at, bytes.len())),
        Mutation::Repeat(at, count) => {
            let at = place(at, bytes.len());
            let again = bytes[at..(at + count).min(bytes.len())].repeat(3);
            bytes.splice(at..at, again);
        }
        Mutation::Splice(at, other, from) => {
            let other = &samples[other.index(samples.len())];
            bytes.truncate(place(at, bytes.len()));
            bytes.extend_from_slice(&other[place(from, other.len())..]);
        }
        Mutation::Flip(..) | Mutation::Set(..) => {}
    }
}

/// Gives `target` the samples, changed.
fn fuzz(samples: &[Vec<u8>], target: impl Fn(&[u8])) {
    samples.iter().for_each(|sample| target(sample));
    let cases = std::env::var("MUSTER_FUZZ_CASES").map_or(2_000, |cases| cases.parse().unwrap());
    let config = ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    };
    let changed = (any::<Index>(), proptest::collection::vec(mutation(), 1..6));
    let outcome = TestRunner::new(config).run(&changed, |(sample, mutations)| {
        let mut bytes = samples[sample.index(samples.len())].clone();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation, samples));
        target(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// The golden files, each as its bytes.
fn golden() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let bytes = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap().replace(char::is_whitespace, "");
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    paths.iter().map(bytes).collect()
}

#[test]
fn records_of_any_kind() {
    let dir = Path::new("/nowhere");
    fuzz(&golden(), |bytes| {
        // Whatever comes of it: it comes.
        let _vote = keys::decode::<Vote<NodeId>>(dir, "the vote", &[log::MARK_FORMAT], bytes);
        let _mark = keys::decode::<LogId<NodeId>>(dir, "a mark", &[log::MARK_FORMAT], bytes);
        let _entry = log::decode::<Entry<TypeConfig>>(dir, 7, bytes);
        let _link = codec::decode_first::<u32>(&[log::ENTRY_FORMAT], bytes);
        let _identity = identity::decode(dir, bytes);
        let _manifest = keys::decode::<Manifest>(dir, "a manifest", &[1], bytes);
        let mut note = [0; 128];
        let length = bytes.len().min(note.len());
        note[..length].copy_from_slice(&bytes[..length]);
        let _note = witness::decode(&note);
    });
}

/// Values of a database whose parts are anything.
#[test]
fn records_put_together_from_parts() {
    fuzz(&golden(), |bytes| {
        let memory = Memory::new();
        let parts = bytes.chunks(bytes.len().div_ceil(3).max(1));
        let batch = parts.enumerate().map(|(part, bytes)| {
            let part = u32::try_from(part).unwrap();
            (Key::new(Kind::Log, u64::from(part / 2), part % 2).into(), Some(bytes.into()))
        });
        memory.apply(batch.collect());
        let db = crate::database::Database::Memory(memory);
        assert!(keys::scan(&db, Path::new("/nowhere"), Kind::Log, 0, 9).count() <= 3);
    });
}
