//! `muster keys`: what accounts prove themselves with.

use std::time::Duration;

use clap::Subcommand;
use muster_client::api::{CreateKey, Key};

use super::Context;
use super::failure::{Doing, Failure};
use super::human::{moment, moment_or_none, parse_duration};
use super::output::{Table, note};

/// List, create and revoke API keys
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List an account's keys, without their secrets
    List { account: String },
    /// Create a key and print it, this once: `muster keys create alice > alice.key`
    Create {
        account: String,
        /// How long it is good for, such as 30d [default: until it is revoked]
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        expires: Option<Duration>,
    },
    /// Revoke a key: when this returns, no node admits it any more
    Revoke { account: String, id: String },
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Context { client, output, .. } = context;
    match arguments.command {
        Command::List { account } => {
            let keys =
                client.keys(&account).await.doing(format_args!("list the keys of account `{account}`"))?;
            output.list(&keys, &format!("keys of account `{account}`"), || table(&keys))
        }
        Command::Create { account, expires } => {
            let expires_in_ms = expires.map(|e| u64::try_from(e.as_millis()).unwrap_or(u64::MAX));
            let created = client.create_key(&account, &CreateKey { expires_in_ms }).await;
            let created = created.changing(format_args!("create a key for account `{account}`"))?;
            let until = created
                .expires_at
                .as_deref()
                .map_or("no expiry".into(), |at| format!("expires {}", moment(at)));
            note(&format!(
                "key {} of account `{account}` created, {until}; it is shown only now",
                created.id
            ));
            output.show(&created, || created.key.clone())
        }
        Command::Revoke { account, id } => {
            let revoked = client.revoke_key(&account, &id).await;
            revoked.changing(format_args!("revoke key {id} of account `{account}`"))?;
            note(&format!("key {id} of account `{account}` revoked"));
            Ok(())
        }
    }
}

fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(&["ID", "CREATED", "EXPIRES"]);
    for key in keys {
        table.row([key.id.clone(), moment(&key.created_at), moment_or_none(key.expires_at.as_ref())]);
    }
    table
}
