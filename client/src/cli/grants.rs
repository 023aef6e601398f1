//! `muster grant` and `muster revoke`: which functions an account may use.

use clap::ValueEnum;
use muster_client::api::Action;

use super::Context;
use super::failure::{Doing, Failure};
use super::output::{Table, note};

/// Let an account use functions
#[derive(clap::Args)]
pub(super) struct GrantArguments {
    account: String,
    /// The function's name, or a pattern: in 'team-*' the star stands for any characters
    function: String,
    /// What it may do, in place of what it might before; may be repeated
    #[arg(long, value_enum, value_delimiter = ',', default_value = "invoke")]
    action: Vec<Granted>,
}

/// Take back what an account was granted
#[derive(clap::Args)]
pub(super) struct RevokeArguments {
    account: String,
    /// The name or pattern, as it was granted
    function: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum Granted {
    Invoke,
    /// Create, change, delete and look into
    Manage,
}

pub(super) async fn grant(context: &Context, arguments: GrantArguments) -> Result<(), Failure> {
    let GrantArguments { account, function, action } = arguments;
    let mut actions: Vec<Action> = action
        .into_iter()
        .map(|action| match action {
            Granted::Invoke => Action::Invoke,
            Granted::Manage => Action::Manage,
        })
        .collect();
    actions.sort_unstable();
    actions.dedup();
    let result = context.client.put_grant(&account, &function, &actions).await;
    let grant = result.changing(format_args!("grant account `{account}` function `{function}`"))?;
    context.output.show(&grant, || {
        let mut table = Table::new(&["ACCOUNT", "FUNCTION", "ACTIONS"]);
        let actions: Vec<&str> = grant.actions.iter().copied().map(action_name).collect();
        table.row([account.clone(), grant.pattern.clone(), actions.join(", ")]);
        table.to_string()
    })
}

pub(super) async fn revoke(context: &Context, arguments: RevokeArguments) -> Result<(), Failure> {
    let RevokeArguments { account, function } = arguments;
    let result = context.client.delete_grant(&account, &function).await;
    result.changing(format_args!("revoke function `{function}` from account `{account}`"))?;
    note(&format!("function `{function}` revoked from account `{account}`"));
    Ok(())
}

pub(super) fn action_name(action: Action) -> &'static str {
    match action {
        Action::Invoke => "invoke",
        Action::Manage => "manage",
    }
}
