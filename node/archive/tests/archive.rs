//! What is written is read; what was changed is not.
#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use muster_archive::{Counts, Damage, Decoder, Metadata, PAYLOAD_MAX, Writer, read};
use proptest::prelude::*;

fn metadata() -> Metadata {
    Metadata {
        cluster: "c-0123456789abcdef".into(),
        index: 812,
        term: 3,
        taken_at: "2026-11-25T20:00:00.000Z".into(),
        node: 1,
        version: "0.1.0".into(),
        counts: Counts { functions: 2, accounts: 3, nodes: 3, instances: 1, ledger_rows: 40 },
    }
}

fn archive(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, &metadata()).unwrap();
    writer.write_all(content).unwrap();
    assert_eq!(writer.finish().unwrap(), content.len() as u64);
    bytes
}

fn content(bytes: usize) -> Vec<u8> {
    (0..=250).cycle().take(bytes).collect()
}

fn contents_of(bytes: &[u8]) -> Result<Vec<u8>, Damage> {
    let mut content = Vec::new();
    let (found, length) = read(bytes, |chunk| content.extend_from_slice(chunk))?;
    assert_eq!((found, length), (metadata(), content.len() as u64));
    Ok(content)
}

#[test]
fn what_is_written_is_read_however_it_comes() {
    for bytes in [0, 1, PAYLOAD_MAX - 1, PAYLOAD_MAX, PAYLOAD_MAX + 1, 3 * PAYLOAD_MAX + 5] {
        let content = content(bytes);
        let archive = archive(&content);
        assert_eq!(contents_of(&archive).unwrap(), content);
        for piece in [1 << 20, 4096, 7] {
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for piece in archive.chunks(piece) {
                decoder.push(piece, |chunk| got.extend_from_slice(chunk)).unwrap();
            }
            decoder.finish().unwrap();
            assert!(got == content, "{bytes} bytes in pieces of {piece}");
        }
    }
}

#[test]
fn it_is_laid_out_as_ever() {
    let mut hex = String::new();
    for line in archive(b"content").chunks(32) {
        line.iter().for_each(|byte| write!(hex, "{byte:02x}").unwrap());
        hex.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archive.v1.hex");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &hex).unwrap();
    }
    assert_eq!(hex, std::fs::read_to_string(path).unwrap(), "archives in the field can no longer be read");
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let good = archive(&content(700));
    for length in 0..good.len() {
        let damage = contents_of(&good[..length]).unwrap_err();
        assert!(matches!(damage, Damage::CutOff { at } if at == length as u64), "{length}: {damage}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(contents_of(&bad).is_err(), "bit {bit} may be flipped");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let good = archive(&content(2 * PAYLOAD_MAX));
    let first = 9 + 9 + serde_json::to_vec(&metadata()).unwrap().len();
    let frame = PAYLOAD_MAX + 9;
    let swapped = [
        &good[..first],
        &good[first + frame..first + 2 * frame],
        &good[first..first + frame],
        &good[first + 2 * frame..],
    ]
    .concat();
    let without_one = [&good[..first], &good[first + frame..]].concat();
    let headless = [&good[..9], &good[first..]].concat();
    let changed = |at: usize, to: u8| {
        let mut bad = good.clone();
        bad[at] = to;
        bad
    };
    for (name, bytes, want) in [
        ("nothing", vec![], "cut off after 0 bytes"),
        ("another file", b"PK\x03\x04".to_vec(), "not a Muster backup"),
        ("a longer other file", b"PK\x03\x04 and so on".to_vec(), "not a Muster backup"),
        ("the future", changed(8, 2), "format 2"),
        ("a changed chunk", changed(first + 100, 7), &format!("frame at byte {first}")),
        ("a frame of a new kind", changed(first, 9), "no known kind, 9"),
        ("a frame without end", changed(first + 4, 0xff), "claims"),
        ("chunks that changed places", swapped, "hash over all"),
        ("a chunk that is gone", without_one, "hash over all"),
        ("no metadata", headless, "does not belong there"),
        ("more behind it", [&good[..], b"x"].concat(), "goes on behind its end"),
        ("two in one", [&good[..], &good[..]].concat(), "goes on behind its end"),
    ] {
        let damage = contents_of(&bytes).map(drop).unwrap_err().to_string();
        assert!(damage.contains(want), "{name}: {damage}");
    }
}

proptest! {
    #[test]
    fn nonsense_is_refused_and_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), whole: bool) {
        let mut archive = if whole { archive(b"content")[..9].to_vec() } else { Vec::new() };
        archive.extend_from_slice(&bytes);
        prop_assert!(contents_of(&archive).is_err());
    }
}
