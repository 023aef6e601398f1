//! Decoders of what comes from peers, and of snapshots, are given what is sent, changed at random: they refuse it or
//! read something, and never panic, ask for all memory or go on for ever.
//!
//! `MUSTER_FUZZ_CASES` says how many cases each target gets; a few seconds' worth unless told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use muster_core::accounts::KeyHash;
use muster_core::ids::{ClusterId, Incarnation, KeyId, NodeId, StoreId};
use muster_core::units::Timestamp;
use muster_core::version::{self, Range, Support, Version};
use muster_core::{ClusterState, Command, Entry, ProposalId, nodes};
use muster_storage::codec;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{CommittedLeaderId, EntryPayload, Membership};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::contents::Contents;
use crate::digest::Digest;
use crate::identities::{Header, Identities, Identity};
use crate::machine::Published;
use crate::messages::{self, Proposal, ProposalOutcome, ReadIndex};
use crate::types::{LogId, Member, TypeConfig, Vote};
use crate::versions::Notice;

fn commands() -> Vec<Command> {
    let profile = nodes::Profile {
        http: "10.0.0.1:8081".into(),
        peer: "10.0.0.1:9081".into(),
        capacity: nodes::Resources { memory_mb: 1024, cpu_millis: 2000 },
        engines: BTreeSet::from([muster_core::functions::EngineKind::Docker]),
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        version: "0.1.0".into(),
    };
    vec![
        Command::Bootstrap { cluster: ClusterId(7), key: KeyId(1), hash: KeyHash::of("secret") },
        Command::Nodes(nodes::Command::Claim { node: NodeId(1), store: StoreId(10) }),
        Command::Nodes(nodes::Command::Register { node: NodeId(1), incarnation: Incarnation(3), profile }),
        Command::Refound { cluster: ClusterId(8), founder: NodeId(1) },
    ]
}

fn entry() -> Entry {
    let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(3), sequence: 70_000 };
    Entry { at: Timestamp(1_764_000_000_000), proposal, commands: commands() }
}

fn id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(3, NodeId(1)), index)
}

fn members() -> Membership<NodeId, Member> {
    let member = Member { http: "10.0.0.1:8081".into(), peer: "10.0.0.1:9081".into() };
    Membership::new(vec![BTreeSet::from([NodeId(1)])], BTreeMap::from([(NodeId(1), member)]))
}

fn header() -> Header {
    let own = Identity { node: NodeId(1), store: StoreId(10), incarnation: Incarnation(3) };
    let mut published = Published::default();
    Arc::make_mut(&mut published.state).apply(&entry());
    Identities::new(own, None, Arc::new(ArcSwap::from_pointee(published))).header(NodeId(2))
}

fn support() -> Support {
    Support { range: Range { oldest: Version(1), newest: Version(2) }, holds: true }
}

/// Every message that is sent, by the name it is called by.
fn sent() -> Vec<(&'static str, Vec<u8>)> {
    fn call<T: Serialize>(message: T) -> Vec<u8> {
        messages::encode(messages::FORMAT, &(header(), message)).expect("plain data")
    }
    let entries = [EntryPayload::Blank, EntryPayload::Normal(entry()), EntryPayload::Membership(members())];
    let entries = (7..).zip(entries).map(|(index, payload)| openraft::Entry { log_id: id(index), payload });
    let append: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
        vote: Vote::new_committed(3, NodeId(1)),
        prev_log_id: Some(id(6)),
        entries: entries.collect(),
        leader_commit: Some(id(6)),
    };
    vec![
        ("append", call(append)),
        ("vote", call(VoteRequest::new(Vote::new(4, NodeId(1)), Some(id(9))))),
        ("propose", call(Proposal { id: entry().proposal, commands: commands() })),
        ("propose.versions", call(Proposal { id: entry().proposal, commands: raises() })),
        (
            "support",
            call(Notice::new(Version(1), BTreeMap::from([(NodeId(1), Some(support())), (NodeId(2), None)]))),
        ),
        ("support.answer", messages::encode(messages::FORMAT, &support()).expect("plain data")),
        ("moved", call(Member { http: "10.0.0.2:8081".into(), peer: "10.0.0.2:9081".into() })),
        ("read-index", call(())),
        ("applied", call(812_u64)),
        (
            "propose.answer",
            messages::encode(messages::FORMAT, &ProposalOutcome::Unknown).expect("plain data"),
        ),
        ("read-index.answer", messages::encode(messages::FORMAT, &ReadIndex::At(812)).expect("plain data")),
    ]
}

fn state() -> ClusterState {
    let mut state = ClusterState::default();
    state.apply(&entry());
    state
}

/// The same, at version 2.
fn raised() -> ClusterState {
    let mut state = state();
    let proposal = ProposalId { sequence: 70_001, ..entry().proposal };
    state.apply(&Entry { proposal, commands: raises(), ..entry() });
    state
}

fn at_version_3() -> ClusterState {
    let mut state = raised();
    let proposal = ProposalId { sequence: 70_002, ..entry().proposal };
    let raise = Command::Version(version::Command::Raise { to: Version(3) });
    state.apply(&Entry { proposal, commands: vec![raise], ..entry() });
    state
}

/// Both of them: the second finds it done.
fn raises() -> Vec<Command> {
    let commands =
        [version::Command::Raise { to: Version(2) }, version::Command::Begin { version: Version(2) }];
    commands.map(Command::Version).to_vec()
}

fn golden(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let text = text.replace(char::is_whitespace, "");
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(byte).collect()
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

/// Compares with a golden file. `UPDATE_GOLDEN=1` writes it anew.
fn check(name: &str, bytes: &[u8]) {
    let mut hex = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(hex, "{byte:02x}").expect("a string takes it"));
        hex.push('\n');
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path(name), &hex).expect("the golden file is written");
    }
    assert_eq!(golden(name), bytes, "{name} is sent differently: it needs a new format");
}

/// The numbers in the names are those of the formats.
#[test]
fn messages_and_snapshots_are_encoded_as_ever() {
    for (name, bytes) in sent() {
        check(&format!("{name}.v3"), &bytes);
    }
    let contents = Contents { state: state(), digest: Some(Digest::default()) };
    check("state.v3", &encoded(&contents));
    check("state.v4", &encoded(&Contents { state: raised(), ..contents.clone() }));
    check("state.v5", &encoded(&Contents { state: at_version_3(), ..contents }));
}

fn encoded(contents: &Contents) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoded = contents.encode(|slice| {
        bytes.extend(slice);
        Ok(())
    });
    encoded.expect("plain data");
    bytes
}

fn decode_all(bytes: &[u8]) {
    fn request<T: DeserializeOwned>(bytes: &[u8]) {
        let _whatever_it_is = messages::decode::<(Header, T)>(bytes);
    }
    request::<AppendEntriesRequest<TypeConfig>>(bytes);
    request::<VoteRequest<NodeId>>(bytes);
    request::<Proposal>(bytes);
    request::<Member>(bytes);
    request::<()>(bytes);
    request::<u64>(bytes);
    request::<Notice>(bytes);
    let _whatever_it_is = messages::decode::<Support>(bytes);
    let _whatever_it_is = messages::decode::<ProposalOutcome>(bytes);
    let _whatever_it_is = messages::decode::<ReadIndex>(bytes);
    let _whatever_it_is = codec::decode::<openraft::Entry<TypeConfig>>(&[1, 2, 3], 64 << 10, bytes);
}

/// Where, and what is put there: bytes at the edges of bincode's numbers among them.
fn changes() -> impl Strategy<Value = Vec<(Index, u8, Vec<u8>)>> {
    let byte = prop_oneof![Just(0), Just(1), 250..=255_u8, any::<u8>()];
    let change = (any::<Index>(), 0..5_u8, proptest::collection::vec(byte, 1..10));
    proptest::collection::vec(change, 1..6)
}

fn change(bytes: &mut Vec<u8>, (at, how, with): &(Index, u8, Vec<u8>)) {
    let at = at.index(bytes.len() + 1);
    let end = (at + with.len()).min(bytes.len());
    match how {
        0 => drop(bytes.splice(at..end, with.iter().copied())),
        1 => drop(bytes.splice(at..at, with.iter().copied())),
        2 => drop(bytes.drain(at..end)),
        3 => bytes.truncate(at),
        _ => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1 << (with[0] % 8)),
    }
}

fn fuzz(samples: &[Vec<u8>], target: impl Fn(&[u8])) {
    let cases = std::env::var("MUSTER_FUZZ_CASES").map_or(2_000, |cases| cases.parse().expect("a number"));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&(any::<Index>(), changes()), |(sample, changes)| {
        let mut bytes = samples[sample.index(samples.len())].clone();
        changes.iter().for_each(|one| change(&mut bytes, one));
        target(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn changed_messages_never_do_harm() {
    let samples: Vec<Vec<u8>> = sent().into_iter().map(|(name, _)| golden(&format!("{name}.v3"))).collect();
    fuzz(&samples, decode_all);
}

#[test]
fn changed_snapshots_never_do_harm() {
    let fourth = golden("state.v4");
    // As earlier formats begin: what they lack at the end does not matter here.
    let [third, second] = [3, 2].map(|format| [&[format], &fourth[1..]].concat());
    let first = codec::encode(1, &state()).expect("plain data");
    // Changed as it is stored, and behind a compressor that does not notice.
    let fifth = golden("state.v5");
    fuzz(&[fifth, fourth.clone(), third, second, first], |bytes| drop(Contents::decode(bytes)));
    fuzz(&[fourth], |bytes| {
        let frame = zstd::encode_all(bytes, 1).expect("memory");
        drop(Contents::decode(&[&[5], &frame[..]].concat()[..]));
    });
}

#[test]
fn changed_backups_never_do_harm() {
    let published = Published { state: Arc::new(state()), ..Published::default() };
    let mut archive = Vec::new();
    let by = (1, "0.1.0");
    crate::write_archive(&published, "2026-11-25T20:00:00.000Z".into(), by, &mut archive).expect("memory");
    assert_eq!(*crate::read_archive(Cursor::new(&archive)).expect("just written").state(), state());
    fuzz(&[archive.clone()], |bytes| {
        let read = crate::read_archive(Cursor::new(bytes));
        assert!(read.is_err() || bytes == archive, "a changed backup was taken for whole");
    });
}
