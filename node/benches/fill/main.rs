//! Writes the data directories of a cluster that has been in use for long: many functions, many
//! ledger rows. The state is made of real commands by the real `apply`, and kept as the real snapshot
//! by the real store; what is skipped is only the way through the log. Prints one line of JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Parser;
use muster_consensus::{Member, TypeConfig};
use muster_core::accounts::{self, KeyHash, Role, SECRET_BYTES};
use muster_core::functions::{self, KeepAlive, Payer, ScalingPolicy, Source, Spec, UsageDurability};
use muster_core::ids::{
    AccountName, ChangeId, ClusterId, FunctionName, Incarnation, InstanceId, KeyId, NodeId, StoreId,
};
use muster_core::ledger::{self, ROWS_PER_BATCH_MAX, Usage, UsageRow};
use muster_core::units::{Hour, Millis};
use muster_core::{Applied, ClusterState, Command, Entry, ProposalId, version};
use muster_storage::{Options, Store, codec};
use openraft::storage::RaftLogStorage;
use openraft::{CommittedLeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

/// The format `muster-consensus` gives a snapshot's data and metadata.
const META_FORMAT: u8 = 1;
const DATA_FORMAT: u8 = 5;
const UNCOMPRESSED: u8 = 4;
const LEVEL: i32 = 1;
/// Nobody has applied what this program makes up.
const NO_DIGEST: Option<muster_consensus::Digest> = None;
/// Accounts the functions belong to.
const ACCOUNTS: u64 = 1_000;
/// 2026-01-01T00Z, in hours.
const FIRST_HOUR: u32 = 490_896;
const FIRST_NODE: NodeId = NodeId(1);
/// The node's own first start comes after it, so its proposals are not taken for repeats of ours.
const INCARNATION: Incarnation = Incarnation(1);
const STORE: StoreId = StoreId(1);

#[derive(Debug, Parser)]
struct Arguments {
    /// Gets `node1/`, `node2/`, … and `root.key`.
    #[arg(long)]
    dir: PathBuf,
    /// `http,peer` address of each node, in the order of their ids.
    #[arg(long = "member", required = true)]
    members: Vec<String>,
    #[arg(long, default_value_t = 10_000)]
    functions: u64,
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// What `cargo bench` passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut history = History::default();
    let began = Instant::now();
    let key = history.bootstrap()?;
    history.functions(arguments.functions)?;
    history.usage(arguments.functions, arguments.rows)?;
    let applied_ms = began.elapsed().as_millis();

    let began = Instant::now();
    let plain = codec::encode(UNCOMPRESSED, &(NO_DIGEST, &history.state))?;
    let encoded_ms = began.elapsed().as_millis();
    let began = Instant::now();
    let data = [&[DATA_FORMAT], &zstd::encode_all(&plain[..], LEVEL)?[..]].concat();
    let compressed_ms = began.elapsed().as_millis();
    let began = Instant::now();
    let (_, decoded): (Option<muster_consensus::Digest>, ClusterState) =
        codec::decode(&[UNCOMPRESSED], codec::DECODE_MAX, &plain)?;
    let decoded_ms = began.elapsed().as_millis();
    ensure!(decoded == history.state, "a snapshot must give back the state");
    drop(decoded);

    let meta = history.meta(&members(&arguments.members)?);
    let began = Instant::now();
    for number in (1..).take(arguments.members.len()) {
        save(&arguments.dir, NodeId(number), &meta, &data).await?;
    }
    std::fs::write(arguments.dir.join("root.key"), format!("{key}\n"))?;
    let report = serde_json::json!({
        "functions": history.state.functions.len(),
        "ledger_rows": history.state.ledger.usage().len(),
        "snapshot_bytes": data.len(),
        "apply_ms": applied_ms,
        "state_bytes": plain.len(),
        "encode_ms": encoded_ms,
        "compress_ms": compressed_ms,
        "decode_ms": decoded_ms,
        "save_all_nodes_ms": began.elapsed().as_millis(),
    });
    println!("{report}");
    Ok(())
}

fn members(texts: &[String]) -> anyhow::Result<BTreeMap<NodeId, Member>> {
    let member = |(id, text): (u64, &String)| {
        let (http, peer) = text.split_once(',').context("`--member` is `http,peer`")?;
        Ok((NodeId(id), Member { http: http.to_owned(), peer: peer.to_owned() }))
    };
    (1..).zip(texts).map(member).collect()
}

/// One node's directory: its identity, the snapshot, and a log that begins behind it.
async fn save(
    dir: &std::path::Path,
    node: NodeId,
    meta: &SnapshotMeta<NodeId, Member>,
    data: &[u8],
) -> anyhow::Result<()> {
    let store = Store::open(&dir.join(format!("node{node}")), Options::default())?;
    store.claim_node(node, STORE)?;
    ensure!(store.begin_incarnation()? == INCARNATION, "{} is not empty", dir.display());
    store.snapshots().save(&codec::encode(META_FORMAT, meta)?, data).await?;
    let mut log = store.log::<TypeConfig>()?;
    let last = meta.last_log_id.context("the state was made of entries")?;
    log.save_vote(&Vote::new(last.leader_id.term, FIRST_NODE)).await?;
    log.purge(last).await?;
    log.save_committed(Some(last)).await?;
    store.close();
    Ok(())
}

/// A state and how many entries made it.
#[derive(Default)]
struct History {
    state: ClusterState,
    sequence: u64,
}

impl History {
    fn apply(&mut self, commands: Vec<Command>) -> anyhow::Result<()> {
        self.sequence += 1;
        let proposal = ProposalId { node: FIRST_NODE, incarnation: INCARNATION, sequence: self.sequence };
        let entry = Entry { at: Hour(FIRST_HOUR).start(), proposal, commands };
        let Applied::Answers(answers) = self.state.apply(&entry) else {
            anyhow::bail!("an entry was taken for a repeat");
        };
        for answer in answers {
            answer?;
        }
        Ok(())
    }

    /// Returns the root key.
    fn bootstrap(&mut self) -> anyhow::Result<String> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        let text = accounts::format_key(KeyId(1), &secret);
        let (key, secret) = accounts::parse_key(&text).context("a formatted key parses")?;
        let cluster = ClusterId(getrandom::u64()?);
        let begin = version::Command::Begin { version: version::SUPPORTED.newest };
        self.apply(vec![
            Command::Version(begin),
            Command::Bootstrap { cluster, key, hash: KeyHash::of(secret) },
        ])?;
        Ok(text)
    }

    fn functions(&mut self, count: u64) -> anyhow::Result<()> {
        for number in 0..ACCOUNTS {
            let command = accounts::Command::Create { name: account(number)?, role: Role::User };
            self.apply(vec![Command::Accounts(command)])?;
        }
        for number in 0..count {
            let (name, owner) = (function(number)?, account(number)?);
            let command = functions::Command::Put { name, spec: spec(), owner, change: ChangeId(number) };
            self.apply(vec![Command::Functions(command)])?;
        }
        Ok(())
    }

    /// Row `n` is of function `n % functions`, an hour later each time round.
    fn usage(&mut self, functions: u64, rows: u64) -> anyhow::Result<()> {
        let mut pending = Vec::with_capacity(ROWS_PER_BATCH_MAX);
        let mut batch = 0;
        for number in 0..rows {
            let hour = Hour(FIRST_HOUR + u32::try_from(number / functions)?);
            let usage = Usage {
                invocations: 1_000 + number,
                failures: number % 3,
                cold_starts: number % 5,
                busy_ms: 75 * (1_000 + number),
                memory_mb_ms: 128 * 75 * (1_000 + number),
                request_bytes: 500 * number,
                response_bytes: 700 * number,
            };
            let of = number % functions;
            let (account, function) = (account(of)?, function(of)?);
            pending.push(UsageRow { account, function, instance: InstanceId(of), hour, usage });
            if pending.len() == ROWS_PER_BATCH_MAX || number + 1 == rows {
                batch += 1;
                let rows = std::mem::take(&mut pending);
                let command =
                    ledger::Command::RecordUsage { node: FIRST_NODE, incarnation: INCARNATION, batch, rows };
                self.apply(vec![Command::Ledger(command)])?;
            }
        }
        Ok(())
    }

    fn meta(&self, members: &BTreeMap<NodeId, Member>) -> SnapshotMeta<NodeId, Member> {
        let id = |index| LogId::new(CommittedLeaderId::new(1, FIRST_NODE), index);
        let voters: BTreeSet<NodeId> = members.keys().copied().collect();
        let membership = Membership::new(vec![voters], members.clone());
        SnapshotMeta {
            last_log_id: Some(id(self.sequence)),
            last_membership: StoredMembership::new(Some(id(0)), membership),
            snapshot_id: format!("filled-{}", self.sequence),
        }
    }
}

fn account(number: u64) -> anyhow::Result<AccountName> {
    Ok(AccountName::new(&format!("account-{:04}", number % ACCOUNTS))?)
}

fn function(number: u64) -> anyhow::Result<FunctionName> {
    Ok(FunctionName::new(&format!("function-{number:05}"))?)
}

fn spec() -> Spec {
    Spec {
        source: Source::Command(vec!["/usr/local/bin/function".to_owned()]),
        env: BTreeMap::from([("MODE".to_owned(), "echo".to_owned())]),
        port: 8080,
        readiness_path: None,
        memory_mb: 128,
        cpu_millis: 100,
        concurrency: 1,
        timeout: Millis(30_000),
        startup_timeout: Millis(60_000),
        scaling: ScalingPolicy {
            min: 0,
            max: 10,
            step: None,
            target_permille: 700,
            window: Millis(60_000),
            keep_alive: KeepAlive::Fixed(Millis(300_000)),
        },
        max_waiting: 1_000,
        payer: Payer::Owner,
        usage_durability: UsageDurability::Interval,
        idempotent: false,
    }
}
