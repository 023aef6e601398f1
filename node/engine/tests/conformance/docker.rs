//! What the Docker engine alone promises: isolation, adoption, and plain words about images.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bollard::models::{ContainerInspectResponse, HostConfig, RestartPolicyNameEnum};
use bollard::query_parameters::{
    ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::{StreamExt, TryStreamExt};
use muster_core::functions::{Source, Spec};
use muster_core::ids::{NodeId, PackageDigest};
use muster_engine::{DockerEngine, Engine, EngineError, Launch, LogRead, Progress, RunState, docker_answers};

use crate::bench::{Bench, Leftovers, NO_GRACE, NODE, client, get, logs_in, ready, until};
use crate::image::{Image, native};
use crate::registry::Registry;
use crate::suite::ended;

async fn inspect(launch: &Launch) -> ContainerInspectResponse {
    let name = format!("muster-{}-{}", launch.cluster, launch.instance);
    client().inspect_container(&name, None).await.unwrap()
}

#[tokio::test]
async fn a_missing_engine_is_said_to_be_missing() {
    assert!(!docker_answers(Some("/nonexistent/docker.sock")).await);
    let cluster = muster_core::ids::ClusterId(1);
    let folder = tempfile::tempdir().unwrap();
    let error =
        DockerEngine::connect(Some("/nonexistent/docker.sock"), cluster, NODE, logs_in(folder.path()))
            .await
            .unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }) && error.may_retry(), "{error:?}");
    assert!(error.reason().contains("/nonexistent/docker.sock"), "{}", error.reason());
}

/// An engine that keeps namespaces ready, once all are.
async fn prepared(bench: &mut Bench, count: usize) -> Arc<DockerEngine> {
    let engine = DockerEngine::connect(None, bench.cluster, NODE, logs_in(bench.folder())).await.unwrap();
    let engine = Arc::new(engine.prepare_namespaces(count));
    let Source::Image(image) = &bench.source else { panic!("an image") };
    assert!(engine.has_image(image).await.unwrap());
    until("the namespaces are ready", async || (engine.prepared() == count).then_some(())).await;
    bench.engine = engine.clone();
    engine
}

/// Waits until no namespace is being made: Docker would finish it after the test has cleared up.
async fn settled(engine: &DockerEngine, count: usize) {
    until("the namespaces are made again", async || (engine.prepared() == count).then_some(())).await;
}

/// The containers that only wait: their ids.
async fn waiting(bench: &Bench) -> BTreeSet<String> {
    let labels = vec![format!("muster.cluster={}", bench.cluster), "muster.role=waiting".to_owned()];
    let filters = HashMap::from([("label", labels)]);
    let all = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let found = client().list_containers(Some(all)).await.unwrap();
    found.into_iter().filter_map(|container| container.id).collect()
}

/// On a network namespace of its own, and on one that was made before.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_hardened_and_limited() {
    let Some(mut bench) = Bench::docker().await else { return };
    is_hardened(&bench).await;
    if native() == "amd64" {
        let engine = prepared(&mut bench, 1).await;
        is_hardened(&bench).await;
        settled(&engine, 1).await;
    }
}

async fn is_hardened(bench: &Bench) {
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
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), (vec!["1".to_owned()], vec!["2".to_owned()]));
    assert_eq!(get(addr, "/keys").await, "PermissionDenied", "the default seccomp filter");
    assert_eq!(get(addr, "/write/tmp/file").await, "Ok(())");
    assert_eq!(get(addr, "/write/file").await, "Err(ReadOnlyFilesystem)");
    assert_eq!(get(addr, "/fill").await, "Err(StorageFull)");
    let limits = get(addr, "/limits").await;
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(
        open_files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(),
        ["4096"; 2],
        "{open_files}"
    );
    let threads: usize = get(addr, "/threads").await.parse().unwrap();
    assert!((400..512).contains(&threads), "{threads} threads");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_reach_neither_the_host_nor_the_nodes_nor_credentials() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root may set the rules of a firewall");
        return;
    }
    let Some(mut bench) = Bench::docker().await else { return };
    // As a node listens: on all addresses of the host.
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for ready in [0, 1] {
        let engine = match ready == 1 && native() == "amd64" {
            true => Some(prepared(&mut bench, ready).await),
            false => None,
        };
        let (launch, addr) = bench.serving("serve").await;
        let gateway = gateway(&bench).await;
        for target in [format!("{gateway}:{port}"), "169.254.169.254:80".to_owned()] {
            let reached = get(addr, &format!("/connect/{target}")).await;
            assert_eq!(reached, "ConnectionRefused", "{target}");
        }
        // It is the rule that refuses, not that nobody listens.
        assert!(tokio::net::TcpStream::connect((gateway.as_str(), port)).await.is_ok());
        bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
        if let Some(engine) = engine {
            settled(&engine, ready).await;
        }
    }
}

/// The host's address on the cluster's network.
async fn gateway(bench: &Bench) -> String {
    let name = format!("muster-{}", bench.cluster);
    let found = client()
        .inspect_network(&name, None::<bollard::query_parameters::InspectNetworkOptions>)
        .await
        .unwrap();
    found.ipam.unwrap().config.unwrap()[0].gateway.clone().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_join_namespaces_that_are_ready_each_its_own() {
    let Some(mut bench) = Bench::docker().await else { return };
    if native() != "amd64" {
        eprintln!("skipped: there is no waiting program for this machine");
        return;
    }
    let engine = prepared(&mut bench, 2).await;
    let ready = waiting(&bench).await;
    let (one, one_addr) = bench.serving("serve").await;
    let (two, two_addr) = bench.serving("serve").await;
    let mut joined = BTreeSet::new();
    for launch in [&one, &two] {
        let host = inspect(launch).await.host_config.unwrap();
        let holder = host.network_mode.unwrap().strip_prefix("container:").unwrap().to_owned();
        assert!(ready.contains(&holder) && joined.insert(holder), "{ready:?} {joined:?}");
        assert!(matches!(bench.state(launch.instance).await, Some(RunState::Running { .. })));
    }
    assert_eq!(get(one_addr, &format!("/connect/{two_addr}")).await, "TimedOut");
    assert_eq!(get(two_addr, "/hello").await, "you asked for /hello");
    // More are made, and no more than that.
    until("there are as many again", async || (engine.prepared() == 2).then_some(())).await;
    assert_eq!(waiting(&bench).await.len(), 4);

    // A repeated launch adopts, and takes none.
    assert_eq!(bench.engine.launch(&one).await.unwrap(), one_addr);
    assert_eq!(engine.prepared(), 2);
    // A node that stops takes those along that nobody has.
    engine.retire().await;
    assert_eq!(waiting(&bench).await, joined);
    // Nor does a restart of the node change anything.
    drop(engine);
    let again = DockerEngine::connect(None, bench.cluster, NODE, logs_in(bench.folder())).await.unwrap();
    bench.engine = Arc::new(again.prepare_namespaces(1));
    assert_eq!(bench.state(one.instance).await, Some(RunState::Running { addr: one_addr }));

    // They go with their instances.
    for launch in [&one, &two] {
        bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    }
    assert!(waiting(&bench).await.is_disjoint(&joined));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_gone_costs_nothing_but_time() {
    let Some(mut bench) = Bench::docker().await else { return };
    if native() != "amd64" {
        return;
    }
    let engine = prepared(&mut bench, 1).await;
    for holder in waiting(&bench).await {
        let force = RemoveContainerOptionsBuilder::new().force(true).build();
        client().remove_container(&holder, Some(force)).await.unwrap();
    }
    let (launch, addr) = bench.serving("serve").await;
    assert_eq!(get(addr, "/hello").await, "you asked for /hello");
    let mode = inspect(&launch).await.host_config.unwrap().network_mode.unwrap();
    assert!(!mode.starts_with("container:"), "{mode}");
    settled(&engine, 1).await;
}

fn assert_hardened(host: &HostConfig) {
    let memory = Some(32 * 1024 * 1024);
    assert_eq!((host.memory, host.memory_swap), (memory, memory));
    assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(512)));
    assert_eq!(host.cap_drop.as_deref(), Some(&["ALL".to_owned()][..]));
    assert_eq!(host.security_opt.as_deref(), Some(&["no-new-privileges".to_owned()][..]));
    let files = &host.ulimits.as_ref().unwrap()[0];
    assert_eq!((files.name.as_deref(), files.soft, files.hard), (Some("nofile"), Some(4096), Some(4096)));
    assert_eq!((host.readonly_rootfs, host.auto_remove), (Some(true), Some(false)));
    assert_eq!((host.privileged, host.publish_all_ports), (Some(false), Some(false)));
    assert!(host.binds.as_ref().is_none_or(Vec::is_empty), "{:?}", host.binds);
    let tmpfs = host.tmpfs.as_ref().unwrap();
    assert!(tmpfs.len() == 1 && tmpfs["/tmp"].contains("size=16m"), "{tmpfs:?}");
    let logs = host.log_config.as_ref().unwrap();
    let options = logs.config.as_ref().unwrap();
    assert_eq!(logs.typ.as_deref(), Some("json-file"));
    assert_eq!((options["max-size"].as_str(), options["max-file"].as_str()), ("4m", "2"));
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

    bench.engine =
        Arc::new(DockerEngine::connect(None, bench.cluster, NODE, logs_in(bench.folder())).await.unwrap());
    let mut after = bench.engine.list().await.unwrap();
    after.sort_by_key(|running| running.instance);
    assert_eq!(after, before);
    assert_eq!(bench.engine.launch(&serving).await.unwrap(), addr);
    assert_eq!(get(addr, "/boot").await, boot, "it was started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_there_is_no_node_is_kept() {
    let Some(mut bench) = Bench::docker().await else { return };
    let (launch, addr) = bench.serving("serve").await;
    // The engine of the next life has no memory of this one.
    let cluster = muster_core::ids::ClusterId(crate::bench::random());
    bench.engine =
        Arc::new(DockerEngine::connect(None, cluster, NODE, logs_in(bench.folder())).await.unwrap());
    get(addr, "/say/alone").await;
    // What Docker has not read from it when it is killed is lost.
    let name = format!("muster-{}-{}", launch.cluster, launch.instance);
    until("Docker has the line", async || {
        let options = LogsOptionsBuilder::new().stdout(true).build();
        let output: Vec<_> = client().logs(&name, Some(options)).try_collect().await.unwrap();
        output.iter().any(|chunk| chunk.to_string().contains("alone on stdout")).then_some(())
    })
    .await;
    bench.engine =
        Arc::new(DockerEngine::connect(None, bench.cluster, NODE, logs_in(bench.folder())).await.unwrap());
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    let lines = bench.engine.logs(&launch.function, launch.instance, LogRead::default()).await.unwrap();
    let texts: Vec<Vec<u8>> = lines.map(|line| line.unwrap().text).collect().await;
    assert!(texts.contains(&b"alone on stdout".to_vec()), "{texts:?}");
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
        let logs = logs_in(bench.folder());
        async move {
            let engine = DockerEngine::connect(None, launch.cluster, launch.node, logs).await.unwrap();
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
    bench.engine =
        Arc::new(DockerEngine::connect(None, bench.cluster, NODE, logs_in(bench.folder())).await.unwrap());
    until("the end of the watch", async || changes.upgrade().is_none().then_some(())).await;
}

/// An image beside the fixture's, removed on drop.
async fn image(bench: &Bench, architecture: &str, user: &str, entrypoint: &[&str]) -> (Leftovers, String) {
    let tag = format!("muster-engine-test:{:x}", crate::bench::random());
    Image { tag: &tag, architecture, user, entrypoint }.load(&client()).await.unwrap();
    (Leftovers { cluster: bench.cluster, images: vec![tag.clone()] }, tag)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_package_is_run_by_its_id_and_leaves_its_namesake_alone() {
    let Some(bench) = Bench::docker().await else { return };
    // Another image has the name that the package's has.
    let (_leftovers, tag) = image(&bench, native(), "1234", &["/program"]).await;
    let namesake = client().inspect_image(&tag).await.unwrap().id;
    let program = std::fs::read(crate::program::path()).unwrap();
    let packed = Image { tag: &tag, architecture: native(), user: "", entrypoint: &["/program"] };
    let file = bench.folder().join("image.tar");
    std::fs::write(&file, packed.archive(&program).unwrap()).unwrap();

    let package = PackageDigest([7; 32]);
    let source = Source::PackagedImage { package, image: tag.clone() };
    let launch = bench.launch_of(source.clone(), "serve");
    let error = bench.engine.launch(&launch).await.unwrap_err();
    assert!(matches!(&error, EngineError::NoSuchPackage { .. }), "{error:?}");
    for _again in 0..2 {
        bench.engine.take_package(&source, &file).await.unwrap();
        assert!(bench.engine.has_package(&source).await.unwrap());
    }
    assert_eq!(client().inspect_image(&tag).await.unwrap().id, namesake, "the host's own tag was moved");
    bench.engine.launch(&launch).await.unwrap();
    let run = inspect(&launch).await.image;
    assert!(run.is_some() && run != namesake, "{run:?} is the namesake's");

    let absent = Source::PackagedImage { package, image: "absent:1".into() };
    let error = bench.engine.take_package(&absent, &file).await.unwrap_err();
    assert!(matches!(&error, EngineError::NotInPackage { .. }), "{error:?}");

    // A container is of it; once that is gone, so is the image.
    bench.engine.retain_packages(&BTreeSet::new()).await.unwrap();
    assert!(bench.engine.has_package(&source).await.unwrap());
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
    bench.engine.retain_packages(&BTreeSet::new()).await.unwrap();
    assert!(!bench.engine.has_package(&source).await.unwrap());
    assert_eq!(client().inspect_image(&tag).await.unwrap().id, namesake);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image_archive_is_refused() {
    let Some(bench) = Bench::docker().await else { return };
    let source = Source::PackagedImage { package: PackageDigest([8; 32]), image: "a:1".into() };
    let file = bench.folder().join("no.tar");
    std::fs::write(&file, crate::image::tar_of(&[("a", b"b", 0o644)]).unwrap()).unwrap();
    let error = bench.engine.take_package(&source, &file).await.unwrap_err();
    assert!(error.reason().contains("manifest.json") && !error.may_retry(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_with_the_credentials_of_a_file() {
    let Some(bench) = Bench::docker().await else { return };
    let name = format!("muster-engine-test/{:x}", crate::bench::random());
    let fixture = Image { tag: &name, architecture: native(), user: "", entrypoint: &["/program"] };
    let (config, layer) = fixture.parts(&std::fs::read(crate::program::path()).unwrap()).unwrap();
    let registry = Registry::start(&name, "latest", config, layer).await;
    // Without a tag it is the latest.
    let image = format!("{}/{name}", registry.addr);
    let _leftovers = Leftovers { cluster: bench.cluster, images: vec![format!("{image}:latest")] };
    let auth = bench.folder().join("config.json");
    let connect = async |file: &std::path::Path| {
        let logs = logs_in(&bench.folder().join("pulling"));
        let engine = DockerEngine::connect(None, bench.cluster, NODE, logs).await.unwrap();
        engine.with_registry_auth(Some(file.to_owned()))
    };
    let engine = connect(&auth).await;
    let heard = std::sync::Mutex::new(Vec::new());
    let tell = |progress| heard.lock().unwrap().push(progress);

    let error = engine.pull(&image, &tell).await.unwrap_err();
    assert!(error.reason().contains("config.json"), "the file is missing: {}", error.reason());
    std::fs::write(&auth, r#"{"auths": {}}"#).unwrap();
    let error = engine.pull(&image, &tell).await.unwrap_err();
    assert!(error.reason().contains("pull the image"), "nobody has logged in: {}", error.reason());
    assert!(!engine.has_image(&image).await.unwrap());

    let login = crate::registry::LOGIN;
    std::fs::write(&auth, format!(r#"{{"auths": {{"http://{}": {{"auth": "{login}"}}}}}}"#, registry.addr))
        .unwrap();
    let error = engine.pull(&format!("{image}:absent"), &tell).await.unwrap_err();
    assert!(error.reason().contains("pull the image"), "{}", error.reason());
    engine.pull(&image, &tell).await.unwrap();
    assert!(engine.has_image(&image).await.unwrap());
    let last = heard.lock().unwrap().last().copied();
    assert!(last.is_none_or(|Progress { done, all }| 0 < done && done <= all), "{last:?}");

    let launch = bench.launch_of(Source::Image(image), "serve");
    let addr = bench.engine.launch(&launch).await.unwrap();
    ready(addr).await;
    bench.engine.stop(launch.instance, NO_GRACE).await.unwrap();
}
