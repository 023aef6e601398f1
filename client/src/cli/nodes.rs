//! `muster nodes`: the hosts.

use muster_client::api::Node;

use super::Context;
use super::failure::{Doing, Failure};
use super::human::{cores, memory, moment};
use super::output::Table;

/// List the hosts, with what they have and what of it is reserved
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) async fn run(context: &Context, _: Arguments) -> Result<(), Failure> {
    let nodes = context.client.nodes().await.doing("list nodes")?;
    context.output.list(&nodes, "nodes", || table(&nodes))
}

fn table(nodes: &[Node]) -> Table {
    let mut table = Table::new(&[
        ">ID",
        "ADDRESS",
        "CONDITION",
        "SINCE",
        ">INSTANCES",
        ">MEMORY",
        ">CORES",
        "ENGINES",
        "VERSION",
        "WHY",
    ]);
    for node in nodes {
        let (reserved, capacity) = (node.reserved, node.capacity);
        table.row([
            node.id.to_string(),
            node.address.clone(),
            node.condition.clone(),
            moment(&node.changed_at),
            node.instances.to_string(),
            format!("{} of {}", memory(reserved.memory_mb), memory(capacity.memory_mb)),
            format!("{} of {}", cores(reserved.cpu_millis), cores(capacity.cpu_millis)),
            node.engines.join(", "),
            node.version.clone(),
            node.reason.clone(),
        ]);
    }
    table
}
