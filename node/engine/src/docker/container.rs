//! How a container is made of a launch, and how one is read back: names, labels, hardening, states.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, HostConfig, HostConfigLogConfig, ImageInspect,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use muster_core::functions::Spec;
use muster_core::ids::{ClusterId, FunctionName, Generation, InstanceId, NodeId};
use muster_core::units::Timestamp;

use super::namespaces::Namespace;
use super::{docker_status, wait_image};
use crate::instance::{Exit, Launch, RunState};
use crate::logs::Origin;
use crate::{Cause, EngineError, OPEN_FILES_MAX};

pub(super) const CLUSTER: &str = "muster.cluster";
const NODE: &str = "muster.node";
const INSTANCE: &str = "muster.instance";
const GENERATION: &str = "muster.generation";
const FUNCTION: &str = "muster.function";
/// Where the instance listens: a list shows it without the spec.
const PORT: &str = "muster.port";
/// When its function was created, in ms: whose its output is.
const BORN: &str = "muster.born";
/// The waiting container whose network namespace the instance has joined, and the address it has there.
const HOLDER: &str = "muster.holder";
const ADDRESS: &str = "muster.address";
/// What a container is for that is no instance.
const ROLE: &str = "muster.role";
const ROLE_WAITING: &str = "waiting";

/// `nobody`: what an image runs as unless it says otherwise.
const USER: &str = "65534:65534";
/// Processes and threads in one container: a fork bomb stays its own problem.
const PIDS_MAX: i64 = 512;
const TMPFS: &str = "size=16m,mode=1777";
/// Of the two files in which Docker keeps a container's output; the same as `logs::Limits`.
const LOG_FILE_SIZE: &str = "4m";
/// Docker starts nothing with less.
const MEMORY_MIN_MB: u32 = 6;
/// To start; then it sleeps.
const WAITING_CPU_MILLIS: u32 = 1000;
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
    pub paused: bool,
}

/// A container as an inspection shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sighting {
    Created,
    Running(SocketAddr),
    Exited {
        code: i64,
        oom_killed: bool,
    },
    /// Somebody removes it: it is as good as gone.
    Removing,
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

/// Where an instance's network comes from.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A namespace of its own, on the network with this id.
    Network(String),
    /// One that was made before.
    Joined(Namespace),
}

/// What Docker is asked to create.
pub(super) fn body(
    launch: &Launch,
    image: &str,
    config: &ImageInspect,
    place: &Place,
    has_init: bool,
) -> ContainerCreateBody {
    let mut labels = all_labels(launch);
    let network = match place {
        Place::Network(id) => id.clone(),
        Place::Joined(Namespace { holder, addr }) => {
            labels.insert(HOLDER.to_owned(), holder.clone());
            labels.insert(ADDRESS.to_owned(), addr.to_string());
            format!("container:{holder}")
        }
    };
    let env = launch.environment(launch.spec.port);
    let names_user = config.config.as_ref().and_then(|c| c.user.as_ref()).is_some_and(|u| !u.is_empty());
    ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: (!names_user).then(|| USER.to_owned()),
        labels: Some(labels),
        host_config: Some(host_config(Some(&launch.spec), network, has_init)),
        ..ContainerCreateBody::default()
    }
}

/// A container that holds a network namespace until an instance joins it.
pub(super) fn waiting(cluster: ClusterId, node: NodeId, network: &str) -> ContainerCreateBody {
    let labels = [(CLUSTER, cluster.to_string()), (NODE, node.to_string()), (ROLE, ROLE_WAITING.to_owned())];
    ContainerCreateBody {
        image: Some(wait_image::IMAGE.to_owned()),
        entrypoint: Some(vec![wait_image::PROGRAM.to_owned()]),
        user: Some(USER.to_owned()),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        host_config: Some(host_config(None, network.to_owned(), false)),
        ..ContainerCreateBody::default()
    }
}

/// The id of a listed container that holds a namespace.
pub(super) fn waits(found: &ContainerSummary) -> Option<&String> {
    let role = found.labels.as_ref()?.get(ROLE)?;
    found.id.as_ref().filter(|_| role == ROLE_WAITING)
}

/// The container that holds an instance's namespace, where that is another.
pub(super) fn holder(labels: &HashMap<String, String>) -> Option<&String> {
    labels.get(HOLDER)
}

/// The address of an instance that has joined a namespace: Docker itself shows none.
fn joined_address(labels: Option<&HashMap<String, String>>) -> Option<IpAddr> {
    labels?.get(ADDRESS)?.parse().ok()
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
            let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
            let ip = joined_address(labels).or_else(|| networks.and_then(address));
            let addr = ip.map(|ip| SocketAddr::new(ip, port));
            addr.map(Sighting::Running).ok_or_else(|| unexpected("it runs and has no address".into()))
        }
        Some(Status::EXITED | Status::DEAD) => Ok(Sighting::Exited {
            code: state.exit_code.unwrap_or_default(),
            oom_killed: state.oom_killed.unwrap_or_default(),
        }),
        Some(Status::REMOVING) => Ok(Sighting::Removing),
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
            let ip = joined_address(Some(labels)).or_else(|| networks.and_then(address));
            let addr = ip.map(|ip| SocketAddr::new(ip, port));
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
        paused: found.state == Some(State::PAUSED),
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

/// What makes a container this instance.
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

fn all_labels(launch: &Launch) -> HashMap<String, String> {
    let mut labels = labels(launch);
    labels.insert(BORN.to_owned(), launch.born.0.to_string());
    labels
}

pub(super) fn function_label(function: &FunctionName) -> String {
    format!("{FUNCTION}={function}")
}

/// Whose output a container's is, by its labels.
pub(super) fn origin(labels: &HashMap<String, String>) -> Option<Origin> {
    let label = |key: &str| labels.get(key).map(String::as_str);
    Some(Origin {
        instance: label(INSTANCE)?.parse().ok()?,
        generation: Generation(label(GENERATION)?.parse().ok()?),
        function: label(FUNCTION)?.parse().ok()?,
        born: Timestamp(label(BORN)?.parse().ok()?),
    })
}

/// Limits and hardening: a function may use what its spec grants, and change nothing but `/tmp`. Without a
/// spec it is a container that only waits.
fn host_config(spec: Option<&Spec>, network: String, has_init: bool) -> HostConfig {
    let (memory_mb, cpu_millis) =
        spec.map_or((0, WAITING_CPU_MILLIS), |spec| (spec.memory_mb, spec.cpu_millis));
    let memory = i64::from(memory_mb.max(MEMORY_MIN_MB)) * 1024 * 1024;
    let files = i64::try_from(OPEN_FILES_MAX).expect("a few thousand");
    let log_options = [("max-size", LOG_FILE_SIZE), ("max-file", "2")];
    HostConfig {
        memory: Some(memory),
        // Equal to the memory: no swap. A function that swaps is slow in a way nobody can explain.
        memory_swap: Some(memory),
        nano_cpus: Some(i64::from(cpu_millis.max(CPU_MIN_MILLIS)) * 1_000_000),
        pids_limit: Some(PIDS_MAX),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".into()),
            soft: Some(files),
            hard: Some(files),
        }]),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        readonly_rootfs: Some(true),
        tmpfs: Some(HashMap::from([("/tmp".to_owned(), TMPFS.to_owned())])),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(log_options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        }),
        network_mode: Some(network),
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
pub(super) fn address(networks: &HashMap<String, EndpointSettings>) -> Option<IpAddr> {
    networks.values().find_map(|network| network.ip_address.as_ref()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState;

    use super::*;

    #[test]
    fn containers_are_seen_in_each_of_their_states() {
        use ContainerStateStatusEnum::{CREATED, DEAD, EMPTY, EXITED, REMOVING, RUNNING};
        let exited = |code| Some(Sighting::Exited { code, oom_killed: false });
        for (status, seen) in [
            (CREATED, Some(Sighting::Created)),
            (EXITED, exited(3)),
            (DEAD, exited(3)),
            // One such container must not hide all the others of a list.
            (REMOVING, Some(Sighting::Removing)),
            // Without an address.
            (RUNNING, None),
            (EMPTY, None),
        ] {
            let state = ContainerState { status: Some(status), exit_code: Some(3), ..Default::default() };
            let found = ContainerInspectResponse { state: Some(state), ..Default::default() };
            assert_eq!(sighting(&found, 8080).ok(), seen, "{status}");
        }
    }

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
