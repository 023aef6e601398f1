//! Which output of ended instances to give up.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::SystemTime;

use muster_core::ids::{FunctionName, InstanceId};

use super::Limits;

/// What is kept of one ended instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) function: FunctionName,
    pub(super) instance: InstanceId,
    pub(super) bytes: u64,
    pub(super) changed: SystemTime,
}

/// Those beyond the limits: the oldest go first.
pub(super) fn surplus(mut kept: Vec<Kept>, limits: &Limits, now: SystemTime) -> Vec<Kept> {
    kept.sort_by_key(|one| (Reverse(one.changed), one.instance));
    let mut by_function: BTreeMap<FunctionName, (u64, usize)> = BTreeMap::new();
    let mut total = 0;
    kept.retain(|one| {
        let (bytes, instances) = by_function.get(&one.function).copied().unwrap_or_default();
        let old = now.duration_since(one.changed).is_ok_and(|age| age > limits.age);
        let stays = !old
            && bytes + one.bytes <= limits.function_bytes
            && instances < limits.function_instances
            && total + one.bytes <= limits.node_bytes;
        if stays {
            by_function.insert(one.function.clone(), (bytes + one.bytes, instances + 1));
            total += one.bytes;
        }
        !stays
    });
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let limits = Limits {
            file_bytes: 0,
            function_bytes: 100,
            function_instances: 3,
            node_bytes: 150,
            age: Duration::from_secs(1000),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        // By function, age in seconds and bytes; which of them go, by their place.
        for (kept, goes) in [
            (&[][..], &[][..]),
            (&[("a", 5, 40), ("a", 1, 40), ("a", 3, 40)], &[0]),
            (&[("a", 1, 1), ("a", 2, 1), ("a", 3, 1), ("a", 4, 1), ("b", 9, 1)], &[3]),
            (&[("a", 1001, 1), ("a", 1000, 1)], &[0]),
            (&[("a", 1, 90), ("b", 2, 90), ("c", 3, 50)], &[1]),
            (&[("a", 1, 101)], &[0]),
        ] {
            let kept: Vec<Kept> = kept
                .iter()
                .enumerate()
                .map(|(place, (function, age, bytes))| Kept {
                    function: FunctionName::new(function).unwrap(),
                    instance: InstanceId(place as u64),
                    bytes: *bytes,
                    changed: now - Duration::from_secs(*age),
                })
                .collect();
            let gone: Vec<u64> =
                surplus(kept.clone(), &limits, now).iter().map(|one| one.instance.0).collect();
            assert_eq!(gone, goes, "{kept:?}");
        }
    }
}
