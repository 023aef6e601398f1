//! `muster nodes`: the hosts.

use clap::Subcommand;
use muster_client::api::Node;

use super::Context;
use super::failure::{Doing, Failure};
use super::human::{cores, memory, moment};
use super::output::{Table, note};

/// List the hosts, with what they have and what of it is reserved; or move instances off one
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Move a host's instances away, and place no new ones there
    Drain { id: u64 },
    /// Let a host take instances again
    Undrain { id: u64 },
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Context { client, output, .. } = context;
    match arguments.command {
        None => {
            let nodes = client.nodes().await.doing("list nodes")?;
            output.list(&nodes, "nodes", || table(&nodes))
        }
        Some(Command::Drain { id }) => {
            client.drain_node(id).await.changing(format_args!("drain node {id}"))?;
            note(&format!("node {id} is draining: `muster instances` shows what is left there"));
            Ok(())
        }
        Some(Command::Undrain { id }) => {
            client.undrain_node(id).await.changing(format_args!("undrain node {id}"))?;
            note(&format!("node {id} takes instances again"));
            Ok(())
        }
    }
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
