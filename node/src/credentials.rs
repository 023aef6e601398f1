//! What this node proves to others with who it is: where it comes from, and how it is renewed.
//!
//! A founding node has the secret that the cluster's authority follows from, so it issues its own. Once the
//! cluster has begun, the authority is in the replicated state, and every member can.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use muster_consensus::Consensus;
use muster_core::authority::AuthoritySeed;
use muster_core::ids::NodeId;
use muster_tls::{Authority, Credentials, PeerTls, Validity};
use tokio::time::MissedTickBehavior;

use crate::config::Config;

/// How often it is looked whether the certificate is to be renewed: by the monotonic clock, since the wall clock,
/// which decides, may jump.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// This node's connections to others, and what they rest on.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) tls: PeerTls,
    /// The authority that follows from the secret file, if there is one.
    authority: Option<Authority>,
    node: NodeId,
    lasts: Duration,
    dir: PathBuf,
}

impl Own {
    /// Takes what is in the data directory if it is still good, and else issues it anew.
    ///
    /// # Errors
    /// If there is neither a certificate nor the secret.
    pub(crate) fn open(config: &Config) -> anyhow::Result<Self> {
        let (node, lasts, dir) = (config.node(), config.certificate_lasts(), config.credentials_dir());
        let authority = config.peer_secret()?.map(|secret| Authority::from_secret(&secret)).transpose();
        let authority = authority.context("cannot make the cluster's certificate authority")?;
        let saved = match Credentials::load(&dir) {
            Err(error) if authority.is_some() => {
                tracing::warn!(dir = %dir.display(), "the certificate is made anew: {:#}", anyhow::Error::new(error));
                None
            }
            loaded => loaded.with_context(|| format!("cannot read the certificate in {}", dir.display()))?,
        };
        let credentials = match (saved, &authority) {
            (Some(saved), Some(authority))
                if saved.node() == node
                    && saved.authority() == authority.fingerprint()
                    && !saved.are_due(SystemTime::now(), lasts) =>
            {
                saved
            }
            (_, Some(authority)) => issue(authority, node, lasts, &dir)?,
            // If it has expired, the state that this node has knows the authority.
            (Some(saved), None) if saved.node() == node => saved,
            (Some(saved), None) => bail!("the certificate in {} is node {}'s", dir.display(), saved.node()),
            (None, None) => bail!(
                "`peer.secret_file` is not set, and there is no certificate in {}: this node cannot show who it is",
                dir.display()
            ),
        };
        let tls = PeerTls::new(credentials).context("cannot set up TLS between nodes")?;
        Ok(Own { tls, authority, node, lasts, dir })
    }

    /// For the replicated state, from a node that has the secret.
    pub(crate) fn seed(&self) -> Option<AuthoritySeed> {
        self.authority.as_ref().map(|authority| AuthoritySeed(authority.seed()))
    }

    /// Renews the certificate whenever it is time to, until dropped.
    pub(crate) async fn keep_renewed(self, consensus: Consensus) {
        let mut looks = tokio::time::interval(LOOK_EVERY.min(self.lasts / 20));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut own = self;
        loop {
            looks.tick().await;
            if !own.tls.credentials().are_due(SystemTime::now(), own.lasts) {
                continue;
            }
            let replicated = consensus.with_state(|state| state.authority);
            // Keys are made, and files synced.
            let renewing = tokio::task::spawn_blocking(move || {
                let renewed = own.renew(replicated);
                (own, renewed)
            });
            let renewed;
            (own, renewed) = renewing.await.expect("renewing does not panic");
            match renewed {
                Ok(()) => tracing::info!(node = %own.node, "the node's certificate was renewed"),
                Err(error) => tracing::warn!("the node's certificate is not renewed: {error:#}"),
            }
        }
    }

    fn renew(&self, replicated: Option<AuthoritySeed>) -> anyhow::Result<()> {
        let replicated = replicated.map(|seed| Authority::from_seed(seed.0)).transpose()?;
        let authority = self.authority.as_ref().or(replicated.as_ref());
        let authority = authority.context("this node does not know the cluster's authority yet")?;
        Ok(self.tls.replace(issue(authority, self.node, self.lasts, &self.dir)?)?)
    }
}

fn issue(
    authority: &Authority,
    node: NodeId,
    lasts: Duration,
    dir: &std::path::Path,
) -> anyhow::Result<Credentials> {
    let validity = Validity { now: SystemTime::now(), lasts };
    let credentials = Credentials::issue(authority, node, validity).context("cannot make a certificate")?;
    if let Err(error) = credentials.save(dir) {
        // It is good all the same; after a restart another is made.
        tracing::warn!("the certificate is not kept: {:#}", anyhow::Error::new(error));
    }
    Ok(credentials)
}
