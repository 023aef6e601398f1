//! All hosts' output as one: first what is written already, by time, then what comes, as it comes. A host that
//! does not answer is named.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future;
use futures_util::stream::{self, BoxStream, StreamExt};
use muster_core::ids::{FunctionName, InstanceId, NodeId};
use muster_core::units::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::merge::merged;
use super::record::{Ask, Record, decode, line_of};
use super::{Logs, OPEN_PATIENCE, PEER_PATH};
use crate::parts::describe;

/// A host that sends nothing for this long within what is written already has come to a stop.
const STALL: Duration = Duration::from_secs(15);
/// Before a host is asked again that did not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked up whether the reader may still read, and which hosts there are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines on their way to the reader.
const AHEAD: usize = 64;

/// What a reader wants.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) function: FunctionName,
    pub(crate) born: Timestamp,
    pub(crate) instance: Option<InstanceId>,
    /// Lines later than this.
    pub(crate) after_ns: u64,
    pub(crate) follow: bool,
}

/// A record and the host it is of.
pub(crate) type Told = (NodeId, Record);

impl Logs {
    /// Answers a reader. It ends with what is written; where the reader follows, with `may_read` or `stop`.
    pub(crate) fn read(
        &self,
        asked: Asked,
        may_read: impl Fn() -> bool + Send + 'static,
        stop: CancellationToken,
    ) -> BoxStream<'static, Told> {
        let (to, mut from) = mpsc::channel(AHEAD);
        let logs = self.clone();
        tokio::spawn(async move {
            let telling = async {
                let seen = logs.tell_past(&asked, &to).await;
                if asked.follow {
                    logs.tell_future(&asked, seen, &to, may_read).await;
                }
            };
            tokio::select! {
                () = to.closed() => {}
                () = stop.cancelled() => {}
                () = telling => {}
            }
        });
        stream::poll_fn(move |cx| from.poll_recv(cx)).boxed()
    }

    /// What is written already. What was seen of each host; none of one that did not answer.
    async fn tell_past(&self, asked: &Asked, to: &mpsc::Sender<Told>) -> BTreeMap<NodeId, Option<Seen>> {
        let opened = self
            .hosts()
            .into_iter()
            .map(|node| async move { (node, self.open(node, asked.ask(BTreeMap::new(), false)).await) });
        let mut seen = BTreeMap::new();
        let mut sources = Vec::new();
        for (node, opened) in future::join_all(opened).await {
            let (records, known) = match opened {
                Ok(records) => (complete(node, records), Some(Seen::new())),
                Err(why) => (stream::once(future::ready(missing(&why))).boxed(), None),
            };
            seen.insert(node, known);
            sources.push(records.map(move |record| (node, record)).boxed());
        }
        let mut all = merged(sources, |(_, record)| record);
        while let Some((node, record)) = all.next().await {
            if let (Some(Some(seen)), Some(instance)) = (seen.get_mut(&node), record.instance) {
                seen.insert(instance, record.at_ns);
            }
            if to.send((node, record)).await.is_err() {
                break;
            }
        }
        seen
    }

    /// What comes, of every host there is and every one that joins.
    async fn tell_future(
        &self,
        asked: &Asked,
        mut seen: BTreeMap<NodeId, Option<Seen>>,
        to: &mpsc::Sender<Told>,
        may_read: impl Fn() -> bool,
    ) {
        let mut hosts = JoinSet::new();
        let mut followed = BTreeSet::new();
        let mut look = interval(LOOK_EVERY);
        loop {
            look.tick().await;
            if !may_read() {
                return;
            }
            for node in self.hosts() {
                if followed.insert(node) {
                    let known = seen.remove(&node);
                    let missed = matches!(known, Some(None));
                    let ask = asked.ask(known.flatten().unwrap_or_default(), true);
                    hosts.spawn(self.clone().follow_host(node, ask, missed, to.clone()));
                }
            }
        }
    }

    /// Follows one host for as long as it belongs to the cluster. `missed`: that it does not answer was told.
    async fn follow_host(self, node: NodeId, mut ask: Ask, mut missed: bool, to: mpsc::Sender<Told>) {
        while self.hosts().contains(&node) {
            let broken = match self.open(node, ask.clone()).await {
                Err(why) => missing(&why),
                Ok(mut records) => {
                    missed = false;
                    loop {
                        match records.next().await {
                            Some(Ok(record)) => {
                                if let Some(instance) = record.instance {
                                    ask.seen.insert(instance, record.at_ns);
                                }
                                if to.send((node, record)).await.is_err() {
                                    return;
                                }
                            }
                            Some(Err(why)) => break missing(&why),
                            None => break missing("it stopped"),
                        }
                    }
                }
            };
            if !std::mem::replace(&mut missed, true) && to.send((node, broken)).await.is_err() {
                return;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Every node that has registered: which of them ever had an instance nobody remembers.
    fn hosts(&self) -> Vec<NodeId> {
        self.consensus.with_state(|state| state.nodes.iter().map(|(id, _)| id).collect())
    }

    async fn open(
        &self,
        node: NodeId,
        ask: Ask,
    ) -> Result<BoxStream<'static, Result<Record, String>>, String> {
        if node == self.node {
            return Ok(self.share(ask).await?.map(Ok).boxed());
        }
        let opened = self.gateway.open_peer(node, PEER_PATH, line_of(&ask), OPEN_PATIENCE).await;
        let opened = opened.map_err(|error| describe(&error))?;
        let chunks = stream::try_unfold(opened, |mut opened| async move {
            let chunk: Option<Bytes> = opened.chunk().await.map_err(|error| describe(&error))?;
            Ok::<_, String>(chunk.map(|chunk| (chunk, opened)))
        });
        Ok(decode(chunks.boxed()))
    }
}

/// By instance, the time of the last line.
type Seen = BTreeMap<InstanceId, u64>;

impl Asked {
    fn ask(&self, seen: Seen, follow: bool) -> Ask {
        Ask {
            function: self.function.clone(),
            born: self.born,
            instance: self.instance,
            after_ns: self.after_ns,
            seen,
            follow,
        }
    }
}

/// The records of a host, and why there are no more of them if it does not send them all.
fn complete(node: NodeId, records: BoxStream<'static, Result<Record, String>>) -> BoxStream<'static, Record> {
    stream::unfold(Some(records), move |records| async move {
        let mut records = records?;
        match timeout(STALL, records.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(record))) => Some((record, Some(records))),
            Ok(Some(Err(why))) => {
                tracing::debug!(%node, why, "a host's output is incomplete");
                Some((missing(&why), None))
            }
            Err(_elapsed) => Some((missing("it came to a stop"), None)),
        }
    })
    .boxed()
}

fn missing(why: &str) -> Record {
    Record::remark(None, format!("the node does not answer, so its output is missing: {why}"))
}
