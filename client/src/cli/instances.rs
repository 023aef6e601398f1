//! `muster instances`: what runs where, and how busy it is.

use muster_client::api::Instance;

use super::Context;
use super::failure::{Doing, Failure};
use super::human::{memory, moment};
use super::output::Table;

const ENDED: [&str; 3] = ["stopped", "failed", "lost"];

/// List instances, of all functions or one
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Those that have ended too
    #[arg(long, short)]
    all: bool,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let name = arguments.name.as_deref();
    let of = name.map(|name| format!(" of function `{name}`")).unwrap_or_default();
    let mut instances = context.client.instances(name).await.doing(format_args!("list instances{of}"))?;
    instances.retain(|i| arguments.all || !ENDED.contains(&i.phase.as_str()));
    context.output.list(&instances, &format!("instances{of}"), || table(&instances))
}

fn table(instances: &[Instance]) -> Table {
    let mut table = Table::new(&[
        "ID",
        "FUNCTION",
        ">VERSION",
        ">NODE",
        "PHASE",
        ">UTILIZATION",
        ">IN FLIGHT",
        ">MEMORY",
        "CAUSE",
        "LAUNCHED",
        "WHY",
    ]);
    for instance in instances {
        table.row([
            instance.id.clone(),
            instance.function.clone(),
            instance.version.to_string(),
            instance.node.to_string(),
            instance.phase.clone(),
            instance.utilization.map(|u| format!("{:.0} %", u * 100.0)).unwrap_or_default(),
            instance.in_flight.map(|n| n.to_string()).unwrap_or_default(),
            memory(instance.memory_mb),
            instance.cause.clone(),
            moment(&instance.launched_at),
            instance.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}
