//! Replays against what was worked out by hand, and what must hold of each.
#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use muster_core::functions::KeepAlive;
use muster_core::nodes::Resources;
use muster_core::units::Millis;
use muster_scaling::machine::replay;
use muster_scaling::measure::Measures;
use muster_scaling::policies::{self, Cluster, Fixed, Knative, Muster, Seed, Wild};
use muster_scaling::trace::Trace;
use muster_scaling::workloads;

const ROOMY: Cluster = Cluster { nodes: 3, each: Resources { memory_mb: 1 << 20, cpu_millis: 1 << 30 } };
const TEN_MINUTES: KeepAlive = KeepAlive::Fixed(Millis::from_secs(600));

/// One function that starts within a second, and its calls: (moment, duration).
fn calls(calls: impl IntoIterator<Item = (u64, u64)>, end_ms: u64) -> Trace {
    let rows = calls.into_iter().map(|(at, duration)| format!("f,{at},{duration}\n"));
    let text = format!("function,at_ms,duration_ms\n{}", rows.collect::<String>());
    Trace { end_ms, ..Trace::parse("test", &text).unwrap() }
}

/// Cold starts, instance time and waits.
fn results(measures: &Measures) -> (u64, u64, Vec<u64>) {
    let waits = measures.served.iter().map(|served| served.unwrap().0).collect();
    (measures.cold_starts(), measures.instance_ms, waits)
}

/// Every launch comes 5 ms after the request that needs it, and a start takes 1000 ms.
#[test]
fn a_fixed_keep_alive_by_hand() {
    let trace = calls([(0, 100), (10_000, 100), (700_000, 100)], 750_000);
    let measures = replay(&trace, &mut Fixed::new("fixed", 600_000), 1);
    // From 5 to the first whole second 600 s after 10,100; and from 700,005 to the end.
    let there = (611_000 - 5) + (750_000 - 700_005);
    assert_eq!(results(&measures), (2, there, vec![1005, 0, 1005]));
    assert_eq!((measures.wait_ms(500), measures.wait_ms(990), measures.launches), (1005, 1005, 2));
    assert_eq!(measures.memory_mb_ms, there * 128);
}

#[test]
fn requests_at_once_by_hand() {
    // The fixed rule starts one each; Muster as well, as long as it does not know how long they take.
    let trace = calls([(0, 400), (0, 400), (2_000, 10)], 3_000);
    let measures = replay(&trace, &mut Fixed::new("fixed", 600_000), 1);
    assert_eq!(results(&measures), (2, 2 * 2_995, vec![1005, 1005, 0]));
    let measures = replay(&trace, &mut Muster::new("muster", &trace, TEN_MINUTES, ROOMY), 3);
    assert_eq!(results(&measures), (2, 2 * 2_995, vec![1005, 1005, 0]));
    // The seed's starts one, and the second request waits for the first to end.
    let measures = replay(&trace, &mut Seed::default(), 1);
    assert_eq!(results(&measures), (2, 2_995, vec![1005, 1405, 0]));
}

#[test]
fn the_seed_keeps_one_for_ever_by_hand() {
    let trace = calls([(0, 100), (700_000, 100)], 750_000);
    assert_eq!(results(&replay(&trace, &mut Seed::default(), 1)), (1, 750_000 - 5, vec![1005, 0]));
}

#[test]
fn knative_goes_to_zero_by_hand() {
    // The last second with any load is sampled at 2 s and leaves the stable window at 62 s; then the grace.
    let trace = calls([(0, 100)], 200_000);
    assert_eq!(results(&replay(&trace, &mut Knative::new(&trace), 1)), (1, 92_000 - 5, vec![1005]));
}

#[test]
fn muster_goes_to_zero_by_hand() {
    // It launches at 5 ms and plans each 250 ms while the request waits, up to 1,005 ms, when the instance is
    // ready. The next plan, a calm one 2 s later, is the last to hear of the request: at 3,005 ms. From
    // then on it plans each 2 s, also 600 s later, and that plan lets the instance go.
    let trace = calls([(0, 100)], 700_000);
    let measures = replay(&trace, &mut Muster::new("muster", &trace, TEN_MINUTES, ROOMY), 3);
    assert_eq!(results(&measures), (1, 603_005 - 5, vec![1005]));
}

#[test]
fn every_20_minutes_is_warm_at_the_20th() {
    let end_ms = 24 * 1_200_000;
    let trace = calls((0..24).map(|call| (1_000 + call * 1_200_000, 500)), end_ms);
    let adaptive = replay(&trace, &mut Muster::new("adaptive", &trace, KeepAlive::Adaptive, ROOMY), 3);
    let fixed = replay(&trace, &mut Fixed::new("fixed", 600_000), 1);
    let cold: Vec<usize> =
        (0..24).filter(|call| adaptive.served[*call].is_some_and(|(_, cold)| cold)).collect();
    assert_eq!(cold, [0, 1, 2, 3, 4], "four idle times are enough");
    assert_eq!(fixed.cold_starts(), 24);
    assert!(adaptive.instance_ms * 10 < fixed.instance_ms * 6, "{}", adaptive.instance_ms);
}

#[test]
fn replays_repeat_and_lose_nothing() {
    for name in workloads::NAMES {
        let hours = if name == "load" { 0.02 } else { 0.3 };
        let trace = workloads::make(name, 7, Some(hours)).unwrap();
        assert_eq!(workloads::make(name, 7, Some(hours)), Some(trace.clone()), "{name}");
        assert_ne!(workloads::make(name, 8, Some(hours)), Some(trace.clone()), "{name}");
        let busy_ms: u64 = trace.invocations.iter().map(|i| i.duration_ms).sum();
        for (mut policy, mut again) in
            policies::all(&trace, ROOMY).into_iter().zip(policies::all(&trace, ROOMY))
        {
            let measures = replay(&trace, policy.as_mut(), ROOMY.nodes);
            let case = format!("{name}, {}", policy.name());
            assert!(measures.served.iter().all(Option::is_some), "{case}");
            let started: i64 = measures.steps.iter().map(|step| i64::from(step.2.max(0))).sum();
            let left: i64 = measures.steps.iter().map(|step| i64::from(step.2)).sum();
            assert_eq!((u64::try_from(started).unwrap(), left), (measures.launches, 0), "{case}");
            assert!(measures.cold_starts() <= measures.served.len() as u64, "{case}");
            assert!(measures.launches > 0 && measures.instance_ms > 0 && busy_ms > 0, "{case}");
            assert_eq!(replay(&trace, again.as_mut(), ROOMY.nodes), measures, "{case}");
        }
    }
}

/// Two hosts with room for two instances each: never more than four, and everyone is served.
#[test]
fn hosts_are_never_overbooked() {
    let rows: String = (0..400).map(|call| format!("f{},{},900,128,500,1\n", call % 5, call * 40)).collect();
    let head = "function,at_ms,duration_ms,memory_mb,startup_ms,concurrency\n";
    let trace = Trace::parse("small", &format!("{head}{rows}")).unwrap();
    let small = Cluster { nodes: 2, each: Resources { memory_mb: 300, cpu_millis: 10_000 } };
    let mut policy = Muster::new("muster", &trace, KeepAlive::Fixed(Millis(0)), small);
    let measures = replay(&trace, &mut policy, small.nodes);
    let mut steps = measures.steps.clone();
    steps.sort_by_key(|step| (step.0, step.2));
    let most = steps.iter().scan(0, |count, step| {
        *count += step.2;
        Some(*count)
    });
    assert_eq!(most.max(), Some(4));
    assert!(policy.unplaced > 0, "there was more to place than fits");
}

/// Half of the cold starts of a fixed ten minutes, for no more instance time, where calls follow a clock.
#[test]
fn timers_meet_the_aim() {
    let trace = workloads::make("timers", 3, Some(10.0)).unwrap();
    let fixed = replay(&trace, &mut Fixed::new("fixed", 600_000), 1);
    let adaptive = replay(&trace, &mut Muster::new("adaptive", &trace, KeepAlive::Adaptive, ROOMY), 3);
    assert!(adaptive.cold_starts() * 2 <= fixed.cold_starts(), "{}", adaptive.cold_starts());
    assert!(adaptive.instance_ms <= fixed.instance_ms, "{} {}", adaptive.instance_ms, fixed.instance_ms);
}

#[test]
fn the_paper_s_policy_learns_a_timer() {
    let trace = calls((0..40).map(|call| (1_000 + call * 1_200_000, 500)), 40 * 1_200_000);
    let wild = replay(&trace, &mut Wild::new(&trace), 1);
    assert_eq!(wild.cold_starts(), 1, "it is kept for four hours until the bins tell");
    let fixed = replay(&trace, &mut Fixed::new("fixed", 600_000), 1);
    assert!(wild.instance_ms < fixed.instance_ms);
}

#[test]
fn what_is_wrong_with_a_trace_is_named() {
    for (text, problem) in [
        ("", "the trace is empty"),
        ("at,function\n", "line 1 must be"),
        ("function,at_ms,duration_ms\nf,1\n", "line 2: `f,1`: needs at least 3 fields"),
        ("function,at_ms,duration_ms\nf,1,2,3,4,5,6\n", "has more than 6 fields"),
        ("function,at_ms,duration_ms\nf,x,2\n", "`at_ms` must be a number"),
        ("function,at_ms,duration_ms\nf,1,-2\n", "`duration_ms` must be a number"),
        ("function,at_ms,duration_ms\n\nF!,1,2\n", "line 3: `F!,1,2`: `function`"),
        ("function,at_ms,duration_ms,memory_mb\nf,1,2,x\n", "`memory_mb` must be a number"),
    ] {
        let error = format!("{:#}", Trace::parse("test", text).unwrap_err());
        assert!(error.contains(problem), "{text:?}: {error}");
    }
    let text = "function,at_ms,duration_ms,memory_mb,startup_ms,concurrency\ng,5,1,64,,2\nf,3,1\ng,1,9\n";
    let trace = Trace::parse("test", text).unwrap();
    assert_eq!(trace.functions[0].memory_mb, 64);
    assert_eq!((trace.functions[0].startup_ms, trace.functions[0].concurrency), (1000, 2));
    assert_eq!(trace.invocations.iter().map(|i| i.at_ms).collect::<Vec<_>>(), [1, 3, 5]);
    assert_eq!(trace.end_ms, 3_600_005);
}
