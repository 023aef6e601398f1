//! What the Docker engine alone promises: isolation, adoption, and plain words about images.

use std::sync::Arc;

use bollard::models::{ContainerInspectResponse, HostConfig, RestartPolicyNameEnum};
use muster_core::functions::{Source, Spec};
use muster_core::ids::NodeId;
use muster_engine::{DockerEngine, Engine, EngineError, Launch, RunState, docker_answers};

use crate::bench::{Bench, Leftovers, NO_GRACE, NODE, client, get, ready, until};
use crate::image::{Image, native};
use crate::suite::ended;

async fn inspect(launch: &Launch) -> ContainerInspectResponse {
    let name = format!("muster-{}-{}", launch.cluster, launch.instance);
    client().inspect_container(&name, None).await.unwrap()
}

#[tokio::test]
async fn a_missing_engine_is_said_to_be_missing() {
    assert!(!docker_answers(Some("/nonexistent/docker.sock")).await);
    let cluster = muster_core::ids::ClusterId(1);
    let error = DockerEngine::connect(Some("/nonexistent/docker.sock"), cluster, NODE).await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }) && error.may_retry(), "{error:?}");
    assert!(error.reason().contains("/nonexistent/docker.sock"), "{}", error.reason());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_hardened_and_limited() {
    let Some(bench) = Bench::docker().await else { return };
    let (launch, addr) = bench.serving("serve").await;
    let found = inspect(&launch).await;
    assert_hardened(&found.host_config.unwrap());
    assert_eq!(found.config.unwrap().user.as_deref(), Some("65534:65534"));

    // The settings as the program meets them.
    let status = get(addr, "/status").await;
    let line = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(line("Uid:"), ["65534"; 4]);
    assert_eq!(line("CapEff:"), ["0000000000000000"]);
    assert_eq!(line("NoNewPrivs:"), ["1"]);
    assert_eq!(get(addr, "/write/tmp/file").await, "Ok(())");
    assert_eq!(get(addr, "/write/file").await, "Err(ReadOnlyFilesystem)");
}

fn assert_hardened(host: &HostConfig) {
    let memory = Some(32 * 1024 * 1024);
    assert_eq!((host.memory, host.memory_swap), (memory, memory));
    assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(512)));
    assert_eq!(host.cap_drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert_eq!(host.security_opt.as_deref(), Some(&["no-new-privileges".to_owned()][..]));
    assert_eq!((host.readonly_rootfs, host.auto_remove), (Some(true), Some(false)));
    assert_eq!((host.privileged, host.publish_all_ports), (Some(false), Some(false)));
    assert!(host.binds.as_ref().is_none_or(Vec::is_empty), "{:?}", host.binds);
    let tmpfs = host.tmpfs.as_ref().unwrap();
    assert!(tmpfs.len() == 1 && tmpfs["/tmp"].contains("size=16m"), "{tmpfs:?}");
    let logs = host.log_config.as_ref().unwrap();
    let options = logs.config.as_ref().unwrap();
    assert_eq!(logs.typ.as_deref(), Some("json-file"));
    assert_eq!((options["max-size"].as_str(), options["max-file"].as_str()), ("10m", "2"));
    assert_eq!(host.restart_policy.as_ref().unwrap().name, Some(RestartPolicyNameEnum::NO));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_an_image_names_is_kept() {
    let Some(mut bench) = Bench::docker().await else { return };
    let (_leftovers, image) = image(&bench, native(), "1234", &["/program"]).await;
    bench.source = Source::Image(image);
    let (_, addr) = bench.serving("serve").await;
    let status = get(addr, "/status").await;
    assert!(status.lines().any(|line| line.starts_with("Uid:\t1234\t")), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_do_not_reach_each_other() {
    let Some(bench) = Bench::docker().await else { return };
    let (_, one) = bench.serving("serve").await;
    let (_, two) = bench.serving("serve").await;
    assert_eq!(get(one, &format!("/connect/{one}")).await, "connected");
    assert_eq!(get(one, &format!("/connect/{two}")).await, "TimedOut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_adopts_what_runs() {
    let Some(mut bench) = Bench::docker().await else { return };
    let (serving, addr) = bench.serving("serve").await;
    let failed = bench.launch("fail");
    let _ = bench.engine.launch(&failed).await;
    ended(&bench, &failed).await;
    let boot = get(addr, "/boot").await;
    let mut before = bench.engine.list().await.unwrap();
    before.sort_by_key(|running| running.instance);

    bench.engine = Arc::new(DockerEngine::connect(None, bench.cluster, NODE).await.unwrap());
    let mut after = bench.engine.list().await.unwrap();
    after.sort_by_key(|running| running.instance);
    assert_eq!(after, before);
    assert_eq!(bench.engine.launch(&serving).await.unwrap(), addr);
    assert_eq!(get(addr, "/boot").await, boot, "it was started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_created_and_not_started_is_started() {
    let Some(bench) = Bench::docker().await else { return };
    let (launch, _) = bench.serving("serve").await;
    // As if the node had died between the two calls: a copy of the container, never started.
    let found = inspect(&launch).await;
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    let config = found.config.unwrap();
    let body = bollard::models::ContainerCreateBody {
        image: config.image,
        env: config.env,
        labels: config.labels,
        host_config: found.host_config,
        ..Default::default()
    };
    let name = format!("muster-{}-{}", launch.cluster, launch.instance);
    let options = bollard::query_parameters::CreateContainerOptionsBuilder::new().name(&name).build();
    client().create_container(Some(options), body).await.unwrap();
    assert_eq!(bench.state(launch.instance).await, Some(RunState::Starting));

    let addr = bench.engine.launch(&launch).await.unwrap();
    ready(addr).await;
    assert_eq!(bench.state(launch.instance).await, Some(RunState::Running { addr }));
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_is_told() {
    let Some(bench) = Bench::docker().await else { return };
    let launch = bench.launch("grow");
    let _ = bench.engine.launch(&launch).await;
    let exit = ended(&bench, &launch).await;
    assert!(exit.oom_killed, "{exit:?}");
    assert_eq!(exit.to_string(), "ran out of memory and was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_images_are_named() {
    let Some(bench) = Bench::docker().await else { return };
    let absent = "muster-engine-test:absent";
    assert!(!bench.engine.has_image(absent).await.unwrap());
    let error =
        bench.engine.launch(&bench.launch_of(Source::Image(absent.into()), "serve")).await.unwrap_err();
    assert!(matches!(&error, EngineError::NoSuchImage { image } if image == absent), "{error:?}");

    let foreign = if native() == "s390x" { "amd64" } else { "s390x" };
    let no_program = ["/no/such/program"];
    for (architecture, entrypoint, words) in [
        (foreign, &["/program"][..], "s390x"),
        (native(), &no_program[..], "no such file or directory"),
        (native(), &[][..], "no command specified"),
    ] {
        let (_leftovers, image) = image(&bench, architecture, "", entrypoint).await;
        assert!(bench.engine.has_image(&image).await.unwrap());
        let launch = bench.launch_of(Source::Image(image), "serve");
        let told = match bench.engine.launch(&launch).await {
            Err(error) => error.reason(),
            Ok(_) => ended(&bench, &launch).await.to_string(),
        };
        assert!(told.to_lowercase().contains(words), "{told}");
        bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
        assert_eq!(bench.engine.list().await.unwrap(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_share_docker_share_one_network() {
    let Some(bench) = Bench::docker().await else { return };
    let launches = (1..=3).map(|node| {
        let launch = Launch { node: NodeId(node), ..bench.launch("serve") };
        async move {
            let engine = DockerEngine::connect(None, launch.cluster, launch.node).await.unwrap();
            ready(engine.launch(&launch).await.unwrap()).await;
            inspect(&launch).await.network_settings.unwrap().networks.unwrap()
        }
    });
    let found = futures_util::future::join_all(launches).await;
    let mut ids: Vec<_> =
        found.iter().flat_map(|n| n.values()).filter_map(|n| n.network_id.clone()).collect();
    assert_eq!(ids.len(), 3);
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_was_removed_is_made_again() {
    let Some(bench) = Bench::docker().await else { return };
    let (launch, _) = bench.serving("serve").await;
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    client().remove_network(&format!("muster-{}", bench.cluster)).await.unwrap();
    bench.serving("serve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_memory_and_cpu_of_a_spec_can_run() {
    let Some(bench) = Bench::docker().await else { return };
    let mut launch = bench.launch("serve");
    launch.spec = Arc::new(Spec { memory_mb: 4, cpu_millis: 1, ..Spec::clone(&launch.spec) });
    ready(bench.engine.launch(&launch).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_ends_with_the_engine() {
    let Some(mut bench) = Bench::docker().await else { return };
    let changes = Arc::downgrade(&bench.engine.changes());
    bench.engine = Arc::new(DockerEngine::connect(None, bench.cluster, NODE).await.unwrap());
    until("the end of the watch", async || changes.upgrade().is_none().then_some(())).await;
}

/// An image beside the fixture's, removed on drop.
async fn image(bench: &Bench, architecture: &str, user: &str, entrypoint: &[&str]) -> (Leftovers, String) {
    let tag = format!("muster-engine-test:{:x}", crate::bench::random());
    Image { tag: &tag, architecture, user, entrypoint }.load(&client()).await.unwrap();
    (Leftovers { cluster: bench.cluster, images: vec![tag.clone()] }, tag)
}
