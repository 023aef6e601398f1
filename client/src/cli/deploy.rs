//! `muster deploy`: create or change a function from a file.

use std::path::PathBuf;
use std::time::Duration;

use muster_client::Error;

use super::failure::{Doing, Failure};
use super::output::note;
use super::{Context, function_file, functions};

/// What `--wait` grants beyond the function's own start-up timeout.
const WAIT_MARGIN: Duration = Duration::from_secs(30);

/// Create a function, or change it to what a file says
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The function's `name` and spec, as TOML, or as JSON where the file is called so; `-`: TOML from standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Wait until as many instances are ready as `scaling.min` asks for
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let file = function_file::read(&arguments.file)?;
    let name = &file.name;
    let shown = arguments.file.display();
    let (created, mut function) = context
        .client
        .put_function(name, &file.spec)
        .await
        .changing(format_args!("deploy function `{name}` from {shown}"))?;
    let done = if created { "created" } else { "deployed" };
    note(&format!("function `{name}` {done}, version {}", function.version));
    if arguments.wait {
        let startup = Duration::from_millis(function.spec.startup_timeout_ms);
        let within = context.timeout.unwrap_or(startup + WAIT_MARGIN);
        if function.spec.scaling.min > 0 {
            note(&format!("waiting for {} ready instances", function.spec.scaling.min));
        }
        let ready = context.client.wait_ready(name, within).await;
        function = match ready {
            Err(error @ Error::NotReady { .. }) => return Err(Failure::failed(error.to_string())),
            ready => ready.doing(format_args!("wait for function `{name}`"))?,
        };
    }
    context.output.show(&function, || functions::table([&function]).to_string())
}
