//! The command line: one file per command, and around them what they share: the arguments (here),
//! how they fail (`failure`), how they print (`output`, `human`).
//!
//! **Rules.** Data goes to standard output, everything else to standard error. The status is 0 for
//! done, 1 for refused or failed, 2 for bad usage. A reader that goes away ends a command quietly.

mod accounts;
mod backup;
mod bench;
mod cluster;
mod completion;
mod decisions;
mod delete;
mod deploy;
mod failure;
mod function_file;
mod functions;
mod grants;
mod human;
mod instances;
mod invoke;
mod keys;
mod logs;
mod nodes;
mod output;
mod packages;
mod usage;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use muster_client::{Client, Consistency, Key, Options};

use failure::Failure;
use output::{Format, Output};

const DEFAULT_URL: &str = "http://127.0.0.1:8081";
/// A key file holds one line; whatever is longer is another file.
const KEY_FILE_MAX: u64 = 4096;

/// Deploy functions to a Muster cluster, invoke them, and look into it.
#[derive(Parser)]
#[command(name = "muster", version, propagate_version = true)]
#[command(after_help = "Exit status: 0 done, 1 refused or failed, 2 bad usage.")]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// Nodes to talk to, separated by commas; they stand in for each other [default: http://127.0.0.1:8081]
    #[arg(
        long,
        global = true,
        env = "MUSTER_URL",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "URL"
    )]
    url: Vec<String>,
    /// API key. Others on this machine can see it: prefer --key-file or MUSTER_KEY [env: MUSTER_KEY]
    #[arg(long, global = true, value_name = "KEY", conflicts_with = "key_file")]
    key: Option<String>,
    /// File that holds the API key [env: MUSTER_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// File with the authorities, in PEM, whose certificates to accept from https:// nodes, in place of the system's
    #[arg(long, global = true, env = "MUSTER_CA_FILE", hide_env_values = true, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How to print data
    #[arg(long, short, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// How long to wait for an answer, such as 500ms, 10s or 2m
    #[arg(long, global = true, value_parser = human::parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
    /// How fresh data must be; `local` answers without a quorum too, but may be stale
    #[arg(long, global = true, value_enum, default_value_t, value_name = "HOW")]
    consistency: Freshness,
}

#[derive(Clone, Copy, Default, ValueEnum)]
enum Freshness {
    #[default]
    Linearizable,
    Local,
}

#[derive(Subcommand)]
enum Command {
    Deploy(deploy::Arguments),
    Functions(functions::Arguments),
    Delete(delete::Arguments),
    Invoke(invoke::Arguments),
    Instances(instances::Arguments),
    Logs(logs::Arguments),
    Nodes(nodes::Arguments),
    Packages(packages::Arguments),
    Accounts(accounts::Arguments),
    Keys(keys::Arguments),
    Grant(grants::GrantArguments),
    Revoke(grants::RevokeArguments),
    Usage(usage::Arguments),
    Cluster(cluster::Arguments),
    Decisions(decisions::Arguments),
    Bench(bench::Arguments),
    Completion(completion::Arguments),
}

/// What a command works with.
struct Context {
    client: Client,
    /// What `client` was made of, for a command that needs several or other ones.
    urls: Vec<String>,
    key: Option<Key>,
    options: Options,
    /// As given with `--timeout`.
    timeout: Option<Duration>,
    output: Output,
}

pub(crate) fn main() -> ExitCode {
    let Arguments { global, command } = Arguments::parse();
    // Completion needs no cluster, so nothing about one may keep it from working.
    if let Command::Completion(arguments) = command {
        return failure::exit(completion::run(&arguments), false);
    }
    if let Command::Cluster(arguments) = &command
        && let Some(file) = arguments.backup_to_verify()
    {
        return failure::exit(backup::verify(&Output::new(global.output), file), false);
    }
    let context = match context(global) {
        Ok(context) => context,
        Err(failure) => return failure::exit(Err(failure), false),
    };
    let with_key = context.key.is_some();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failure::exit(Err(Failure::failed(format!("cannot start: {error}"))), with_key),
    };
    let result = runtime.block_on(run(&context, command));
    // A read of standard input may never end; it must not keep the process.
    runtime.shutdown_background();
    failure::exit(result, with_key)
}

async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Deploy(arguments) => deploy::run(context, arguments).await,
        Command::Functions(arguments) => functions::run(context, arguments).await,
        Command::Delete(arguments) => delete::run(context, arguments).await,
        Command::Invoke(arguments) => invoke::run(context, arguments).await,
        Command::Instances(arguments) => instances::run(context, arguments).await,
        Command::Logs(arguments) => logs::run(context, arguments).await,
        Command::Nodes(arguments) => nodes::run(context, arguments).await,
        Command::Packages(arguments) => packages::run(context, arguments).await,
        Command::Accounts(arguments) => accounts::run(context, arguments).await,
        Command::Keys(arguments) => keys::run(context, arguments).await,
        Command::Grant(arguments) => grants::grant(context, arguments).await,
        Command::Revoke(arguments) => grants::revoke(context, arguments).await,
        Command::Usage(arguments) => usage::run(context, arguments).await,
        Command::Cluster(arguments) => cluster::run(context, arguments).await,
        Command::Decisions(arguments) => decisions::run(context, arguments).await,
        Command::Bench(arguments) => bench::run(context, arguments).await,
        Command::Completion(arguments) => completion::run(&arguments),
    }
}

fn context(global: Global) -> Result<Context, Failure> {
    let mut urls: Vec<String> = global.url.iter().map(|u| u.trim().to_owned()).collect();
    urls.retain(|url| !url.is_empty());
    if urls.is_empty() {
        urls.push(DEFAULT_URL.to_owned());
    }
    let mut options =
        Options { ca_file: global.ca_file.filter(|file| !file.as_os_str().is_empty()), ..Options::default() };
    if let Some(timeout) = global.timeout {
        options.deadline = timeout;
        // So that a node that hangs leaves time for the others.
        let share = timeout / u32::try_from(urls.len()).unwrap_or(u32::MAX);
        options.attempt_timeout = options.attempt_timeout.min(share);
        options.connect_timeout = options.connect_timeout.min(share);
        options.invoke_timeout = Some(timeout);
    }
    let key = key(global.key.as_deref(), global.key_file.as_deref())?;
    let consistency = match global.consistency {
        Freshness::Linearizable => Consistency::Linearizable,
        Freshness::Local => Consistency::Local,
    };
    let client = Client::with_options(&urls, key.clone(), options.clone())
        .map_err(|error| Failure::Usage(error.to_string()))?
        .with_consistency(consistency);
    Ok(Context { client, urls, key, options, timeout: global.timeout, output: Output::new(global.output) })
}

/// The key, from the nearest place that has one: arguments before the environment.
fn key(argument: Option<&str>, file: Option<&Path>) -> Result<Option<Key>, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let file = match (argument, file) {
        (Some(text), _) => return parse_key(text, "--key").map(Some),
        (None, Some(file)) => file.to_owned(),
        (None, None) => match (set("MUSTER_KEY"), set("MUSTER_KEY_FILE")) {
            (Some(text), _) => return parse_key(&text.to_string_lossy(), "MUSTER_KEY").map(Some),
            (None, Some(file)) => file.into(),
            (None, None) => return Ok(None),
        },
    };
    let shown = file.display();
    let cannot =
        |why: &dyn std::fmt::Display| Failure::Usage(format!("cannot read the key file {shown}: {why}"));
    let size = std::fs::metadata(&file).map_err(|e| cannot(&e))?.len();
    if size > KEY_FILE_MAX {
        return Err(cannot(&"it is too long to hold a key"));
    }
    let text = std::fs::read_to_string(&file).map_err(|e| cannot(&e))?;
    parse_key(&text, &shown.to_string()).map(Some)
}

fn parse_key(text: &str, origin: &str) -> Result<Key, Failure> {
    Key::new(text).map_err(|error| Failure::Usage(format!("in {origin}: {error}")))
}
