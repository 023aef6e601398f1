//! Linearizable reads: one round trip to a quorum serves every read that was waiting when it began
//! (read index, section 6.4 of the Raft dissertation).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::ReadError;
use crate::messages::ReadIndex;
use crate::network::Peers;
use crate::rpc::Server;
use crate::vital::Vital;

/// Reads that may wait for the next round.
const WAITING_MAX: usize = 100_000;
/// One attempt at a leader that hangs must not use up the whole deadline.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(500);
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How often the quorum is probed when nobody reads.
const PROBE_EVERY: Duration = Duration::from_millis(300);

type Asker = oneshot::Sender<Result<(), ReadError>>;

#[derive(Clone, Debug)]
pub(crate) struct Reads {
    askers: mpsc::Sender<Asker>,
    heard: Arc<QuorumHeard>,
}

/// The last moment, by the monotonic clock, of which everything acknowledged before it is applied here.
#[derive(Debug)]
struct QuorumHeard {
    since: Instant,
    /// Milliseconds after `since`, plus one; 0 for never.
    at: AtomicU64,
}

impl QuorumHeard {
    fn note(&self, at: Instant) {
        let millis = at.saturating_duration_since(self.since).as_millis();
        self.at.fetch_max(u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    fn age(&self) -> Option<Duration> {
        let at = self.at.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Instant::now().saturating_duration_since(self.since + Duration::from_millis(at)))
    }
}

impl Reads {
    pub(crate) fn spawn(server: Server, peers: Peers, timeout: Duration, vital: &Vital) -> Self {
        let (askers, queue) = mpsc::channel(WAITING_MAX);
        let heard = Arc::new(QuorumHeard { since: Instant::now(), at: AtomicU64::new(0) });
        let worker = Worker { server, peers, timeout, heard: Arc::clone(&heard) };
        vital.spawn(worker.run(queue));
        let reads = Reads { askers, heard };
        vital.spawn(probe(reads.clone()));
        reads
    }

    /// Returns once everything acknowledged before the call is applied here.
    pub(crate) async fn linearize(&self) -> Result<(), ReadError> {
        let (asker, answer) = oneshot::channel();
        self.askers.send(asker).await.map_err(|_| ReadError::Stopping)?;
        answer.await.map_err(|_| ReadError::Stopping)?
    }

    /// How old the quorum's word is that this node has caught up with.
    pub(crate) fn quorum_age(&self) -> Option<Duration> {
        self.heard.age()
    }
}

/// Keeps the quorum's age true while nobody reads.
async fn probe(reads: Reads) {
    loop {
        if let Err(ReadError::Stopping) = reads.linearize().await {
            return;
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

struct Worker {
    server: Server,
    peers: Peers,
    timeout: Duration,
    heard: Arc<QuorumHeard>,
}

impl Worker {
    async fn run(self, mut queue: mpsc::Receiver<Asker>) {
        let mut askers: Vec<Asker> = Vec::new();
        while queue.recv_many(&mut askers, WAITING_MAX).await > 0 {
            let answer = self.round().await;
            for asker in askers.drain(..) {
                // A reader that went away needs no answer.
                let _unheard = asker.send(answer.clone());
            }
        }
    }

    async fn round(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + self.timeout;
        let mut applied = self.server.applied.clone();
        while Instant::now() < deadline {
            let began = Instant::now();
            if let Ok(Some((index, leased))) =
                timeout_at((began + ATTEMPT_LIMIT).min(deadline), self.ask()).await
            {
                let caught_up = timeout_at(deadline, applied.wait_for(|applied| *applied >= index)).await;
                return match caught_up {
                    Ok(Ok(_)) => {
                        // Only now: who hears the quorum and does not catch up with it would go on
                        // admitting callers by permissions that were taken back long ago.
                        if leased {
                            self.heard.note(began);
                        }
                        Ok(())
                    }
                    Ok(Err(_closed)) => Err(ReadError::Stopping),
                    Err(_elapsed) => Err(ReadError::NoQuorum),
                };
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(ReadError::NoQuorum)
    }

    /// The index a read must wait for, from whoever leads, and whether a lease comes with it.
    async fn ask(&self) -> Option<(u64, bool)> {
        let (leader, address) = {
            let metrics = self.server.raft.metrics();
            let metrics = metrics.borrow();
            let leader = metrics.current_leader?;
            let member = metrics.membership_config.membership().get_node(&leader);
            (leader, member.map(|member| member.peer.clone()))
        };
        let answer = if leader == self.server.identities.own().node {
            self.server.read_index(leader).await
        } else {
            self.peers.read_index(leader, &address?, ATTEMPT_LIMIT).await.ok()?
        };
        match answer {
            ReadIndex::At(index) => Some((index, true)),
            ReadIndex::Unleased(index) => Some((index, false)),
            ReadIndex::NotLeader | ReadIndex::NoQuorum => None,
        }
    }
}
