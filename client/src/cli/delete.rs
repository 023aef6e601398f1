//! `muster delete`: delete a function.

use super::Context;
use super::failure::{Doing, Failure};
use super::output::note;

/// Delete a function
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(value_name = "NAME")]
    name: String,
    /// Even if it has live instances
    #[arg(long)]
    force: bool,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Arguments { name, force } = arguments;
    let result = context.client.delete_function(&name, force).await;
    if result.as_ref().is_err_and(|error| error.status() == Some(409)) && !force {
        note("with --force it is deleted even while it has live instances");
    }
    result.changing(format_args!("delete function `{name}`"))?;
    note(&format!("function `{name}` deleted"));
    Ok(())
}
