//! Packages from host to host, over the peer listener: read from an offset on, so that a fetch goes on where a
//! connection broke, at the next holder if need be.

use std::io::SeekFrom;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use muster_core::ids::{NodeId, PackageDigest};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::{sleep, timeout};

use super::{Arrival, Files, Held, Packages, text_of};

/// Where a peer reads a package. The number is that of the format.
pub(crate) const READ_PATH: &str = "/peer/packages/1/read";
/// Where a peer asks this node to get itself a copy from it.
pub(crate) const COPY_PATH: &str = "/peer/packages/1/copy";
const ASK_MAX: usize = 1024;
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// A holder that sends nothing for this long has come to a stop.
const STALL: Duration = Duration::from_secs(15);
/// How often all holders are asked, with a pause between.
const ROUNDS: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(200);
const PIECE_BYTES: usize = 128 << 10;
/// While a copy is under way the asker hears something this often.
const SIGN_EVERY: Duration = Duration::from_secs(2);
const DONE: &[u8] = b"done\n";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    package: String,
    /// For a read, where to begin; for a copy, the bytes of all of it.
    number: u64,
}

pub(crate) const fn ask_max() -> usize {
    ASK_MAX
}

fn ask(package: PackageDigest, number: u64) -> Bytes {
    let ask = Ask { package: package.to_string(), number };
    serde_json::to_vec(&ask).expect("plain data").into()
}

fn asked(body: &[u8]) -> Result<(PackageDigest, u64), String> {
    let ask: Ask = serde_json::from_slice(body).map_err(|error| format!("not a question: {error}"))?;
    Ok((ask.package.parse().map_err(|error| format!("{error}"))?, ask.number))
}

impl Packages {
    /// Other members, in an order that differs by node and package, so that not all ask the same.
    pub(super) fn holders(&self, package: PackageDigest) -> Vec<NodeId> {
        let others = self.consensus.with_state(|state| {
            let all = state.nodes.iter().map(|(id, _)| id).filter(|id| *id != self.node);
            all.collect::<Vec<_>>()
        });
        spread(others, self.node, package)
    }

    /// Fetches a package that is not here from the first of `holders` that has it.
    pub(super) async fn fetch(
        &self,
        package: PackageDigest,
        bytes: u64,
        holders: Vec<NodeId>,
    ) -> Result<Held, String> {
        let mut arrival = begin(self.files()?, package).await?;
        let mut trouble = "no other node has it".to_owned();
        for round in 0..ROUNDS {
            if round > 0 {
                sleep(ROUND_PAUSE).await;
            }
            for holder in &holders {
                if let Err(why) = self.fetch_from(*holder, package, bytes, &mut arrival).await {
                    tracing::debug!(%package, %holder, why, "a package was not had from a node");
                    trouble = format!("node {holder}: {why}");
                }
                if arrival.bytes() < bytes {
                    continue;
                }
                let done = tokio::task::spawn_blocking(move || arrival.finish()).await;
                match done.map_err(|panicked| panicked.to_string())? {
                    Ok(held) => {
                        tracing::info!(%package, bytes, from = %holder, "a package was fetched");
                        return Ok(held);
                    }
                    Err(unfit) => {
                        // Somebody's disk is damaged: from the beginning, and with the next first.
                        trouble = format!("node {holder}: {}", text_of(&unfit));
                        tracing::warn!(%package, %holder, trouble, "a package was not what it should be");
                        arrival = begin(self.files()?, package).await?;
                    }
                }
            }
        }
        Err(format!("the package {package} cannot be fetched: {trouble}"))
    }

    async fn fetch_from(
        &self,
        holder: NodeId,
        package: PackageDigest,
        bytes: u64,
        arrival: &mut Arrival,
    ) -> Result<(), String> {
        let question = ask(package, arrival.bytes());
        let opened = self.gateway.open_peer(holder, READ_PATH, question, OPEN_PATIENCE).await;
        let mut opened = opened.map_err(|error| text_of(&error))?;
        while arrival.bytes() < bytes {
            let chunk = timeout(STALL, opened.chunk()).await.map_err(|_| "it came to a stop".to_owned())?;
            let Some(chunk) = chunk.map_err(|error| text_of(&error))? else {
                return Err("it sent less than all".to_owned());
            };
            let wanted = usize::try_from(bytes - arrival.bytes()).unwrap_or(usize::MAX);
            // Short writes into the page cache; the sync at the end is on a thread of its own.
            arrival.write(&chunk[..chunk.len().min(wanted)]).map_err(|error| text_of(&error))?;
        }
        Ok(())
    }

    /// Has another node get itself a copy from this one: the first that can. None if there is no other.
    pub(crate) async fn copy_to_another(
        &self,
        package: PackageDigest,
        bytes: u64,
    ) -> Result<Option<NodeId>, String> {
        let others = self.consensus.with_state(|state| {
            let ready =
                |node: &muster_core::nodes::Node| node.condition == muster_core::nodes::Condition::Ready;
            let ready = state.nodes.iter().filter(|(id, node)| *id != self.node && ready(node));
            ready.map(|(id, _)| id).collect::<Vec<_>>()
        });
        if others.is_empty() {
            return Ok(None);
        }
        let mut trouble = String::new();
        for other in spread(others, self.node, package) {
            match self.copy_to(other, package, bytes).await {
                Ok(()) => return Ok(Some(other)),
                Err(why) => trouble = format!("node {other}: {why}"),
            }
        }
        Err(format!("no other node takes a copy of the package: {trouble}"))
    }

    async fn copy_to(&self, other: NodeId, package: PackageDigest, bytes: u64) -> Result<(), String> {
        let question = ask(package, bytes);
        let opened = self.gateway.open_peer(other, COPY_PATH, question, OPEN_PATIENCE).await;
        let mut opened = opened.map_err(|error| text_of(&error))?;
        let mut said = Vec::new();
        while let Some(chunk) = timeout(STALL, opened.chunk())
            .await
            .map_err(|_| "it came to a stop".to_owned())?
            .map_err(|error| text_of(&error))?
        {
            said.extend(chunk.iter().filter(|byte| **byte != b'.').take(ASK_MAX));
        }
        match said == DONE {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&said).trim().to_owned()),
        }
    }

    /// Answers a peer that reads; `None`: there is no such package here.
    pub(crate) async fn answer_read(&self, body: &[u8]) -> Result<Option<Body>, String> {
        let (package, offset) = asked(body)?;
        let files = self.files()?;
        let held = files.hold(package);
        let permit = std::sync::Arc::clone(&self.readers).try_acquire_owned();
        let permit = permit.map_err(|_| "too many others read packages here".to_owned())?;
        if !files.has(package) {
            return Ok(None);
        }
        let opened = tokio::fs::File::open(files.path(package)).await;
        let mut file = opened.map_err(|error| text_of(&error))?;
        file.seek(SeekFrom::Start(offset)).await.map_err(|error| text_of(&error))?;
        let pieces = stream::try_unfold((file, held, permit), |(mut file, held, permit)| async move {
            let mut piece = vec![0; PIECE_BYTES];
            let count = file.read(&mut piece).await?;
            piece.truncate(count);
            Ok::<_, std::io::Error>((count > 0).then(|| (Bytes::from(piece), (file, held, permit))))
        });
        Ok(Some(Body::from_stream(pieces)))
    }

    /// Answers a peer that wants this node to have a copy: dots while it comes, then how it went.
    pub(crate) async fn answer_copy(&self, caller: NodeId, body: &[u8]) -> Result<Body, String> {
        let (package, bytes) = asked(body)?;
        if bytes > self.bytes_max {
            return Err(format!("this node takes packages of at most {} bytes", self.bytes_max));
        }
        let packages = self.clone();
        let copying = tokio::spawn(async move {
            let lock = packages.lock_of(package);
            let _alone = lock.lock().await;
            let held = packages.files()?.hold(package);
            match packages.files()?.has(package) {
                true => Ok(held),
                false => packages.fetch(package, bytes, vec![caller]).await,
            }
        });
        let signs = stream::unfold(Some(copying), |copying| async move {
            let mut copying = copying?;
            let said: Result<Bytes, std::io::Error> = match timeout(SIGN_EVERY, &mut copying).await {
                Err(_elapsed) => return Some((Ok(Bytes::from_static(b".")), Some(copying))),
                Ok(Ok(Ok(_held))) => Ok(Bytes::from_static(DONE)),
                Ok(Ok(Err(why))) => Ok(Bytes::from(why)),
                Ok(Err(panicked)) => Ok(Bytes::from(panicked.to_string())),
            };
            Some((said, None))
        });
        Ok(Body::from_stream(signs))
    }
}

async fn begin(files: &Files, package: PackageDigest) -> Result<Arrival, String> {
    files.begin(package).map_err(|error| format!("it cannot be written: {error}"))
}

/// In turn from one that follows from who asks and for what.
fn spread(mut nodes: Vec<NodeId>, asker: NodeId, package: PackageDigest) -> Vec<NodeId> {
    if !nodes.is_empty() {
        let first = (asker.0 % nodes.len() as u64 + u64::from(package.0[0])) % nodes.len() as u64;
        nodes.rotate_left(usize::try_from(first).expect("less than how many there are"));
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_ask_begin_at_different_nodes() {
        let nodes: Vec<NodeId> = (1..=3).map(NodeId).collect();
        let first = |asker, byte| spread(nodes.clone(), NodeId(asker), PackageDigest([byte; 32]))[0];
        assert_eq!([first(4, 0), first(5, 0), first(6, 0)].map(|n| n.0), [2, 3, 1]);
        assert_eq!(first(4, 0), first(4, 3));
        assert!(spread(Vec::new(), NodeId(1), PackageDigest([1; 32])).is_empty());
    }

    #[test]
    fn questions_are_understood_and_others_are_refused() {
        let package = PackageDigest([7; 32]);
        assert_eq!(asked(&ask(package, 9)), Ok((package, 9)));
        for bad in ["", "{}", r#"{"package":"x","number":1}"#] {
            asked(bad.as_bytes()).unwrap_err();
        }
    }
}
