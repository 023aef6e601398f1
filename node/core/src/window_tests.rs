use super::*;

const SPAN: Millis = Millis::from_secs(60);

fn counters(busy_ms: u64, ready_ms: u64, completed: u64) -> Counters {
    Counters { busy_ms, ready_ms, completed }
}

/// One instance that is busy for `busy_pct` of each quarter of a second, from one moment to another.
fn run(window: &mut Window, from_s: u64, to_s: u64, busy_pct: u64, concurrency: u32) {
    for quarter in from_s * 4 + 1..=to_s * 4 {
        window.add(Millis(quarter * 250), counters(busy_pct * 250 / 100, 250, 1), concurrency);
    }
}

#[test]
fn what_happened_between_two_readings() {
    let old = Some(counters(100, 1000, 5));
    for (case, previous, now, want) in [
        ("in step", old, counters(150, 1250, 6), counters(50, 250, 1)),
        ("the same report twice", old, counters(100, 1000, 5), counters(0, 0, 0)),
        ("first seen, ready within the window", None, counters(40, 60_000, 3), counters(40, 60_000, 3)),
        ("first seen, older than the window", None, counters(40, 60_001, 3), counters(0, 0, 0)),
        ("its host restarted", old, counters(20, 200, 1), counters(20, 200, 1)),
        ("restarted longer ago than the window", old, counters(20, 70_000, 1), counters(0, 0, 0)),
    ] {
        assert_eq!(now.since(previous, SPAN), want, "{case}");
    }
}

#[test]
fn utilization_of_slots() {
    for (instances, busy_pct, concurrency, permille, milli_slots) in [
        (1, 100, 1, 1000, 1000),
        (1, 50, 1, 500, 500),
        (4, 25, 1, 250, 1000),
        (2, 300, 4, 750, 6000),
        (3, 0, 1, 0, 0),
    ] {
        let mut window = Window::new(SPAN);
        for _ in 0..instances {
            run(&mut window, 0, 90, busy_pct, concurrency);
        }
        let at = Millis::from_secs(90);
        // A quarter of a second's busy time is rounded down to a millisecond.
        let near = |got: u64, want: u64| got <= want && want - got <= want / 100;
        let case = format!("{instances} instances at {busy_pct} % of {concurrency} slots");
        assert!(near(window.utilization_permille(at).into(), permille), "{case}");
        assert!(near(window.busy_milli_slots(at), milli_slots), "{case}: {}", window.busy_milli_slots(at));
    }
}

/// The ancestor divided by the whole lifetime, so it reacted ever more slowly.
#[test]
fn a_long_life_does_not_dull_the_ratio() {
    let mut window = Window::new(SPAN);
    run(&mut window, 0, 36_000, 0, 1);
    run(&mut window, 36_000, 36_060, 100, 1);
    assert!(window.utilization_permille(Millis::from_secs(36_060)) >= 980);
    run(&mut window, 36_060, 36_130, 0, 1);
    assert_eq!(window.utilization_permille(Millis::from_secs(36_130)), 0);
}

/// The ancestor's ratio could exceed 1.
#[test]
fn the_ratio_never_exceeds_one() {
    let mut window = Window::new(SPAN);
    window.add(Millis(10_000), counters(50_000, 10_000, 9), 1);
    window.add(Millis(10_250), counters(251, 250, 9), 1);
    assert_eq!(window.utilization_permille(Millis(10_250)), 1000);
    assert_eq!(window.busy_milli_slots(Millis(10_250)), 1000);
}

#[test]
fn a_rise_counts_within_the_recent_part() {
    let mut window = Window::new(SPAN);
    run(&mut window, 0, 60, 0, 1);
    run(&mut window, 60, 66, 100, 1);
    let at = Millis::from_secs(66);
    assert!(window.utilization_permille(at) <= 120, "the whole window is still calm");
    assert!(window.busy_milli_slots(at) >= 850, "{}", window.busy_milli_slots(at));
}

#[test]
fn a_fall_counts_late() {
    let mut window = Window::new(SPAN);
    run(&mut window, 0, 60, 100, 1);
    run(&mut window, 60, 80, 0, 1);
    assert!(window.busy_milli_slots(Millis::from_secs(80)) >= 600);
}

/// The seed let nothing happen before ten seconds of busy time, against the initial burst.
#[test]
fn one_busy_second_is_not_a_busy_window() {
    let mut window = Window::new(SPAN);
    run(&mut window, 0, 1, 100, 1);
    assert_eq!(window.utilization_permille(Millis(1000)), 1000);
    assert!(window.busy_milli_slots(Millis(1000)) <= 170);
}

#[test]
fn an_instance_that_is_gone_counts_for_its_part() {
    let mut window = Window::new(SPAN);
    run(&mut window, 0, 60, 100, 1);
    run(&mut window, 0, 30, 100, 1);
    let at = Millis::from_secs(60);
    assert!((1450..=1550).contains(&window.busy_milli_slots(at)), "{}", window.busy_milli_slots(at));
}

/// Utilization times the instances there are *now* would count the past once for each newcomer.
#[test]
fn a_scale_up_does_not_feed_on_the_window_that_caused_it() {
    let mut window = Window::new(SPAN);
    run(&mut window, 0, 60, 100, 1);
    for _ in 0..4 {
        run(&mut window, 60, 62, 25, 1);
    }
    let at = Millis::from_secs(62);
    assert!((900..=1010).contains(&window.busy_milli_slots(at)), "{}", window.busy_milli_slots(at));
}

#[test]
fn a_late_report_is_spread_over_the_time_it_covers() {
    let (mut late, mut steady) = (Window::new(SPAN), Window::new(SPAN));
    run(&mut steady, 0, 20, 80, 1);
    late.add(Millis::from_secs(20), counters(16_000, 20_000, 80), 1);
    let at = Millis::from_secs(20);
    assert_eq!(late.busy_milli_slots(at), steady.busy_milli_slots(at));
    assert_eq!(late.utilization_permille(at), steady.utilization_permille(at));
}

#[test]
fn mean_duration_needs_a_finished_request() {
    let mut window = Window::new(SPAN);
    assert_eq!(window.mean_duration(Millis(0)), None);
    window.add(Millis(1000), counters(900, 1000, 0), 1);
    assert_eq!(window.mean_duration(Millis(1000)), None);
    window.add(Millis(2000), counters(600, 1000, 5), 1);
    assert_eq!(window.mean_duration(Millis(2000)), Some(Millis(300)));
    assert_eq!(window.mean_duration(Millis(200_000)), None);
}

#[test]
fn memory_is_bounded() {
    for span in [Millis(500), SPAN, Millis::from_secs(3600)] {
        let mut window = Window::new(span);
        for at in 1..20_000 {
            window.add(Millis(at * 37), counters(37, 37, 1), 1);
            window.add(Millis(at * 37), counters(1, 10 * span.0, 1), 1);
        }
        assert!(
            window.buckets.len() <= usize::try_from(BUCKETS).unwrap() + 2,
            "{span}: {}",
            window.buckets.len()
        );
    }
}
