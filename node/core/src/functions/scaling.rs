//! When a function's owner wants instances launched and brought down.

use serde::{Deserialize, Serialize};

use super::spec::within;
use super::{INSTANCES_MAX, InvalidSpec};
use crate::units::Millis;

pub const WINDOW_MIN: Millis = Millis(500);
pub const WINDOW_MAX: Millis = Millis::from_secs(3600);
pub const KEEP_ALIVE_MAX: Millis = Millis::from_secs(30 * 24 * 3600);
/// Under [`KeepAlive::Adaptive`], how long a function is kept of which too little is known: what
/// the big clouds keep.
pub const KEEP_ALIVE_UNKNOWN: Millis = Millis::from_secs(600);

/// When instances are launched and brought down. See [`crate::autoscaler`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct ScalingPolicy {
    /// Instances kept even when idle.
    pub min: u32,
    /// Instances never exceeded.
    pub max: u32,
    /// Instances that may be starting at once; `None`: as many as are ready, and never fewer than
    /// [`STEP_MIN`](crate::autoscaler::STEP_MIN).
    pub step: Option<u32>,
    /// The utilization the autoscaler steers to, in thousandths (700 is 0.7).
    pub target_permille: u32,
    /// The span utilization is averaged over, and the calm needed before scaling down.
    pub window: Millis,
    pub keep_alive: KeepAlive,
}

/// How long the last instances of a function are kept when nobody asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAlive {
    /// For this long.
    Fixed(Millis),
    /// For as long as its habits say that it is worth it; and again when it is expected. See
    /// [`crate::habits`].
    Adaptive,
}

impl ScalingPolicy {
    pub(super) fn validate(&self) -> Result<(), InvalidSpec> {
        within("scaling.max", u64::from(self.max), 1, u64::from(INSTANCES_MAX))?;
        within("scaling.min", u64::from(self.min), 0, u64::from(self.max))?;
        if let Some(step) = self.step {
            within("scaling.step", u64::from(step), 1, u64::from(INSTANCES_MAX))?;
        }
        within("scaling.target_utilization (in thousandths)", u64::from(self.target_permille), 1, 1000)?;
        within("scaling.window_ms", self.window.0, WINDOW_MIN.0, WINDOW_MAX.0)?;
        match self.keep_alive {
            KeepAlive::Fixed(span) => within("scaling.keep_alive_ms", span.0, 0, KEEP_ALIVE_MAX.0),
            KeepAlive::Adaptive => Ok(()),
        }
    }
}

/// The record of a policy: five numbers, as in the first format, so that old ones are read and what
/// needs nothing new is written as ever. What came later hides where no valid number ever was.
#[derive(Serialize, Deserialize)]
struct Stored {
    min: u32,
    /// In its lower half. The upper half is the step; 0 for none.
    max: u32,
    target_permille: u32,
    window: Millis,
    /// [`ADAPTIVE`], or a fixed time.
    keep_alive: Millis,
}

const HALF: u32 = 1 << 16;
const ADAPTIVE: Millis = Millis(u64::MAX);

impl From<Stored> for ScalingPolicy {
    fn from(stored: Stored) -> Self {
        let step = stored.max / HALF;
        ScalingPolicy {
            min: stored.min,
            max: stored.max % HALF,
            step: (step > 0).then_some(step),
            target_permille: stored.target_permille,
            window: stored.window,
            keep_alive: match stored.keep_alive {
                ADAPTIVE => KeepAlive::Adaptive,
                span => KeepAlive::Fixed(span),
            },
        }
    }
}

impl From<ScalingPolicy> for Stored {
    /// What is too large for its half becomes the largest that fits, and so stays invalid.
    fn from(policy: ScalingPolicy) -> Self {
        let half = |value: u32| value.min(HALF - 1);
        Stored {
            min: policy.min,
            max: half(policy.step.unwrap_or(0)) * HALF + half(policy.max),
            target_permille: policy.target_permille,
            window: policy.window,
            keep_alive: match policy.keep_alive {
                KeepAlive::Fixed(span) => span,
                KeepAlive::Adaptive => ADAPTIVE,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> ScalingPolicy {
        ScalingPolicy {
            min: 1,
            max: 10,
            step: None,
            target_permille: 700,
            window: Millis(60_000),
            keep_alive: KeepAlive::Fixed(Millis(300_000)),
        }
    }

    #[test]
    fn policies_are_stored_as_ever() {
        let adaptive = ScalingPolicy { keep_alive: KeepAlive::Adaptive, ..policy() };
        let stepped = ScalingPolicy { step: Some(3), ..policy() };
        let bytes = |hex: &str| -> Vec<u8> {
            hex.as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect()
        };
        for (policy, golden) in [
            // The first as it was written before there was anything else.
            (policy(), "010afbbc02fb60eafce0930400"),
            (adaptive, "010afbbc02fb60eafdffffffffffffffff"),
            (stepped, "01fc0a000300fbbc02fb60eafce0930400"),
        ] {
            let config = bincode::config::standard();
            assert_eq!(bincode::serde::encode_to_vec(&policy, config).unwrap(), bytes(golden), "{policy:?}");
            let read: (ScalingPolicy, usize) =
                bincode::serde::decode_from_slice(&bytes(golden), config).unwrap();
            assert_eq!(read.0, policy);
        }
    }

    #[test]
    fn bounds() {
        type Edit = fn(&mut ScalingPolicy);
        let rows: [(Option<&str>, Edit); 9] = [
            (None, |p| p.keep_alive = KeepAlive::Adaptive),
            (None, |p| p.step = Some(1)),
            (None, |p| p.step = Some(INSTANCES_MAX)),
            (Some("scaling.step"), |p| p.step = Some(0)),
            (Some("scaling.step"), |p| p.step = Some(INSTANCES_MAX + 1)),
            (Some("scaling.max"), |p| p.max = 0),
            (Some("scaling.max"), |p| p.max = u32::MAX),
            (Some("scaling.min"), |p| p.min = 11),
            (Some("scaling.keep_alive_ms"), |p| p.keep_alive = KeepAlive::Fixed(Millis(u64::MAX))),
        ];
        for (field, edit) in rows {
            let mut policy = policy();
            edit(&mut policy);
            assert_eq!(policy.validate().err().map(|e| e.field).as_deref(), field, "{policy:?}");
            let stored = ScalingPolicy::from(Stored::from(policy.clone()));
            let hidden = policy.keep_alive == KeepAlive::Fixed(ADAPTIVE) || policy.step == Some(0);
            assert!(hidden || stored.validate().is_ok() == field.is_none(), "{policy:?}");
        }
    }
}
