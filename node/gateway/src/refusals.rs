//! Warnings about callers that are refused. Whoever reaches a port can be refused as often as it likes; that must
//! not fill a disk, nor hide what else is logged.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The same address is told of again, for the same reason, no sooner than this.
const EVERY: Duration = Duration::from_secs(10);
/// Addresses and reasons that are told apart. Beyond, all others count as one.
const APART_MAX: usize = 256;
const OTHERS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Which refusals are worth a warning. A clone is a handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<HashMap<(IpAddr, String), Told>>>);

#[derive(Clone, Copy, Debug)]
struct Told {
    at: Instant,
    /// Refusals since then.
    untold: u64,
}

impl Refusals {
    /// Notes a refusal. If it is to be told, how many before it were not.
    pub fn tell(&self, from: IpAddr, reason: &str) -> Option<u64> {
        // Consistent between any two statements that could panic.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut key = (from, reason.to_owned());
        if !known.contains_key(&key) && known.len() >= APART_MAX {
            known.retain(|_, told| now.duration_since(told.at) < EVERY);
            if known.len() >= APART_MAX {
                key = (OTHERS, String::new());
            }
        }
        let Some(told) = known.get_mut(&key) else {
            known.insert(key, Told { at: now, untold: 0 });
            return Some(0);
        };
        if now.duration_since(told.at) < EVERY {
            told.untold += 1;
            return None;
        }
        let untold = told.untold;
        *told = Told { at: now, untold: 0 };
        Some(untold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_and_then_one_of_many() {
        let refusals = Refusals::default();
        assert_eq!(refusals.tell(address(1), "no certificate"), Some(0));
        for _ in 0..1_000 {
            assert_eq!(refusals.tell(address(1), "no certificate"), None);
        }
        assert_eq!(refusals.tell(address(1), "it was removed"), Some(0), "another reason");
        assert_eq!(refusals.tell(address(2), "no certificate"), Some(0), "another address");
        tokio::time::advance(EVERY).await;
        assert_eq!(refusals.tell(address(1), "no certificate"), Some(1_000));
        assert_eq!(refusals.tell(address(1), "no certificate"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_and_reasons_take_little_room_and_few_lines() {
        let refusals = Refusals::default();
        let told =
            |from| (from..from + 10_000).filter(|n| refusals.tell(address(*n), "bad").is_some()).count();
        assert_eq!(told(0), APART_MAX + 1);
        assert_eq!(told(20_000), 0);
        assert!(refusals.0.lock().expect("nobody panics").len() <= APART_MAX + 1);
        tokio::time::advance(EVERY).await;
        assert_eq!(told(40_000), APART_MAX + 1, "those of before make room");
        assert!(refusals.0.lock().expect("nobody panics").len() <= APART_MAX + 1);
    }
}
