//! Tokens and removals, entry by entry.

use crate::accounts::KeyHash;
use crate::functions::EngineKind;
use crate::ids::{Incarnation, NodeId, StoreId, TokenId};
use crate::members::{Addresses, Command, TOKENS_MAX};
use crate::nodes::{self, Condition, Profile, Resources};
use crate::state::{Applied, ClusterState, Entry, ProposalId, Reply};
use crate::units::{Millis, Timestamp};
use crate::{Answer, Rejection};

const MINUTE: u64 = 60_000;

#[derive(Default)]
struct World {
    state: ClusterState,
    sequence: u64,
}

impl World {
    fn apply(&mut self, at: u64, command: crate::Command) -> Answer {
        self.sequence += 1;
        let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: self.sequence };
        let entry = Entry { at: Timestamp(at), proposal, commands: vec![command] };
        match self.state.apply(&entry) {
            Applied::Answers(mut answers) => answers.pop().expect("one answer"),
            Applied::Repeated => panic!("it is new"),
        }
    }

    fn members(&mut self, at: u64, command: Command) -> Answer {
        self.apply(at, crate::Command::Members(command))
    }

    /// The id that the token reserves.
    fn token(&mut self, at: u64, token: u64, above: u64) -> u64 {
        match self.members(at, create(token, above, None)) {
            Ok(Reply::Reserved { node, .. }) => node.0,
            other => panic!("{other:?}"),
        }
    }

    fn register(&mut self, at: u64, node: u64, incarnation: u64) -> Answer {
        let profile = Profile {
            http: "h:1".into(),
            peer: "h:2".into(),
            capacity: Resources { memory_mb: 1_000, cpu_millis: 1_000 },
            engines: [EngineKind::Process].into(),
            labels: std::collections::BTreeMap::new(),
            version: "1".into(),
        };
        let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
        self.apply(at, crate::Command::Nodes(nodes::Command::Register { node, incarnation, profile }))
    }
}

fn create(token: u64, above: u64, replaces: Option<u64>) -> Command {
    Command::CreateToken {
        token: TokenId(token),
        hash: KeyHash::of(&format!("secret {token}")),
        expires_in: Millis(10 * MINUTE),
        above: NodeId(above),
        replaces: replaces.map(NodeId),
    }
}

fn enroll(token: u64, secret: &str, store: u64) -> Command {
    Command::Enroll {
        token: TokenId(token),
        hash: KeyHash::of(secret),
        store: StoreId(store),
        addresses: Addresses { http: "h:1".into(), peer: "h:2".into() },
    }
}

#[test]
fn an_id_is_given_once() {
    let mut world = World::default();
    assert_eq!(world.token(0, 1, 3), 4, "above the founding members");
    assert_eq!(world.token(0, 1, 9), 4, "the same token again");
    assert_eq!(world.token(0, 2, 3), 5, "also where the first was not used");
    world.register(0, 9, 1).unwrap();
    assert_eq!(world.token(0, 3, 3), 10, "above whoever is known");
    world.members(0, Command::Remove { node: NodeId(20), force: true }).unwrap();
    world.members(0, Command::Expel { node: NodeId(20) }).unwrap();
    assert_eq!(world.token(11 * MINUTE, 4, 3), 21, "and above whoever was removed");
}

#[test]
fn a_token_is_good_once_and_for_a_while() {
    let mut world = World::default();
    world.token(0, 1, 3);
    for (at, token, secret, store, want) in [
        (0, 1, "wrong", 7, Err("unknown")),
        (0, 2, "secret 1", 7, Err("unknown")),
        (MINUTE, 1, "secret 1", 7, Ok(4)),
        (MINUTE, 1, "secret 1", 8, Err("used already")),
        (MINUTE, 1, "wrong", 7, Err("unknown")),
        // It did not hear the answer.
        (20 * MINUTE, 1, "secret 1", 7, Ok(4)),
    ] {
        match (world.members(at, enroll(token, secret, store)), want) {
            (Ok(Reply::Enrolled { node }), Ok(id)) => assert_eq!(node, NodeId(id)),
            (Err(Rejection::Conflict(why)), Err(said)) => assert!(why.contains(said), "{why}: {said}"),
            (answer, want) => panic!("{answer:?} instead of {want:?}"),
        }
    }
    assert_eq!(world.state.stores.get(NodeId(4)), Some(StoreId(7)), "the id is that data's");
    world.token(20 * MINUTE, 2, 3);
    let late = world.members(30 * MINUTE, enroll(2, "secret 2", 9));
    assert!(matches!(&late, Err(Rejection::Conflict(why)) if why.contains("expired")), "{late:?}");
}

#[test]
fn tokens_are_bounded_and_those_that_are_over_make_room() {
    let mut world = World::default();
    for token in 0..TOKENS_MAX as u64 {
        world.token(0, token + 1, 3);
    }
    let full = world.members(0, create(5_000, 3, None));
    assert!(matches!(full, Err(Rejection::Limit { .. })), "{full:?}");
    assert_eq!(world.token(10 * MINUTE, 5_000, 3), 4 + TOKENS_MAX as u64);
}

#[test]
fn a_removed_node_has_left_first_and_never_comes_back() {
    let mut world = World::default();
    world.register(0, 2, 1).unwrap();
    let (node, incarnation) = (NodeId(2), Incarnation(1));
    assert!(world.members(0, Command::Leave { node, incarnation }).is_err(), "nobody asked it to");
    assert!(world.members(0, Command::Expel { node }).is_err());
    world.members(0, Command::Remove { node, force: false }).unwrap();
    assert_eq!(world.state.nodes.get(node).unwrap().condition, Condition::Draining);
    assert!(world.state.members.may_serve(node), "until it has drained");
    assert!(world.members(0, Command::Expel { node }).is_err(), "it serves");
    world.members(0, Command::Leave { node, incarnation }).unwrap();
    assert!(!world.state.members.may_serve(node));
    // It was started again in between.
    world.register(0, 2, 2).unwrap();
    assert!(world.state.members.may_serve(node));
    assert!(world.members(0, Command::Expel { node }).is_err(), "it serves again");
    assert!(world.members(0, Command::Leave { node, incarnation }).is_err(), "an old word");
    world.members(0, Command::Leave { node, incarnation: Incarnation(2) }).unwrap();
    world.members(0, Command::Expel { node }).unwrap();
    assert!(world.state.members.is_removed(node) && world.state.nodes.get(node).is_none());
    for refused in [
        world.register(0, 2, 3),
        world.members(0, Command::Remove { node, force: true }),
        world.apply(0, crate::Command::Nodes(nodes::Command::Claim { node, store: StoreId(1) })),
        world.members(0, create(1, 3, Some(2))),
    ] {
        assert!(
            matches!(&refused, Err(Rejection::Conflict(why)) if why.contains("was removed")),
            "{refused:?}"
        );
    }
}

#[test]
fn a_node_that_is_to_go_is_not_made_ready_again() {
    let mut world = World::default();
    world.register(0, 2, 1).unwrap();
    world.members(0, Command::Remove { node: NodeId(2), force: false }).unwrap();
    let ready = nodes::Command::SetCondition {
        node: NodeId(2),
        incarnation: Incarnation(1),
        condition: Condition::Ready,
        reason: "undrained".into(),
    };
    let refused = world.apply(0, crate::Command::Nodes(ready));
    assert!(matches!(refused, Err(Rejection::Conflict(_))), "{refused:?}");
    world.members(0, Command::Remove { node: NodeId(2), force: true }).unwrap();
    assert_eq!(world.state.nodes.get(NodeId(2)).unwrap().condition, Condition::Down, "and not waited for");
}
