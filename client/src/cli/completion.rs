//! `muster completion`: what a shell needs to complete commands.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;

use super::failure::Failure;

/// Print a completion script, such as for `source <(muster completion bash)`
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut command = super::Arguments::command();
    // By way of memory: the generator panics when the reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "muster", &mut script);
    let mut stdout = io::stdout().lock();
    stdout.write_all(&script)?;
    Ok(stdout.flush()?)
}
