//! The engines of this host, as its configuration names them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use muster_core::functions::EngineKind;
use muster_core::ids::ClusterId;
use muster_engine::{DockerEngine, Engine, ProcessEngine, logs};

use crate::config::{Config, EngineChoice};
use crate::parts::Engines;

/// Child processes and Docker containers, as the configuration says.
pub(crate) struct HostEngines(pub(crate) Config);

impl HostEngines {
    /// Where an engine keeps the output of its instances.
    fn logs(&self, engine: &str) -> anyhow::Result<logs::Store> {
        let dir = self.0.data_dir.join("logs").join(engine);
        logs::Store::open(dir, self.0.logs.limits()).context("cannot keep the output of instances")
    }
}

#[async_trait::async_trait]
impl Engines for HostEngines {
    async fn connect(&self, cluster: ClusterId) -> anyhow::Result<BTreeMap<EngineKind, Arc<dyn Engine>>> {
        let config = &self.0;
        let mut engines: BTreeMap<EngineKind, Arc<dyn Engine>> = BTreeMap::new();
        if config.engine.kind != EngineChoice::Docker {
            let (dir, logs) = (config.data_dir.join("instances"), self.logs("process")?);
            let engine = ProcessEngine::new(cluster, config.node(), dir, logs)
                .context("cannot start the process engine")?;
            engines.insert(EngineKind::Process, Arc::new(engine));
        }
        if config.engine.kind != EngineChoice::Process {
            let socket = config.engine.docker_socket.as_deref();
            let logs = self.logs("docker")?;
            let engine = loop {
                match DockerEngine::connect(socket, cluster, config.node(), logs.clone()).await {
                    Ok(engine) => break engine,
                    // The engine may be restarting; the node serves and votes meanwhile.
                    Err(error) => {
                        tracing::warn!("the Docker Engine does not answer: {:#}", anyhow::Error::new(error));
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            };
            let engine = engine.prepare_namespaces(config.engine.prepared_namespaces);
            let engine = if config.engine.firewall { engine } else { engine.without_firewall() };
            let engine = engine.with_registry_auth(config.engine.registry_auth_file.clone());
            engines.insert(EngineKind::Docker, Arc::new(engine));
        }
        Ok(engines)
    }
}
