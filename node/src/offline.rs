//! What is done to a node's data while no node runs on it: a restore, a recovery, a check of a backup.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use muster_consensus::{Archived, Estate, Founder, Member, read_archive};
use muster_core::ClusterState;
use muster_core::ids::{ClusterId, NodeId, StoreId};
use muster_storage::{Options, Store};

use crate::config::Config;
use crate::random;

/// Which node, and where.
#[derive(Clone, Debug)]
pub struct Place {
    /// None if it has joined by a token: its store knows then.
    pub node: Option<NodeId>,
    pub data_dir: PathBuf,
    pub member: Member,
}

impl Place {
    /// As a node's configuration says.
    pub fn of(config: &Config) -> Place {
        let member = Member { http: config.http_address(), peer: config.peer_address() };
        Place { node: config.node_id.map(NodeId), data_dir: config.data_dir.clone(), member }
    }

    fn founder(&self, node: NodeId) -> Founder {
        Founder { node, member: self.member.clone(), cluster: ClusterId(random::id()) }
    }
}

/// Checks a backup as far as this version can, its content included. Answers what it is, for people.
///
/// # Errors
/// What is wrong with it.
pub fn verify(archive: &Path) -> anyhow::Result<String> {
    Ok(describe(&read(archive)?))
}

/// Makes a cluster of one node from a backup, in a directory that is empty or not there.
///
/// # Errors
/// What is wrong with the backup or the directory. After an error in between, the directory says that it is
/// incomplete, and no node starts on it.
pub async fn restore(archive: &Path, place: &Place) -> anyhow::Result<String> {
    let node = place.node.context("`node_id` must be set: a restored node joins nobody")?;
    let archived = read(archive)?;
    let said = describe(&archived);
    let (dir, founder) = (&place.data_dir, place.founder(node));
    let store = Store::begin_filling(dir, Options::default())
        .with_context(|| format!("cannot restore into {}", dir.display()))?;
    store.claim_node(node, StoreId(random::id())).context("cannot mark the directory")?;
    let cluster = founder.cluster;
    muster_consensus::restore(store.clone(), archived, founder).await.context("cannot restore")?;
    finish(store).await?;
    Store::end_filling(dir).context("cannot finish the restore")?;
    let dir = dir.display();
    Ok(format!("{said}\nrestored into {dir} as cluster {cluster}, whose only node is {node}: start it"))
}

/// Makes the survivor of a cluster that has lost its majority a cluster by itself. Without `accept_data_loss`
/// it only tells what that would mean.
///
/// # Errors
/// Where it was not done, among other reasons because the loss was not accepted.
pub async fn recover(place: &Place, accept_data_loss: bool) -> anyhow::Result<String> {
    let dir = &place.data_dir;
    ensure!(dir.join("format").exists(), "{} is no node's data directory", dir.display());
    let store = Store::open(dir, Options::default())
        .with_context(|| format!("cannot open the store in {}", dir.display()))?;
    let node = store.identity().node.with_context(|| format!("{} is no node's yet", dir.display()))?;
    ensure!(
        place.node.is_none_or(|wanted| wanted == node),
        "{} is the data of node {node}, not of the node that is configured",
        dir.display()
    );
    let estate = Estate::open(store.clone(), node).await.context("cannot recover")?;
    ensure!(
        !estate.is_alone(node),
        "nothing is lost: node {node} is the only voter of its cluster already. Start it"
    );
    let old = estate.state().cluster.map_or_else(String::new, |id| id.to_string());
    let said = survey(&estate, node);
    if !accept_data_loss {
        bail!("{said}\nNothing was changed. If that is acceptable, say so with --accept-data-loss");
    }
    let founder = place.founder(node);
    let cluster = founder.cluster;
    estate.refound(founder).await.context("cannot recover")?;
    finish(store).await?;
    Ok(format!(
        "{said}\nnode {node} is now the only node of the new cluster {cluster}: start it. Containers of the old \
         cluster, if there are any, carry the label muster.cluster={old}: remove them"
    ))
}

/// What a survivor has, and what will be missing.
fn survey(estate: &Estate, node: NodeId) -> String {
    let (state, (last, term), committed) = (estate.state(), estate.last(), estate.committed());
    let others: Vec<String> =
        estate.members().keys().filter(|id| **id != node).map(ToString::to_string).collect();
    let cluster = state.cluster.map_or_else(String::new, |id| id.to_string());
    let doubtful = match last - committed.min(last) {
        0 => String::new(),
        count => format!(
            "\nthe last {count} of them are not known here to have been committed: they are kept, and may hold \
             changes that were never acknowledged"
        ),
    };
    format!(
        "node {node} of cluster {cluster} has everything up to log entry {last} of term {term}, cluster time {clock}: \
         {counts}{doubtful}\nwhat was acknowledged after entry {last}, and reached only the other nodes ({others}), \
         is lost, and so is the usage that they had not shipped. Never start them again with their data",
        clock = crate::http::time(state.clock),
        counts = counts(&state),
        others = others.join(", "),
    )
}

fn read(archive: &Path) -> anyhow::Result<Archived> {
    let file = File::open(archive).with_context(|| format!("cannot open {}", archive.display()))?;
    read_archive(BufReader::new(file)).with_context(|| format!("{} cannot be used", archive.display()))
}

fn describe(archived: &Archived) -> String {
    let about = &archived.metadata;
    format!(
        "backup of cluster {} up to log entry {} of term {}, taken {} by node {} of version {}: {}",
        about.cluster,
        about.index,
        about.term,
        about.taken_at,
        about.node,
        about.version,
        counts(archived.state())
    )
}

fn counts(state: &ClusterState) -> String {
    format!(
        "{} functions, {} accounts, {} nodes, {} live instances, {} ledger rows",
        state.functions.iter().count(),
        state.accounts.iter().count(),
        state.nodes.iter().count(),
        state.instances.live().count(),
        state.ledger.usage().len() + state.ledger.instance_time().len(),
    )
}

async fn finish(store: Store) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || store.close()).await.context("closing the store panicked")
}
