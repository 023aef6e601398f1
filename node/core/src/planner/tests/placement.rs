//! Properties of what plans place, in random clusters under random demand. The oracle looks at the state
//! and the commands alone.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::functions::EngineKind;
use crate::nodes::Resources;

/// A node: room for so many hundreds of MB and tenths of a core, its engines, and its condition.
type Node = (u64, u64, bool, bool, u8);
/// A function: hundreds of MB, tenths of a core, whether it is a process, its minimum, how many wait where.
type Asked = (u32, u32, bool, u32, u32, u64);

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec((0..12_u64, 0..12_u64, any::<bool>(), any::<bool>(), 0..6_u8), 1..6)
}

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    prop::collection::vec((1..5_u32, 1..5_u32, any::<bool>(), 0..4_u32, 0..20_u32, 1..6_u64), 1..4)
}

const NAMES: [&str; 3] = ["f", "g", "h"];

fn build(nodes: &[Node], functions: &[Asked]) -> World {
    let mut world = World::new(0);
    for (id, (memory, cpu, docker, process, condition)) in (1..).zip(nodes) {
        let capacity = Resources { memory_mb: memory * 100 + 50, cpu_millis: cpu * 100 + 50 };
        let engines = [(EngineKind::Docker, *docker), (EngineKind::Process, *process)];
        let engines: Vec<EngineKind> =
            engines.iter().filter(|(_, has)| *has).map(|(kind, _)| *kind).collect();
        world.register_as(id, 1, capacity, &engines);
        match condition {
            0 => world.condition(id, Condition::Draining),
            1 => drop(world.silent.insert(id)),
            _ => {}
        }
    }
    for (name, (memory, cpu, process, min, _, _)) in NAMES.iter().zip(functions) {
        world.put(name, |spec| {
            (spec.memory_mb, spec.cpu_millis, spec.scaling.min) = (memory * 100, cpu * 100, *min);
            if *process {
                spec.source = Source::Command(vec!["f".into()]);
            }
        });
    }
    world
}

/// Whether the node could take one more of the function as the state stands.
fn could_take(world: &World, node: NodeId, name: &str) -> bool {
    let spec = &world.state.functions.get(name).unwrap().current().spec;
    let known = world.state.nodes.get(node).unwrap();
    let taken: (u64, u64) = world
        .state
        .instances
        .on_node(node)
        .fold((0, 0), |sum, (_, i)| (sum.0 + i.resources.memory_mb, sum.1 + i.resources.cpu_millis));
    known.condition == Condition::Ready
        && !world.silent.contains(&node.0)
        && known.profile.engines.contains(&spec.source.engine())
        && taken.0 + u64::from(spec.memory_mb) <= known.profile.capacity.memory_mb
        && taken.1 + u64::from(spec.cpu_millis) <= known.profile.capacity.cpu_millis
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Nothing goes where it cannot run; nobody is booked beyond what it has; whoever could take what
    /// is wanted is given it; and a reason that is recorded counts each node once, truly.
    #[test]
    fn placements_fit_and_reasons_are_true(nodes in nodes(), functions in asked()) {
        let mut world = build(&nodes, &functions);
        for (name, (_, _, _, _, waiting, node)) in NAMES.iter().zip(&functions) {
            world.waiting(name, &[(*node, *waiting, 100)]);
        }
        for _ in 0..40 {
            let before = world.state.clone();
            let plan = world.tick();
            for command in &plan {
                let Command::Instances(instances::Command::Place { function, node, .. }) = command else {
                    continue;
                };
                let spec = &before.functions.get(function.as_str()).unwrap().current().spec;
                let known = before.nodes.get(*node).unwrap();
                prop_assert_eq!(known.condition, Condition::Ready);
                prop_assert!(known.profile.engines.contains(&spec.source.engine()));
                prop_assert!(!world.silent.contains(&node.0) || world.elapsed <= SECOND, "{}", node);
            }
            for (id, node) in world.state.nodes.iter() {
                let live = world.state.instances.on_node(id);
                let memory: u64 = live.map(|(_, i)| i.resources.memory_mb).sum();
                prop_assert!(memory <= node.profile.capacity.memory_mb && node.reserved.memory_mb == memory);
                let live = world.state.instances.on_node(id);
                let cpu: u64 = live.map(|(_, i)| i.resources.cpu_millis).sum();
                prop_assert!(cpu <= node.profile.capacity.cpu_millis && node.reserved.cpu_millis == cpu);
            }
            for hold in holds(&plan) {
                if hold.contains("maximum") {
                    continue;
                }
                let named: usize = hold
                    .split("; ")
                    .map(|part| part.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
                    .sum();
                prop_assert_eq!(named, nodes.len(), "{}", hold);
            }
        }
        for (name, (_, _, _, min, _, _)) in NAMES.iter().zip(&functions) {
            let somewhere = world.state.nodes.iter().any(|(id, _)| could_take(&world, id, name));
            prop_assert!(!somewhere || world.live(name) >= *min as usize, "{} could be placed", name);
        }
    }

    /// The same demand in the same cluster is placed alike, and evenly over equal nodes.
    #[test]
    fn equal_nodes_get_equal_shares(count in 1..6_u64, wanted in 1..11_u32) {
        let spread = || {
            let mut world = World::new(count);
            world.put("f", |spec| (spec.scaling.min, spec.scaling.max) = (wanted, wanted));
            world.ticks(Millis::from_secs(3));
            let mut shares: BTreeMap<u64, u32> = (1..=count).map(|node| (node, 0)).collect();
            for (_, instance) in world.of("f", Phase::Ready) {
                *shares.get_mut(&instance.node.0).unwrap() += 1;
            }
            shares
        };
        let shares = spread();
        prop_assert_eq!(shares.values().sum::<u32>(), wanted);
        prop_assert!(shares.values().max().unwrap() - shares.values().min().unwrap() <= 1, "{:?}", shares);
        prop_assert_eq!(shares, spread());
    }
}
