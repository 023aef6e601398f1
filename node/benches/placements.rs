//! What the control plane can do: three whole nodes, with real stores, real Raft and mutual TLS between them,
//! over an engine that launches nothing. Functions are told to have instances, and the time until the cluster
//! has placed them all and knows them all to be ready is measured; then that to be rid of them.
//!
//! `cargo bench -p muster-node --bench placements [-- --instances N --functions N --rounds N]`. Prints a table and
//! one line of JSON.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use clap::Parser;
use muster_client::api::FunctionSpec;
use muster_client::{Client, Consistency, Key};
use muster_core::functions::EngineKind;
use muster_core::ids::{ClusterId, InstanceId};
use muster_core::units::Millis;
use muster_engine::readiness::{Attempt, NotReady};
use muster_engine::{Engine, EngineError, Launch, RunState, Running};
use muster_node::parts::Engines;
use muster_node::{Config, Node};
use tokio::sync::Notify;

const NODES: usize = 3;
/// Nothing listens there, and nothing calls it.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct Arguments {
    /// Instances to place, over all functions.
    #[arg(long, default_value_t = 6_000)]
    instances: u32,
    #[arg(long, default_value_t = 60)]
    functions: u32,
    /// The median of this many is shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// What `cargo bench` passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

/// An engine whose instances are there as soon as they are asked for.
#[derive(Clone, Debug, Default)]
struct Nothing {
    running: Arc<Mutex<BTreeMap<InstanceId, Running>>>,
    changes: Arc<Notify>,
}

impl Nothing {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<InstanceId, Running>) -> T) -> T {
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Engines for Nothing {
    async fn connect(&self, _cluster: ClusterId) -> anyhow::Result<BTreeMap<EngineKind, Arc<dyn Engine>>> {
        let engine: Arc<dyn Engine> = Arc::new(self.clone());
        Ok(BTreeMap::from([(EngineKind::Process, engine)]))
    }
}

#[async_trait]
impl Engine for Nothing {
    fn kind(&self) -> EngineKind {
        EngineKind::Process
    }

    async fn launch(&self, launch: &Launch) -> Result<SocketAddr, EngineError> {
        let running = Running {
            instance: launch.instance,
            generation: launch.generation,
            function: launch.function.clone(),
            state: RunState::Running { addr: ADDRESS },
            paused: false,
        };
        self.with(|all| all.insert(launch.instance, running));
        Ok(ADDRESS)
    }

    async fn wait_ready(
        &self,
        _addr: SocketAddr,
        _path: Option<&str>,
        _deadline: tokio::time::Instant,
    ) -> Result<(), NotReady> {
        Ok(())
    }

    async fn probe(&self, _: SocketAddr, _: Option<&str>) -> Result<(), Attempt> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Running>, EngineError> {
        Ok(self.with(|all| all.values().cloned().collect()))
    }

    async fn stop(&self, instance: InstanceId, _grace: Millis) -> Result<(), EngineError> {
        self.with(|all| all.remove(&instance));
        Ok(())
    }

    async fn pause(&self, _instance: InstanceId) -> Result<(), EngineError> {
        Ok(())
    }

    async fn resume(&self, _instance: InstanceId) -> Result<(), EngineError> {
        Ok(())
    }

    fn changes(&self) -> Arc<Notify> {
        Arc::clone(&self.changes)
    }

    async fn has_image(&self, _image: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    async fn output(&self, _instance: InstanceId) -> Result<Vec<u8>, EngineError> {
        Ok(Vec::new())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let (nodes, client) = cluster(folder.path()).await?;
    let mut rounds = Vec::new();
    for _round in 0..arguments.rounds {
        rounds.push(round(&client, &arguments).await?);
    }
    for node in nodes {
        node.stop().await;
    }
    let median = |of: fn(&Round) -> Duration| {
        let mut all: Vec<Duration> = rounds.iter().map(of).collect();
        all.sort();
        all[all.len() / 2]
    };
    let per_second = |took: Duration| f64::from(arguments.instances) / took.as_secs_f64();
    let (up, down) = (median(|round| round.up), median(|round| round.down));
    println!("| {NODES} nodes, {} instances | median of {} | a second |", arguments.instances, rounds.len());
    println!("|---|---|---|");
    println!("| placed and ready | {:.2} s | {:.0} |", up.as_secs_f64(), per_second(up));
    println!("| drained and gone | {:.2} s | {:.0} |", down.as_secs_f64(), per_second(down));
    let all: Vec<f64> = rounds.iter().map(|round| per_second(round.up)).collect();
    let report = serde_json::json!({
        "nodes": NODES, "instances": arguments.instances, "functions": arguments.functions,
        "ready_per_second": all, "gone_per_second": per_second(down),
    });
    println!("{report}");
    Ok(())
}

struct Round {
    up: Duration,
    down: Duration,
}

async fn round(client: &Client, arguments: &Arguments) -> anyhow::Result<Round> {
    let each = arguments.instances.div_ceil(arguments.functions);
    let total = (each * arguments.functions) as usize;
    let scaled_to = async |min: u32| -> anyhow::Result<Instant> {
        let began = Instant::now();
        for function in 0..arguments.functions {
            let spec = spec(min, each)?;
            client.put_function(&format!("f{function}"), &spec).await.context("cannot deploy")?;
        }
        Ok(began)
    };
    let began = scaled_to(each).await?;
    until(client, |ready, _live| ready == total).await?;
    let up = began.elapsed();
    let began = Instant::now();
    for function in 0..arguments.functions {
        client.delete_function(&format!("f{function}"), true).await.context("cannot delete")?;
    }
    until(client, |_ready, live| live == 0).await?;
    Ok(Round { up, down: began.elapsed() })
}

fn spec(min: u32, max: u32) -> anyhow::Result<FunctionSpec> {
    let spec = serde_json::json!({
        "command": ["nothing"], "memory_mb": 4, "cpu_millis": 1,
        "scaling": { "min": min, "max": max, "step": max },
    });
    Ok(serde_json::from_value(spec)?)
}

/// Looks until the numbers of ready and of live instances are right.
async fn until(client: &Client, right: impl Fn(usize, usize) -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let live = client.instances(None).await.context("cannot list the instances")?;
        let ready = live.iter().filter(|instance| instance.phase == "ready").count();
        if right(ready, live.len()) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "after {LIMIT:?} {ready} of {} are ready", live.len());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Three founding members and a client with the root key, once all are ready.
async fn cluster(folder: &Path) -> anyhow::Result<(Vec<Node>, Client)> {
    let secret = folder.join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef")?;
    let root_key = folder.join("root.key");
    let addresses = free_addresses(2 * NODES)?;
    let members: Vec<serde_json::Value> = (0..NODES)
        .map(|place| serde_json::json!({ "id": place + 1, "http": addresses[place], "peer": addresses[NODES + place] }))
        .collect();
    let mut nodes = Vec::new();
    for place in 0..NODES {
        let config = serde_json::json!({
            "node_id": place + 1,
            "data_dir": folder.join(format!("node{}", place + 1)),
            "http": { "listen": addresses[place] },
            "peer": { "listen": addresses[NODES + place], "secret_file": secret },
            "capacity": { "memory_mb": 1_000_000, "cpu_millis": 1_000_000 },
            "bootstrap": (place == 0).then(|| serde_json::json!({ "members": members, "root_key_file": root_key })),
        });
        let config: Config = serde_json::from_value(config).context("the configuration")?;
        nodes.push(Node::start_with(config, |_| Box::new(Nothing::default())).await?);
    }
    let urls: Vec<String> = addresses[..NODES].iter().map(|address| format!("http://{address}")).collect();
    for url in &urls {
        until_ready(&Client::new([url], None)?).await?;
    }
    let key = Key::new(std::fs::read_to_string(&root_key).context("no root key")?.trim())?;
    let client = Client::new(urls, Some(key))?.with_consistency(Consistency::Local);
    Ok((nodes, client))
}

async fn until_ready(client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + LIMIT;
    while let Err(error) = client.readyz().await {
        ensure!(Instant::now() < deadline, "a node is not ready: {error}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Held together until all are known, so that they differ.
fn free_addresses(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}
