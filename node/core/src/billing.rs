//! Who pays for an instance's time. Integers only; the parts always sum to the whole.
//!
//! Two models read the same ledger. *Instance time* charges each instance from launch to end,
//! start-up included, to the function's owner or to its callers by their share of its busy time.
//! *Per invocation* charges calls, and the start-up time of instances that a burst caused and that
//! were brought down soon after, to the accounts whose requests caused them.

use crate::functions::Payer;
use crate::ids::AccountName;
use crate::instances::{Instance, Phase, Trigger};
use crate::ledger::InstanceTime;
use crate::mutant;
use crate::units::{Hour, Millis, Timestamp};

/// An instance that was ready for less than this was a burst's, not the steady load's.
pub const SHORT_LIVED: Millis = Millis::from_secs(300);

/// One account's part of one instance's time within one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub account: AccountName,
    pub hour: Hour,
    pub time: InstanceTime,
}

/// The charges for an instance's time up to `until`: its end, or now for one still running.
pub fn charges(instance: &Instance, until: Timestamp) -> Vec<Charge> {
    let payers = payers(instance);
    let weights: Vec<u64> = payers.iter().map(|(_, weight)| *weight).collect();
    let ready_at = instance.ready_at.unwrap_or(until).min(until);
    let mut charges = Vec::new();
    for (hour, from, to) in by_hour(instance.placed_at, until) {
        let startup = ready_at.min(to).since(from);
        let millis = split(to.since(from).0, &weights);
        let startups = split(startup.0, &weights);
        for (((account, _), millis), startup_millis) in payers.iter().zip(millis).zip(startups) {
            let memory_mb_ms = millis * instance.resources.memory_mb;
            let time = InstanceTime { millis, memory_mb_ms, startup_millis, burst_startup_millis: 0 };
            charges.push(Charge { account: account.clone(), hour, time });
        }
    }
    charges
}

/// The start-up time of an ended instance, charged to the accounts that caused it, if a burst did
/// and it was short-lived. Empty otherwise.
pub fn burst_charges(instance: &Instance, ended_at: Timestamp) -> Vec<Charge> {
    let caused = matches!(instance.cause.trigger, Trigger::Queued | Trigger::Utilization);
    let Some(ready_at) = instance.ready_at else { return Vec::new() };
    // One that failed or was lost with its node was not scaled back: nobody's burst is to blame.
    let scaled_back = instance.phase == Phase::Stopped;
    if !caused || !scaled_back || ended_at.since(ready_at) >= SHORT_LIVED {
        return Vec::new();
    }
    let weights: Vec<u64> = instance.cause.accounts.iter().map(|(_, n)| u64::from(*n)).collect();
    let parts = split(ready_at.since(instance.placed_at).0, &weights);
    let hour = ended_at.hour();
    let charge = |((account, _), burst_startup_millis): (&(AccountName, u32), u64)| Charge {
        account: account.clone(),
        hour,
        time: InstanceTime { burst_startup_millis, ..InstanceTime::default() },
    };
    instance.cause.accounts.iter().zip(parts).map(charge).collect()
}

/// Splits `total` in proportion to `weights`; the parts sum to it exactly. Each part is rounded
/// down, then the largest remainders get one more each (Hamilton's method), the earlier first where
/// they are equal. If all weights are zero the first takes everything.
pub fn split(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let mut parts = vec![0; weights.len()];
    if sum == 0 {
        if let Some(first) = parts.first_mut() {
            *first = total;
        }
        return parts;
    }
    let mut remainders: Vec<(u128, usize)> = Vec::with_capacity(weights.len());
    for (index, weight) in weights.iter().enumerate() {
        let exact = u128::from(total) * u128::from(*weight);
        parts[index] = u64::try_from(exact / sum).expect("a part is at most the total");
        remainders.push((exact % sum, index));
    }
    let missing = total - parts.iter().sum::<u64>();
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index) in remainders.iter().cycle().take(usize::try_from(missing).expect("fewer than parts")) {
        parts[*index] += u64::from(!mutant!("split-loses-the-rest"));
    }
    parts
}

/// Who pays for an instance, with their weights. An instance that nobody called is its owner's.
fn payers(instance: &Instance) -> Vec<(AccountName, u64)> {
    let callers: Vec<_> =
        instance.busy_by.iter().filter(|(_, ms)| ms.0 > 0).map(|(name, ms)| (name.clone(), ms.0)).collect();
    match instance.payer {
        Payer::Callers if !callers.is_empty() => callers,
        Payer::Callers | Payer::Owner => vec![(instance.owner.clone(), 1)],
    }
}

/// The parts of a span that fall into each clock hour.
fn by_hour(from: Timestamp, to: Timestamp) -> impl Iterator<Item = (Hour, Timestamp, Timestamp)> {
    let mut start = from;
    std::iter::from_fn(move || {
        if start >= to {
            return None;
        }
        let hour = start.hour();
        let end = hour.next().start().min(to);
        let part = (hour, start, end);
        start = end;
        Some(part)
    })
}

#[cfg(test)]
#[path = "billing_tests.rs"]
mod tests;
