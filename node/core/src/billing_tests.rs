use imbl::OrdMap;
use proptest::prelude::*;

use super::*;
use crate::functions::EngineKind;
use crate::ids::{FunctionName, Generation, NodeId};
use crate::instances::{LaunchCause, Phase};
use crate::nodes::Resources;

const HOUR: u64 = 3_600_000;

fn account(name: &str) -> AccountName {
    AccountName::new(name).unwrap()
}

fn instance(placed: u64, ready: Option<u64>, payer: Payer, busy: &[(&str, u64)]) -> Instance {
    Instance {
        function: FunctionName::new("f").unwrap(),
        version: 1,
        node: NodeId(1),
        generation: Generation(1),
        phase: Phase::Ready,
        cause: LaunchCause {
            trigger: Trigger::Queued,
            accounts: vec![(account("alice"), 3), (account("bob"), 1)],
        },
        reason: None,
        engine: EngineKind::Docker,
        resources: Resources { memory_mb: 128, cpu_millis: 1000 },
        concurrency: 1,
        owner: account("owner"),
        payer,
        placed_at: Timestamp(placed),
        ready_at: ready.map(Timestamp),
        draining_at: None,
        ended_at: None,
        busy_by: busy.iter().map(|(name, ms)| (account(name), Millis(*ms))).collect::<OrdMap<_, _>>(),
    }
}

#[test]
fn split_by_largest_remainder() {
    for (total, weights, parts) in [
        (10, &[1, 1, 1][..], &[4, 3, 3][..]),
        (10, &[1, 2], &[3, 7]),
        (7, &[0, 0], &[7, 0]),
        (0, &[5, 5], &[0, 0]),
        (5, &[], &[]),
        (u64::MAX, &[u64::MAX, u64::MAX], &[u64::MAX / 2 + 1, u64::MAX / 2]),
    ] {
        assert_eq!(split(total, weights), parts, "{total} by {weights:?}");
    }
}

#[test]
fn owner_pays_startup_and_run_by_the_hour() {
    let charges =
        charges(&instance(HOUR - 1000, Some(HOUR + 500), Payer::Owner, &[]), Timestamp(HOUR + 2000));
    let rows: Vec<_> = charges
        .iter()
        .map(|c| (c.account.as_str(), c.hour.0, c.time.millis, c.time.startup_millis))
        .collect();
    assert_eq!(rows, [("owner", 0, 1000, 1000), ("owner", 1, 2000, 500)]);
    assert_eq!(charges[1].time.memory_mb_ms, 2000 * 128);
}

#[test]
fn callers_pay_by_busy_time_and_the_owner_for_what_nobody_called() {
    let called = instance(0, Some(100), Payer::Callers, &[("alice", 30), ("bob", 10)]);
    let rows: Vec<_> =
        charges(&called, Timestamp(1000)).into_iter().map(|c| (c.account, c.time.millis)).collect();
    assert_eq!(rows, [(account("alice"), 750), (account("bob"), 250)]);
    let idle = instance(0, Some(100), Payer::Callers, &[]);
    assert_eq!(charges(&idle, Timestamp(1000))[0].account, account("owner"));
}

#[test]
fn only_short_lived_bursts_charge_startup_to_their_causes() {
    let mut burst = instance(0, Some(400), Payer::Owner, &[]);
    assert_eq!(burst_charges(&burst, Timestamp(1000)), [], "not scaled back");
    burst.phase = Phase::Stopped;
    let rows: Vec<_> = burst_charges(&burst, Timestamp(1000))
        .into_iter()
        .map(|c| (c.account, c.time.burst_startup_millis))
        .collect();
    assert_eq!(rows, [(account("alice"), 300), (account("bob"), 100)]);
    assert_eq!(burst_charges(&burst, Timestamp(400) + SHORT_LIVED), []);
    let mut minimum = burst;
    minimum.cause.trigger = Trigger::Minimum;
    assert_eq!(burst_charges(&minimum, Timestamp(1000)), []);
}

proptest! {
    #[test]
    fn what_is_charged_is_what_ran(
        placed in 0..10 * HOUR,
        ready_after in proptest::option::of(0..2 * HOUR),
        ran in 0..5 * HOUR,
        by_callers: bool,
        busy in proptest::collection::vec(0..HOUR, 0..4),
    ) {
        let names = ["a", "b", "c", "d"];
        let busy: Vec<_> = names.into_iter().zip(busy).collect();
        let payer = if by_callers { Payer::Callers } else { Payer::Owner };
        let instance = instance(placed, ready_after.map(|r| placed + r), payer, &busy);
        let charges = charges(&instance, Timestamp(placed + ran));
        prop_assert_eq!(charges.iter().map(|c| c.time.millis).sum::<u64>(), ran);
        let startup = ready_after.unwrap_or(ran).min(ran);
        prop_assert_eq!(charges.iter().map(|c| c.time.startup_millis).sum::<u64>(), startup);
    }

    #[test]
    fn parts_sum_to_the_whole(total: u64, weights in proptest::collection::vec(any::<u64>(), 1..8)) {
        let parts = split(total, &weights);
        prop_assert_eq!(parts.iter().map(|p| u128::from(*p)).sum::<u128>(), u128::from(total));
    }
}
