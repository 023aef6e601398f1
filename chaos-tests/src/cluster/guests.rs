//! Guests: nodes that join a cluster under test for a while and are then removed, besides those that it is made
//! of. They are members like any other, yet nobody is sent to them or breaks them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::Method;
use muster_api::CreateToken;

use super::Cluster;
use super::node::{Launch, Node};
use super::settings::Address;
use super::start::free_ports;
use crate::wait::until;

/// What a node says when it ends because it was removed.
const FAREWELL: &str = "this node was removed from the cluster";

/// All guests there ever were, and where those that are there live.
#[derive(Debug, Default)]
pub(super) struct Guests {
    nodes: BTreeMap<u64, Arc<Node>>,
    /// By the station of the network where it lives, the guest.
    stations: BTreeMap<u64, u64>,
    /// Those that have become members.
    welcomed: BTreeSet<u64>,
    /// Those that were removed.
    gone: BTreeSet<u64>,
}

impl Cluster {
    /// Starts a node that joins; returns at once, with its number.
    ///
    /// # Errors
    /// Where there is no token to be had, the node does not start, or the network has no room for it.
    pub async fn invite(&self) -> Result<u64> {
        let created = self.client().create_join_token(&CreateToken::default()).await?;
        let n = created.node_id;
        let (station, launch) = self.room(n)?;
        let ports = free_ports(2)?;
        let host = match (&self.network, station) {
            (Some(network), Some(station)) => network.address(station),
            _ => Ipv4Addr::LOCALHOST,
        };
        let at = |port: u16| format!("{host}:{port}");
        let address =
            Address { id: n, http: at(ports[0]), peer: at(ports[1]), peer_advertised: at(ports[1]) };
        let node = Arc::new(self.joiner(address, &created, launch)?);
        self.guests().nodes.insert(n, Arc::clone(&node));
        node.start()?;
        Ok(n)
    }

    /// Waits until a guest is a member that is ready.
    ///
    /// # Errors
    /// With what it says instead.
    pub async fn welcome(&self, guest: u64, within: Duration) -> Result<()> {
        let node = self.guest(guest)?;
        let look = || async {
            let url = format!("http://{}/readyz", node.address.http);
            let answer = self.http.request(Method::GET, url).timeout(Duration::from_secs(1)).send().await?;
            ensure!(answer.status() == 200, "/readyz answers {}", answer.status());
            let members = self.members_at(self.running_node()?).await?;
            let member = members.iter().find(|member| member.id == guest);
            ensure!(member.is_some_and(|member| member.role != "joining"), "{member:?}");
            Ok(())
        };
        until(&format!("the guest {guest} is a member"), within, look).await?;
        self.guests().welcomed.insert(guest);
        Ok(())
    }

    /// Has a guest removed as an operator would, and waits until it has gone by itself. One that was never
    /// [welcomed](Self::welcome) is ended first.
    ///
    /// # Errors
    /// Where it is not removed, or goes on after it was.
    pub async fn dismiss(&self, guest: u64, within: Duration) -> Result<()> {
        let node = self.guest(guest)?;
        let welcomed = self.guests().welcomed.contains(&guest);
        if !welcomed {
            node.kill()?;
        }
        let removed = || async {
            let members = self.members_at(self.running_node()?).await?;
            if members.iter().any(|member| member.id == guest) {
                self.client().remove_node(guest, !welcomed).await?;
                bail!("it is on its way");
            }
            Ok(())
        };
        until(&format!("the guest {guest} is removed"), within, removed).await?;
        if !welcomed {
            self.clear_host_of(guest).await?;
        }
        if welcomed {
            let look = || async { node.ended()?.context("it still runs") };
            let ended = until(&format!("the guest {guest} ends"), within, look).await?;
            let said = node.log().contains(FAREWELL);
            ensure!(
                ended.success() && said,
                "the guest {guest} ended with {ended}, not as one that was removed"
            );
        }
        let mut guests = self.guests();
        guests.stations.retain(|_, lives| *lives != guest);
        guests.gone.insert(guest);
        Ok(())
    }

    /// The numbers of all guests there ever were.
    pub fn guest_numbers(&self) -> Vec<u64> {
        self.guests().nodes.keys().copied().collect()
    }

    /// The numbers of those that were removed.
    pub(super) fn gone_guests(&self) -> BTreeSet<u64> {
        self.guests().gone.clone()
    }

    /// All that a guest has logged.
    pub fn guest_log(&self, n: u64) -> String {
        self.guest(n).map(|node| node.log()).unwrap_or_default()
    }

    /// Ends what is left of guests, for good.
    pub(super) fn end_guests(&self) -> Result<()> {
        let nodes: Vec<Arc<Node>> = self.guests().nodes.values().cloned().collect();
        nodes.iter().try_for_each(|node| node.kill())
    }

    /// The stations of the network where guests live, or may come to.
    pub fn guest_stations(&self) -> Vec<u64> {
        self.network.as_ref().map(|network| network.spare().collect()).unwrap_or_default()
    }

    /// A place for a guest, where places are few.
    fn room(&self, guest: u64) -> Result<(Option<u64>, Launch)> {
        let Some(network) = &self.network else { return Ok((None, Launch::default())) };
        let mut guests = self.guests();
        let station = network.spare().find(|station| !guests.stations.contains_key(station));
        let station = station.context("the network has no room for another guest")?;
        guests.stations.insert(station, guest);
        Ok((Some(station), Launch { wrapper: network.wrapper(station), ..Launch::default() }))
    }

    fn guest(&self, n: u64) -> Result<Arc<Node>> {
        self.guests().nodes.get(&n).cloned().with_context(|| format!("there is no guest {n}"))
    }

    pub(super) fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
