use super::*;

fn secs(secs: u64) -> Millis {
    Millis::from_secs(secs)
}

fn histogram(idle_secs: impl IntoIterator<Item = u64>) -> Histogram {
    let mut histogram = Histogram::default();
    idle_secs.into_iter().for_each(|idle| histogram.add(Bucket::of(secs(idle)).unwrap()));
    histogram
}

/// Idle times of a process without memory: what the first, second, … of a hundred are on average.
fn exponential(mean_secs: u64) -> Histogram {
    let mut ms = 0;
    histogram((1..=100_u64).rev().map(|left| {
        ms += mean_secs * 1000 / left;
        (ms / 1000).max(1)
    }))
}

#[test]
fn outlook_by_habit() {
    use Outlook::*;
    let minutes = |minutes: u64, count: usize| std::iter::repeat_n(minutes * 60, count);
    let burst = || std::iter::repeat_n(2, 27).chain(minutes(20, 3));
    for (case, idle, at_secs, want) in [
        ("every 20 minutes: just used", histogram(minutes(20, 10)), 0, NotExpected),
        ("in between", histogram(minutes(20, 10)), 900, NotExpected),
        ("before the 20th minute", histogram(minutes(20, 10)), 1170, Expected),
        ("at the 20th minute", histogram(minutes(20, 10)), 1200, Expected),
        ("long after it", histogram(minutes(20, 10)), 1400, NotExpected),
        ("in a burst", histogram(burst()), 1, Keep),
        ("after a burst", histogram(burst()), 60, NotExpected),
        ("before the next burst", histogram(burst()), 1195, Expected),
        ("every minute: kept, for it is not worth a launch", histogram(minutes(1, 50)), 30, Keep),
        ("every six hours", histogram(minutes(6 * 60, 5)), 6 * 3600, Expected),
        ("every six hours, in between", histogram(minutes(6 * 60, 5)), 5 * 3600, NotExpected),
        ("once in three days", histogram(minutes(3 * 24 * 60, 5)), 3 * 24 * 3600, NotExpected),
        ("at random, every five minutes", exponential(300), 600, Keep),
        ("at random, every two hours", exponential(7200), 60, NotExpected),
    ] {
        let forecast = Forecast::pattern(&idle, Some(RESTART));
        assert_eq!(forecast.outlook(secs(at_secs)), want, "{case}: {forecast:?}");
    }
}

#[test]
fn too_few_idle_times_say_nothing() {
    for (count, known) in [(0, false), (3, false), (4, true)] {
        let habit = Habit { idle: histogram(vec![1200; count]), ..Habit::default() };
        assert_eq!(Forecast::of(&habit).is_some(), known, "{count}");
    }
}

#[test]
fn an_hourly_call_costs_a_fraction_of_an_hour() {
    let forecast = Forecast::pattern(&histogram([3600; 20]), Some(RESTART));
    let [(start, end)] = forecast.warm() else { panic!("{forecast:?}") };
    assert!(start.0 < 3_590_000 && end.0 > 3_610_000, "{forecast:?}");
    assert!(forecast.cost(secs(3600)) < 400_000, "less than a fixed keep-alive of ten minutes: {forecast:?}");
}

#[test]
fn the_plain_rule_by_the_mean() {
    use Outlook::*;
    for (case, idle, at_secs, want) in [
        ("every five minutes", exponential(300), 900, Keep),
        ("kept for an hour, then given up", exponential(300), 3600, NotExpected),
        ("every 24 minutes", exponential(1440), 3599, Keep),
        ("every hour", exponential(3600), 0, NotExpected),
        (
            "a night does not hide a day",
            histogram((0..20).map(|n| if n == 0 { 80_000 } else { 600 })),
            900,
            Keep,
        ),
    ] {
        assert_eq!(Forecast::plain(&idle).outlook(secs(at_secs)), want, "{case}");
    }
}

/// Each idle time is judged before it is learned from; the rule that would have cost less is followed.
#[test]
fn the_cheaper_rule_is_followed() {
    let follow = |idle_secs: &mut dyn Iterator<Item = u64>| {
        let mut habit = Habit::default();
        for idle in idle_secs {
            let bucket = Bucket::of(secs(idle)).unwrap();
            habit.costs = habit.costs_after(&[bucket]);
            habit.idle.add(bucket);
        }
        habit
    };
    let timer = follow(&mut std::iter::repeat_n(1200, 40));
    assert!(timer.costs.pattern * 3 < timer.costs.plain, "{:?}", timer.costs);
    assert_eq!(Forecast::of(&timer), Some(Forecast::pattern(&timer.idle, Some(RESTART))));
    // Without a pattern: 1 to 1,800 s, in an order that a generator gives.
    let mut seed = 1_u64;
    let mut draw = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        1 + (seed >> 33) % 1800
    });
    let random = follow(&mut draw.by_ref().take(60));
    assert!(random.costs.plain < random.costs.pattern, "{:?}", random.costs);
    assert_eq!(Forecast::of(&random).unwrap().outlook(secs(1700)), Outlook::Keep);
    let judged = random.costs_after(&[]);
    assert_eq!(judged, random.costs, "nothing came, nothing changed");
}

/// The search against all ways there are, on the cost as the module states it.
#[test]
fn no_other_sequence_is_cheaper() {
    let cost = |stretches: &[Stretch], keep: &[bool]| {
        let (mut total, mut there) = (0, true);
        for (stretch, keep) in stretches.iter().zip(keep) {
            let length = stretch.end.0 - stretch.start.0;
            total += match (keep, there) {
                (true, true) => length * (2 * stretch.lasting - stretch.ending) / 2,
                (true, false) => {
                    RESTART.0 * stretch.lasting + length * (2 * stretch.lasting - stretch.ending) / 2
                }
                (false, _) => WORTH.0 * stretch.ending,
            };
            there = *keep;
        }
        total
    };
    let mut seed = 7_u64;
    let mut draw = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..200 {
        let mut lasting: u64 = 100;
        let mut at = Millis::ZERO;
        let stretches: Vec<Stretch> = (0..10)
            .map(|_| {
                let ending = draw(3) * draw(lasting.min(20) + 1) / 2;
                let stretch = Stretch { start: at, end: Millis(at.0 + 1 + draw(300_000)), ending, lasting };
                (at, lasting) = (stretch.end, lasting - ending);
                stretch
            })
            .collect();
        let found = cost(&stretches, &cheapest(&stretches, Some(RESTART)));
        let all = (0..1_u32 << stretches.len()).map(|bits| {
            let keep: Vec<bool> = (0..stretches.len()).map(|place| bits >> place & 1 == 1).collect();
            cost(&stretches, &keep)
        });
        assert_eq!(Some(found), all.min(), "{stretches:?}");
        // Without launches ahead of need it is kept up to some moment.
        let until = |end| (0..stretches.len()).map(|place| place < end).collect::<Vec<bool>>();
        let keep = cheapest(&stretches, None);
        assert_eq!(keep, until(keep.iter().filter(|keep| **keep).count()), "{stretches:?}");
        let all = (0..=stretches.len()).map(|end| cost(&stretches, &until(end)));
        assert_eq!(Some(cost(&stretches, &keep)), all.min(), "{stretches:?}");
    }
}

#[test]
fn weight_is_neither_lost_nor_made() {
    for idle in [vec![1, 2, 3], vec![1200; 50], vec![1, 129_599, 200_000], (1..4000).collect()] {
        let histogram = histogram(idle);
        let stretches = stretches(&histogram);
        let beyond = histogram.weights().iter().filter(|(b, _)| *b == Bucket::BEYOND);
        let beyond: u64 = beyond.map(|(_, weight)| u64::from(*weight) * SPREAD_WHOLE).sum();
        let ending: u64 = stretches.iter().map(|stretch| stretch.ending).sum();
        assert_eq!(ending + beyond, u64::from(histogram.total()) * SPREAD_WHOLE);
        assert!(stretches.windows(2).all(|pair| pair[0].end == pair[1].start), "no hole between stretches");
    }
}
