//! The programs under test, built once per run for all the processes that need them.
//!
//! `MUSTER_BIN_DIR` names a folder with built programs to take instead, as for `local-cluster.sh`.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// What a cluster runs, and what is deployed to it.
const PROGRAMS: [&str; 5] = ["muster-node", "muster", "alpha", "beta", "faulty"];
/// The image of `faulty` that Docker tests use: a tag of its own, so as not to take a user's place.
const IMAGE: &str = "muster/faulty:test";

/// The folder with the programs. Builds them in this run's first process that asks.
///
/// # Panics
/// If they cannot be built: no test can do without.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        build().unwrap_or_else(|error| panic!("cannot build the programs under test: {error:#}"))
    })
}

/// A tag of a container image of `faulty`, built in this run's first process that asks; `None`,
/// with a word on stderr, where no Docker Engine answers.
///
/// # Panics
/// If the image cannot be built where an engine answers.
pub fn image() -> Option<&'static str> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let answers = *BUILT.get_or_init(|| {
        if !docker_answers() {
            eprintln!("skipped: no Docker Engine answers");
            return false;
        }
        once_per_run("image", build_image).unwrap_or_else(|error| panic!("cannot build {IMAGE}: {error:#}"));
        true
    });
    answers.then_some(IMAGE)
}

/// The program that serves a disk that can fail, built in this run's first process that asks.
///
/// # Errors
/// Where it cannot be built.
pub fn faultdisk() -> Result<PathBuf> {
    extra("muster-faultdisk")
}

/// The library that gives a node a clock that can be wrong, likewise. It is preloaded, so it works
/// only with programs that link the C library dynamically, as a plain build does.
///
/// # Errors
/// Where it cannot be built.
pub fn clock() -> Result<PathBuf> {
    extra("libmuster_clock.so")
}

/// Whether a Docker Engine can be used here.
pub fn docker_answers() -> bool {
    let version = Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package is a folder of the repository").to_owned()
}

/// A folder for what the processes of a run share: locks and marks.
pub(super) fn shared_dir() -> Result<PathBuf> {
    let dir = Build::find()?.target_dir.join("muster-chaos");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

fn build() -> Result<PathBuf> {
    let dir = match env::var_os("MUSTER_BIN_DIR") {
        Some(dir) => {
            fs::canonicalize(&dir).with_context(|| format!("MUSTER_BIN_DIR is {}", dir.display()))?
        }
        None => {
            let build = Build::find()?;
            once_per_run("programs", || build.run())?;
            build.program_dir
        }
    };
    for program in PROGRAMS {
        ensure!(dir.join(program).is_file(), "{} has no program {program}", dir.display());
    }
    Ok(dir)
}

/// What only some clusters need lies beside the programs.
fn extra(file: &str) -> Result<PathBuf> {
    let dir = match env::var_os("MUSTER_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let build = Build::find()?;
            once_per_run("programs", || build.run())?;
            build.program_dir
        }
    };
    let path = dir.join(file);
    ensure!(path.is_file(), "{} has no {file}", dir.display());
    fs::canonicalize(&path).with_context(|| format!("cannot resolve {}", path.display()))
}

/// How the running program was built, so that the others are built alike and nothing twice.
struct Build {
    target_dir: PathBuf,
    /// `Some` under `cargo --target`.
    target: Option<String>,
    profile: String,
    program_dir: PathBuf,
}

impl Build {
    /// From where this program lies: `TARGET_DIR[/TRIPLE]/PROFILE[/deps]/PROGRAM`.
    fn find() -> Result<Self> {
        let program = env::current_exe().context("cannot tell where this program is")?;
        let mut dir = program.parent().context("this program is nowhere")?;
        if dir.ends_with("deps") || dir.ends_with("examples") {
            dir = dir.parent().context("`deps` is in no folder")?;
        }
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let above = dir.parent().context("the profile's folder is in no folder")?;
        // Cargo marks `TARGET_DIR`, and `TARGET_DIR/TRIPLE` too.
        let triple = above.parent().filter(|up| up.join("CACHEDIR.TAG").is_file());
        let folder = name(dir).context("the profile's folder has no name")?;
        Ok(Build {
            target_dir: triple.unwrap_or(above).to_owned(),
            target: triple.and_then(|_| name(above)),
            profile: if folder == "debug" { "dev".to_owned() } else { folder },
            program_dir: dir.to_owned(),
        })
    }

    /// Builds the whole workspace: some packages alone would have dependencies with fewer features, and so
    /// all of those once more.
    fn run(&self) -> Result<()> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.arg("build").arg("--profile").arg(&self.profile).arg("--target-dir").arg(&self.target_dir);
        if let Some(target) = &self.target {
            cargo.arg("--target").arg(target);
        }
        run(cargo.arg("--workspace").current_dir(repository()))
    }
}

/// A static binary, then an image that holds it alone. Built as `local-cluster.sh` builds its
/// functions, so that what they share is compiled once.
fn build_image() -> Result<()> {
    let script = repository().join("runtime/images/build.sh");
    let args = ["--engine", "process", "--function", "faulty"];
    let dir = output(Command::new(&script).args(args))?;
    let binary = Path::new(dir.trim()).join("faulty");
    run(Command::new(&script).arg("--binary").arg(binary).args(["--tag", IMAGE]))
}

/// Does something in the first process of this test run that asks; the others wait until it is done.
fn once_per_run(what: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let path = shared_dir()?.join(format!("{what}.lock"));
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut lock = open.with_context(|| format!("cannot open {}", path.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    let mut done_for = String::new();
    lock.read_to_string(&mut done_for).with_context(|| format!("cannot read {}", path.display()))?;
    let run = run_id();
    if done_for == run {
        return Ok(());
    }
    work()?;
    let mut note = || -> std::io::Result<()> {
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(run.as_bytes())
    };
    note().with_context(|| format!("cannot write {}", path.display()))
}

/// Tells this test run from others: nextest numbers its runs, and the processes of one
/// `cargo test` have the same parent. Any other parent may start programs for days.
fn run_id() -> String {
    if let Ok(id) = env::var("NEXTEST_RUN_ID") {
        return id;
    }
    let parent = nix::unistd::getppid();
    let stat = fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
    if !stat.contains("(cargo)") {
        return format!("{}-alone", std::process::id());
    }
    // The 22nd field, counted from behind the name in parentheses: when the process started.
    let started = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).unwrap_or("0");
    format!("{parent}-{started}")
}

fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// What a command prints; what it says on stderr is shown only if it fails.
fn output(command: &mut Command) -> Result<String> {
    let ran = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !ran.status.success() {
        bail!("{command:?} ended with {}:\n{}", ran.status, String::from_utf8_lossy(&ran.stderr));
    }
    String::from_utf8(ran.stdout).context("its output is not text")
}
