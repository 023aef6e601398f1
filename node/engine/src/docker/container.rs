//! How a container is made of a launch, and how one is read back: names, labels, hardening, states.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, HostConfig, HostConfigLogConfig, ImageInspect,
    RestartPolicy, RestartPolicyNameEnum,
};
use muster_core::functions::Spec;
use muster_core::ids::{ClusterId, FunctionName, Generation, InstanceId, NodeId};

use super::docker_status;
use crate::instance::{Exit, Launch, RunState};
use crate::{Cause, EngineError};

pub(super) const CLUSTER: &str = "muster.cluster";
const NODE: &str = "muster.node";
const INSTANCE: &str = "muster.instance";
const GENERATION: &str = "muster.generation";
const FUNCTION: &str = "muster.function";
/// Where the instance listens: a list shows it without the spec.
const PORT: &str = "muster.port";

/// `nobody`: what an image runs as unless it says otherwise.
const USER: &str = "65534:65534";
/// Processes and threads in one container: a fork bomb stays its own problem.
const PIDS_MAX: i64 = 512;
const TMPFS: &str = "size=16m,mode=1777";
/// Docker starts nothing with less.
const MEMORY_MIN_MB: u32 = 6;
/// Docker refuses less than a hundredth of a core.
const CPU_MIN_MILLIS: u32 = 10;
/// The last lines Docker is asked for; what exceeds the limit in bytes is dropped while reading.
pub(super) const OUTPUT_LINES: &str = "1000";

/// The operating system and architecture of a host or an image, in Go's words.
#[derive(Debug)]
pub(super) struct Platform {
    os: Option<String>,
    arch: Option<String>,
}

impl Platform {
    pub(super) fn new(os: Option<String>, arch: Option<String>) -> Self {
        let known = |text: Option<String>| text.filter(|text| !text.is_empty());
        Platform { os: known(os), arch: known(arch) }
    }

    /// Refuses an image for something else: it would only fail later, as an exec format error. What
    /// either side does not say is taken to match.
    pub(super) fn check(&self, image: &str, config: &ImageInspect) -> Result<(), EngineError> {
        let theirs = Platform::new(config.os.clone(), config.architecture.clone());
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        if differ(&self.os, &theirs.os) || differ(&self.arch, &theirs.arch) {
            return Err(EngineError::WrongPlatform {
                image: image.to_owned(),
                image_platform: theirs.to_string(),
                host_platform: self.to_string(),
            });
        }
        Ok(())
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        write!(f, "{}/{}", word(&self.os), word(&self.arch))
    }
}

/// A container of ours as a list shows it.
#[derive(Debug)]
pub(super) struct Listed {
    /// Docker's id.
    pub id: String,
    pub instance: InstanceId,
    pub generation: Generation,
    pub function: FunctionName,
    /// `None`: it ended, and how is another question.
    pub state: Option<RunState>,
}

/// A container as an inspection shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    Created,
    Running(SocketAddr),
    Exited { code: i64, oom_killed: bool },
}

/// The same for every attempt at an instance, so a second create finds the first. Ids are hexadecimal,
/// so the name is valid and well below Docker's limit.
pub(super) fn name(cluster: ClusterId, instance: InstanceId) -> String {
    format!("muster-{cluster}-{instance}")
}

pub(super) fn cluster_label(cluster: ClusterId) -> String {
    format!("{CLUSTER}={cluster}")
}

/// Filters that match this node's containers and no other's.
pub(super) fn filters(cluster: ClusterId, node: NodeId) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![cluster_label(cluster), format!("{NODE}={node}")])])
}

/// What Docker is asked to create.
pub(super) fn body(
    launch: &Launch,
    image: &str,
    config: &ImageInspect,
    network: &str,
    has_init: bool,
) -> ContainerCreateBody {
    let env = launch.environment(launch.spec.port);
    let names_user = config.config.as_ref().and_then(|c| c.user.as_ref()).is_some_and(|u| !u.is_empty());
    ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: (!names_user).then(|| USER.to_owned()),
        labels: Some(labels(launch)),
        host_config: Some(host_config(&launch.spec, network, has_init)),
        ..ContainerCreateBody::default()
    }
}

/// Whether a container that has an instance's name is that instance.
pub(super) fn is_of(found: &ContainerInspectResponse, launch: &Launch) -> bool {
    let theirs = found.config.as_ref().and_then(|config| config.labels.as_ref());
    theirs.is_some_and(|theirs| labels(launch).iter().all(|(key, value)| theirs.get(key) == Some(value)))
}

pub(super) fn sighting(found: &ContainerInspectResponse, port: u16) -> Result<Sighting, EngineError> {
    use ContainerStateStatusEnum as Status;
    let unexpected =
        |problem: String| EngineError::Unexpected { operation: "inspect the container", problem };
    let Some(state) = &found.state else { return Err(unexpected("it has no state".into())) };
    match state.status {
        Some(Status::CREATED) => Ok(Sighting::Created),
        Some(Status::RUNNING | Status::PAUSED | Status::STOPPING) => {
            let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
            let addr = networks.and_then(address).map(|ip| SocketAddr::new(ip, port));
            addr.map(Sighting::Running).ok_or_else(|| unexpected("it runs and has no address".into()))
        }
        Some(Status::EXITED | Status::DEAD) => Ok(Sighting::Exited {
            code: state.exit_code.unwrap_or_default(),
            oom_killed: state.oom_killed.unwrap_or_default(),
        }),
        other => Err(unexpected(format!("its state is {other:?}"))),
    }
}

/// Reads a list entry; `None` for one that is being removed or whose labels are not ours.
pub(super) fn listed(found: &ContainerSummary) -> Option<Listed> {
    use ContainerSummaryStateEnum as State;
    let id = found.id.clone()?;
    let labels = found.labels.as_ref()?;
    let label = |key: &str| labels.get(key).map(String::as_str);
    let port = label(PORT)?.parse().ok()?;
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let state = match found.state? {
        State::CREATED => Some(RunState::Starting),
        State::RUNNING | State::PAUSED | State::STOPPING | State::RESTARTING => {
            // Listed between its start and its network: it will have an address at the next look.
            let addr = networks.and_then(address).map(|ip| SocketAddr::new(ip, port));
            Some(addr.map_or(RunState::Starting, |addr| RunState::Running { addr }))
        }
        State::EXITED | State::DEAD => None,
        State::REMOVING | State::EMPTY => return None,
    };
    Some(Listed {
        id,
        instance: label(INSTANCE)?.parse().ok()?,
        generation: Generation(label(GENERATION)?.parse().ok()?),
        function: label(FUNCTION)?.parse().ok()?,
        state,
    })
}

/// Docker reports a signal the way a shell does, as 128 and its number.
pub(super) fn exit(code: i64, oom_killed: bool, last_output: String) -> Exit {
    match i32::try_from(code - 128) {
        Ok(signal @ 1..=SIGNAL_MAX) => Exit { code: None, signal: Some(signal), oom_killed, last_output },
        _ => Exit { code: Some(code), signal: None, oom_killed, last_output },
    }
}

/// The highest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// Docker's refusal to start, made plain where the image is to blame.
pub(super) fn explain_start(error: EngineError) -> EngineError {
    let text = match &error {
        EngineError::Refused { source: Cause::Docker(cause), .. } => cause.to_string(),
        _ => return error,
    };
    let missing = text.contains("executable file not found") || text.contains("no such file or directory");
    match (missing && docker_status(&error) == Some(400), text.split('"').nth(1), error) {
        (true, Some(program), EngineError::Refused { source, .. }) => {
            EngineError::NoSuchProgram { program: program.to_owned(), source }
        }
        (_, _, error) => error,
    }
}

fn labels(launch: &Launch) -> HashMap<String, String> {
    HashMap::from([
        (CLUSTER.to_owned(), launch.cluster.to_string()),
        (NODE.to_owned(), launch.node.to_string()),
        (INSTANCE.to_owned(), launch.instance.to_string()),
        (GENERATION.to_owned(), launch.generation.to_string()),
        (FUNCTION.to_owned(), launch.function.to_string()),
        (PORT.to_owned(), launch.spec.port.to_string()),
    ])
}

/// Limits and hardening: a function may use what its spec grants, and change nothing but `/tmp`.
fn host_config(spec: &Spec, network: &str, has_init: bool) -> HostConfig {
    let memory = i64::from(spec.memory_mb.max(MEMORY_MIN_MB)) * 1024 * 1024;
    let log_options = [("max-size", "10m"), ("max-file", "2")];
    HostConfig {
        memory: Some(memory),
        // Equal to the memory: no swap. A function that swaps is slow in a way nobody can explain.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(spec.cpu_millis.max(CPU_MIN_MILLIS)) * 1_000_000),
        pids_limit: Some(PIDS_MAX),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), TMPFS.to_owned())])),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(log_options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        }),
        network_mode: Some(network.to_owned()),
        init: has_init.then_some(true),
        // The container must stay to tell how it ended, and only the agent decides on another start.
        auto_remove: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

/// The address of a container that is on one network.
fn address(networks: &HashMap<String, EndpointSettings>) -> Option<IpAddr> {
    networks.values().find_map(|network| network.ip_address.as_ref()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_as_docker_gives_them() {
        for (code, exit_code, signal) in [
            (0, Some(0), None),
            (3, Some(3), None),
            (128, Some(128), None),
            (137, None, Some(9)),
            (143, None, Some(15)),
            (192, None, Some(64)),
            (193, Some(193), None),
            (255, Some(255), None),
        ] {
            let exit = exit(code, false, String::new());
            assert_eq!((exit.code, exit.signal), (exit_code, signal), "{code}");
        }
    }

    #[test]
    fn images_for_another_platform_are_refused() {
        let host = Platform::new(Some("linux".into()), Some("amd64".into()));
        for (os, arch, fits) in [
            (Some("linux"), Some("amd64"), true),
            (Some("linux"), Some("arm64"), false),
            (Some("windows"), Some("amd64"), false),
            (Some("linux"), Some(""), true),
            (None, None, true),
        ] {
            let image = ImageInspect {
                os: os.map(str::to_owned),
                architecture: arch.map(str::to_owned),
                ..ImageInspect::default()
            };
            assert_eq!(host.check("a", &image).is_ok(), fits, "{os:?}/{arch:?}");
        }
    }
}
