//! What a user says about a function, and the bounds it is held to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ScalingPolicy;
use crate::ids::PackageDigest;
use crate::units::Millis;

/// Where an instance's program comes from; it also decides which engine can run it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Source {
    /// A container image, run by the Docker engine.
    Image(String),
    /// A program and its arguments, run by the process engine.
    Command(Vec<String>),
    /// An image of an archive that the cluster keeps.
    PackagedImage { package: PackageDigest, image: String },
    /// A program of a folder that the cluster keeps; a relative path is one in that folder.
    PackagedCommand { package: PackageDigest, command: Vec<String> },
}

impl Source {
    pub fn engine(&self) -> EngineKind {
        match self {
            Source::Image(_) | Source::PackagedImage { .. } => EngineKind::Docker,
            Source::Command(_) | Source::PackagedCommand { .. } => EngineKind::Process,
        }
    }

    pub fn image(&self) -> Option<&str> {
        match self {
            Source::Image(image) | Source::PackagedImage { image, .. } => Some(image),
            Source::Command(_) | Source::PackagedCommand { .. } => None,
        }
    }

    pub fn command(&self) -> Option<&[String]> {
        match self {
            Source::Command(command) | Source::PackagedCommand { command, .. } => Some(command),
            Source::Image(_) | Source::PackagedImage { .. } => None,
        }
    }

    pub fn package(&self) -> Option<PackageDigest> {
        match self {
            Source::PackagedImage { package, .. } | Source::PackagedCommand { package, .. } => Some(*package),
            Source::Image(_) | Source::Command(_) => None,
        }
    }

    /// What a host must have before it can launch at once, as reports name it: an image or a package.
    pub fn needs(&self) -> Option<String> {
        match self {
            Source::Image(image) => Some(image.clone()),
            Source::Command(_) => None,
            Source::PackagedImage { package, .. } | Source::PackagedCommand { package, .. } => {
                Some(package.to_string())
            }
        }
    }
}

/// What runs instances on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EngineKind {
    Docker,
    Process,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EngineKind::Docker => "docker",
            EngineKind::Process => "process",
        })
    }
}

/// Who pays for the time a function's instances exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payer {
    /// The account that deployed the function.
    Owner,
    /// The accounts that called it, by their share of each instance's busy time.
    Callers,
}

/// How safe an invocation's usage record is when its answer leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageDurability {
    /// In memory; a crash may lose the last 100 ms. Under-billed, never over-billed.
    Interval,
    /// Synced to the host's journal.
    Acknowledged,
    /// Committed to the replicated ledger.
    Replicated,
}

/// A function as its owner wants it run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub source: Source,
    pub env: BTreeMap<String, String>,
    /// Where an instance listens in its container. The process engine gives each instance a free
    /// port instead; `PORT` tells it which.
    pub port: u16,
    /// An HTTP path that answers 2xx once an instance is ready; `None`: a TCP connect is enough.
    pub readiness_path: Option<String>,
    pub memory_mb: u32,
    /// Thousandths of one core.
    pub cpu_millis: u32,
    /// Requests one instance serves at a time.
    pub concurrency: u32,
    /// One deadline for queueing, cold start and run.
    pub timeout: Millis,
    /// How long an instance may take from launch to ready.
    pub startup_timeout: Millis,
    pub scaling: ScalingPolicy,
    /// Requests that may wait for a slot, per entry node.
    pub max_waiting: u32,
    pub payer: Payer,
    pub usage_durability: UsageDurability,
    /// Running a request twice is harmless, so Muster may retry it after it started.
    pub idempotent: bool,
}

/// The most bytes in a spec's texts together: a spec must fit a log record with room to spare.
pub const SPEC_TEXT_MAX: usize = 24 * 1024;
pub const MEMORY_MB_MAX: u32 = 1024 * 1024;
pub const CPU_MILLIS_MAX: u32 = 1_024_000;
pub const CONCURRENCY_MAX: u32 = 10_000;
pub const INSTANCES_MAX: u32 = 1_000;
pub const WAITING_MAX: u32 = 100_000;
/// A day: longer work belongs in a queue, not behind an open connection.
pub const TIMEOUT_MAX: Millis = Millis::from_secs(24 * 3600);
pub const STARTUP_TIMEOUT_MAX: Millis = Millis::from_secs(3600);

/// A field of a spec that is out of bounds, and the bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("`{field}`: {problem}")]
pub struct InvalidSpec {
    /// The field's path in the public JSON form, such as `scaling.max`.
    pub field: String,
    pub problem: String,
}

impl Spec {
    /// Checks every bound; the error names the first field that breaks one.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        self.validate_source()?;
        self.validate_env()?;
        within("port", u64::from(self.port), 1, u64::from(u16::MAX))?;
        if let Some(path) = &self.readiness_path {
            let plain = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
            check(plain, "readiness_path", "must start with `/` and be printable ASCII")?;
        }
        within("memory_mb", u64::from(self.memory_mb), 4, u64::from(MEMORY_MB_MAX))?;
        within("cpu_millis", u64::from(self.cpu_millis), 1, u64::from(CPU_MILLIS_MAX))?;
        within("concurrency", u64::from(self.concurrency), 1, u64::from(CONCURRENCY_MAX))?;
        within("timeout_ms", self.timeout.0, 1, TIMEOUT_MAX.0)?;
        within("startup_timeout_ms", self.startup_timeout.0, 1, STARTUP_TIMEOUT_MAX.0)?;
        within("queue.max_waiting", u64::from(self.max_waiting), 0, u64::from(WAITING_MAX))?;
        self.scaling.validate()?;
        check(self.text_bytes() <= SPEC_TEXT_MAX, "env", "the spec's texts exceed 24 KiB together")
    }

    fn validate_source(&self) -> Result<(), InvalidSpec> {
        match &self.source {
            Source::PackagedImage { image, .. } if image.contains('@') => {
                check(false, "image", "names an image of the package by its tag, not by a digest")
            }
            Source::Image(image) | Source::PackagedImage { image, .. } => {
                let plain = !image.is_empty() && image.bytes().all(|b| b.is_ascii_graphic());
                check(plain, "image", "must be a non-empty image reference without spaces")
            }
            Source::Command(words) | Source::PackagedCommand { command: words, .. } => {
                check(words.first().is_some_and(|w| !w.is_empty()), "command", "must name a program")?;
                check(!words.iter().any(|w| w.contains('\0')), "command", "must not contain a NUL character")
            }
        }
    }

    fn validate_env(&self) -> Result<(), InvalidSpec> {
        for (name, value) in &self.env {
            let plain = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            check(plain, &format!("env.{name}"), "names are non-empty without `=`; no NUL characters")?;
            check(name != "PORT", "env.PORT", "is set by Muster; use `port`")?;
        }
        Ok(())
    }

    fn text_bytes(&self) -> usize {
        let source = match &self.source {
            Source::Image(image) | Source::PackagedImage { image, .. } => image.len(),
            Source::Command(words) | Source::PackagedCommand { command: words, .. } => {
                words.iter().map(String::len).sum()
            }
        };
        let env: usize = self.env.iter().map(|(k, v)| k.len() + v.len()).sum();
        source + env + self.readiness_path.as_ref().map_or(0, String::len)
    }
}

fn check(ok: bool, field: &str, problem: &str) -> Result<(), InvalidSpec> {
    if ok { Ok(()) } else { Err(InvalidSpec { field: field.to_owned(), problem: problem.to_owned() }) }
}

pub(super) fn within(field: &str, value: u64, min: u64, max: u64) -> Result<(), InvalidSpec> {
    let ok = (min..=max).contains(&value);
    check(ok, field, &format!("{value} is not between {min} and {max}"))
}

#[cfg(test)]
mod tests {
    use super::super::KeepAlive;
    use super::*;

    pub(crate) fn spec() -> Spec {
        Spec {
            source: Source::Image("muster/alpha:latest".into()),
            env: BTreeMap::new(),
            port: 8080,
            readiness_path: None,
            memory_mb: 128,
            cpu_millis: 1000,
            concurrency: 1,
            timeout: Millis(30_000),
            startup_timeout: Millis(60_000),
            scaling: ScalingPolicy {
                min: 0,
                max: 10,
                step: None,
                target_permille: 700,
                window: Millis(60_000),
                keep_alive: KeepAlive::Fixed(Millis(300_000)),
            },
            max_waiting: 1000,
            payer: Payer::Owner,
            usage_durability: UsageDurability::Interval,
            idempotent: false,
        }
    }

    #[test]
    fn the_first_bad_field_is_named() {
        type Edit = fn(&mut Spec);
        let rows: [(&str, Edit); 14] = [
            ("image", |s| s.source = Source::Image(String::new())),
            ("image", |s| s.source = Source::Image("a b".into())),
            ("command", |s| s.source = Source::Command(vec![])),
            ("env.PORT", |s| drop(s.env.insert("PORT".into(), "1".into()))),
            ("env.A=B", |s| drop(s.env.insert("A=B".into(), "1".into()))),
            ("env", |s| drop(s.env.insert("A".into(), "x".repeat(SPEC_TEXT_MAX)))),
            ("port", |s| s.port = 0),
            ("readiness_path", |s| s.readiness_path = Some("ready".into())),
            ("memory_mb", |s| s.memory_mb = 3),
            ("concurrency", |s| s.concurrency = 0),
            ("timeout_ms", |s| s.timeout = Millis(0)),
            ("scaling.max", |s| s.scaling.max = 0),
            ("scaling.min", |s| s.scaling.min = 11),
            ("scaling.window_ms", |s| s.scaling.window = Millis(1)),
        ];
        assert_eq!(spec().validate(), Ok(()));
        for (field, edit) in rows {
            let mut spec = spec();
            edit(&mut spec);
            assert_eq!(spec.validate().map_err(|e| e.field), Err(field.to_owned()));
        }
    }
}
