//! What really runs of a cluster on this machine, and what is left of what ran: looked up where the
//! nodes have no say, in `/proc` and with Docker's own command.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use super::{Cluster, Engine, networks_of, processes_of};

/// A process or a container of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    pub node: u64,
    pub instance: String,
    pub function: String,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Process(i32),
    Container(String),
}

/// What can be done to a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    Kill,
    /// SIGSTOP, or `docker pause`.
    Freeze,
    Thaw,
}

impl Cluster {
    /// The bodies that run now, frozen ones included.
    ///
    /// # Errors
    /// Where Docker does not answer.
    pub async fn bodies(&self) -> Result<Vec<Body>> {
        match self.engine {
            Engine::Process => Ok(processes_of(self.dir()).into_iter().filter_map(process).collect()),
            Engine::Docker => containers(self.id(), &[]).await,
        }
    }

    /// What is there of instances though it does not run: ended containers, and working folders, by the
    /// names of their instances; and containers that wait for instances of nodes that have left.
    ///
    /// # Errors
    /// Where Docker does not answer or a folder cannot be read.
    pub async fn remains(&self) -> Result<Vec<String>> {
        match self.engine {
            Engine::Docker => {
                let ended =
                    ["--filter", "status=exited", "--filter", "status=created", "--filter", "status=dead"];
                let ended = containers(self.id(), &[&["--all"], ended.as_slice()].concat()).await?;
                let ended = ended.into_iter().map(|body| body.instance);
                let gone = self.gone_guests();
                let waiting =
                    all_waiting(self.id()).await?.into_iter().filter(|(_, node)| gone.contains(node));
                let waiting = waiting.map(|(id, node)| format!("an instance of node {node} to come ({id})"));
                Ok(ended.chain(waiting).collect())
            }
            Engine::Process => {
                let mut names = Vec::new();
                let guests = self.guest_numbers();
                for node in self.numbers().into_iter().chain(guests.iter().copied()) {
                    let dir = self.data_dirs(node).0.join("instances");
                    // A guest may have come no further than its name.
                    if guests.contains(&node) && !dir.exists() {
                        continue;
                    }
                    for entry in fs::read_dir(&dir).with_context(|| format!("no {}", dir.display()))? {
                        names.push(entry?.file_name().to_string_lossy().into_owned());
                    }
                }
                Ok(names)
            }
        }
    }

    /// The containers of a node that only wait for instances to come.
    ///
    /// # Errors
    /// Where Docker does not answer.
    pub async fn waiting(&self, node: u64) -> Result<Vec<String>> {
        let all = all_waiting(self.id()).await?.into_iter();
        Ok(all.filter_map(|(id, of)| (of == node).then_some(id)).collect())
    }

    /// Removes all containers of a node whose process is no more, as an operator would.
    pub(super) async fn clear_host_of(&self, node: u64) -> Result<()> {
        if self.engine == Engine::Docker {
            let (cluster, node) =
                (format!("label=muster.cluster={}", self.id()), format!("label=muster.node={node}"));
            let listed = docker(&["ps", "--all", "--quiet", "--filter", &cluster, "--filter", &node]).await?;
            ensure!(listed.status.success(), "docker ps: {}", String::from_utf8_lossy(&listed.stderr));
            let ids = String::from_utf8_lossy(&listed.stdout).into_owned();
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                // What is on its way out already is looked for at the end.
                docker(&[&["rm", "--force", "--volumes"], ids.as_slice()].concat()).await?;
            }
        }
        Ok(())
    }

    /// How often Docker has seen a container of a function run out of memory since then.
    ///
    /// # Errors
    /// Where Docker does not answer.
    pub async fn ooms(&self, function: &str, since: SystemTime) -> Result<usize> {
        let seconds = |at: SystemTime| anyhow::Ok(at.duration_since(UNIX_EPOCH)?.as_secs_f64().to_string());
        let (since, until) = (seconds(since)?, seconds(SystemTime::now())?);
        let cluster = format!("label=muster.cluster={}", self.id());
        let function = format!("label=muster.function={function}");
        let words = ["events", "--since", &since, "--until", &until, "--filter", "event=oom"];
        let told =
            docker(&[words.as_slice(), &["--filter", &cluster, "--filter", &function]].concat()).await?;
        ensure!(told.status.success(), "docker events: {}", String::from_utf8_lossy(&told.stderr));
        Ok(String::from_utf8_lossy(&told.stdout).lines().count())
    }

    /// The networks of this cluster.
    ///
    /// # Errors
    /// Where Docker does not answer.
    pub fn networks(&self) -> Result<Vec<String>> {
        match self.engine {
            Engine::Process => Ok(Vec::new()),
            Engine::Docker => networks_of(self.id()),
        }
    }

    /// Does something to a body. False where it is no more.
    ///
    /// # Errors
    /// Where Docker cannot be run.
    pub async fn strike(&self, body: &Body, blow: Blow) -> Result<bool> {
        match &body.kind {
            Kind::Process(pid) => {
                // Its number may be another's by now.
                let same = u32::try_from(*pid).ok().and_then(process).is_some_and(|now| now == *body);
                let signal = match blow {
                    Blow::Kill => Signal::SIGKILL,
                    Blow::Freeze => Signal::SIGSTOP,
                    Blow::Thaw => Signal::SIGCONT,
                };
                Ok(same && kill(Pid::from_raw(*pid), signal).is_ok())
            }
            Kind::Container(id) => {
                let command = match blow {
                    Blow::Kill => "kill",
                    Blow::Freeze => "pause",
                    Blow::Thaw => "unpause",
                };
                Ok(docker(&[command, id]).await?.status.success())
            }
        }
    }

    /// Whether a body is frozen now.
    ///
    /// # Errors
    /// Where Docker cannot be run.
    pub async fn is_frozen(&self, body: &Body) -> Result<bool> {
        match &body.kind {
            Kind::Process(pid) => {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                // The state stands behind the name in parentheses.
                Ok(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T')))
            }
            Kind::Container(id) => {
                let told = docker(&["inspect", "--format", "{{.State.Paused}}", id]).await?;
                Ok(told.stdout.starts_with(b"true"))
            }
        }
    }
}

/// The instance that a process is; `None` for a node, and for one that is just ending.
fn process(pid: u32) -> Option<Body> {
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    let (node, instance) = place(&folder)?;
    let env = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut words = env.split(|byte| *byte == 0);
    // Absent in a process that has not become the function's program yet.
    let function = words.find_map(|word| word.strip_prefix(b"MUSTER_FUNCTION="))?;
    let function = String::from_utf8_lossy(function).into_owned();
    Some(Body { node, instance, function, kind: Kind::Process(i32::try_from(pid).ok()?) })
}

/// The node and the instance of a working folder: `…/node2/instances/i-…`.
fn place(folder: &Path) -> Option<(u64, String)> {
    let name = folder.file_name()?.to_str()?.trim_end_matches(" (deleted)");
    let node = folder.parent()?.parent()?.file_name()?.to_str()?.strip_prefix("node")?.parse().ok()?;
    name.starts_with("i-").then(|| (node, name.to_owned()))
}

async fn containers(cluster: &str, filters: &[&str]) -> Result<Vec<Body>> {
    let label = format!("label=muster.cluster={cluster}");
    let format =
        r#"{{.ID}} {{.Label "muster.node"}} {{.Label "muster.instance"}} {{.Label "muster.function"}}"#;
    // Others wait for an instance to join their network.
    let mut words = vec!["ps", "--no-trunc", "--filter", &label, "--filter", "label=muster.instance"];
    words.extend(["--format", format]);
    words.extend(filters);
    let listed = docker(&words).await?;
    ensure!(listed.status.success(), "docker ps: {}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8_lossy(&listed.stdout).lines().map(container).collect()
}

/// The containers that only wait, with their nodes.
async fn all_waiting(cluster: &str) -> Result<Vec<(String, u64)>> {
    let label = format!("label=muster.cluster={cluster}");
    let role = "label=muster.role=waiting";
    let format = r#"{{.ID}} {{.Label "muster.node"}}"#;
    let listed = docker(&["ps", "--all", "--filter", &label, "--filter", role, "--format", format]).await?;
    ensure!(listed.status.success(), "docker ps: {}", String::from_utf8_lossy(&listed.stderr));
    let owned = |line: &str| {
        let (id, node) = line.split_once(' ').with_context(|| format!("docker ps says {line}"))?;
        Ok((id.to_owned(), node.parse().context("not a node")?))
    };
    String::from_utf8_lossy(&listed.stdout).lines().map(owned).collect()
}

fn container(line: &str) -> Result<Body> {
    let [id, node, instance, function] = line.split(' ').collect::<Vec<_>>()[..] else {
        anyhow::bail!("docker ps says {line}");
    };
    let node = node.parse().context("not a node")?;
    let (instance, function) = (instance.to_owned(), function.to_owned());
    Ok(Body { node, instance, function, kind: Kind::Container(id.to_owned()) })
}

async fn docker(words: &[&str]) -> Result<Output> {
    Command::new("docker").args(words).stdin(Stdio::null()).output().await.context("cannot run docker")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_known_by_their_folder_or_labels() {
        for (folder, found) in [
            ("/tmp/x/node2/instances/i-7f", Some((2, "i-7f"))),
            ("/tmp/x/node12/instances/i-7f (deleted)", Some((12, "i-7f"))),
            ("/tmp/x/node2/instances", None),
            ("/tmp/x/node2/instances/other", None),
            ("/", None),
        ] {
            assert_eq!(place(Path::new(folder)), found.map(|(n, i)| (n, i.to_owned())), "{folder}");
        }
        let body = container("ab12 3 i-7f cold").unwrap();
        assert_eq!((body.node, body.instance.as_str(), body.function.as_str()), (3, "i-7f", "cold"));
        assert!(container("ab12 3").is_err());
    }
}
