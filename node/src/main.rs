//! The Muster dispatcher node: `muster-node --config FILE`, and what is done while it does not run.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use muster_consensus::Member;
use muster_core::ids::NodeId;
#[cfg(debug_assertions)]
use muster_core::version::{Range, SUPPORTED, Version};
use muster_node::offline::{self, Place};
use muster_node::{Config, Node};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// One dispatcher node of a Muster cluster.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Arguments {
    /// The node's configuration, in TOML. Without a command, the node is run
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is done to a node's data. No node may run on it meanwhile.
#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new cluster, of this node alone, from a backup
    Restore {
        /// A file that `muster cluster backup` wrote
        #[arg(long, value_name = "FILE")]
        archive: PathBuf,
        #[command(flatten)]
        place: Where,
    },
    /// Make this node a cluster by itself, after the others are lost for good
    Recover {
        #[command(flatten)]
        place: Where,
        /// Do it; without this, only tell what would be lost
        #[arg(long)]
        accept_data_loss: bool,
    },
    /// Check a backup and what is in it
    Verify {
        #[arg(long, value_name = "FILE")]
        archive: PathBuf,
    },
}

/// Which node, and where its data is.
#[derive(Args, Debug)]
struct Where {
    /// The node's configuration, which says all of it
    #[arg(long, value_name = "FILE", required_unless_present = "data_dir")]
    config: Option<PathBuf>,
    /// Its directory, in place of a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "config", requires_all = ["node_id", "http", "peer"])]
    data_dir: Option<PathBuf>,
    #[arg(long, value_name = "N", conflicts_with = "config", value_parser = clap::value_parser!(u64).range(1..))]
    node_id: Option<u64>,
    /// Where clients reach it
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    http: Option<String>,
    /// Where other nodes reach it
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "config")]
    peer: Option<String>,
}

impl Where {
    fn place(self) -> anyhow::Result<Place> {
        match self {
            Where {
                data_dir: Some(data_dir), node_id: Some(id), http: Some(http), peer: Some(peer), ..
            } => Ok(Place { node: Some(NodeId(id)), data_dir, member: Member { http, peer } }),
            Where { config: Some(config), .. } => Ok(Place::of(&Config::load(&config)?)),
            _ => anyhow::bail!("give --config, or all of --data-dir, --node-id, --http and --peer"),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter =
        EnvFilter::try_from_env("MUSTER_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    #[cfg(feature = "mutants")]
    choose_mutant();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    match (arguments.command, arguments.config) {
        (Some(command), _) => {
            println!("{}", runtime.block_on(work_offline(command))?);
            Ok(())
        }
        (None, Some(config)) => {
            let config = Config::load(&config)?;
            #[cfg(debug_assertions)]
            let config = claiming(config)?;
            runtime.block_on(run(config))
        }
        (None, None) => unreachable!("without a command, --config is required"),
    }
}

async fn work_offline(command: Command) -> anyhow::Result<String> {
    match command {
        Command::Restore { archive, place } => offline::restore(&archive, &place.place()?).await,
        Command::Recover { place, accept_data_loss } => {
            offline::recover(&place.place()?, accept_data_loss).await
        }
        Command::Verify { archive } => offline::verify(&archive),
    }
}

/// Brings one seeded bug to life, or none: `MUSTER_MUTANT` names it.
#[cfg(feature = "mutants")]
fn choose_mutant() {
    let name = std::env::var("MUSTER_MUTANT").ok();
    match &name {
        Some(name) => tracing::error!("BUILT TO BE WRONG: this node has the seeded bug `{name}`"),
        None => tracing::error!("BUILT TO BE WRONG: this node has seeded bugs, none of them alive"),
    }
    muster_core::mutants::choose(name);
}

/// Makes a node of a debug build older than it is: `MUSTER_CLAIM_VERSIONS=1..1` names the cluster versions that it
/// supports, of those that it does. For tests of rolling upgrades; a release build has nothing of this.
#[cfg(debug_assertions)]
fn claiming(mut config: Config) -> anyhow::Result<Config> {
    let Ok(claimed) = std::env::var("MUSTER_CLAIM_VERSIONS") else { return Ok(config) };
    let (oldest, newest) = claimed.split_once("..").context("MUSTER_CLAIM_VERSIONS is OLDEST..NEWEST")?;
    let version = |text: &str| text.parse().map(Version).context("MUSTER_CLAIM_VERSIONS is OLDEST..NEWEST");
    let claimed = Range { oldest: version(oldest)?, newest: version(newest)? };
    let real = claimed.oldest <= claimed.newest && SUPPORTED.includes(claimed.oldest);
    anyhow::ensure!(real && SUPPORTED.includes(claimed.newest), "nobody may claim what it does not support");
    tracing::error!(%claimed, "FOR TESTS ONLY: this node claims to support fewer cluster versions than it does");
    config.raft.versions = claimed;
    Ok(config)
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let node = Node::start(config).await?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        // Nothing is tidied up: what failed is past mending, and the next start reads what is on disk.
        reason = node.failed() => anyhow::bail!(reason),
        () = node.removed() => tracing::info!(
            "this node was removed from the cluster: its id is used up. To join again, empty its data directory \
             and use a new token of `muster cluster join` (docs/OPERATIONS.md)"
        ),
    }
    node.stop().await;
    Ok(())
}
