//! Starting processes. The kernel's parent-death signal follows the *thread* that forked, so one
//! thread forks them all and lives exactly as long as the engine: when the engine is dropped or its
//! process dies, so do they. One thread also means that no instance is ever started twice.

use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_core::functions::EngineKind;
use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::reaper::{self, Child};
use super::{PROCESSES_MAX, Table};
use crate::instance::Launch;
use crate::{EngineError, OPEN_FILES_MAX};

/// Where programs are looked for if the node itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";
/// Attempts at a free port that no other instance has been given.
const PORT_ATTEMPTS: usize = 16;
/// How long a program that is open for writing is waited for: far longer than from a fork to its exec, and
/// what others who launch can bear.
const BUSY_MAX: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A launch and where its answer goes. An answer nobody waits for changes nothing: the process is in
/// the table before it is given.
#[derive(Debug)]
pub(super) struct Request {
    pub launch: Launch,
    pub reply: oneshot::Sender<Result<SocketAddr, EngineError>>,
}

/// Starts the spawning thread. It ends when the other end of `queue` is dropped.
pub(super) fn start_thread(table: Arc<Table>, mut queue: mpsc::Receiver<Request>) -> io::Result<()> {
    let runtime = Handle::current();
    let serve = move || {
        let _entered = runtime.enter();
        while let Some(request) = queue.blocking_recv() {
            let _ = request.reply.send(launch(&table, &request.launch));
        }
    };
    std::thread::Builder::new().name("muster-spawner".into()).spawn(serve).map(drop)
}

fn launch(table: &Arc<Table>, launch: &Launch) -> Result<SocketAddr, EngineError> {
    let source = &launch.spec.source;
    let Some(words) = source.command() else {
        return Err(EngineError::WrongEngine { engine: EngineKind::Process });
    };
    if let Some(child) = table.get(launch.instance) {
        return adopt(&child, launch);
    }
    if table.children().len() >= PROCESSES_MAX {
        return Err(EngineError::Limit { what: "processes", max: PROCESSES_MAX });
    }
    let Some((program, arguments)) = words.split_first() else {
        return Err(EngineError::Unexpected {
            operation: "spawn the process",
            problem: "the command is empty".into(),
        });
    };
    let package = source.package().map(|package| table.package(package));
    if let (Some(folder), Some(package)) = (&package, source.package())
        && !folder.is_dir()
    {
        return Err(EngineError::NoSuchPackage { package: package.to_string() });
    }
    let child = spawn(table, launch, package.as_deref(), program, arguments);
    let child = child.map_err(|error| explain(program, error))?;
    let addr = child.addr;
    table.children().insert(launch.instance, child);
    table.changes.notify_one();
    Ok(addr)
}

/// A repeated launch: the same instance is there already.
fn adopt(child: &Child, launch: &Launch) -> Result<SocketAddr, EngineError> {
    if child.origin.generation != launch.generation {
        return Err(EngineError::NameTaken { name: launch.instance.to_string() });
    }
    match child.exit() {
        Some(exit) => Err(EngineError::Exited { exit }),
        None => Ok(child.addr),
    }
}

/// `package` is the folder of the package that the program is in, if it is in one.
fn spawn(
    table: &Arc<Table>,
    launch: &Launch,
    package: Option<&Path>,
    program: &str,
    arguments: &[String],
) -> io::Result<Arc<Child>> {
    let addr = free_address(table)?;
    let folder = table.folder(launch.instance);
    std::fs::create_dir_all(&folder)?;
    let (output, stdout) = io::pipe()?;
    let (errors, stderr) = io::pipe()?;
    let outputs = [receiver(output)?, receiver(errors)?];
    // The runtime must listen for the end of a child before there is one.
    let ends = signal(SignalKind::child())?;

    let mut command = Command::new(package.map_or_else(|| absolute(program), |folder| folder.join(program)));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into()))
        .envs(launch.environment(addr.port()))
        // Only its host node may reach it: other machines would get by without a key.
        .env("MUSTER_BIND_ADDRESS", addr.ip().to_string())
        .current_dir(package.unwrap_or(&folder))
        .stdin(Stdio::null())
        .stderr(stderr)
        .stdout(stdout)
        .process_group(0);
    prepare_child(&mut command);
    let spawned = spawn_once_written(&mut command);
    if spawned.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_dir_all(&folder);
    }
    let pid = Pid::from_raw(i32::try_from(spawned?.id()).expect("Linux process ids fit an i32"));
    let child = Arc::new(Child::new(launch, addr, pid));
    let writer = table.logs.begin(child.origin.clone());
    tokio::spawn(reaper::follow(child.clone(), outputs, writer, ends, table.changes.clone()));
    Ok(child)
}

/// A program that was just unpacked may be open for writing for a moment longer: whatever another thread forked
/// meanwhile has it open until its own exec.
fn spawn_once_written(command: &mut Command) -> io::Result<std::process::Child> {
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                std::thread::sleep(BUSY_PAUSE);
            }
            spawned => return spawned,
        }
    }
}

/// Ties the child to this thread and limits what it may open. That is the only rlimit: RLIMIT_AS, the
/// nearest to a memory limit, counts address space and breaks runtimes that reserve far more than they use
/// (Go, Java, V8), and RLIMIT_NPROC counts a user's processes, not an instance's.
#[expect(unsafe_code, reason = "code between fork and exec cannot be checked; it makes four system calls")]
fn prepare_child(command: &mut Command) {
    let parent = Pid::this();
    let in_child = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the signal was asked for; then it would never come.
        if getppid() != parent {
            return Err(Errno::ESRCH.into());
        }
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let most = hard.min(OPEN_FILES_MAX);
        setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed, since another thread may
    // have held any lock. The closure makes system calls alone: it neither allocates nor locks, and its
    // errors are plain numbers.
    unsafe { command.pre_exec(in_child) };
}

/// A port nobody listens on. It is free again when the program binds it, unless someone was faster:
/// then the program fails to bind, ends, and the failure takes the ordinary path.
fn free_address(table: &Table) -> io::Result<SocketAddr> {
    for _ in 0..PORT_ATTEMPTS {
        let addr = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        // Given to an instance that has not bound it yet.
        if !table.children().values().any(|child| child.addr == addr && child.exit().is_none()) {
            return Ok(addr);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn receiver(output: PipeReader) -> io::Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(OwnedFd::from(output))
}

/// A program with a folder in its name is relative to where the node was started, not to the
/// instance's folder; a bare name is looked up in PATH.
fn absolute(program: &str) -> PathBuf {
    if program.contains('/') {
        // Fails only where there is no current folder; then the relative name will fail in spawn.
        return std::path::absolute(program).unwrap_or_else(|_| program.into());
    }
    Path::new(program).to_owned()
}

fn explain(program: &str, error: io::Error) -> EngineError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            EngineError::NoSuchProgram { program: program.to_owned(), source: error.into() }
        }
        _ => EngineError::Refused { operation: "spawn the process", source: error.into() },
    }
}
