use super::Why::*;
use super::*;

const MINUTE: Millis = Millis::from_secs(60);

fn policy() -> ScalingPolicy {
    ScalingPolicy {
        min: 0,
        max: 100,
        step: None,
        target_permille: 700,
        window: MINUTE,
        keep_alive: KeepAlive::Fixed(Millis::from_secs(300)),
    }
}

/// Ready instances at a utilization, with nothing else going on.
fn steady(utilization_pct: u64, ready: u32, concurrency: u32) -> (Demand, Supply) {
    let slots = u64::from(ready) * u64::from(concurrency);
    let demand =
        Demand { busy_milli_slots: slots * utilization_pct * 10, informed: true, ..Demand::default() };
    (demand, Supply { ready, serving: ready, concurrency, ..Supply::default() })
}

#[test]
fn desired_by_demand() {
    // two slots an instance, 0..=100 instances, 60 s window
    for (utilization_pct, waiting, ready, launching, calm_s, want, why) in [
        (0, 0, 0, 0, 0, 0, Steady),
        (0, 1, 0, 0, 0, 1, Queued),
        (0, 2, 0, 0, 0, 1, Queued),
        (0, 5, 0, 0, 0, 3, Queued),
        (0, 5, 0, 2, 0, 3, Queued),
        (0, 5, 0, 3, 0, 3, Steady),
        (0, 99, 0, 0, 0, 10, Queued),
        (0, 99, 0, 10, 0, 10, Queued),
        (70, 0, 3, 0, 0, 3, Steady),
        (71, 0, 3, 0, 0, 4, Utilization),
        (95, 0, 3, 0, 0, 5, Utilization),
        (95, 0, 3, 1, 0, 5, Utilization),
        (95, 0, 3, 2, 0, 5, Steady),
        (95, 9, 3, 0, 0, 8, Queued),
        (95, 99, 3, 0, 0, 13, Queued),
        (95, 99, 30, 0, 0, 60, Queued),
        (10, 0, 3, 0, 59, 3, CoolingDown),
        (10, 0, 3, 0, 60, 1, Utilization),
        (10, 1, 3, 1, 60, 4, CoolingDown),
        (0, 0, 3, 0, 60, 1, Utilization),
        (0, 0, 1, 0, 60, 1, Steady),
    ] {
        let (mut demand, mut supply) = steady(utilization_pct, ready, 2);
        (demand.waiting, supply.launching) = (waiting, launching);
        let case = format!("{utilization_pct} %, {waiting} waiting, {ready} + {launching}, calm {calm_s} s");
        let got = desired(&policy(), &demand, supply, Millis::from_secs(calm_s));
        assert_eq!(got, Decision { desired: want, why }, "{case}");
    }
}

#[test]
fn desired_within_the_policy() {
    for (utilization_pct, waiting, ready, min, max, want, why) in [
        (0, 0, 0, 2, 5, 2, Minimum),
        (0, 0, 2, 2, 5, 2, Steady),
        (0, 0, 4, 2, 5, 2, Utilization),
        (0, 0, 0, 25, 50, 10, Minimum),
        (0, 9, 0, 2, 5, 5, Queued),
        (0, 1, 0, 2, 5, 2, Minimum),
        (95, 0, 4, 0, 5, 5, Utilization),
        (95, 0, 5, 0, 5, 5, AtMaximum),
        (50, 9, 5, 0, 5, 5, AtMaximum),
        (95, 9, 8, 0, 5, 5, AboveMaximum),
        (0, 0, 8, 0, 5, 5, AboveMaximum),
    ] {
        let (mut demand, supply) = steady(utilization_pct, ready, 1);
        demand.waiting = waiting;
        let policy = ScalingPolicy { min, max, ..policy() };
        let got = desired(&policy, &demand, supply, MINUTE);
        let case = format!("{utilization_pct} %, {waiting} waiting, {ready} of {min}..={max}");
        assert_eq!(got, Decision { desired: want, why }, "{case}");
    }
}

#[test]
fn queued_work_by_how_long_it_takes() {
    // (waiting, oldest wait, mean duration, ready, idle slots, concurrency) → launches
    for (waiting, oldest_ms, mean_ms, ready, idle, concurrency, want) in [
        (20, 0, None, 0, 0, 1, 20),
        (20, 0, None, 2, 0, 1, 20),
        (20, 0, None, 0, 0, 8, 3),
        (20, 0, Some(10), 0, 0, 1, 1),
        (20, 0, Some(750), 0, 0, 1, 15),
        (20, 0, Some(750), 0, 0, 4, 4),
        (20, 0, Some(60_000), 0, 0, 1, 20),
        (20, 0, Some(10), 1, 0, 1, 0),
        (20, 999, Some(10), 1, 0, 1, 0),
        (20, 1000, Some(10), 1, 0, 1, 1),
        (20, 0, Some(300), 2, 0, 1, 5),
        (20, 0, None, 5, 20, 1, 0),
        (20, 5000, Some(9000), 5, 20, 1, 0),
        (20, 0, None, 5, 18, 1, 2),
        (0, 0, None, 5, 0, 1, 0),
    ] {
        let demand = Demand {
            waiting,
            oldest_wait: Millis(oldest_ms),
            mean_duration: mean_ms.map(Millis),
            ..Demand::default()
        };
        let supply = Supply { ready, serving: ready, launching: 0, idle_slots: idle, concurrency };
        assert_eq!(launches_for_queue(&demand, supply), want, "{demand:?} {supply:?}");
    }
}

#[test]
fn down_to_the_minimum_only_when_idle() {
    // (in flight, idle for, informed, min, keep-alive in seconds) → of 3 ready
    for (in_flight, idle_s, informed, min, keep_alive_s, want, why) in [
        (0, 299, true, 0, 300, 3, CoolingDown),
        (0, 300, true, 0, 300, 0, Idle),
        (0, 300, true, 2, 300, 2, Idle),
        (0, 300, false, 0, 300, 3, Uninformed),
        (1, 300, true, 0, 300, 3, CoolingDown),
        (0, 0, true, 0, 0, 0, Idle),
        (0, 0, false, 0, 0, 3, Uninformed),
        (1, 0, true, 0, 0, 3, CoolingDown),
        (3, 0, true, 0, 0, 3, Steady),
    ] {
        // Calm for no time at all, and a window that remembers a little work.
        let (mut demand, supply) = steady(10, 3, 1);
        demand.idle_for = (in_flight == 0).then_some(Millis::from_secs(idle_s));
        (demand.in_flight, demand.informed) = (in_flight, informed);
        let policy =
            ScalingPolicy { min, keep_alive: KeepAlive::Fixed(Millis::from_secs(keep_alive_s)), ..policy() };
        let got = desired(&policy, &demand, supply, Millis::ZERO);
        let case = format!("{in_flight} in flight, idle {idle_s} s of {keep_alive_s}, informed: {informed}");
        assert_eq!(got, Decision { desired: want, why }, "{case}");
    }
}

#[test]
fn the_last_instance_by_its_outlook() {
    // (outlook, idle for, in flight, informed, ready, launching, min) under an adaptive keep-alive
    for (outlook, idle_s, in_flight, informed, ready, launching, min, want, why) in [
        (Outlook::Unknown, 599, 0, true, 1, 0, 0, 1, Steady),
        (Outlook::Unknown, 600, 0, true, 1, 0, 0, 0, Idle),
        (Outlook::Keep, 9000, 0, true, 1, 0, 0, 1, Steady),
        (Outlook::Keep, 9, 0, true, 0, 0, 0, 0, Steady),
        (Outlook::NotExpected, 9, 0, true, 1, 0, 0, 0, NotExpected),
        (Outlook::NotExpected, 9, 0, true, 3, 0, 0, 0, NotExpected),
        (Outlook::NotExpected, 9, 0, true, 3, 0, 2, 2, NotExpected),
        (Outlook::NotExpected, 9, 0, false, 1, 0, 0, 1, Uninformed),
        (Outlook::NotExpected, 9, 1, true, 1, 0, 0, 1, Steady),
        (Outlook::NotExpected, 9, 0, true, 0, 0, 0, 0, Steady),
        (Outlook::Expected, 9, 0, true, 0, 0, 0, 1, Expected),
        (Outlook::Expected, 9, 0, false, 0, 0, 0, 1, Expected),
        (Outlook::Expected, 9, 0, true, 0, 1, 0, 1, Steady),
        (Outlook::Expected, 9, 0, true, 1, 0, 0, 1, Steady),
        (Outlook::Expected, 9, 0, true, 0, 0, 2, 2, Minimum),
        (Outlook::Expected, 9, 1, true, 0, 0, 0, 0, Steady),
    ] {
        let (mut demand, mut supply) = steady(0, ready, 1);
        demand.idle_for = (in_flight == 0).then_some(Millis::from_secs(idle_s));
        (demand.outlook, demand.in_flight, demand.informed) = (outlook, in_flight, informed);
        supply.launching = launching;
        let policy = ScalingPolicy { min, keep_alive: KeepAlive::Adaptive, ..policy() };
        let got = desired(&policy, &demand, supply, Millis::ZERO);
        assert_eq!(got, Decision { desired: want, why }, "{outlook:?} {idle_s} s, {ready} + {launching}");
    }
}

/// A new leader knows nothing of the last minute; the ancestor's would have scaled everything down.
#[test]
fn no_scale_down_before_a_window_was_heard() {
    let (mut demand, supply) = steady(10, 4, 1);
    demand.informed = false;
    assert_eq!(desired(&policy(), &demand, supply, MINUTE), Decision { desired: 4, why: Uninformed });
    let (mut demand, supply) = steady(95, 4, 1);
    demand.informed = false;
    assert_eq!(desired(&policy(), &demand, supply, MINUTE), Decision { desired: 6, why: Utilization });
}

/// Each defect of the ancestor that a single decision could repeat.
mod ancestor {
    use super::*;

    /// Two at 0.65 became one at 1.3, which became two again.
    #[test]
    fn no_flapping_at_small_counts() {
        for (ready, utilization_pct, want) in [(2, 65, 2), (2, 32, 2), (2, 31, 1), (3, 42, 2), (3, 43, 3)] {
            let (demand, supply) = steady(utilization_pct, ready, 1);
            let got = desired(&policy(), &demand, supply, MINUTE);
            assert_eq!(got.desired, want, "{ready} at {utilization_pct} %");
        }
    }

    /// Whatever is removed, what is left is not busier than the target: no decision undoes the last.
    #[test]
    fn after_each_scale_down_utilization_is_at_most_the_target() {
        for ready in 1..40 {
            for utilization_pct in 0..=100 {
                for concurrency in [1, 3] {
                    let (demand, supply) = steady(utilization_pct, ready, concurrency);
                    let down = desired(&policy(), &demand, supply, MINUTE).desired;
                    if down < ready {
                        let slots = u64::from(down) * u64::from(concurrency);
                        let predicted = demand.busy_milli_slots / slots;
                        assert!(
                            predicted <= 700,
                            "{ready} at {utilization_pct} % became {down} at {predicted}"
                        );
                        let again = Supply { ready: down, ..supply };
                        assert_eq!(desired(&policy(), &demand, again, Millis::ZERO).desired, down);
                    }
                }
            }
        }
    }

    /// N cold requests launched N containers, and N more at each look while those were starting.
    #[test]
    fn cold_requests_do_not_launch_a_container_each() {
        let demand = Demand { waiting: 50, ..Demand::default() };
        let mut supply = Supply { concurrency: 1, ..Supply::default() };
        for _look in 0..20 {
            supply.launching = desired(&policy(), &demand, supply, Millis::ZERO).desired;
        }
        assert_eq!(supply.launching, STEP_MIN);
        let short = Demand { mean_duration: Some(Millis(20)), ..demand };
        let none = Supply { launching: 0, ..supply };
        assert_eq!(desired(&policy(), &short, none, Millis::ZERO).desired, 1, "50 × 20 ms is 1 s of work");
        let wide = Supply { concurrency: 50, ..none };
        assert_eq!(desired(&policy(), &demand, wide, Millis::ZERO).desired, 1, "50 slots take 50 requests");
    }

    /// An instance cap was there but never enforced.
    #[test]
    fn never_more_than_the_maximum() {
        let policy = ScalingPolicy { max: 4, ..policy() };
        for ready in 0..10 {
            for launching in 0..10 {
                let (mut demand, supply) = steady(100, ready, 1);
                demand.waiting = 1000;
                let supply = Supply { launching, ..supply };
                assert!(desired(&policy, &demand, supply, Millis::ZERO).desired <= 4);
            }
        }
    }

    /// There was no scale to zero.
    #[test]
    fn scales_to_zero() {
        let (mut demand, supply) = steady(0, 1, 1);
        demand.idle_for = Some(Millis::from_secs(300));
        assert_eq!(desired(&policy(), &demand, supply, MINUTE), Decision { desired: 0, why: Idle });
    }

    /// An instance in use was shut down.
    #[test]
    fn what_is_in_use_is_not_more_than_enough() {
        for (in_flight, want) in [(0, 1), (3, 1), (4, 2), (9, 3), (11, 4)] {
            let (mut demand, supply) = steady(1, 4, 3);
            demand.in_flight = in_flight;
            assert_eq!(desired(&policy(), &demand, supply, MINUTE).desired, want, "{in_flight} in flight");
        }
    }

    /// A slow queue was scaled down while requests waited.
    #[test]
    fn no_scale_down_in_a_panic() {
        let (mut demand, supply) = steady(5, 5, 1);
        demand.waiting = 1;
        let supply = Supply { idle_slots: 5, ..supply };
        assert_eq!(desired(&policy(), &demand, supply, MINUTE), Decision { desired: 5, why: CoolingDown });
        assert!(!is_calm(&policy(), &demand, supply));
        // Busier than the target lately: the larger of both averages counts, so it is not calm.
        let (demand, supply) = steady(71, 5, 1);
        assert!(!is_calm(&policy(), &demand, supply));
    }
}
