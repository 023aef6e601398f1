//! The leader's next change, case by case.

use std::collections::BTreeSet;

use crate::accounts::KeyHash;
use crate::ids::{Incarnation, NodeId, StoreId, TokenId};
use crate::members::{Addresses, Command as Members};
use crate::membership::{Limits, Member, Since, Step, TOLD_WITHIN, View, check_removal, next, successor};
use crate::nodes::{self, Condition, Profile, Resources};
use crate::state::{ClusterState, Command, Entry, ProposalId};
use crate::units::{Millis, Timestamp};

const LIMITS: Limits = Limits { voters_max: 5, lease: Millis(3_000) };

/// What nodes are there, in a few words: `2` registered, `2-` down, `2+` enrolled and registered,
/// `2*` enrolled and never seen, `2>1` enrolled and registered in place of 1, `2~` draining to go, `2x` left, `2!` forced,
/// `2=` expelled.
fn state(nodes: &str) -> ClusterState {
    let mut commands = Vec::new();
    for word in nodes.split_whitespace() {
        let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
        let (id, mark) = word.split_at(digits);
        let id = NodeId(id.parse().unwrap());
        if mark.starts_with(['+', '*', '>']) {
            let replaces = mark.strip_prefix('>').map(|old| NodeId(old.parse().unwrap()));
            enroll(&mut commands, id, replaces);
        }
        if mark != "*" {
            commands.push(register(id));
        }
        let (node, incarnation) = (id, Incarnation(1));
        let remove = |force| Command::Members(Members::Remove { node, force });
        match mark {
            "-" => commands.push(Command::Nodes(nodes::Command::SetCondition {
                node,
                incarnation,
                condition: Condition::Down,
                reason: "silent".into(),
            })),
            "~" => commands.push(remove(false)),
            "x" => commands.extend([remove(false), Command::Members(Members::Leave { node, incarnation })]),
            "!" => commands.push(remove(true)),
            "=" => commands.extend([remove(true), Command::Members(Members::Expel { node })]),
            _ => {}
        }
    }
    let mut state = ClusterState::default();
    let proposal = ProposalId { node: NodeId(1), incarnation: Incarnation(1), sequence: 1 };
    state.apply(&Entry { at: Timestamp(1), proposal, commands });
    state
}

fn enroll(commands: &mut Vec<Command>, id: NodeId, replaces: Option<NodeId>) {
    let (token, hash) = (TokenId(id.0), KeyHash::of("secret"));
    let above = NodeId(id.0 - 1);
    let expires_in = Millis(1_000);
    let addresses = addresses();
    commands.push(Command::Members(Members::CreateToken { token, hash, expires_in, above, replaces }));
    commands.push(Command::Members(Members::Enroll { token, hash, store: StoreId(id.0), addresses }));
}

fn addresses() -> Addresses {
    Addresses { http: "h:1".into(), peer: "h:2".into() }
}

fn register(node: NodeId) -> Command {
    let profile = Profile {
        http: "h:1".into(),
        peer: "h:2".into(),
        capacity: Resources::default(),
        engines: BTreeSet::new(),
        labels: std::collections::BTreeMap::new(),
        version: "1".into(),
    };
    Command::Nodes(nodes::Command::Register { node, incarnation: Incarnation(1), profile })
}

/// `1 2 3 | 4 5?`: node 1 leads, the first three vote, 4 learns and has caught up, 5 has not.
fn view(members: &str) -> View {
    let (voters, learners) = members.split_once('|').unwrap_or((members, ""));
    let id = |word: &str| NodeId(word.trim_end_matches('?').parse().unwrap());
    let all = voters.split_whitespace().chain(learners.split_whitespace());
    let members = all.map(|word| (id(word), Member { caught_up: !word.ends_with('?') }));
    View {
        leader: NodeId(1),
        voters: voters.split_whitespace().map(id).collect(),
        joint: false,
        members: members.collect(),
    }
}

fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

fn voters(voters: &[u64]) -> Option<Step> {
    Some(Step::SetVoters(ids(voters)))
}

fn expel(node: u64) -> Option<Step> {
    Some(Step::Propose(Command::Members(Members::Expel { node: NodeId(node) })))
}

fn hand_over(to: u64) -> Option<Step> {
    Some(Step::HandOver { to: NodeId(to) })
}

#[test]
fn the_next_change() {
    let add = |node| Some(Step::AddLearner { node: NodeId(node), addresses: addresses() });
    let remove = |node| {
        let command = Members::Remove { node: NodeId(node), force: true };
        Some(Step::Propose(Command::Members(command)))
    };
    for (name, nodes, members, want) in [
        ("all is well", "1 2 3", "1 2 3", None),
        ("before anyone has registered", "", "1 2 3", None),
        // joining
        ("enrolled", "1 2 3 4*", "1 2 3", add(4)),
        ("learning, never seen", "1 2 3 4*", "1 2 3 | 4", None),
        ("learning", "1 2 3 4+", "1 2 3 | 4?", None),
        ("caught up", "1 2 3 4+", "1 2 3 | 4", voters(&[1, 2, 3, 4])),
        ("caught up and down again", "1 2 3 4-", "1 2 3 | 4", None),
        ("two at once", "1 4+ 5+", "1 | 4 5", voters(&[1, 4, 5])),
        ("as many as may vote", "1 2 3 4+ 5+ 6+", "1 2 3 | 4 5 6", voters(&[1, 2, 3, 4, 5])),
        ("the rest go on learning", "1 2 3 4 5 6+", "1 2 3 4 5 | 6", None),
        ("not without a quorum", "1 2- 3- 4+", "1 2 3 | 4", None),
        ("nor to one that would be none", "1 2 3- 4-", "1 2 3 4", None),
        ("too many voters", "1 2 3 4 5 6 7", "1 2 3 4 5 6 7", voters(&[1, 2, 3, 4, 5])),
        // leaving
        ("while it drains", "1 2 3~", "1 2 3", None),
        ("a drained one is replaced, not made even", "1 2 3x 4+", "1 2 3 | 4", voters(&[1, 2, 4])),
        ("without anyone to replace it", "1 2 3x", "1 2 3", voters(&[1, 2])),
        ("with force, not waiting for it", "1 2 3!", "1 2 3", voters(&[1, 2])),
        ("a draining learner gets no vote", "1 2 3 4~", "1 2 3 | 4", None),
        ("a learner that has left", "1 2 3 4x", "1 2 3 | 4", expel(4)),
        ("a forced one that may hold a lease", "1 2 3!", "1 2 | 3", None),
        ("the leader, first", "1x 2 3", "1 2 3", hand_over(2)),
        ("the leader, to one that is there", "1x 2- 3", "1 2 3", hand_over(3)),
        ("the leader, to one that has caught up", "1x 2 3", "1 2? 3", hand_over(3)),
        ("the last voter, to a learner", "1x 2+", "1 | 2", voters(&[2])),
        ("and then the place", "1x 2+", "2 | 1", hand_over(2)),
        ("two would be none of two", "1 2x 3-", "1 2 3", None),
        // replacing
        ("until the new one has caught up", "1 2 3- 4>3", "1 2 3 | 4?", None),
        ("its removal", "1 2 3- 4>3", "1 2 3 | 4", remove(3)),
        ("its place", "1 2 3! 4>3", "1 2 3 | 4", voters(&[1, 2, 4])),
        ("once is enough", "1 2 4>3 3=", "1 2 4", None),
    ] {
        assert_eq!(next(&state(nodes), &view(members), &Since::default(), &LIMITS), want, "{name}");
    }
    let half_done = View { joint: true, ..view("1 2 3") };
    assert_eq!(next(&state("1 2 3x"), &half_done, &Since::default(), &LIMITS), Some(Step::FinishJoint));
}

#[test]
fn a_lease_is_waited_out_and_the_expelled_are_told() {
    let since = |refused: u64, expelled: Option<u64>| Since {
        refused: [(NodeId(3), Millis(refused))].into(),
        expelled: expelled.map(|ms| (NodeId(3), Millis(ms))).into_iter().collect(),
    };
    for (name, nodes, members, since, want) in [
        ("a lease may be left", "1 2 3!", "1 2 | 3", since(2_999, None), None),
        ("none is", "1 2 3!", "1 2 | 3", since(3_000, None), expel(3)),
        ("but it votes", "1 2- 3!", "1 2 3", since(9_000, None), None),
        ("one that was never a member", "1 2 3!", "1 2", since(3_000, None), expel(3)),
        ("just expelled", "1 2 3=", "1 2 | 3", since(0, Some(0)), None),
        ("and told", "1 2 3=", "1 2 | 3", since(0, Some(200)), Some(Step::TakeOut(NodeId(3)))),
        ("not told", "1 2 3=", "1 2 | 3?", since(0, Some(200)), None),
        (
            "cannot be told",
            "1 2 3=",
            "1 2 | 3?",
            since(0, Some(TOLD_WITHIN.0)),
            Some(Step::TakeOut(NodeId(3))),
        ),
    ] {
        assert_eq!(next(&state(nodes), &view(members), &since, &LIMITS), want, "{name}");
    }
}

#[test]
fn who_leads_after() {
    for (nodes, members, want) in [
        ("1 2 3", "1 2 3", Some(2)),
        ("1 2~ 3", "1 2 3", Some(3)),
        ("1 2- 3", "1 2 3", Some(3)),
        ("1 2 3", "1 2? 3?", None),
        ("1 2", "1 | 2", None),
        ("1", "1", None),
    ] {
        assert_eq!(successor(&state(nodes), &view(members)), want.map(NodeId), "{nodes}: {members}");
    }
}

#[test]
fn what_may_not_be_removed_is_said() {
    for (nodes, voters, node, force, said) in [
        ("1 2 3", &[1, 2, 3][..], 2, false, None),
        ("1 2 3", &[1, 2, 3], 2, true, None),
        ("1 2 3-", &[1, 2, 3], 3, false, Some("cannot drain")),
        ("1 2 3-", &[1, 2, 3], 3, true, None),
        ("1 2 3-", &[1, 2, 3], 2, false, Some("lose the quorum")),
        ("1 2 3- 4", &[1, 2, 3], 2, false, None),
        ("1 2- 3-", &[1, 2, 3], 3, true, Some("lose the quorum")),
        ("1 2", &[1, 2], 2, false, None),
        ("1 2~", &[1, 2], 1, false, Some("last voter")),
        ("1", &[1], 1, true, Some("last voter")),
        ("1 2", &[1], 1, false, None),
        ("1 2 3 4*", &[1, 2, 3], 4, false, Some("never came up")),
        ("1 2 3 4*", &[1, 2, 3], 4, true, None),
        ("1 2- 3- 4-", &[1, 2, 3], 4, true, None),
    ] {
        let checked = check_removal(&state(nodes), &ids(voters), NodeId(node), force);
        match (&checked, said) {
            (Ok(()), None) => {}
            (Err(why), Some(said)) => assert!(why.contains(said), "{nodes}, {node}: {why}"),
            _ => panic!("{nodes}, {node}: {checked:?} instead of {said:?}"),
        }
    }
}
