//! Persistent maps compared on what the replicated state asks of them (ADR 0004): the usage ledger's
//! key and row, a clone published after each apply, reads from an old clone, a walk for a snapshot.
//!
//! `cargo bench -p muster-node --bench maps [-- --rows N --rounds N]`. Prints a table and one line of
//! JSON. Each map is measured in a process of its own, so that memory is its own.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use muster_core::ids::{AccountName, FunctionName};
use muster_core::ledger::{RowKey, Usage};
use muster_core::units::Hour;
use serde::{Deserialize, Serialize};

/// Updates per measurement that changes an existing row.
const UPDATES: usize = 100_000;
/// Updates between two publications when entries come in batches.
const BATCH: usize = 64;

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// The median of this many runs is shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measures this map in this process; without it, each in a process of its own.
    #[arg(long, hide = true)]
    only: Option<Subject>,
    /// What `cargo bench` passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Subject {
    /// What the state uses.
    ImblOrd,
    RpdsRedBlack,
    RpdsHashTrie,
    /// For scale: it cannot be cloned cheaply, so it takes no part in what needs a clone.
    StdBTree,
}

/// Nanoseconds per row or update, and resident bytes per row.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    insert_ns: u64,
    update_ns: u64,
    /// A clone is published, and the one before dropped, after each update.
    publish_each_ns: Option<u64>,
    /// The same after every [`BATCH`] updates.
    publish_batch_ns: Option<u64>,
    get_ns: u64,
    iterate_ns: u64,
    bytes_per_row: u64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(subject) = arguments.only {
        println!("{}", serde_json::to_string(&measure(subject, arguments.rows)?)?);
        return Ok(());
    }
    let mut results = BTreeMap::new();
    println!("{} rows, medians of {}\n", arguments.rows, arguments.rounds);
    println!(
        "| map | insert | update | update + publish | {BATCH} updates + publish | get | iterate | memory |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for subject in Subject::value_variants() {
        let runs: Vec<Figures> = (0..arguments.rounds)
            .map(|_| in_own_process(*subject, arguments.rows))
            .collect::<Result<_, _>>()?;
        let figures = median(&runs).context("`--rounds` must be above 0")?;
        let optional = |ns: Option<u64>| ns.map_or("–".to_owned(), |ns| format!("{ns} ns"));
        println!(
            "| {subject:?} | {} ns | {} ns | {} | {} | {} ns | {} ns | {} B |",
            figures.insert_ns,
            figures.update_ns,
            optional(figures.publish_each_ns),
            optional(figures.publish_batch_ns),
            figures.get_ns,
            figures.iterate_ns,
            figures.bytes_per_row,
        );
        results.insert(format!("{subject:?}"), figures);
    }
    println!("\n{}", serde_json::json!({ "benchmark": "maps", "rows": arguments.rows, "results": results }));
    Ok(())
}

fn in_own_process(subject: Subject, rows: usize) -> anyhow::Result<Figures> {
    let name = subject.to_possible_value().context("every map has a name")?;
    let output = Command::new(std::env::current_exe()?)
        .args(["--rows", &rows.to_string(), "--only", name.get_name()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "measuring {subject:?} failed: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn median(runs: &[Figures]) -> Option<Figures> {
    let middle = |pick: &dyn Fn(&Figures) -> Option<u64>| {
        let mut values: Vec<u64> = runs.iter().filter_map(pick).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    Some(Figures {
        insert_ns: middle(&|f| Some(f.insert_ns))?,
        update_ns: middle(&|f| Some(f.update_ns))?,
        publish_each_ns: middle(&|f| f.publish_each_ns),
        publish_batch_ns: middle(&|f| f.publish_batch_ns),
        get_ns: middle(&|f| Some(f.get_ns))?,
        iterate_ns: middle(&|f| Some(f.iterate_ns))?,
        bytes_per_row: middle(&|f| Some(f.bytes_per_row))?,
    })
}

/// What the state needs of a map.
trait Map: Default {
    fn insert(&mut self, key: RowKey, usage: Usage);
    /// Adds to a row as `Ledger::add_usage` does.
    fn add(&mut self, key: &RowKey, usage: &Usage);
    fn get(&self, key: &RowKey) -> Option<&Usage>;
    fn invocations(&self) -> u64;
    /// `None` where a clone copies every row.
    fn publish(&self) -> Option<Self>;
}

fn measure(subject: Subject, rows: usize) -> anyhow::Result<Figures> {
    match subject {
        Subject::ImblOrd => measure_map::<imbl::OrdMap<RowKey, Usage>>(rows),
        Subject::RpdsRedBlack => measure_map::<rpds::RedBlackTreeMapSync<RowKey, Usage>>(rows),
        Subject::RpdsHashTrie => measure_map::<rpds::HashTrieMapSync<RowKey, Usage>>(rows),
        Subject::StdBTree => measure_map::<BTreeMap<RowKey, Usage>>(rows),
    }
}

fn measure_map<M: Map>(rows: usize) -> anyhow::Result<Figures> {
    let keys = keys(rows)?;
    let one = Usage { invocations: 1, busy_ms: 75, ..Usage::default() };
    let resident = resident_bytes()?;

    let began = Instant::now();
    let mut map = M::default();
    for at in shuffled(rows, rows) {
        map.insert(keys[at].clone(), one);
    }
    let insert = began.elapsed();
    let grown = resident_bytes()?.saturating_sub(resident);

    let began = Instant::now();
    for at in shuffled(rows, UPDATES) {
        map.add(&keys[at], &one);
    }
    let update = began.elapsed();

    let publish_each = time_publishing(&mut map, &keys, &one, 1);
    let publish_batch = time_publishing(&mut map, &keys, &one, BATCH);

    let began = Instant::now();
    let mut found = 0;
    for at in shuffled(rows, UPDATES) {
        found += u64::from(map.get(&keys[at]).is_some());
    }
    let get = began.elapsed();
    ensure!(found == UPDATES as u64, "a row is missing");

    let began = Instant::now();
    let sum = map.invocations();
    let iterate = began.elapsed();
    let updates = if publish_each.is_some() { 3 } else { 1 };
    ensure!(sum == (rows + updates * UPDATES) as u64, "an update was lost");

    Ok(Figures {
        insert_ns: each(insert, rows),
        update_ns: each(update, UPDATES),
        publish_each_ns: publish_each.map(|time| each(time, UPDATES)),
        publish_batch_ns: publish_batch.map(|time| each(time, UPDATES)),
        get_ns: each(get, UPDATES),
        iterate_ns: each(iterate, rows),
        bytes_per_row: grown / rows.max(1) as u64,
    })
}

/// Updates with a published clone alive all the time, as readers have one.
fn time_publishing<M: Map>(map: &mut M, keys: &[RowKey], one: &Usage, every: usize) -> Option<Duration> {
    let mut published = map.publish()?;
    let began = Instant::now();
    for (done, at) in shuffled(keys.len(), UPDATES).enumerate() {
        map.add(&keys[at], one);
        if done % every == every - 1 {
            published = map.publish()?;
        }
    }
    let time = began.elapsed();
    drop(published);
    Some(time)
}

fn each(time: Duration, count: usize) -> u64 {
    u64::try_from(time.as_nanos() / count.max(1) as u128).unwrap_or(u64::MAX)
}

/// A thousand accounts, ten functions each, hour after hour: what a ledger looks like.
fn keys(rows: usize) -> anyhow::Result<Vec<RowKey>> {
    let mut names = Vec::new();
    for function in 0..10_000 {
        let account = AccountName::new(&format!("account-{:04}", function % 1_000))?;
        names.push((account, FunctionName::new(&format!("function-{function:05}"))?));
    }
    let key = |row: usize| {
        let (account, function) = &names[row % names.len()];
        // Names are shared within the state only by chance, so rows do not share them here.
        let account = AccountName::new(account.as_str())?;
        let function = FunctionName::new(function.as_str())?;
        Ok((account, function, Hour(u32::try_from(row / names.len())?)))
    };
    (0..rows).map(key).collect()
}

/// `count` positions below `rows` in an order no cache can guess. All of them if `count` is `rows`:
/// the step is a prime that does not divide it.
fn shuffled(rows: usize, count: usize) -> impl Iterator<Item = usize> {
    const STEP: usize = 7_368_787;
    (0..count).map(move |i| (i * STEP) % rows)
}

fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kb: u64 = line.split_whitespace().nth(1).context("VmRSS has no value")?.parse()?;
    Ok(kb * 1024)
}

impl Map for imbl::OrdMap<RowKey, Usage> {
    fn insert(&mut self, key: RowKey, usage: Usage) {
        imbl::OrdMap::insert(self, key, usage);
    }

    fn add(&mut self, key: &RowKey, usage: &Usage) {
        self.entry(key.clone()).or_default().add(usage);
    }

    fn get(&self, key: &RowKey) -> Option<&Usage> {
        imbl::OrdMap::get(self, key)
    }

    fn invocations(&self) -> u64 {
        self.iter().map(|(_, usage)| usage.invocations).sum()
    }

    fn publish(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl Map for BTreeMap<RowKey, Usage> {
    fn insert(&mut self, key: RowKey, usage: Usage) {
        BTreeMap::insert(self, key, usage);
    }

    fn add(&mut self, key: &RowKey, usage: &Usage) {
        self.entry(key.clone()).or_default().add(usage);
    }

    fn get(&self, key: &RowKey) -> Option<&Usage> {
        BTreeMap::get(self, key)
    }

    fn invocations(&self) -> u64 {
        self.values().map(|usage| usage.invocations).sum()
    }

    fn publish(&self) -> Option<Self> {
        None
    }
}

/// rpds' two maps have one interface and no common trait.
macro_rules! rpds_map {
    ($map:ty) => {
        impl Map for $map {
            fn insert(&mut self, key: RowKey, usage: Usage) {
                self.insert_mut(key, usage);
            }

            fn add(&mut self, key: &RowKey, usage: &Usage) {
                match self.get_mut(key) {
                    Some(row) => row.add(usage),
                    None => self.insert_mut(key.clone(), *usage),
                }
            }

            fn get(&self, key: &RowKey) -> Option<&Usage> {
                <$map>::get(self, key)
            }

            fn invocations(&self) -> u64 {
                self.iter().map(|(_, usage)| usage.invocations).sum()
            }

            fn publish(&self) -> Option<Self> {
                Some(self.clone())
            }
        }
    };
}

rpds_map!(rpds::RedBlackTreeMapSync<RowKey, Usage>);
rpds_map!(rpds::HashTrieMapSync<RowKey, Usage>);
