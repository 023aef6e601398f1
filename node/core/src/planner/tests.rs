mod ancestor;
mod placement;
mod world;

use std::collections::BTreeSet;

use self::world::*;
use super::*;
use crate::functions::{KeepAlive, ScalingPolicy, Source};
use crate::instances::{self, DecidedAction, DrainReason, Phase, Trigger};
use crate::nodes::Condition;

const SECOND: Millis = Millis::from_secs(1);

/// One function `f` with `ready` ready instances, asked for by a queue that is gone again, under a
/// leader that has listened for long.
fn running(nodes: u64, ready: u32) -> World {
    let mut world = World::new(nodes);
    world.put("f", |_| {});
    world.waiting("f", &[(1, ready, 0)]);
    world.ticks(Millis(500));
    world.loads.clear();
    world.load("f", u64::from(ready) * 600);
    world.ticks(Millis::from_secs(11));
    assert_eq!((world.ready("f"), world.live("f")), (ready as usize, ready as usize));
    world
}

fn trigger_of(command: &Command) -> Option<(Trigger, usize)> {
    match command {
        Command::Instances(instances::Command::Place { cause, .. }) => {
            Some((cause.trigger, cause.accounts.len()))
        }
        _ => None,
    }
}

#[test]
fn a_queue_launches_once_and_says_for_whom() {
    let mut world = World::new(2);
    world.put("f", |spec| spec.concurrency = 2);
    world.frozen = true;
    world.waiting("f", &[(1, 2, 10), (2, 1, 30)]);
    let plan = world.tick();
    assert_eq!(plan.iter().filter_map(trigger_of).collect::<Vec<_>>(), [(Trigger::Queued, 2); 2]);
    let Command::Instances(instances::Command::Record { decision }) = &plan[1] else { panic!("{plan:?}") };
    let (instance, node) = placements(&plan)[0];
    assert_eq!(decision.action, DecidedAction::Launch { instance, node });
    assert_eq!((decision.inputs.waiting, decision.inputs.desired), (3, 2));
    for _ in 0..10 {
        assert_eq!(world.tick(), [], "what is starting is for what waits");
    }
}

#[test]
fn one_plan_does_not_book_the_same_room_twice() {
    let mut world = World::new(0);
    world.register(1, 250, 1);
    world.register(2, 150, 1);
    world.put("f", |_| {});
    world.put("g", |_| {});
    world.waiting("f", &[(1, 9, 500)]);
    world.waiting("g", &[(1, 9, 100)]);
    let plan = world.tick();
    let nodes: Vec<u64> = placements(&plan).iter().map(|(_, node)| node.0).collect();
    assert_eq!(nodes, [1, 1, 2], "all that fit, for the function that has waited longest");
    assert_eq!(holds(&plan), ["2 nodes lack memory: need 100 MB"; 2]);
    assert_eq!(holds(&world.ticks(SECOND)), [""; 0], "a reason is recorded once");
}

#[test]
fn requests_on_their_way_to_idle_slots_are_no_reason() {
    let mut world = running(2, 2);
    world.load("f", 0);
    world.waiting("f", &[(1, 2, 10)]);
    assert_eq!(world.tick(), []);
    world.waiting("f", &[(1, 3, 10)]);
    world.in_flight = world.of("f", Phase::Ready).iter().map(|(id, _)| (*id, 1)).collect();
    world.waiting("f", &[(1, 1, 5000)]);
    assert_eq!(placements(&world.tick()).len(), 1);
}

#[test]
fn down_only_after_a_calm_window_and_to_zero_after_keep_alive() {
    let mut world = running(1, 4);
    world.load("f", 800);
    assert_eq!(drains(&world.ticks(Millis::from_secs(9))), []);
    let plan = world.ticks(Millis::from_secs(6));
    assert_eq!(drains(&plan).len(), 2, "0.8 busy slots need two instances at 0.7");
    assert!(drains(&plan).iter().all(|(_, reason)| *reason == DrainReason::LowUtilization));
    assert_eq!(world.ready("f"), 2);
    world.load("f", 0);
    world.ticks(Millis::from_secs(40));
    assert_eq!(world.ready("f"), 1, "one is kept for the keep-alive time");
    let plan = world.ticks(Millis::from_secs(21));
    assert_eq!(drains(&plan).iter().map(|(_, reason)| *reason).collect::<Vec<_>>(), [DrainReason::Idle]);
    assert_eq!(world.live("f"), 0);
    assert_eq!(world.ticks(Millis::from_secs(5)), []);
}

#[test]
fn without_keep_alive_an_instance_goes_when_it_has_served() {
    let mut world = World::new(1);
    world.put("f", |spec| spec.scaling.keep_alive = KeepAlive::Fixed(Millis(0)));
    world.ticks(Millis::from_secs(12));
    world.waiting("f", &[(1, 1, 0)]);
    world.ticks(Millis(750));
    world.waiting("f", &[]);
    assert_eq!(world.ready("f"), 1);
    assert_eq!(world.tick(), [], "its request is on its way");
    world.load("f", 1000);
    world.in_flight = world.of("f", Phase::Ready).iter().map(|(id, _)| (*id, 1)).collect();
    assert_eq!(world.tick(), []);
    world.load("f", 0);
    world.in_flight.clear();
    assert_eq!(drains(&world.tick()).len(), 1);
}

#[test]
fn an_instance_that_nobody_uses_is_not_kept_for_ever() {
    let mut world = World::new(1);
    world.put("f", |spec| spec.scaling.keep_alive = KeepAlive::Fixed(Millis(0)));
    world.ticks(Millis::from_secs(12));
    world.waiting("f", &[(1, 1, 0)]);
    world.ticks(Millis(500));
    world.waiting("f", &[]);
    world.ticks(Millis::from_secs(3));
    assert_eq!(world.live("f"), 0);
}

#[test]
fn a_new_leader_scales_down_only_when_it_has_listened() {
    let mut world = running(2, 4);
    world.load("f", 200);
    world.elect();
    assert_eq!(world.ticks(Millis::from_secs(9)), []);
    world.ticks(Millis::from_secs(3));
    assert_eq!(world.ready("f"), 1);
    // And it launches at once.
    world.elect();
    world.waiting("f", &[(1, 5, 0)]);
    assert!(!placements(&world.tick()).is_empty());
}

#[test]
fn silent_nodes_go_down_and_come_back() {
    let mut world = running(3, 3);
    world.silent.insert(3);
    assert_eq!(conditions(&world.ticks(Millis(1750))), []);
    let plan = world.ticks(Millis(750));
    assert_eq!(conditions(&plan), [(3, Condition::Down)]);
    assert!(placements(&plan).iter().all(|(_, node)| node.0 != 3));
    world.silent.clear();
    assert_eq!(conditions(&world.ticks(Millis(500))), [(3, Condition::Ready)]);
}

#[test]
fn a_drain_survives_being_down() {
    let mut world = World::new(2);
    world.ticks(SECOND);
    world.condition(2, Condition::Draining);
    world.silent.insert(2);
    assert_eq!(conditions(&world.ticks(Millis::from_secs(3))), [(2, Condition::Down)]);
    world.silent.clear();
    assert_eq!(conditions(&world.ticks(SECOND)), [(2, Condition::Draining)]);
    world.register(2, 1000, 2);
    assert_eq!(world.state.nodes.get(NodeId(2)).unwrap().condition, Condition::Draining);
    world.condition(2, Condition::Ready);
    world.register(2, 1000, 3);
    assert_eq!(world.state.nodes.get(NodeId(2)).unwrap().condition, Condition::Ready);
}

/// Containers that outlive a restart of everything are adopted, not replaced.
#[test]
fn a_node_never_heard_is_given_longer() {
    let mut world = World::new(2);
    world.silent = [2].into();
    assert_eq!(conditions(&world.ticks(Millis::from_secs(5))), []);
    assert_eq!(conditions(&world.ticks(SECOND)), [(2, Condition::Down)]);
    world.register(2, 1000, 2);
    assert_eq!(conditions(&world.ticks(Millis::from_secs(5))), [], "a new incarnation likewise");
    assert_eq!(conditions(&world.ticks(SECOND)), [(2, Condition::Down)]);
}

#[test]
fn a_leader_that_was_paused_blames_nobody() {
    let mut world = running(3, 2);
    world.elapsed += Millis::from_secs(60);
    assert_eq!(conditions(&world.plan()), []);
    world.tick();
    assert_eq!(conditions(&world.ticks(Millis::from_secs(5))), []);
    // But slow plans do find a dead node.
    world.silent.insert(3);
    let mut found = Vec::new();
    for _ in 0..6 {
        world.elapsed += Millis::from_secs(5);
        found.extend(conditions(&world.tick()));
    }
    assert!(found.contains(&(3, Condition::Down)), "{found:?}");
}

/// A node that just died is still ready in the state, and so are its instances.
#[test]
fn nothing_is_expected_of_a_silent_node() {
    let mut world = running(2, 1);
    let host = world.of("f", Phase::Ready)[0].1.node;
    world.load("f", 0);
    world.silent.insert(host.0);
    world.ticks(Millis(1250));
    let other = 3 - host.0;
    world.waiting("f", &[(other, 1, 0), (host.0, 50, 0)]);
    world.ticks(SECOND);
    let launched: Vec<u64> = world.of("f", Phase::Ready).iter().map(|(_, i)| i.node.0).collect();
    assert!(launched.contains(&other), "{launched:?}");
    assert!(world.live("f") <= 2, "a queue on a silent node is gone with it");
}

#[test]
fn a_new_version_takes_over_without_a_gap() {
    let mut world = running(2, 3);
    world.put("f", |spec| spec.memory_mb = 50);
    let mut most = 0;
    for _ in 0..60 {
        world.tick();
        assert!(world.ready("f") >= 3, "{}", world.ready("f"));
        most = most.max(world.live("f"));
    }
    assert!(most <= 6, "{most}: a replacement and what it replaces count as one");
    let ready = world.of("f", Phase::Ready);
    assert_eq!(ready.len(), 3);
    assert!(ready.iter().all(|(_, i)| i.version == 2 && i.cause.trigger == Trigger::Rollout));
}

#[test]
fn the_old_version_serves_while_the_new_one_fails() {
    let mut world = running(2, 3);
    world.broken.insert("f");
    world.put("f", |spec| spec.memory_mb = 50);
    world.ticks(Millis::from_secs(40));
    assert_eq!(world.of("f", Phase::Ready).iter().filter(|(_, i)| i.version == 1).count(), 3);
    world.broken.clear();
    world.ticks(Millis::from_secs(65));
    let ready = world.of("f", Phase::Ready);
    assert!(ready.len() == 3 && ready.iter().all(|(_, i)| i.version == 2), "{ready:?}");
}

#[test]
fn an_old_version_that_nobody_asks_for_is_not_replaced() {
    let mut world = running(2, 3);
    world.load("f", 0);
    world.ticks(Millis::from_secs(11));
    world.put("f", |spec| spec.memory_mb = 50);
    assert_eq!(placements(&world.ticks(SECOND)), []);
    assert_eq!(world.live("f"), 0);
}

#[test]
fn a_draining_node_is_emptied_after_its_replacements_are_ready() {
    let mut world = running(2, 4);
    world.condition(1, Condition::Draining);
    for _ in 0..40 {
        world.tick();
        assert!(world.ready("f") >= 4, "{}", world.ready("f"));
    }
    let nodes: BTreeSet<u64> = world.of("f", Phase::Ready).iter().map(|(_, i)| i.node.0).collect();
    assert_eq!((world.live("f"), nodes), (4, [2].into()));
}

#[test]
fn at_the_maximum_a_draining_node_is_emptied_one_by_one() {
    let mut world = World::new(2);
    world.put("f", |spec| (spec.scaling.max, spec.scaling.min) = (2, 2));
    world.condition(2, Condition::Draining);
    world.ticks(SECOND);
    world.condition(2, Condition::Ready);
    world.condition(1, Condition::Draining);
    for _ in 0..20 {
        world.tick();
        assert!(world.ready("f") >= 1);
    }
    let nodes: Vec<u64> = world.of("f", Phase::Ready).iter().map(|(_, i)| i.node.0).collect();
    assert_eq!(nodes, [2, 2]);
    // Where nothing else has room, what is there goes on serving.
    world.condition(2, Condition::Draining);
    world.ticks(Millis::from_secs(5));
    assert_eq!(world.ready("f"), 2);
}

/// A failed launch was retried for ever, at once, while the request hung.
#[test]
fn failures_are_waited_out_and_then_probed_one_at_a_time() {
    let mut world = World::new(2);
    world.broken.insert("f");
    world.put("f", |_| {});
    world.waiting("f", &[(1, 5, 0)]);
    let plan = world.ticks(Millis::from_secs(60));
    let (launches, holds) = (placements(&plan).len(), holds(&plan).len());
    assert!((5..20).contains(&launches), "{launches} launches in a minute");
    assert!(holds <= launches, "{holds} holds: one per back-off");
    world.frozen = true;
    for _ in 0..400 {
        world.tick();
        assert!(world.live("f") <= 1, "one at a time finds out");
    }
    world.broken.clear();
    world.frozen = false;
    world.ticks(Millis::from_secs(65));
    assert_eq!(world.ready("f"), 5);
}

#[test]
fn a_launch_that_its_node_forgot_is_written_off() {
    let mut world = World::new(1);
    world.put("f", |_| {});
    world.waiting("f", &[(1, 1, 0)]);
    world.frozen = true;
    world.ticks(Millis::from_secs(14));
    assert_eq!(world.state.functions.get("f").unwrap().health.consecutive_failures, 0);
    world.ticks(Millis::from_secs(3));
    let health = &world.state.functions.get("f").unwrap().health;
    assert_eq!(health.consecutive_failures, 1);
    assert!(health.last_reason.contains("5000 ms"), "{}", health.last_reason);
}

#[test]
fn the_instance_given_up_costs_least() {
    // Edits to three ready instances on nodes 1, 2 and 3, launched one after the other.
    type Edit = fn(&mut World, &[InstanceId]);
    let rows: [(&str, Edit, usize); 3] = [
        ("the youngest", |_, _| {}, 2),
        ("not one in use", |w, ids| w.in_flight.extend([(ids[2], 1)]), 1),
        (
            "the least used of all in use",
            |w, ids| w.in_flight.extend([(ids[0], 1), (ids[1], 2), (ids[2], 2)]),
            0,
        ),
    ];
    for (case, edit, want) in rows {
        let mut world = World::new(3);
        world.put("f", |spec| spec.concurrency = 4);
        let mut ids = Vec::new();
        for _ in 0..3 {
            world.waiting("f", &[(1, 4, 0)]);
            let full = world.of("f", Phase::Ready).iter().map(|(id, _)| (*id, 4)).collect();
            world.in_flight = full;
            ids.extend(placements(&world.tick()).iter().map(|(id, _)| *id));
            world.loads.get_mut("f").unwrap().waiting.clear();
            world.ticks(SECOND);
        }
        world.loads.clear();
        world.in_flight.clear();
        world.load("f", 4800);
        assert_eq!(ids.len(), 3, "{case}");
        edit(&mut world, &ids);
        let drained = drains(&world.ticks(Millis::from_secs(14)));
        assert_eq!(drained, [(ids[want], DrainReason::LowUtilization)], "{case}");
    }
}

#[test]
fn a_lowered_maximum_holds_at_once() {
    let mut world = running(2, 6);
    world.put("f", |spec| spec.scaling.max = 2);
    world.ticks(Millis::from_secs(3));
    assert_eq!(world.ready("f"), 2);
    let plan = world.ticks(Millis::from_secs(20));
    assert_eq!(placements(&plan), []);
}

#[test]
fn the_maximum_is_named_once_when_it_is_reached() {
    let mut world = World::new(2);
    world.put("f", |spec| spec.scaling.max = 2);
    world.waiting("f", &[(1, 9, 9000)]);
    let plan = world.ticks(Millis::from_secs(20));
    assert_eq!(holds(&plan), ["more are needed than the policy's maximum"]);
    assert_eq!(placements(&plan).len(), 2);
}

#[test]
fn a_node_where_nothing_starts_draws_each_function_once() {
    let mut world = World::new(3);
    world.hopeless = [1].into();
    for name in ["f", "g"] {
        world.put(name, |_| {});
        // Where requests wait is where launches go otherwise.
        world.waiting(name, &[(1, 1, 0)]);
    }
    let launched = placements(&world.ticks(Millis::from_secs(8)));
    assert_eq!(launched.iter().filter(|(_, node)| node.0 == 1).count(), 2, "{launched:?}");
    for name in ["f", "g"] {
        assert_eq!(world.ready(name), 1, "{name}");
        assert!(!world.state.functions.get(name).unwrap().health.is_crash_loop(), "{name}");
    }
    // Where there is no other node it is tried all the same, and once it is sound again that works.
    world.silent = [2, 3].into();
    world.hopeless.clear();
    world.ticks(Millis::from_secs(8));
    assert!(world.ready("f") > 0 && world.of("f", Phase::Ready).iter().all(|(_, i)| i.node.0 == 1));
}

#[test]
fn images_draw_launches() {
    let mut world = World::new(3);
    world.images.insert(3, "image");
    world.put("f", |_| {});
    world.waiting("f", &[(1, 2, 0)]);
    assert!(placements(&world.tick()).iter().all(|(_, node)| node.0 == 3));
    world.put("g", |spec| spec.source = Source::Image("other".into()));
    world.waiting("g", &[(2, 1, 0)]);
    assert_eq!(placements(&world.tick()).iter().map(|(_, node)| node.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_plan_is_bounded_and_fair() {
    let mut world = World::new(0);
    world.register(1, 1_000_000, 1);
    let names: Vec<String> = (0..60).map(|n| format!("f{n:02}")).collect();
    for name in &names {
        world.put(name, |spec| (spec.scaling.min, spec.scaling.max) = (10, 10));
    }
    world.frozen = true;
    let mut served = BTreeSet::new();
    for _ in 0..6 {
        let plan = world.tick();
        assert!(plan.len() <= COMMANDS_MAX);
        for (id, _) in placements(&plan) {
            served.insert(world.state.instances.get(id).unwrap().function.to_string());
        }
    }
    assert_eq!(served.len(), names.len(), "every function had its turn");
}

#[test]
fn equal_worlds_make_equal_plans() {
    let story = || {
        let mut world = running(3, 4);
        let mut commands = world.ticks(SECOND);
        world.load("f", 3600);
        world.waiting("f", &[(2, 7, 300)]);
        commands.extend(world.ticks(Millis::from_secs(5)));
        world.silent.insert(1);
        world.put("f", |spec| spec.memory_mb = 60);
        commands.extend(world.ticks(Millis::from_secs(9)));
        commands
    };
    assert_eq!(story(), story());
    assert!(story().len() > 20);
}

#[test]
fn what_is_forgotten_in_the_state_is_forgotten_here() {
    let mut world = running(1, 3);
    world.load("f", 0);
    world.ticks(Millis::from_secs(700));
    assert_eq!(world.memory.counters.len(), 0);
    assert_eq!(world.memory.functions.len(), 0);
}

/// Calls `f` once: a request waits, an instance comes up or is there, serves for a second, and is idle.
/// Answers whether it found an instance ready.
fn call(world: &mut World) -> bool {
    let warm = world.ready("f") > 0;
    if !warm {
        world.waiting("f", &[(1, 1, 0)]);
        while world.ready("f") == 0 {
            world.tick();
        }
        world.waiting("f", &[]);
    }
    world.load("f", 1000);
    world.in_flight = world.of("f", Phase::Ready).iter().take(1).map(|(id, _)| (*id, 1)).collect();
    world.ticks(SECOND);
    world.in_flight.clear();
    world.load("f", 0);
    warm
}

/// `f` scaled by its habits, and called every twenty minutes, `calls` times.
fn called_every_20_minutes(calls: usize) -> World {
    let mut world = World::new(2);
    world.put("f", |spec| spec.scaling.keep_alive = KeepAlive::Adaptive);
    world.ticks(Millis::from_secs(20));
    for _ in 0..calls {
        call(&mut world);
        world.ticks(Millis::from_secs(1199));
    }
    world
}

/// Seconds at which an instance was there, of the `secs` that pass.
fn warm_secs(world: &mut World, secs: u64) -> u64 {
    let mut warm = 0;
    for _ in 0..secs {
        world.ticks(SECOND);
        warm += u64::from(world.live("f") > 0);
    }
    warm
}

#[test]
fn a_function_called_every_20_minutes_is_warm_at_the_20th_and_not_in_between() {
    let mut world = called_every_20_minutes(5);
    for round in 0..3 {
        assert!(call(&mut world), "warm at the 20th minute, in round {round}");
        assert!(warm_secs(&mut world, 60) <= 12, "let go once it has served");
        assert_eq!(warm_secs(&mut world, 900), 0, "and not there in between");
        world.ticks(Millis::from_secs(1199 - 960));
    }
    let prewarmed = world.of("f", Phase::Ready);
    assert!(prewarmed.iter().all(|(_, i)| i.cause.trigger == Trigger::Prewarm), "{prewarmed:?}");
    // Nobody comes: it goes again, and does not come back.
    let kept = warm_secs(&mut world, 1200);
    assert!(kept < 600 && world.live("f") == 0, "{kept} s");
    assert_eq!(warm_secs(&mut world, 7200), 0);
}

#[test]
fn habits_survive_a_change_of_the_leader() {
    let mut world = called_every_20_minutes(6);
    call(&mut world);
    world.ticks(Millis::from_secs(300));
    world.elect();
    world.ticks(Millis::from_secs(1199 - 300));
    assert!(call(&mut world), "the new leader knows when it is expected");
    // And one that is elected while an instance is kept ready does not let it go, nor count itself as a caller.
    world.ticks(Millis::from_secs(1190));
    assert_eq!(world.ready("f"), 1);
    world.elect();
    world.ticks(Millis::from_secs(9));
    assert!(call(&mut world));
    let habit = world.state.habits.get("f").unwrap();
    let twenty =
        |(bucket, _): &(crate::habits::Bucket, u16)| (1150..1250).contains(&(bucket.start().0 / 1000));
    assert!(habit.idle.weights().iter().all(twenty), "no idle time was made up: {habit:?}");
    assert!((6..=9).contains(&habit.idle.samples()), "{habit:?}");
}

#[test]
fn habits_are_written_down_now_and_then() {
    let mut world = World::new(1);
    world.put("f", |spec| spec.scaling.keep_alive = KeepAlive::Adaptive);
    world.ticks(Millis::from_secs(20));
    let rows = |commands: &[Command]| {
        commands.iter().filter(|command| matches!(command, Command::Habits(_))).count()
    };
    call(&mut world);
    let mut written = 0;
    for _ in 0..100 {
        call(&mut world);
        written += rows(&world.ticks(Millis::from_secs(2)));
    }
    assert!((20..=35).contains(&written), "{written} rows in 300 s");
    assert_eq!(rows(&world.ticks(Millis::from_secs(20))), 1);
    assert_eq!(rows(&world.ticks(Millis::from_secs(600))), 0, "nothing happens, nothing is written");
    let samples = world.state.habits.get("f").unwrap().idle.samples();
    assert!(samples >= 90, "{samples} of 100 idle times of two seconds");
    world.put("f", |spec| spec.scaling.keep_alive = KeepAlive::Fixed(SECOND));
    assert!(world.state.habits.is_empty(), "who does not scale by habits has none");
}

/// Load that goes and comes back within minutes finds what it left, where a fixed keep-alive keeps the last one.
#[test]
fn what_load_leaves_for_minutes_is_kept_where_habits_say_so() {
    for (keep_alive, left) in [(KeepAlive::Adaptive, 5), (KeepAlive::Fixed(Millis::from_secs(600)), 1)] {
        let mut world = World::new(2);
        world.put("f", |spec| spec.scaling.keep_alive = keep_alive);
        world.ticks(Millis::from_secs(20));
        for _ in 0..6 {
            world.load("f", 3_000);
            world.waiting("f", &[(1, 1, 0)]);
            world.ticks(Millis(500));
            world.waiting("f", &[]);
            world.ticks(Millis::from_secs(30));
            world.load("f", 100);
            world.ticks(Millis::from_secs(270));
        }
        assert_eq!(world.live("f"), left, "{keep_alive:?}");
        world.load("f", 0);
        world.ticks(Millis::from_secs(12 * 3600));
        assert_eq!(world.live("f"), 0, "{keep_alive:?}: not for ever");
    }
}

#[test]
fn a_plan_without_room_for_more_says_so() {
    let mut world = World::new(10);
    world.put("f", |spec| {
        spec.scaling = ScalingPolicy { min: 40, max: 40, step: Some(40), ..spec.scaling.clone() };
    });
    let mut launched = 0;
    for _ in 0..2 {
        launched += placements(&world.tick()).len();
        assert!(world.memory.is_full(), "{launched} of 40");
    }
    launched += placements(&world.tick()).len();
    assert_eq!((launched, world.memory.is_full()), (40, false));
}

/// A leader that dies takes its instances with it, and its successor never hears it.
#[test]
fn a_dead_leaders_instances_are_replaced_as_soon_as_any_others() {
    let mut world = running(3, 3);
    world.load("f", 3 * 600);
    world.silent.insert(3);
    world.elect();
    let plan = world.ticks(Millis(2250));
    assert_eq!(conditions(&plan), [(3, Condition::Down)]);
    assert!(placements(&plan).iter().all(|(_, node)| node.0 != 3));
    // After a restart of everything nobody has run for long, and who is late is given time.
    let mut world = World::new(3);
    world.silent.insert(3);
    assert_eq!(conditions(&world.ticks(Millis(4750))), []);
}

/// Seconds from the death of a host to ready replacements, in all: within the promise of three.
#[test]
fn what_a_dead_host_ran_is_replaced_within_three_seconds() {
    let mut world = World::new(3);
    world.put("f", |spec| spec.scaling.min = 3);
    world.ticks(Millis::from_secs(12));
    assert_eq!(world.ready("f"), 3);
    world.silent.insert(2);
    world.ticks(Millis::from_secs(3));
    let nodes: BTreeSet<u64> = world.of("f", Phase::Ready).iter().map(|(_, i)| i.node.0).collect();
    assert_eq!((world.ready("f"), nodes), (3, [1, 3].into()));
}

#[test]
fn a_step_of_ones_own() {
    let mut world = World::new(4);
    world.put("f", |spec| spec.scaling.step = Some(2));
    world.frozen = true;
    world.waiting("f", &[(1, 9, 0)]);
    assert_eq!(placements(&world.tick()).len(), 2);
    assert_eq!(placements(&world.tick()).len(), 0, "no more until these are ready");
    world.frozen = false;
    world.ticks(Millis::from_secs(5));
    assert_eq!(world.ready("f"), 9);
}
