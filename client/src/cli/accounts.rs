//! `muster accounts`: who may use the cluster.

use clap::Subcommand;
use muster_client::api::{Account, Grant, Role};

use super::Context;
use super::failure::{Doing, Failure};
use super::grants::action_name;
use super::human::moment;
use super::output::{Table, note};

/// List, show, create and delete accounts
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// List accounts
    List,
    /// Show an account with its keys and grants
    Show { name: String },
    /// Create an account; it has no key yet
    Create {
        name: String,
        /// One that may do everything
        #[arg(long)]
        admin: bool,
    },
    /// Delete an account with its keys and grants
    Delete { name: String },
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Context { client, output, .. } = context;
    match arguments.command.unwrap_or(Command::List) {
        Command::List => {
            let accounts = client.accounts().await.doing("list accounts")?;
            output.list(&accounts, "accounts", || table(&accounts))
        }
        Command::Show { name } => {
            let account = client.account(&name).await.doing(format_args!("show account `{name}`"))?;
            output.show(&account, || details(&account))
        }
        Command::Create { name, admin } => {
            let role = if admin { Role::Admin } else { Role::User };
            let created = client.create_account(&name, role).await;
            let account = created.changing(format_args!("create account `{name}`"))?;
            note(&format!("account `{name}` created; `muster keys create {name}` makes a key for it"));
            output.show(&account, || table(std::slice::from_ref(&account)).to_string())
        }
        Command::Delete { name } => {
            client.delete_account(&name).await.changing(format_args!("delete account `{name}`"))?;
            note(&format!("account `{name}` deleted"));
            Ok(())
        }
    }
}

fn table(accounts: &[Account]) -> Table {
    let mut table = Table::new(&["NAME", "ROLE", ">KEYS", "GRANTS", "CREATED"]);
    for account in accounts {
        table.row([
            account.name.clone(),
            role_name(account.role).to_owned(),
            account.keys.len().to_string(),
            grants(&account.grants),
            moment(&account.created_at),
        ]);
    }
    table
}

fn details(account: &Account) -> String {
    let key_ids: Vec<&str> = account.keys.iter().map(|key| key.id.as_str()).collect();
    Table::of_fields(&[
        ("Name", account.name.clone()),
        ("Role", role_name(account.role).to_owned()),
        ("Created", moment(&account.created_at)),
        ("Keys", key_ids.join(", ")),
        ("Grants", grants(&account.grants)),
    ])
}

fn grants(grants: &[Grant]) -> String {
    let one = |grant: &Grant| {
        let actions: Vec<&str> = grant.actions.iter().copied().map(action_name).collect();
        format!("{} ({})", grant.pattern, actions.join(", "))
    };
    grants.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::User => "user",
        Role::Admin => "admin",
    }
}
