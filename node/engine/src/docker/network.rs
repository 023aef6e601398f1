//! The cluster's bridge network on this host. Containers reach the world through it and the host
//! reaches them; they do not reach each other.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::ListNetworksOptionsBuilder;
use muster_core::ids::ClusterId;
use tokio::sync::Mutex;

use super::{READ_DEADLINE, container, docker_status, within};
use crate::{Cause, EngineError};

/// Looks at a network that another node is creating, which takes a loaded dockerd a second.
const ATTEMPTS_MAX: u32 = 50;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);

/// Several nodes may share one dockerd, as in a local cluster, so several may create it at once.
#[derive(Debug)]
pub(super) struct Handle {
    docker: Docker,
    cluster: ClusterId,
    /// The network's id once it is known to exist. Held while creating, so that one node asks once.
    known: Mutex<Option<String>>,
}

impl Handle {
    pub(super) fn new(docker: Docker, cluster: ClusterId) -> Self {
        Handle { docker, cluster, known: Mutex::new(None) }
    }

    /// The id of the network, which is created if need be.
    pub(super) async fn id(&self) -> Result<String, EngineError> {
        let mut known = self.known.lock().await;
        if let Some(id) = known.as_ref() {
            return Ok(id.clone());
        }
        let id = self.ensure().await?;
        Ok(known.insert(id).clone())
    }

    /// Called when Docker says that the network is gone.
    pub(super) async fn forget(&self) {
        *self.known.lock().await = None;
    }

    pub(super) async fn remove(&self) -> Result<(), EngineError> {
        let mut known = self.known.lock().await;
        *known = None;
        for id in self.find().await? {
            match within("remove the network", READ_DEADLINE, self.docker.remove_network(&id)).await {
                Err(error) if docker_status(&error) == Some(404) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// The ids of the networks that are this cluster's, in the same order for every node: an engine
    /// that lets two have one name (Docker before 25) must not split the nodes for longer than a launch.
    async fn find(&self) -> Result<Vec<String>, EngineError> {
        let filters = HashMap::from([("label", vec![container::cluster_label(self.cluster)])]);
        let options = ListNetworksOptionsBuilder::new().filters(&filters).build();
        let found =
            within("list the networks", READ_DEADLINE, self.docker.list_networks(Some(options))).await?;
        let name = name(self.cluster);
        let mut ids: Vec<String> = found
            .into_iter()
            .filter(|network| network.name.as_ref() == Some(&name))
            .filter_map(|network| network.id)
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Finds or creates it. Of several nodes that create at once all but one are refused, and refused
    /// *before* the list shows the one that was made: so a refusal is followed by further looks.
    async fn ensure(&self) -> Result<String, EngineError> {
        let operation = "create the network";
        let mut refusal = None;
        for _ in 0..ATTEMPTS_MAX {
            if let Some(id) = self.find().await?.into_iter().next() {
                return Ok(id);
            }
            let creation = self.docker.create_network(request(self.cluster));
            match within(operation, READ_DEADLINE, creation).await {
                // The list decides which one it is.
                Ok(_) => continue,
                Err(error) if docker_status(&error).is_some() => refusal = Some(error),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(ATTEMPT_PAUSE).await;
        }
        let unlisted = EngineError::Unexpected { operation, problem: "it is not listed".into() };
        Err(refusal.unwrap_or(unlisted))
    }
}

fn name(cluster: ClusterId) -> String {
    format!("muster-{cluster}")
}

/// Whether an error says that the network a container should join is not there.
pub(super) fn is_missing(error: &EngineError) -> bool {
    let EngineError::Refused { source: Cause::Docker(cause), .. } = error else { return false };
    let text = cause.to_string();
    docker_status(error) == Some(404) && text.contains("network") && text.contains("not found")
}

/// The bridge device has a name made of the cluster's id, because Docker lets no two networks share
/// one: of two nodes that create at the same time one is refused, even where names may repeat.
fn request(cluster: ClusterId) -> NetworkCreateRequest {
    let options = [
        ("com.docker.network.bridge.enable_icc", "false".to_owned()),
        ("com.docker.network.bridge.name", device(cluster)),
    ];
    NetworkCreateRequest {
        name: name(cluster),
        driver: Some("bridge".into()),
        options: Some(options.map(|(key, value)| (key.to_owned(), value)).into()),
        labels: Some(HashMap::from([(container::CLUSTER.to_owned(), cluster.to_string())])),
        ..NetworkCreateRequest::default()
    }
}

/// `mu` and 13 of the id's 16 hexadecimal digits: a device name has at most 15 characters.
pub(super) fn device(cluster: ClusterId) -> String {
    format!("mu{:013x}", cluster.0 & 0x000f_ffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit() {
        for id in [0, 1, u64::MAX] {
            assert_eq!(device(ClusterId(id)).len(), 15);
        }
        assert_ne!(device(ClusterId(1)), device(ClusterId(2)));
    }
}
