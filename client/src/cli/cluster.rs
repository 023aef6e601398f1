//! `muster cluster`: who is in the cluster, who votes and who leads, and how that is changed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use muster_client::api::{Cluster, CreateToken, CreatedToken};

use super::Context;
use super::backup;
use super::failure::{Doing, Failure};
use super::human::{moment, parse_duration};
use super::output::{Table, note};

/// How long a removal is watched, unless `--timeout` says otherwise. It goes on all the same.
const REMOVED_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Look at the cluster itself, and change who is in it
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// A backup to look at, which needs no cluster.
    pub(super) fn backup_to_verify(&self) -> Option<&PathBuf> {
        match &self.command {
            Command::Backup { verify, .. } => verify.as_ref(),
            _ => None,
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Show leader, term and members, as the node that answers knows them
    Status,
    /// Write everything the cluster knows into a file, while it serves, or check such a file
    ///
    /// `muster-node restore` makes a new cluster of it. It holds hashes of keys and the functions'
    /// environment: keep it as you keep those.
    Backup {
        /// Where to; `-` is standard output [default: muster-CLUSTER-INDEX.backup]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Check this file instead; no cluster is asked
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        verify: Option<PathBuf>,
    },
    /// Make a token for a new node, and print what to put into its configuration
    Join(Joining),
    /// Make a token for a new node, and print it alone: `muster cluster token > join.token`
    Token(Joining),
    /// Remove a node for ever, once its instances have moved away
    Remove {
        id: u64,
        /// Remove it as it is, without waiting for anything: for a node that is dead
        #[arg(long)]
        force: bool,
        /// Return at once, not when it is gone
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a token for a new node that takes the place of one that is lost
    Replace {
        id: u64,
        #[command(flatten)]
        joining: Joining,
    },
    /// Have another node lead, before this one is stopped
    Transfer {
        /// Who is to lead [default: any voter that has caught up]
        #[arg(long, value_name = "ID")]
        to: Option<u64>,
    },
}

#[derive(Args)]
struct Joining {
    /// How long the token is good for, such as 1h [default: 10m]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    expires: Option<Duration>,
    /// Write the token there, with mode 0600, rather than print it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, arguments: Arguments) -> Result<(), Failure> {
    let Context { client, output, .. } = context;
    match arguments.command {
        Command::Status => {
            let cluster = client.cluster().await.doing("show the cluster's status")?;
            output.show(&cluster, || status(&cluster))
        }
        Command::Backup { verify: Some(file), .. } => backup::verify(output, &file),
        Command::Backup { file, .. } => backup::write(context, file.as_deref()).await,
        Command::Token(joining) => {
            let created = token(context, &joining, None).await?;
            match &joining.token_file {
                Some(_) => Ok(()),
                None => output.show(&created, || created.token.clone()),
            }
        }
        Command::Join(joining) => join(context, &joining, None).await,
        Command::Replace { id, joining } => {
            join(context, &joining, Some(id)).await?;
            note(&format!("node {id} is removed, as it is, once the new node has caught up"));
            Ok(())
        }
        Command::Remove { id, force, no_wait } => {
            client.remove_node(id, force).await.changing(format_args!("remove node {id}"))?;
            if no_wait {
                note(&format!("node {id} is being removed: `muster cluster status` shows how far it is"));
                return Ok(());
            }
            gone(context, id).await
        }
        Command::Transfer { to } => {
            let leader = client.transfer_leadership(to).await.changing("transfer the leadership")?;
            note(&format!("node {leader} leads"));
            Ok(())
        }
    }
}

async fn token(context: &Context, joining: &Joining, replaces: Option<u64>) -> Result<CreatedToken, Failure> {
    let expires_in_ms = joining.expires.map(|e| u64::try_from(e.as_millis()).unwrap_or(u64::MAX));
    let created = context.client.create_join_token(&CreateToken { expires_in_ms, replaces }).await;
    let created = created.changing("make a token")?;
    if let Some(file) = &joining.token_file {
        write_secret(file, &created.token)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    }
    note(&format!(
        "a token for one node, which will be node {}, good until {} ({}); it is shown only now",
        created.node_id,
        created.expires_at,
        moment(&created.expires_at)
    ));
    Ok(created)
}

async fn join(context: &Context, joining: &Joining, replaces: Option<u64>) -> Result<(), Failure> {
    let created = token(context, joining, replaces).await?;
    context.output.show(&created, || {
        let addresses: Vec<String> = created.addresses.iter().map(|address| format!("{address:?}")).collect();
        let (file, then) = match &joining.token_file {
            Some(file) => (file.display().to_string(), "copy it there".to_owned()),
            None => {
                ("/etc/muster/join.token".to_owned(), format!("put this into it:\n#   {}", created.token))
            }
        };
        format!(
            "# In the new node's configuration, without `node_id` and `[bootstrap]`:\n[join]\n\
             addresses = [{}]\ntoken_file = \"{file}\"  # mode 0600; {then}",
            addresses.join(", ")
        )
    })
}

fn write_secret(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{secret}")
}

async fn gone(context: &Context, id: u64) -> Result<(), Failure> {
    let within = context.timeout.unwrap_or(REMOVED_WITHIN);
    let began = Instant::now();
    loop {
        let cluster = context.client.cluster().await.doing("see whether the node is gone")?;
        if cluster.nodes.iter().all(|node| node.id != id) {
            note(&format!("node {id} is removed"));
            return Ok(());
        }
        if began.elapsed() >= within {
            return Err(Failure::failed(format!(
                "node {id} is still being removed after {} s: `muster instances` shows what it has, and \
                 `--force` removes it as it is",
                within.as_secs()
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The cluster version, and who holds the next one back.
fn version(cluster: &Cluster) -> String {
    let Some(next) = &cluster.next_version else { return cluster.version.to_string() };
    let by: Vec<String> =
        next.held_back_by.iter().map(|by| format!("node {} {}", by.node, by.reason)).collect();
    format!("{}; {} is held back: {}", cluster.version, next.version, by.join(", "))
}

fn status(cluster: &Cluster) -> String {
    let head = Table::of_fields(&[
        ("Cluster", cluster.cluster_id.clone().unwrap_or_else(|| "not bootstrapped".to_owned())),
        ("Leader", cluster.leader.map_or("none".to_owned(), |id| format!("node {id}"))),
        ("Term", cluster.term.to_string()),
        ("Version", version(cluster)),
    ]);
    let mut table =
        Table::new(&[">ID", "ADDRESS", "ROLE", "CONDITION", ">APPLIED", ">LAG", "SOFTWARE", "VERSIONS"]);
    for node in &cluster.nodes {
        table.row([
            node.id.to_string(),
            node.address.clone(),
            node.role.clone(),
            node.condition.clone(),
            node.applied.map(|index| index.to_string()).unwrap_or_default(),
            node.lag.map(|entries| entries.to_string()).unwrap_or_default(),
            node.version.clone().unwrap_or_default(),
            node.versions.map(|range| format!("{} to {}", range.oldest, range.newest)).unwrap_or_default(),
        ]);
    }
    format!("{head}\n\n{table}")
}
