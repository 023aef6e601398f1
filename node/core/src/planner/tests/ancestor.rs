//! The demo that Muster began as had these defects. Each has a test here, through the whole plan, or where
//! the table says. See `docs/TESTING.md`.
//!
//! | defect | test |
//! |---|---|
//! | a ratio over the whole life, which reacts ever more slowly | [`a_long_life_does_not_dull_the_reaction`] |
//! | one function's load counted in another's ratio | [`functions_are_measured_apart`] |
//! | busy time added only when a call ends | [`a_call_that_has_not_ended_counts`]; the host's side: `slot_time_is_counted_while_requests_run` (gateway) |
//! | a ratio above 1 | [`the_ratio_never_exceeds_one`] |
//! | flapping at small counts | [`no_flapping_at_small_counts`] |
//! | a readiness probe sent to the function every second, and billed | `an_instance_that_nobody_calls_is_not_called` (chaos-tests, scaling) |
//! | a limiter whose timeout was ignored | `a_deadline_in_the_queue` (gateway) |
//! | an instance cap never enforced | [`never_more_than_the_maximum`] |
//! | a failed launch retried for ever while the request hangs | [`failed_launches_are_repeated_ever_more_rarely`]; the request: `a_function_that_fails_to_start` (gateway) |
//! | N cold requests launching N containers | [`cold_requests_do_not_launch_a_container_each`] |
//! | names reused after a crash, so that every launch conflicts | [`no_name_is_used_twice`] |
//! | scale-down without draining | [`what_goes_is_drained_first`]; that it costs no request: `scaling_down_loses_no_request` (gateway) |
//! | a lock held during container calls | `an_engine_that_hangs_delays_no_other` (muster-node), and the lint `await_holding_lock` |
//! | the user taken from an unauthenticated header | `headers_that_pass_and_headers_that_do_not` and `who_may_call_what` (gateway) |
//! | no scale to zero | [`scales_to_zero`] |

use super::*;

/// Seconds until `f` has at least so many ready instances.
fn secs_until(world: &mut World, ready: usize, at_most: u64) -> Option<u64> {
    (1..=at_most).find(|_| {
        world.ticks(SECOND);
        world.ready("f") >= ready
    })
}

#[test]
fn a_long_life_does_not_dull_the_reaction() {
    let mut reactions = Vec::new();
    for hours in [0, 3] {
        let mut world = running(2, 1);
        world.load("f", 300);
        world.ticks(Millis::from_secs(hours * 3600));
        world.load("f", 1000);
        reactions.push(secs_until(&mut world, 2, 60).expect("a busy instance gets help"));
    }
    assert!(reactions[1] <= 12 && reactions[1] <= reactions[0] + 2, "{reactions:?}");
}

#[test]
fn functions_are_measured_apart() {
    let mut world = running(1, 2);
    world.put("g", |_| {});
    world.waiting("g", &[(1, 1, 0)]);
    world.ticks(SECOND);
    world.waiting("g", &[]);
    world.load("g", 9000);
    world.load("f", 200);
    world.ticks(Millis::from_secs(9));
    assert!(world.ready("g") > 1);
    assert_eq!(world.ready("f"), 2);
    assert!(world.memory.utilization_permille("f").unwrap() < 500);
    assert!(world.memory.utilization_permille("g").unwrap() > 900);
}

#[test]
fn a_call_that_has_not_ended_counts() {
    let mut world = running(2, 1);
    // One call that lasts for ever: slot time runs, and nothing is ever completed.
    world.endless = true;
    world.load("f", 1000);
    assert_eq!(secs_until(&mut world, 2, 30).map(|secs| secs <= 12), Some(true));
    assert!(world.memory.utilization_permille("f").unwrap() > 400);
}

#[test]
fn the_ratio_never_exceeds_one() {
    let mut world = running(1, 1);
    // A host that counts wrong, and says it was busier than time allows.
    world.exaggerated = 5;
    world.load("f", 1000);
    for _ in 0..80 {
        world.tick();
        assert!(world.memory.utilization_permille("f").unwrap() <= 1000);
    }
}

#[test]
fn no_flapping_at_small_counts() {
    // Two at 0.65 became one at 1.3, which became two again.
    for milli_slots in (100..=2100).step_by(100) {
        let mut world = running(2, 2);
        world.load("f", milli_slots);
        world.ticks(Millis::from_secs(40));
        let settled = world.live("f");
        let plan = world.ticks(Millis::from_secs(120));
        assert_eq!(placements(&plan).len() + drains(&plan).len(), 0, "at {milli_slots} with {settled}");
    }
}

#[test]
fn never_more_than_the_maximum() {
    let mut world = World::new(3);
    world.put("f", |spec| spec.scaling.max = 3);
    world.waiting("f", &[(1, 50, 9000), (2, 50, 9000)]);
    world.load("f", 100_000);
    for _ in 0..200 {
        world.tick();
        assert!(world.live("f") <= 3);
    }
    assert_eq!(world.ready("f"), 3);
}

#[test]
fn failed_launches_are_repeated_ever_more_rarely() {
    let mut world = World::new(1);
    world.put("f", |_| {});
    world.broken.insert("f");
    world.waiting("f", &[(1, 5, 9000)]);
    let first = placements(&world.ticks(Millis::from_secs(60))).len();
    let second = placements(&world.ticks(Millis::from_secs(60))).len();
    let later = placements(&world.ticks(Millis::from_secs(600))).len();
    assert!((7..=9).contains(&first) && second <= 2 && later <= 11, "{first}, {second}, {later}");
    assert!(world.state.functions.get("f").unwrap().health.is_crash_loop(), "and callers are told");
}

#[test]
fn cold_requests_do_not_launch_a_container_each() {
    let mut world = World::new(3);
    world.put("f", |spec| (spec.concurrency, spec.scaling.max) = (10, 1000));
    world.frozen = true;
    world.waiting("f", &[(1, 30, 0), (2, 25, 0)]);
    let launched = placements(&world.ticks(Millis::from_secs(4)));
    assert_eq!(launched.len(), 6, "six take 55 requests, ten each, however often the leader looks");
}

#[test]
fn no_name_is_used_twice() {
    // Hosts crash and come back, and leaders change: every launch is accepted under a name of its own.
    let mut world = World::new(3);
    world.put("f", |spec| spec.scaling.min = 3);
    let mut names = BTreeSet::new();
    for round in 2..12 {
        for (id, _) in placements(&world.ticks(Millis::from_secs(8))) {
            assert!(names.insert(id), "{id} was used before");
        }
        world.silent = [round % 3 + 1].into();
        names.extend(placements(&world.ticks(Millis::from_secs(8))).iter().map(|(id, _)| *id));
        world.silent.clear();
        world.register(round % 3 + 1, 1000, round);
        world.elect();
    }
    let generations: BTreeSet<_> = world.state.instances.iter().map(|(_, i)| i.generation).collect();
    assert_eq!(generations.len(), names.len());
    assert!(names.len() > 10, "{names:?}");
}

#[test]
fn what_goes_is_drained_first() {
    let mut world = running(2, 4);
    world.load("f", 0);
    let plan = world.ticks(Millis::from_secs(120));
    let gone = world.state.instances.iter().filter(|(_, i)| i.phase.is_ended());
    let drained = drains(&plan);
    for (id, instance) in gone {
        assert_eq!(instance.phase, Phase::Stopped);
        assert!(instance.draining_at.is_some() && drained.iter().any(|(one, _)| *one == id), "{instance:?}");
    }
    assert_eq!(drained.len(), 4);
}

#[test]
fn scales_to_zero() {
    let mut world = running(1, 1);
    world.load("f", 0);
    world.ticks(Millis::from_secs(75));
    assert_eq!(world.live("f"), 0);
}
