//! The network between simulated nodes: calls and answers with delays, losses, repetitions and
//! partitions by the dice. What is sent later may arrive earlier.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use muster_chaos::chaos::dice::Dice;
use muster_consensus::{CallAnswer, CallError, Transport};
use muster_core::ids::NodeId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::trace::Trace;

/// How long a connection through a partition is tried, as by the HTTP transport.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// What a node's number is under as a peer.
pub fn address(node: u64) -> String {
    format!("node-{node}:1")
}

/// How the network behaves, apart from partitions.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss_percent: u64,
    pub repeat_percent: u64,
    pub delay_ms: (u64, u64),
}

impl Weather {
    pub const CALM: Weather = Weather { loss_percent: 0, repeat_percent: 0, delay_ms: (0, 2) };
}

/// A call that arrives at a node.
#[derive(Clone, Debug)]
pub struct Request {
    pub call: u64,
    pub from: u64,
    pub to: u64,
    pub path: String,
    pub body: Vec<u8>,
}

type Outcome = Result<Bytes, CallError>;

#[derive(Debug)]
enum Packet {
    Request(Request),
    Answer { to: u64, call: u64, outcome: Outcome },
}

/// A handle; clones share the network.
#[derive(Clone, Debug)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    dice: Dice,
    now_ms: u64,
    weather: Weather,
    /// Ordered pairs between which nothing passes.
    cut: BTreeSet<(u64, u64)>,
    /// By the moment of arrival, then in the order of sending.
    under_way: BTreeMap<(u64, u64), Packet>,
    sent: u64,
    callers: BTreeMap<u64, oneshot::Sender<Outcome>>,
    /// Calls that were handed to a node and not answered: the call, who asked, who was asked.
    working: BTreeMap<u64, (u64, u64)>,
    trace: Trace,
}

impl Network {
    pub fn new(seed: u64, trace: Trace) -> Network {
        Network(Arc::new(Mutex::new(State {
            dice: Dice::new(seed, 1),
            now_ms: 0,
            weather: Weather::CALM,
            cut: BTreeSet::new(),
            under_way: BTreeMap::new(),
            sent: 0,
            callers: BTreeMap::new(),
            working: BTreeMap::new(),
            trace,
        })))
    }

    /// How `node` calls its peers.
    pub fn transport(&self, node: u64) -> Arc<dyn Transport> {
        Arc::new(Link { node, network: self.clone() })
    }

    pub fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Lets nothing pass from one node to another.
    pub fn cut(&self, from: u64, to: u64) {
        self.lock().cut.insert((from, to));
    }

    pub fn mend(&self) {
        self.lock().cut.clear();
    }

    /// Moves time on and returns what arrives; answers reach their callers. Calls of nodes for which
    /// `listens` is false are refused. What is for a node that is `held` arrives later.
    pub fn advance(
        &self,
        now_ms: u64,
        listens: impl Fn(u64) -> bool,
        held: impl Fn(u64) -> bool,
    ) -> Vec<Request> {
        let mut state = self.lock();
        state.now_ms = now_ms;
        let mut arrived = Vec::new();
        let due: Vec<(u64, u64)> = state.under_way.range(..(now_ms + 1, 0)).map(|(key, _)| *key).collect();
        for key in due {
            let Some(packet) = state.under_way.remove(&key) else { continue };
            let to = match &packet {
                Packet::Request(request) => request.to,
                Packet::Answer { to, .. } => *to,
            };
            if held(to) {
                state.under_way.insert((now_ms + 1, key.1), packet);
                continue;
            }
            match packet {
                Packet::Request(request) if !listens(to) => {
                    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                    state.send_answer(
                        request.to,
                        request.from,
                        request.call,
                        Err(CallError::Unreachable(refused.into())),
                    );
                }
                Packet::Request(request) => {
                    let from = request.from;
                    state.trace.note(&[3, now_ms, from, to, request.call, request.body.len() as u64]);
                    state.working.insert(request.call, (from, to));
                    arrived.push(request);
                }
                Packet::Answer { call, outcome, .. } => {
                    state.trace.note(&[4, now_ms, to, call, u64::from(outcome.is_ok())]);
                    if let Some(caller) = state.callers.remove(&call) {
                        // It may have given up.
                        let _gone = caller.send(outcome);
                    }
                }
            }
        }
        arrived
    }

    /// Sends an answer on its way back.
    pub fn answer(&self, request: &Request, answer: Result<Vec<u8>, u16>) {
        let mut state = self.lock();
        let Some((from, to)) = state.working.remove(&request.call) else { return };
        state.send_answer(to, from, request.call, answer.map(Bytes::from).map_err(CallError::Refused));
    }

    /// Breaks the connections of a node that ended: its callers hear of it.
    pub fn break_off(&self, node: u64) {
        let mut state = self.lock();
        let broken: Vec<(u64, (u64, u64))> = state
            .working
            .iter()
            .filter(|(_, (_, to))| *to == node)
            .map(|(call, ends)| (*call, *ends))
            .collect();
        for (call, (from, to)) in broken {
            state.working.remove(&call);
            let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            state.send_answer(to, from, call, Err(CallError::Broken(reset.into())));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to))
    }

    fn arrival(&mut self) -> (u64, u64) {
        let (least, most) = self.weather.delay_ms;
        self.sent += 1;
        (self.now_ms + 1 + self.dice.between(least, most), self.sent)
    }

    fn send_answer(&mut self, from: u64, to: u64, call: u64, outcome: Outcome) {
        if self.is_cut(from, to) || self.dice.chance(self.weather.loss_percent) {
            return;
        }
        let arrival = self.arrival();
        self.under_way.insert(arrival, Packet::Answer { to, call, outcome });
    }

    /// Sends a request; false if a partition keeps it from being sent.
    fn send_request(&mut self, request: Request) -> bool {
        if self.is_cut(request.from, request.to) {
            return false;
        }
        let copies = 1 + u64::from(self.dice.chance(self.weather.repeat_percent));
        for _ in 0..copies {
            if self.dice.chance(self.weather.loss_percent) {
                continue;
            }
            let arrival = self.arrival();
            self.under_way.insert(arrival, Packet::Request(request.clone()));
        }
        true
    }
}

/// One node's end of the network.
struct Link {
    node: u64,
    network: Network,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link of node {}", self.node)
    }
}

impl Transport for Link {
    fn call<'a>(
        &'a self,
        target: NodeId,
        address: &'a str,
        path: &'a str,
        body: Vec<u8>,
        limit: Duration,
    ) -> CallAnswer<'a> {
        Box::pin(async move {
            let number = address.strip_prefix("node-").and_then(|rest| rest.strip_suffix(":1"));
            let to = number.and_then(|number| number.parse().ok()).expect("an address made here");
            assert_eq!(to, target.0, "an address of another node");
            let (caller, answer) = oneshot::channel();
            let (call, sent) = {
                let mut state = self.network.lock();
                let call = state.sent;
                state.callers.insert(call, caller);
                state.sent += 1;
                let request = Request { call, from: self.node, to, path: path.to_owned(), body };
                (call, state.send_request(request))
            };
            let timed_out = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
            let outcome = if sent {
                match timeout(limit, answer).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) | Err(_) => Err(CallError::Broken(timed_out())),
                }
            } else {
                sleep(limit.min(CONNECT_TIMEOUT)).await;
                Err(CallError::Unreachable(timed_out()))
            };
            self.network.lock().callers.remove(&call);
            outcome
        })
    }
}
