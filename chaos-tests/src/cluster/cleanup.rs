//! Nothing is left behind: neither when a test ends, well or not, nor when its process is killed.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Waits for the end of what it is given on stdin, which is a pipe that the test's process holds. An
/// end without a word means that the process has died, and the cluster in the folder `$0` with it.
const GUARD: &str = r#"
if read -r word && [ "$word" = done ]; then exit 0; fi
dir=$0
for proc in /proc/[0-9]*; do
    pid=${proc#/proc/}
    [ "$pid" = $$ ] && continue
    cwd=$(readlink "$proc/cwd" 2>/dev/null)
    case "$(tr '\0' ' ' <"$proc/cmdline" 2>/dev/null) $cwd/" in
        *"$dir/"*) kill -KILL "$pid" 2>/dev/null ;;
    esac
done
if [ -s "$dir/cluster_id" ] && command -v docker >/dev/null; then
    label="label=muster.cluster=$(cat "$dir/cluster_id")"
    docker ps --all --quiet --filter "$label" | xargs -r docker rm --force --volumes
    docker images --format '{{.Repository}}:{{.Tag}}' | grep "^muster-package/$(cat "$dir/cluster_id")-" | xargs -r docker rmi
    docker network ls --quiet --filter "$label" | xargs -r docker network rm
fi >/dev/null 2>&1
while read -r _ mounted _; do
    case $mounted in "$dir"/*) umount -l "$mounted" 2>/dev/null ;; esac
done </proc/mounts
rm -rf "$dir"
"#;

/// The file, in the cluster's folder, from which the guard knows what the containers are labelled.
pub(super) const CLUSTER_ID_FILE: &str = "cluster_id";

/// Takes the cluster down if this process dies before it could.
#[derive(Debug)]
pub(super) struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guard {
    pub(super) fn over(dir: &Path) -> Result<Self> {
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(GUARD)
            .arg(dir)
            .current_dir("/")
            // A group of its own: who interrupts the test must not interrupt what cleans up.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the cluster's guard")?;
        let pipe = shell.stdin.take();
        Ok(Guard { shell, pipe })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let told = self.pipe.take().is_some_and(|mut pipe| pipe.write_all(b"done\n").is_ok());
        if !told {
            eprintln!("the cluster's guard was gone before the cluster");
        }
        let _whatever_it_says = self.shell.wait();
    }
}

/// Processes that belong to the cluster in `dir`: its configuration or data is among their
/// arguments, or they work in its folder, as instances do.
pub fn processes_of(dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let inside = dir.as_os_str().as_encoded_bytes();
    let belongs = |pid: &u32| {
        let named = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| {
            let mut words = words.split(|byte| *byte == 0);
            words.any(|word| word.strip_prefix(inside).is_some_and(|rest| rest.starts_with(b"/")))
        });
        named || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(belongs).collect()
}

/// Kills whatever of the cluster is left and waits until it is gone, a few seconds at most.
pub(super) fn kill_processes_of(dir: &Path) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes_of(dir);
        if left.is_empty() {
            return Ok(());
        }
        for pid in &left {
            if let Ok(pid) = i32::try_from(*pid) {
                // It may have gone meanwhile.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        if Instant::now() >= deadline {
            return Err(format!("processes {left:?} survive SIGKILL"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Removes the containers and networks that carry the cluster's label.
pub(super) fn remove_containers_of(cluster: &str) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let containers = listed(&["ps", "--all"], cluster)?;
        let networks = listed(&["network", "ls"], cluster)?;
        if containers.is_empty() && networks.is_empty() {
            remove_firewall_of(cluster);
            return remove_images_of(cluster);
        }
        if Instant::now() >= deadline {
            if containers.is_empty() && networks.iter().all(|network| is_miscounted(network)) {
                eprintln!(
                    "networks {networks:?} stay until Docker is restarted: it has lost count of who is on them"
                );
                remove_firewall_of(cluster);
                return remove_images_of(cluster);
            }
            return Err(format!("containers {containers:?} and networks {networks:?} cannot be removed"));
        }
        // The engine may still be finishing a launch that a killed node asked for: look again.
        if !containers.is_empty() {
            let _looked_at_again = docker(&["rm", "--force", "--volumes"], &containers);
        }
        if !networks.is_empty() {
            let _looked_at_again = docker(&["network", "rm"], &networks);
        }
    }
}

/// Whether Docker keeps a network for the sake of containers of which it knows none. Version 20.10, when it is busy, may
/// forget to count one that leaves; the network cannot be removed then before it is started again.
fn is_miscounted(network: &str) -> bool {
    let on_it = docker(&["network", "inspect", "--format", "{{len .Containers}}"], &[network.to_owned()]);
    shows_miscount(&on_it, &docker(&["network", "rm"], &[network.to_owned()]))
}

/// By how many are on the network, and what came of its removal then.
fn shows_miscount(on_it: &Result<String, String>, removal: &Result<String, String>) -> bool {
    let nobody = on_it.as_ref().is_ok_and(|count| count.trim() == "0");
    nobody && removal.as_ref().is_err_and(|why| why.contains("has active endpoints"))
}

/// Removes the images that the cluster's nodes have loaded from packages.
fn remove_images_of(cluster: &str) -> Result<(), String> {
    let names = docker(&["images"], &["--format".into(), "{{.Repository}}:{{.Tag}}".into()])?;
    let own = format!("muster-package/{cluster}-");
    let images: Vec<String> =
        names.lines().filter(|name| name.starts_with(&own)).map(str::to_owned).collect();
    if images.is_empty() { Ok(()) } else { docker(&["rmi"], &images).map(drop) }
}

/// Removes the rules that kept the cluster's containers from its nodes: they name the network's device.
fn remove_firewall_of(cluster: &str) {
    let Some(digits) = cluster.len().checked_sub(13).and_then(|from| cluster.get(from..)) else { return };
    let device = format!("mu{digits}");
    let iptables = |words: &[&str]| {
        let ran = Command::new("iptables").args(["-w", "5"]).args(words).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    for (parent, chain) in [("DOCKER-USER", format!("{device}-out")), ("INPUT", format!("{device}-in"))] {
        while iptables(&["-D", parent, "-i", &device, "-j", &chain]) {}
        let _gone = iptables(&["-F", &chain]) && iptables(&["-X", &chain]);
    }
}

/// The ids of the containers with a cluster's label, those that have ended too.
///
/// # Errors
/// What Docker says instead.
pub fn containers_of(cluster: &str) -> Result<Vec<String>> {
    listed(&["ps", "--all"], cluster).map_err(anyhow::Error::msg)
}

/// Of them those that are instances: others wait for one to join their network.
pub(super) fn instances_of(cluster: &str) -> Result<Vec<String>> {
    let instances = ["ps", "--all", "--filter", "label=muster.instance"];
    listed(&instances, cluster).map_err(anyhow::Error::msg)
}

/// The ids of the networks with a cluster's label.
///
/// # Errors
/// What Docker says instead.
pub fn networks_of(cluster: &str) -> Result<Vec<String>> {
    listed(&["network", "ls"], cluster).map_err(anyhow::Error::msg)
}

fn listed(list: &[&str], cluster: &str) -> Result<Vec<String>, String> {
    let filter = format!("label=muster.cluster={cluster}");
    let answer = docker(list, &["--quiet".into(), "--no-trunc".into(), "--filter".into(), filter])?;
    Ok(answer.lines().map(str::to_owned).collect())
}

fn docker(command: &[&str], arguments: &[String]) -> Result<String, String> {
    let ran = Command::new("docker").args(command).args(arguments).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| format!("cannot run docker: {error}"))?;
    match ran.status.success() {
        true => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        false => Err(format!("docker {command:?}: {}", String::from_utf8_lossy(&ran.stderr))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_miscounted_only_if_nobody_is_on_it_and_someone_is_said_to_be() {
        let active = "docker [\"network\", \"rm\"]: error while removing network: network mu id 1f has active endpoints\n";
        for (on_it, removal, miscounted) in [
            (Ok("0\n"), Err(active), true),
            (Ok("1\n"), Err(active), false),
            (Ok("0\n"), Ok("1f\n"), false),
            (Ok("0\n"), Err("docker [\"network\", \"rm\"]: Cannot connect to the Docker daemon"), false),
            (Err("No such network: 1f"), Err("No such network: 1f"), false),
            (Ok(""), Err(active), false),
        ] {
            let (on_it, removal) = (
                on_it.map(str::to_owned).map_err(str::to_owned),
                removal.map(str::to_owned).map_err(str::to_owned),
            );
            assert_eq!(shows_miscount(&on_it, &removal), miscounted, "{on_it:?} {removal:?}");
        }
    }
}
