//! The clocks that can be wrong, preloaded into `date`.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_chaos::cluster::{Clock, programs};

/// From one look at the clock to the other a busy machine may take some seconds.
const LATE_S: std::ops::RangeInclusive<i64> = -10..=0;

/// How far `date` is from the truth, in seconds.
fn wrong_by(env: &[(String, String)]) -> i64 {
    let said = Command::new("date").arg("+%s").envs(env.iter().cloned()).output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let said: i64 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    said - i64::try_from(now).unwrap()
}

#[test]
fn the_wall_clock_is_wrong_by_what_it_is_told() {
    let dir = tempfile::TempDir::new().unwrap();
    let clock = Clock::new(dir.path().join("clock"), programs::clock().unwrap()).unwrap();
    assert!(LATE_S.contains(&wrong_by(&clock.env())));
    assert_eq!(clock.told_shifted().unwrap(), 0, "the truth does not count");
    for shift_s in [7_200, -7_200, 1_000_000] {
        let before = clock.told_shifted().unwrap();
        clock.shift_ms(shift_s * 1_000).unwrap();
        let wrong = wrong_by(&clock.env()) - shift_s;
        assert!(LATE_S.contains(&wrong), "{shift_s} s became {wrong} s more");
        assert!(clock.told_shifted().unwrap() > before);
    }
    clock.shift_ms(0).unwrap();
    assert!(LATE_S.contains(&wrong_by(&clock.env())));
    let [preload, _] = clock.env();
    let elsewhere = ("MUSTER_CLOCK_FILE".to_owned(), "/nowhere".to_owned());
    assert!(LATE_S.contains(&wrong_by(&[preload, elsewhere])), "without a file it is right");
}

/// How far ahead `date` is, between two looks at the right clock: at least and at most; and what it said.
fn ahead_ns(clock: &Clock) -> (i128, i128, i128) {
    let now = || i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let before = now();
    let said = Command::new("date").arg("+%s%N").envs(clock.env()).output().unwrap();
    let after = now();
    assert!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    let said: i128 = String::from_utf8(said.stdout).unwrap().trim().parse().unwrap();
    (said - after, said - before, said)
}

#[test]
fn clocks_drift_and_come_back_without_being_set_back() {
    const PPM: i64 = 20_000;
    const FAR_NS: i128 = 20_000_000;
    const NEAR_NS: i128 = 2_000_000;
    let dir = tempfile::TempDir::new().unwrap();
    let clock = Clock::new(dir.path().join("clock"), programs::clock().unwrap()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = 0;
    // What the first direction may have left when it had come back, nearly.
    let mut left = 0;
    for direction in [1, -1] {
        let before = clock.told_drifted().unwrap();
        let began = Instant::now();
        clock.drift_ppm(direction * PPM).unwrap();
        for away in [true, false] {
            if !away {
                clock.come_back_ppm(PPM).unwrap();
            }
            loop {
                let (least, most, said) = ahead_ns(&clock);
                assert!(said >= last, "it was set back from {last} to {said}");
                last = said;
                let drifted =
                    i128::try_from(began.elapsed().as_nanos()).unwrap() * i128::from(PPM) / 1_000_000;
                let bound = left + drifted;
                assert!(least <= bound && most >= -bound, "{least} to {most} within {bound}");
                let (least, most) = if direction > 0 { (least, most) } else { (-most, -least) };
                if away && least > FAR_NS {
                    break;
                }
                if !away && least <= NEAR_NS && most > -NEAR_NS {
                    left = least.abs().max(most.abs());
                    break;
                }
                assert!(Instant::now() < deadline, "{least} to {most} ns ahead, away: {away}");
            }
        }
        assert!(clock.told_drifted().unwrap() > before);
        assert_eq!(clock.told_shifted().unwrap(), 0, "nobody has set it");
    }
}

#[test]
fn changes_in_quick_succession_set_no_clock_back() {
    const PPM: i64 = 20_000;
    const STEP_NS: i128 = 15_000_000;
    let dir = tempfile::TempDir::new().unwrap();
    let clock = Clock::new(dir.path().join("clock"), programs::clock().unwrap()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    clock.drift_ppm(PPM).unwrap();
    let mut last = 0;
    for far_ns in [STEP_NS, 2 * STEP_NS] {
        loop {
            let (least, most, said) = ahead_ns(&clock);
            assert!(said >= last, "it was set back from {last} to {said}");
            last = said;
            if least > far_ns {
                break;
            }
            assert!(Instant::now() < deadline, "{least} to {most} ns ahead");
        }
        // As when one fault is mended while the next one strikes: none of these has begun as the last is written.
        clock.come_back_ppm(PPM).unwrap();
        clock.drift_ppm(-PPM).unwrap();
        clock.drift_ppm(PPM).unwrap();
    }
}
