//! Sender and receiver together, over a network that loses calls and a receiver that loses its power.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use muster_core::ids::{Incarnation, StoreId};
use muster_storage::{Memory, Pace, Store};
use openraft::SnapshotMeta as Meta;
use openraft::network::RaftNetworkFactory;
use openraft::raft::InstallSnapshotRequest;

use super::*;
use crate::identities::{Header, Identities, Identity};
use crate::machine::Published;
use crate::messages;
use crate::network::Peers;
use crate::receiving::{Receiver, Refusal};
use crate::transport::{Answer as CallAnswer, Transport};
use crate::types::Member;

/// Four parts and a bit.
const BYTES: usize = 4 * PART_BYTES + 4_321;

/// What happens to a call, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// The peer never sees it.
    Lost,
    /// The peer does, and its answer is lost.
    Unheard,
    /// The peer loses its power, after it has seen it.
    PowerCut,
    /// The bytes are not what was sent.
    Garbled,
}

#[derive(Debug)]
struct Network {
    fates: Vec<Fate>,
    /// Whether the peer knows offers.
    offers: bool,
    host: Mutex<Host>,
}

#[derive(Debug)]
struct Host {
    memory: Memory,
    store: Store,
    receiver: Receiver,
    calls: usize,
    sent_bytes: usize,
    arrived: Option<Vec<u8>>,
}

impl Host {
    fn on(memory: Memory) -> Host {
        let store = Store::in_memory(&memory).expect("a store in memory opens");
        let receiver = Receiver::new(store.snapshots());
        Host { memory, store, receiver, calls: 0, sent_bytes: 0, arrived: None }
    }
}

impl Network {
    fn next_fate(&self) -> (Receiver, Fate) {
        let mut host = self.host.lock().expect("nobody panics");
        host.calls += 1;
        (host.receiver.clone(), self.fates.get(host.calls - 1).copied().unwrap_or(Fate::Fine))
    }

    fn cut_power(&self) {
        let mut host = self.host.lock().expect("nobody panics");
        host.store.close();
        host.memory.cut_power(|_| 0);
        let (calls, sent_bytes) = (host.calls, host.sent_bytes);
        *host = Host { calls, sent_bytes, ..Host::on(host.memory.clone()) };
    }

    async fn take(&self, receiver: &Receiver, fate: Fate, body: &[u8]) -> Vec<u8> {
        let (_, request): (Header, InstallSnapshotRequest<TypeConfig>) =
            messages::decode(body).expect("a request");
        let InstallSnapshotRequest { vote, meta, offset, mut data, done } = request;
        self.host.lock().expect("nobody panics").sent_bytes += data.len();
        if let Some(first) = data.first_mut().filter(|_| fate == Fate::Garbled) {
            *first ^= 1;
        }
        let answer: Result<InstallSnapshotResponse<NodeId>, Refusal> =
            match receiver.take(&meta, offset, &data, done).await {
                Ok(arrived) => {
                    if let Some((draft, _)) = arrived {
                        let mut whole = Vec::new();
                        std::io::Read::read_to_end(&mut draft.stream(), &mut whole).expect("it is whole");
                        self.host.lock().expect("nobody panics").arrived = Some(whole);
                    }
                    Ok(InstallSnapshotResponse { vote })
                }
                Err(refusal) => Err(refusal),
            };
        messages::encode(messages::FORMAT, &answer).expect("an answer")
    }
}

impl Transport for Network {
    fn call<'a>(
        &'a self,
        _: NodeId,
        _: &'a str,
        path: &'a str,
        body: Vec<u8>,
        _: Duration,
    ) -> CallAnswer<'a> {
        Box::pin(async move {
            let broken = || CallError::Broken("lost".into());
            let (receiver, fate) = self.next_fate();
            if fate == Fate::Lost {
                return Err(broken());
            }
            let answer = match path.rsplit('/').next() {
                Some("snapshot") => self.take(&receiver, fate, &body).await,
                Some("snapshot-held") if self.offers => {
                    let (_, offer): (Header, Offer) = messages::decode(&body).expect("an offer");
                    let held = receiver.held(offer.transfer).await.expect("the store works");
                    messages::encode(messages::FORMAT, &Ok::<u64, RaftError<NodeId>>(held))
                        .expect("an answer")
                }
                _ => return Err(CallError::Refused(400)),
            };
            if fate == Fate::PowerCut {
                self.cut_power();
            }
            if matches!(fate, Fate::Unheard | Fate::PowerCut) { Err(broken()) } else { Ok(answer.into()) }
        })
    }
}

/// Sends a snapshot; how it ended, how many bytes it took, and what arrived.
async fn send_over(offers: bool, fates: &[Fate]) -> (Answer, usize, Option<Vec<u8>>) {
    let data: Vec<u8> = (0..=250).cycle().take(BYTES).collect();
    let store = Store::in_memory(&Memory::new()).expect("a store in memory opens");
    let mut draft = store.snapshots().begin(Pace::Full);
    draft.append(&data).await.expect("stored");
    draft.finish(b"meta").await.expect("stored");
    let reader = store.snapshots().current().expect("it was just stored");

    let host = Mutex::new(Host::on(Memory::new()));
    let network = Arc::new(Network { fates: fates.to_vec(), offers, host });
    let own = Identity { node: NodeId(1), store: StoreId(1), incarnation: Incarnation(1) };
    let identities = Identities::new(own, None, Arc::new(ArcSwap::from_pointee(Published::default())));
    let peers = Peers::new(Arc::clone(&network) as Arc<dyn Transport>, identities);
    let durable = store.log().expect("a fresh log opens").durable();
    let mut factory = crate::network::Network { peers, durable, patience: Duration::MAX };
    let peer = factory.new_client(NodeId(2), &Member::default()).await;
    let meta = Meta { snapshot_id: "s".into(), ..Meta::default() };
    let option = RPCOption::new(Duration::from_secs(1));
    let answer = send(&peer, Vote::new(1, NodeId(1)), meta, reader, option).await;
    let host = network.host.lock().expect("nobody panics");
    let arrived = host.arrived.clone();
    assert!(arrived.as_ref().is_none_or(|arrived| *arrived == data), "something else arrived");
    (answer, host.sent_bytes, arrived)
}

#[tokio::test]
async fn a_snapshot_arrives_whatever_is_lost_and_goes_on_where_it_broke_off() {
    use Fate::{Fine, Garbled, Lost, PowerCut, Unheard};
    // Bytes sent again, at most.
    let part = PART_BYTES;
    for (name, offers, fates, again) in [
        ("nothing is lost", true, &[][..], 0),
        ("a peer without offers", false, &[], 0),
        ("the offer is lost", true, &[Lost], 0),
        ("a part is lost", true, &[Fine, Fine, Lost], 0),
        ("an answer is lost", true, &[Fine, Fine, Fine, Unheard, Lost], 0),
        ("a part was taken twice", false, &[Fine, Fine, Unheard], 2 * part),
        ("the last answer is lost", true, &[Fine, Fine, Fine, Fine, Fine, Unheard], BYTES),
        ("a power cut in the middle", true, &[Fine, Fine, Fine, PowerCut], 300_000),
        ("and another", true, &[Fine, Fine, PowerCut, Fine, PowerCut], 600_000),
        ("a part is garbled", true, &[Fine, Fine, Garbled], BYTES),
        ("four in a row are lost, twice", true, &[Fine, Lost, Lost, Lost, Lost, Fine, Fine, Lost, Lost], 0),
    ] {
        let (answer, sent_bytes, arrived) = send_over(offers, fates).await;
        assert!(answer.is_ok(), "{name}: {answer:?}");
        assert!(arrived.is_some(), "{name}: it did not arrive");
        assert!(
            (BYTES..=BYTES + again).contains(&sent_bytes),
            "{name}: {sent_bytes} bytes of {BYTES} were sent"
        );
    }
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_given_up_for_now() {
    let (answer, sent_bytes, arrived) = send_over(true, &[Fate::Lost; 20]).await;
    assert!(matches!(answer, Err(StreamingError::Network(_))), "{answer:?}");
    assert_eq!((sent_bytes, arrived), (0, None));
    // Garbled each time: it is never taken for the snapshot, and sending it does not go on for ever.
    let (answer, _, arrived) = send_over(true, &[Fate::Garbled; 200]).await;
    assert!(matches!(answer, Err(StreamingError::Network(_))), "{answer:?}");
    assert_eq!(arrived, None);
}
