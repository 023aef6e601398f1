//! Functions without a registry: what they are made of is given to one node, and the others have it after that
//! node's death.

#![expect(clippy::unwrap_used, reason = "a test ends where what it relies on does not hold")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::ensure;
use http::Method;
use muster_api::Package;
use muster_chaos::cluster::{programs, send};
use muster_chaos::wait::until;
use muster_chaos::{Cluster, Engine, Settings};

const SOON: Duration = Duration::from_secs(60);

/// Runs the command line against one node.
fn muster(cluster: &Cluster, n: u64, words: &[&str]) -> Output {
    let mut command = Command::new(programs::built().join("muster"));
    command.args(words).env("MUSTER_URL", cluster.url(n)).env("MUSTER_KEY", cluster.root_key());
    command.output().unwrap()
}

fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// A tar of a folder with `faulty` in it.
fn folder_package(dir: &Path) -> PathBuf {
    let root = dir.join("packed");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(programs::built().join("faulty"), root.join("bin/serve")).unwrap();
    let package = dir.join("function.tar.gz");
    let packed =
        Command::new("tar").arg("-czf").arg(&package).arg("-C").arg(&root).arg(".").status().unwrap();
    assert!(packed.success());
    package
}

fn function_file(dir: &Path, source: &str) -> PathBuf {
    let file = dir.join("function.toml");
    let text = format!(
        "name = \"packed\"\n{source}\nmemory_mb = 16\ncpu_millis = 20\ntimeout_ms = 20000\n[env]\nMODE = \"echo\"\n"
    );
    fs::write(&file, text).unwrap();
    file
}

/// Deploys through one node, kills it, and calls the function at the others.
async fn outlives_its_node(cluster: &Cluster, file: &Path, option: &str, package: &Path) {
    let leader = cluster.leader().await.unwrap();
    let entry = cluster.others(leader)[0];
    let words = ["deploy", "-f", file.to_str().unwrap(), option, package.to_str().unwrap()];
    let said = done(&muster(cluster, entry, &words));
    assert!(said.contains("stored"), "{said}");
    cluster.kill(entry).unwrap();
    let survivors = cluster.others(entry);
    for n in &survivors {
        let served = || async {
            let answer = cluster.invoke(*n, cluster.root_key(), "packed", "hello").await?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        };
        until("the function runs", SOON, served).await.unwrap();
    }
    // Every survivor has fetched it, wherever it was placed.
    for n in survivors {
        let fetched = || async {
            let here = cluster.metric(n, "muster_packages_here").await?;
            ensure!(here == 1, "{here} packages");
            Ok(())
        };
        until("the package is there", SOON, fetched).await.unwrap();
    }
    cluster.restart(entry).await.unwrap();
    let again = done(&muster(cluster, entry, &words));
    assert!(again.contains("already"), "{again}");
    let listed = muster(cluster, entry, &["packages"]);
    done(&listed);
    let table = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(table.contains("sha256:") && table.contains("packed"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_program_outlives_the_node_it_was_given_to() {
    let cluster = Cluster::start(Settings::default()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = function_file(dir.path(), "command = [\"bin/serve\"]");
    let package = folder_package(dir.path());
    outlives_its_node(&cluster, &file, "--package", &package).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_archive_outlives_the_node_it_was_given_to() {
    let Some(image) = programs::image() else { return };
    let cluster = Cluster::start(Settings::default().engine(Engine::Docker)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    let saved = Command::new("docker").arg("save").arg("-o").arg(&archive).arg(image).status().unwrap();
    assert!(saved.success());
    // It names no image: there is one in the archive.
    let file = function_file(dir.path(), "");
    outlives_its_node(&cluster, &file, "--image-archive", &archive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_are_checked_limited_and_forgotten() {
    let settings = Settings::default().set("packages.max_mb", 1).set("packages.keep_unused_seconds", 2);
    let cluster = Cluster::start(settings).await.unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let path = format!("/v1/packages/{digest}");
    let put = |path: String, body: Vec<u8>| {
        send(cluster.request(1, Method::PUT, &path, Some(cluster.root_key())).body(body))
    };
    let refused = put(path.clone(), b"hello".to_vec()).await.unwrap();
    let hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let detail = refused.problem.clone().unwrap().detail;
    assert!(refused.status == 400 && detail.contains(&digest) && detail.contains(hello), "{refused:?}");
    // More than sockets buffer: the answer comes while the body is still being sent, and is seen all the same,
    // unless a busy machine lets nobody send for longer than a node reads on.
    let mut seen = 0;
    for _ in 0..8 {
        if let Ok(refused) = put(path.clone(), vec![0; 8 << 20]).await {
            assert_eq!(refused.status, 413, "{refused:?}");
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen} of 8 have seen the answer");
    let refused = put("/v1/packages/sha256:1".into(), Vec::new()).await.unwrap();
    assert_eq!(refused.status, 400, "{refused:?}");

    let mut spec = muster_chaos::functions::command("bin/serve");
    spec.package = Some(hello.to_owned());
    let unknown = cluster.client().put_function("packed", &spec).await.unwrap_err();
    assert!(unknown.status() == Some(409) && unknown.to_string().contains(hello), "{unknown}");

    let alice = cluster.key_for("alice").await.unwrap();
    let hers = cluster.request(1, Method::PUT, &format!("/v1/packages/{hello}"), Some(&alice)).body("hello");
    assert_eq!(send(hers).await.unwrap().status, 403);

    let stored = put(format!("/v1/packages/{hello}"), b"hello".to_vec()).await.unwrap();
    assert_eq!(stored.status, 201, "{stored:?}");
    let forgotten = || async {
        let listed: Vec<Package> = cluster.get(1, "/v1/packages").await?;
        ensure!(listed.is_empty(), "{listed:?}");
        for n in cluster.running() {
            let here = cluster.metric(n, "muster_packages_here").await?;
            ensure!(here == 0, "node {n} has {here}");
        }
        Ok(())
    };
    until("nobody uses it, so it is forgotten", SOON, forgotten).await.unwrap();
}
