//! Times, durations and sizes as people read and write them.

use std::time::Duration;

use jiff::Timestamp;

const UNITS_MS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", DAY_MS), ("w", 7 * DAY_MS)];
const DAY_MS: u64 = 86_400_000;
/// Beyond this many days, a date says more than a count of days.
const DAYS_MAX: u64 = 99;

/// Reads `500ms`, `10s`, `2m`, `12h`, `30d` or `2w`; a bare number is seconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = if unit.is_empty() { "s" } else { unit };
    let ms = UNITS_MS.iter().find(|(name, _)| *name == unit).and_then(|(_, ms)| {
        let number: u64 = number.parse().ok()?;
        number.checked_mul(*ms).filter(|ms| *ms > 0)
    });
    ms.map(Duration::from_millis).ok_or_else(|| "expected a number and one of ms, s, m, h, d, w".to_owned())
}

/// Reads a moment: RFC 3339, a date (midnight UTC), or a time span back from now; gives RFC 3339.
pub(super) fn parse_time(text: &str) -> Result<String, String> {
    let rule = || "expected 2026-11-23T10:00:00Z, 2026-11-23 or a time back such as 24h".to_owned();
    if let Ok(back) = parse_duration(text) {
        let back = jiff::SignedDuration::try_from(back).map_err(|_| rule())?;
        return Timestamp::now().checked_sub(back).map(|t| t.to_string()).map_err(|_| rule());
    }
    let full = if text.len() == "2026-11-23".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    full.parse::<Timestamp>().map(|t| t.to_string()).map_err(|_| rule())
}

/// A moment as RFC 3339, seen from now: `12s ago`, `in 3d`; a date where that is far.
pub(super) fn moment(text: &str) -> String {
    moment_from(text, Timestamp::now())
}

pub(super) fn moment_or_none(text: Option<&String>) -> String {
    text.map(|text| moment(text)).unwrap_or_default()
}

fn moment_from(text: &str, now: Timestamp) -> String {
    let Ok(then) = text.parse::<Timestamp>() else { return text.to_owned() };
    let away = now.as_millisecond() - then.as_millisecond();
    if away.unsigned_abs() > DAYS_MAX * DAY_MS {
        return then.to_string().chars().take("2026-11-23".len()).collect();
    }
    let coarse = coarse(away.unsigned_abs());
    if away >= 0 { format!("{coarse} ago") } else { format!("in {coarse}") }
}

fn coarse(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// A length of time, with two units at most: `350 ms`, `1.2 s`, `4m 03s`, `2h 05m`, `3d 07h`.
pub(super) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{} s", ms % 1000 / 100),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {:02}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Bytes: `12 B`, `3.4 KiB`.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// Memory of so many MiB.
pub(super) fn memory(mb: u64) -> String {
    scaled(mb, 1024, &["MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// Memory held over time.
pub(super) fn memory_time(mb_ms: u64) -> String {
    scaled(mb_ms / 1000, 1024, &["MiB·s", "GiB·s", "TiB·s", "PiB·s", "EiB·s"])
}

fn scaled(count: u64, step: u64, units: &[&str]) -> String {
    let mut divisor = 1;
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if count / divisor < step {
            break;
        }
        divisor *= step;
        unit = larger;
    }
    match divisor {
        1 => format!("{count} {unit}"),
        _ => {
            // Wide, so that ten times the remainder fits.
            let tenths = u128::from(count % divisor) * 10 / u128::from(divisor);
            format!("{}.{tenths} {unit}", count / divisor)
        }
    }
}

/// Thousandths of a core.
pub(super) fn cores(millis: u64) -> String {
    format!("{}.{:02}", millis / 1000, millis % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("10", Some(10_000)),
            ("2m", Some(120_000)),
            ("12h", Some(43_200_000)),
            ("30d", Some(2_592_000_000)),
            ("1w", Some(604_800_000)),
            ("0s", None),
            ("", None),
            ("d", None),
            ("-1s", None),
            ("1y", None),
            ("1.5s", None),
            ("99999999999999999999d", None),
            ("9999999999999999d", None),
        ] {
            assert_eq!(parse_duration(text).ok(), ms.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn moments_are_read() {
        for (text, want) in [
            ("2026-11-23", Some("2026-11-23T00:00:00Z")),
            ("2026-11-23T01:00:00+01:00", Some("2026-11-23T00:00:00Z")),
            ("2026-13-23", None),
            ("soon", None),
        ] {
            assert_eq!(parse_time(text).ok().as_deref(), want, "{text}");
        }
        let hour_ago: Timestamp = parse_time("1h").unwrap().parse().unwrap();
        let ago = Timestamp::now().as_second() - hour_ago.as_second();
        assert!((3600..3605).contains(&ago), "{ago}");
    }

    #[test]
    fn moments_are_told_from_now() {
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        for (text, want) in [
            ("2026-11-23T09:59:48.5Z", "11s ago"),
            ("2026-11-23T09:57:00Z", "3m ago"),
            ("2026-11-23T07:00:00Z", "3h ago"),
            ("2026-11-20T07:00:00Z", "3d ago"),
            ("2026-11-26T10:00:00Z", "in 3d"),
            ("2026-01-02T03:04:05Z", "2026-01-02"),
            ("whenever", "whenever"),
        ] {
            assert_eq!(moment_from(text, now), want);
        }
    }

    #[test]
    fn amounts_are_told() {
        for (said, want) in [
            (duration(0), "0 ms"),
            (duration(1234), "1.2 s"),
            (duration(243_000), "4m 03s"),
            (duration(7_500_000), "2h 05m"),
            (duration(284_400_000), "3d 07h"),
            (bytes(1023), "1023 B"),
            (bytes(1536), "1.5 KiB"),
            (bytes(u64::MAX), "15.9 EiB"),
            (memory(128), "128 MiB"),
            (memory(24 * 1024), "24.0 GiB"),
            (memory_time(2_560_000), "2.5 GiB·s"),
            (cores(1250), "1.25"),
        ] {
            assert_eq!(said, want);
        }
    }
}
