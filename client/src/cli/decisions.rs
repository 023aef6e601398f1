//! `muster decisions`: what the leader decided lately, and why.

use muster_client::api::Decision;

use super::Context;
use super::failure::{Doing, Failure};
use super::human::moment;
use super::output::Table;

/// List what the leader decided lately about scaling, and why
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let name = arguments.name.as_deref();
    let about = name.map(|name| format!(" about function `{name}`")).unwrap_or_default();
    let result = context.client.decisions(name).await;
    let decisions = result.doing(format_args!("list decisions{about}"))?;
    context.output.list(&decisions, &format!("decisions{about}"), || table(&decisions))
}

fn table(decisions: &[Decision]) -> Table {
    let mut table = Table::new(&[
        "AT",
        "FUNCTION",
        "ACTION",
        "INSTANCE",
        ">NODE",
        ">READY",
        ">LAUNCHING",
        ">WAITING",
        ">UTILIZATION",
        ">DESIRED",
        "WHY",
    ]);
    for decision in decisions {
        let inputs = &decision.inputs;
        table.row([
            moment(&decision.at),
            decision.function.clone(),
            decision.action.clone(),
            decision.instance.clone().unwrap_or_default(),
            decision.node.map(|id| id.to_string()).unwrap_or_default(),
            inputs.ready.to_string(),
            inputs.launching.to_string(),
            inputs.waiting.to_string(),
            format!("{:.0} %", inputs.utilization * 100.0),
            inputs.desired.to_string(),
            decision.reason.clone(),
        ]);
    }
    table
}
