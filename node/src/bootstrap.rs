//! The birth of a cluster: its first voters, its id, its first key and its certificate authority. One-shot and repeatable.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use muster_consensus::{Consensus, Member};
use muster_core::accounts::{self, KeyHash, SECRET_BYTES};
use muster_core::authority::AuthoritySeed;
use muster_core::ids::{ClusterId, KeyId, NodeId};
use muster_core::version::{self, Version};
use muster_core::{Command, Rejection};

use crate::config::Bootstrap;
use crate::random;

const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Makes this node the first of its cluster, unless there is one already.
pub(crate) async fn run(
    consensus: &Consensus,
    bootstrap: &Bootstrap,
    authority: Option<AuthoritySeed>,
) -> anyhow::Result<()> {
    let members: BTreeMap<NodeId, Member> = bootstrap
        .members
        .iter()
        .map(|m| (NodeId(m.id), Member { http: m.http.clone(), peer: m.peer.clone() }))
        .collect();
    consensus.initialize(members).await.context("cannot begin the cluster")?;
    if consensus.with_state(|state| state.cluster.is_some()) {
        return Ok(());
    }
    // The key is on disk before its hash is in the log: a crash in between leaves no locked door.
    let key = root_key(&bootstrap.root_key_file)?;
    let (id, secret) = accounts::parse_key(&key).context("the root key file holds no Muster key")?;
    let cluster = ClusterId(random::id());
    let mut commands = vec![Command::Bootstrap { cluster, key: id, hash: KeyHash::of(secret) }];
    commands.extend(authority.map(|seed| Command::SetAuthority { seed }));
    // The founders are one release. An older one would not know the command.
    let newest = consensus.supported().newest;
    if newest > Version::FIRST {
        commands.push(Command::Version(version::Command::Begin { version: newest }));
    }
    loop {
        match consensus.propose_all(commands.clone()).await {
            Ok(answers) => match answers.into_iter().next().context("no answer to the bootstrap")? {
                Ok(_) => {
                    tracing::info!(%cluster, "a new cluster");
                    return Ok(());
                }
                Err(Rejection::Conflict(_)) => return Ok(()),
                Err(rejection) => bail!("cannot begin the cluster: {rejection}"),
            },
            // Its peers may not have started yet.
            Err(error) => {
                tracing::info!(%error, "waiting for a quorum to begin the cluster");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// The key in the file, or a new one written there with mode 0600.
fn root_key(path: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let key = accounts::format_key(KeyId(random::id()), &random::bytes::<SECRET_BYTES>());
    // Written beside it and renamed, so that a crash never leaves half a key.
    let partial = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        writeln!(file, "{key}")?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().with_context(|| format!("cannot write the root key to {}", path.display()))?;
    Ok(key)
}
