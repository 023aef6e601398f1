//! What is known of a fault before it strikes. Each fault says it in one place, in the same words.

use muster_faultdisk::missing as no_disk;

use super::Layer;
use crate::cluster::network;
use crate::{Engine, Settings};

/// The span of what is over once it was done, as clients that have gone.
pub const OVER_BY_ITSELF_MS: (u64, u64) = (1, 50);

/// One fault as plans and reports know it.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub name: &'static str,
    /// What of a node it breaks. A node suffers one fault of a layer at a time, and faults of several
    /// layers together.
    pub layer: Layer,
    /// The shortest and the longest time it is left in place, in milliseconds.
    pub span_ms: (u64, u64),
    pub needs: Needs,
    /// Whether a majority may suffer it at a time.
    pub takes_majority: bool,
    /// Whether its nodes are begun anew by the time it is undone.
    pub restarts: bool,
    /// What a node may say as it ends by itself because of it; any other end is a violation.
    pub last_words: &'static [&'static str],
}

/// What a cluster must be started with so that a fault can be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Disks that fail as they are told to.
    Disks,
    /// Wall clocks that can be set.
    Clocks,
    /// A network whose packets can be lost.
    Network,
    /// A proxy between each node and its Docker Engine.
    DockerProxy,
    /// Instances whose memory is limited.
    MemoryLimits,
    /// Nodes that log as this filter says.
    Log(&'static str),
}

impl Frame {
    /// Of a fault without needs that any nodes may suffer, and none ends of.
    pub const fn new(name: &'static str, layer: Layer, span_ms: (u64, u64)) -> Self {
        Frame {
            name,
            layer,
            span_ms,
            needs: Needs::Nothing,
            takes_majority: true,
            restarts: false,
            last_words: &[],
        }
    }

    pub const fn needing(self, needs: Needs) -> Self {
        Frame { needs, ..self }
    }

    /// A majority is left alone.
    pub const fn sparing_a_majority(self) -> Self {
        Frame { takes_majority: false, ..self }
    }

    /// Its nodes are begun anew: ready is not enough then, their hosts must register to take instances.
    pub const fn restarting(self) -> Self {
        Frame { restarts: true, ..self }
    }

    pub const fn with_last_words(self, last_words: &'static [&'static str]) -> Self {
        Frame { last_words, ..self }
    }
}

impl Needs {
    /// Settings that meet them.
    pub fn fit(self, settings: Settings) -> Settings {
        match self {
            Needs::Nothing | Needs::MemoryLimits => settings,
            Needs::Disks => settings.faulty_disks(),
            Needs::Clocks => settings.faulty_clocks(),
            Needs::Network => settings.networked(),
            Needs::DockerProxy => settings.docker_proxied(),
            Needs::Log(filter) => settings.log(filter),
        }
    }

    /// Why they cannot be met on this machine or with this engine, if they cannot.
    pub fn unmet(self, engine: Engine) -> Option<String> {
        match (self, engine) {
            (Needs::Nothing | Needs::Log(_), _) => None,
            (Needs::Disks, _) => no_disk(),
            (Needs::Clocks, _) => {
                (!cfg!(target_os = "linux")).then(|| "clocks are preloaded as Linux does it".into())
            }
            (Needs::Network, Engine::Process) => network::unfit(),
            (Needs::Network, Engine::Docker) => {
                Some("a node in a network namespace cannot reach Docker's bridges".into())
            }
            (Needs::DockerProxy | Needs::MemoryLimits, Engine::Docker) => None,
            (Needs::DockerProxy, Engine::Process) => Some("the nodes use no Docker Engine".into()),
            (Needs::MemoryLimits, Engine::Process) => Some("child processes have no limit on memory".into()),
        }
    }
}
