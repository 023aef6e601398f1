//! `muster functions`: what is deployed.

use muster_client::api::{Function, FunctionSpec, KeepAlive, NamedKeepAlive, Payer};

use super::Context;
use super::failure::{Doing, Failure};
use super::human::{cores, duration, memory, moment, moment_or_none};
use super::output::Table;

/// List functions, or show one
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    if let Some(name) = arguments.name {
        let function = context.client.function(&name).await.doing(format_args!("show function `{name}`"))?;
        return context.output.show(&function, || details(&function));
    }
    let functions = context.client.functions().await.doing("list functions")?;
    context.output.list(&functions, "functions", || table(&functions))
}

pub(super) fn table<'a>(functions: impl IntoIterator<Item = &'a Function>) -> Table {
    let mut table = Table::new(&[
        "NAME",
        "OWNER",
        ">VERSION",
        ">READY",
        ">LAUNCHING",
        ">DRAINING",
        "HEALTH",
        "SOURCE",
        "CHANGED",
    ]);
    for function in functions {
        let counts = function.instances;
        table.row([
            function.name.clone(),
            function.owner.clone(),
            function.version.to_string(),
            counts.ready.to_string(),
            counts.launching.to_string(),
            counts.draining.to_string(),
            function.health.clone(),
            source(&function.spec),
            moment(&function.changed_at),
        ]);
    }
    table
}

fn source(spec: &FunctionSpec) -> String {
    match (&spec.image, &spec.command) {
        (Some(image), _) => image.clone(),
        (None, Some(command)) => command.join(" "),
        (None, None) => String::new(),
    }
}

fn details(function: &Function) -> String {
    let (spec, counts) = (&function.spec, function.instances);
    let scaling = &spec.scaling;
    let payer = match spec.payer {
        Payer::Owner => "owner",
        Payer::Callers => "callers",
    };
    let instances =
        format!("{} ready, {} launching, {} draining", counts.ready, counts.launching, counts.draining);
    let sizes = format!(
        "{}, {} cores, {} at a time",
        memory(spec.memory_mb.into()),
        cores(spec.cpu_millis.into()),
        spec.concurrency
    );
    let scaled = format!(
        "{} to {} instances, {:.0} % utilization over {}, kept {}",
        scaling.min,
        scaling.max,
        scaling.target_utilization * 100.0,
        duration(scaling.window_ms),
        match scaling.keep_alive_ms {
            KeepAlive::Millis(millis) => duration(millis),
            KeepAlive::Named(NamedKeepAlive::Adaptive) => "by habit".to_owned(),
        }
    );
    Table::of_fields(&[
        ("Name", function.name.clone()),
        ("Owner", function.owner.clone()),
        ("Version", function.version.to_string()),
        ("Created", moment(&function.created_at)),
        ("Changed", moment(&function.changed_at)),
        ("Health", function.health.clone()),
        ("Last failure", function.last_failure.clone().unwrap_or_default()),
        ("Next launch", moment_or_none(function.retry_at.as_ref())),
        ("Instances", instances),
        ("Source", source(spec)),
        // Values may be secrets: `-o json` shows them to who asks.
        ("Environment", spec.env.keys().map(String::as_str).collect::<Vec<_>>().join(", ")),
        ("Readiness", spec.readiness_path.clone().unwrap_or_default()),
        ("Each instance", sizes),
        ("Scaling", scaled),
        (
            "Timeouts",
            format!(
                "{} to answer, {} to start",
                duration(spec.timeout_ms),
                duration(spec.startup_timeout_ms)
            ),
        ),
        ("Queue", format!("{} waiting at most, per node", spec.queue.max_waiting)),
        ("Payer", payer.to_owned()),
    ])
}
