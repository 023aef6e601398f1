//! How the functions of a run note their executions, so that each can be counted at the end: as
//! processes in files, in containers with a collector that listens on this host. Either way a note is
//! safe before the function does anything else.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use muster_api::FunctionSpec;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::recorder;
use crate::functions;

/// The environment variable that names the collector to `faulty` in its mode `record`.
const COLLECTOR_VARIABLE: &str = "COLLECTOR";

/// Where the notes of a run go.
#[derive(Debug)]
pub enum Notes {
    /// One file for each instance.
    Files(PathBuf),
    /// Instances of this image tell the collector.
    Collected { image: String, collector: Collector },
}

impl Notes {
    /// Begins to take notes; under Docker `image` is one of `faulty`.
    ///
    /// # Errors
    /// Where the folder or the collector's port cannot be had.
    pub async fn take(dir: &Path, image: Option<&str>) -> Result<Self> {
        let Some(image) = image else {
            let dir = dir.join("executions");
            std::fs::create_dir(&dir).context("cannot make a folder for executions")?;
            return Ok(Notes::Files(dir));
        };
        let collector = Collector::start().await?;
        Ok(Notes::Collected { image: image.to_owned(), collector })
    }

    /// How to deploy the function that notes.
    ///
    /// # Errors
    /// Where its program cannot be copied.
    pub fn function(&self) -> Result<FunctionSpec> {
        match self {
            Notes::Files(dir) => recorder::spec(dir),
            Notes::Collected { image, collector } => {
                let mut spec = functions::faulty_image(image, "record");
                spec.env.insert(COLLECTOR_VARIABLE.into(), collector.address.to_string());
                Ok(spec)
            }
        }
    }

    /// How long instances may take to be ready. All nodes share one Docker Engine: who gives up soon and begins anew
    /// keeps it from ever being done.
    pub fn startup_timeout_ms(&self) -> u64 {
        match self {
            Notes::Files(_) => 6_000,
            Notes::Collected { .. } => 20_000,
        }
    }

    /// The function `faulty` in one of its modes.
    pub fn faulty(&self, mode: &str) -> FunctionSpec {
        match self {
            Notes::Files(_) => functions::faulty(mode),
            Notes::Collected { image, .. } => functions::faulty_image(image, mode),
        }
    }

    /// How often each token was executed.
    ///
    /// # Errors
    /// Where the notes cannot be read.
    pub fn executions(&self) -> Result<BTreeMap<u64, u64>> {
        match self {
            Notes::Files(dir) => recorder::executions(dir),
            Notes::Collected { collector, .. } => Ok(collector.counts().clone()),
        }
    }
}

/// Takes one token a connection, and acknowledges it when it is counted.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    counts: Arc<Mutex<BTreeMap<u64, u64>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Collector {
    async fn start() -> Result<Self> {
        Self::on(bridge().await?).await
    }

    async fn on(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await.context("cannot open the collector's port")?;
        let address = listener.local_addr().context("the collector has no address")?;
        let counts = Arc::default();
        let serving = tokio::spawn(serve(listener, Arc::clone(&counts)));
        Ok(Collector { address, counts, _serving: AbortOnDropHandle::new(serving) })
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This host's address on Docker's own bridge: containers of every network can reach it.
async fn bridge() -> Result<IpAddr> {
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let told = Command::new("docker")
        .args(["network", "inspect", "bridge", "--format", format])
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run docker")?;
    ensure!(told.status.success(), "Docker has no bridge: {}", String::from_utf8_lossy(&told.stderr));
    let subnet = String::from_utf8_lossy(&told.stdout);
    let subnet = subnet.split('/').next().unwrap_or_default().trim();
    let subnet: Ipv4Addr = subnet.parse().with_context(|| format!("Docker's bridge is at `{subnet}`"))?;
    // Nothing is sent: connecting only asks for the address that packets into the subnet come from.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no socket")?;
    let inside = Ipv4Addr::from_bits(subnet.to_bits() + 2);
    socket.connect((inside, 9)).context("no way to Docker's bridge")?;
    Ok(socket.local_addr().context("this host has no address there")?.ip())
}

async fn serve(listener: TcpListener, counts: Arc<Mutex<BTreeMap<u64, u64>>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(take(stream, Arc::clone(&counts)));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// A note that broke off was not acknowledged, and its function has done nothing.
async fn take(stream: TcpStream, counts: Arc<Mutex<BTreeMap<u64, u64>>>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let token: u64 = line.strip_suffix('\n').context("half a note")?.parse()?;
    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(token).or_default() += 1;
    stream.write_all(b"+").await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_note_is_counted_before_it_is_acknowledged() {
        let collector = Collector::on([127, 0, 0, 1].into()).await.unwrap();
        for (sent, acknowledged) in
            [("3\n", true), ("3\n", true), ("4\n", true), ("4", false), ("x\n", false)]
        {
            let mut stream = TcpStream::connect(collector.address).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer == b"+", acknowledged, "{sent:?}");
        }
        assert_eq!(*collector.counts(), BTreeMap::from([(3, 2), (4, 1)]));
    }
}
