//! `muster cluster`: the members of the cluster.

use clap::Subcommand;
use muster_client::api::Cluster;

use super::Context;
use super::failure::{Doing, Failure};
use super::output::Table;

/// Look at the cluster itself
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show leader, term and members, as the node that answers knows them
    Status,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    match arguments.command {
        Command::Status => {
            let cluster = context.client.cluster().await.doing("show the cluster's status")?;
            context.output.show(&cluster, || status(&cluster))
        }
    }
}

fn status(cluster: &Cluster) -> String {
    let head = Table::of_fields(&[
        ("Cluster", cluster.cluster_id.clone().unwrap_or_else(|| "not bootstrapped".to_owned())),
        ("Leader", cluster.leader.map_or("none".to_owned(), |id| format!("node {id}"))),
        ("Term", cluster.term.to_string()),
    ]);
    let mut table = Table::new(&[">ID", "ADDRESS", "ROLE", "CONDITION", ">APPLIED"]);
    for node in &cluster.nodes {
        table.row([
            node.id.to_string(),
            node.address.clone(),
            node.role.clone(),
            node.condition.clone(),
            node.applied.map(|index| index.to_string()).unwrap_or_default(),
        ]);
    }
    format!("{head}\n\n{table}")
}
