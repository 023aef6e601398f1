//! The files. A folder per function, in it one file per instance, `i-….log`, and beside it the older
//! one it has replaced, `i-….log.1`. A file begins with a line that says what it is and whose, and has
//! one line per line of output:
//!
//! ```text
//! muster-log 1 <generation> <born, ms>
//! <ns since 1970> <o|e|m> <text>
//! ```
//!
//! One thread writes, so that a slow disk holds up neither the runtime nor a program that writes: what it
//! cannot take is counted and left out. Nothing is synced: after a power cut the end may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use muster_core::ids::{FunctionName, Generation, InstanceId};
use muster_core::units::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::pruning::{self, Kept};
use super::{Limits, Line, LogRead, LogStream, Nanos, Origin, Stream, reading};
use crate::EngineError;

/// Raised with every change of the files' format.
const FORMAT: &str = "muster-log 1";
/// Batches of lines on their way to the disk: with 8 KiB each, 8 MiB.
const QUEUE_MAX: usize = 1024;
/// The least time between two looks at all files for what is beyond the limits.
const PRUNE_EVERY: Duration = Duration::from_secs(10);

/// The output of instances on this host, in one folder. A clone is a handle to the same.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    /// Instances whose output is being written.
    open: Mutex<BTreeSet<InstanceId>>,
    /// Changes whenever something was written, or the output of an instance has ended.
    pub(super) written: watch::Sender<u64>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeSet<InstanceId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_open(&self, instance: InstanceId) -> bool {
        self.open().contains(&instance)
    }
}

#[derive(Debug)]
enum Job {
    Append {
        origin: Arc<Origin>,
        lines: Vec<Line>,
    },
    End {
        origin: Arc<Origin>,
        done: oneshot::Sender<()>,
    },
    /// Removes all that is not of these functions.
    Retain {
        functions: BTreeMap<FunctionName, Timestamp>,
    },
}

impl Store {
    /// Opens or makes the folder and starts the thread that writes, which ends with the last handle.
    pub fn open(dir: impl Into<PathBuf>, limits: Limits) -> Result<Store, EngineError> {
        let dir = dir.into();
        let failed = |error: io::Error| EngineError::Refused {
            operation: "prepare the folder of the instances' output",
            source: error.into(),
        };
        fs::create_dir_all(&dir).map_err(failed)?;
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared { open: Mutex::default(), written: watch::Sender::new(0) });
        let writing = Writing {
            dir: dir.clone(),
            limits,
            shared: shared.clone(),
            files: BTreeMap::new(),
            pruned: None,
        };
        std::thread::Builder::new()
            .name("muster-logs".into())
            .spawn(move || writing.serve(queue))
            .map_err(failed)?;
        Ok(Store { dir, jobs, shared })
    }

    /// Begins the output of an instance; what there is of it is replaced with the first line.
    pub(crate) fn begin(&self, origin: Origin) -> Writer {
        self.shared.open().insert(origin.instance);
        Writer { origin: Arc::new(origin), jobs: self.jobs.clone(), lost: AtomicU64::new(0) }
    }

    /// Whose output of a function is here.
    pub(crate) async fn list(&self, function: &FunctionName) -> Vec<Origin> {
        let (dir, function) = (self.dir.clone(), function.clone());
        let listing = tokio::task::spawn_blocking(move || {
            let files = files_of(&dir, &function);
            files.into_iter().filter_map(|(instance, path)| origin(&path, &function, instance)).collect()
        });
        listing.await.unwrap_or_default()
    }

    /// Reads the output of an instance; `None` if there is none, and none begun.
    pub(crate) async fn read(
        &self,
        function: &FunctionName,
        instance: InstanceId,
        read: LogRead,
    ) -> Option<LogStream> {
        let path = path_of(&self.dir, function, instance);
        let there = tokio::fs::try_exists(&path).await.unwrap_or_default();
        (there || self.shared.is_open(instance))
            .then(|| reading::stream(path, instance, read, Arc::clone(&self.shared)))
    }

    /// Removes what is of none of these functions, each with when it was created.
    pub(crate) async fn retain(&self, functions: BTreeMap<FunctionName, Timestamp>) {
        // It fails only where the thread has panicked.
        let _ended = self.jobs.send(Job::Retain { functions }).await;
    }
}

/// Takes the output of one instance.
#[derive(Debug)]
pub(crate) struct Writer {
    origin: Arc<Origin>,
    jobs: mpsc::Sender<Job>,
    /// Lines left out since the last that were taken.
    lost: AtomicU64,
}

impl Writer {
    /// Writes lines if the disk keeps up, and else a remark in their place, later.
    pub(crate) fn offer(&self, mut lines: Vec<Line>) {
        let Some(first) = lines.first() else { return };
        let (at, count) = (first.at, lines.len() as u64);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} lines were not kept: the disk of the node is too slow").into_bytes();
            lines.insert(0, Line { at: Nanos(at.0 - 1), stream: Stream::Muster, text });
        }
        if self.jobs.try_send(Job::Append { origin: self.origin.clone(), lines }).is_err() {
            self.lost.fetch_add(lost + count, Ordering::Relaxed);
        }
    }

    /// Writes lines, however long that takes.
    pub(crate) async fn append(&self, lines: Vec<Line>) {
        let _ended = self.jobs.send(Job::Append { origin: self.origin.clone(), lines }).await;
    }

    /// Ends the output. Returns when all of it is in the file.
    pub(crate) async fn end(self) {
        let (done, ended) = oneshot::channel();
        if self.jobs.send(Job::End { origin: self.origin.clone(), done }).await.is_ok() {
            let _done = ended.await;
        }
    }
}

/// The thread's own.
struct Writing {
    dir: PathBuf,
    limits: Limits,
    shared: Arc<Shared>,
    files: BTreeMap<InstanceId, Option<Current>>,
    pruned: Option<Instant>,
}

/// A file that is being written.
struct Current {
    file: BufWriter<File>,
    bytes: u64,
}

impl Writing {
    fn serve(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            match job {
                Job::Append { origin, lines } => self.append(&origin, &lines),
                Job::End { origin, done } => {
                    self.files.remove(&origin.instance);
                    self.shared.open().remove(&origin.instance);
                    let _nobody_waits = done.send(());
                    self.prune();
                }
                Job::Retain { functions } => self.retain(&functions),
            }
            self.shared.written.send_modify(|version| *version += 1);
        }
    }

    /// A file that cannot be written is given up until the next instance: it must not cost more.
    fn append(&mut self, origin: &Origin, lines: &[Line]) {
        let path = path_of(&self.dir, &origin.function, origin.instance);
        let first = !self.files.contains_key(&origin.instance);
        let current = self.files.entry(origin.instance).or_insert(None);
        if !first && current.is_none() {
            return;
        }
        let mut write = || -> io::Result<()> {
            let mut to = match current.take() {
                Some(to) => to,
                None => {
                    fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
                    remove_if_there(&older(&path))?;
                    Current::create(&path, origin)?
                }
            };
            for line in lines {
                if to.bytes >= self.limits.file_bytes {
                    to.file.flush()?;
                    fs::rename(&path, older(&path))?;
                    to = Current::create(&path, origin)?;
                }
                to.write(line)?;
            }
            to.file.flush()?;
            *current = Some(to);
            Ok(())
        };
        if let Err(error) = write() {
            tracing::warn!(instance = %origin.instance, %error, "the output of an instance is not kept");
        }
    }

    fn prune(&mut self) {
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNE_EVERY) {
            return;
        }
        self.pruned = Some(Instant::now());
        let open = self.shared.open().clone();
        let mut kept = Vec::new();
        for function in functions_in(&self.dir) {
            for (instance, path) in files_of(&self.dir, &function) {
                let sizes = [path.clone(), older(&path)].map(|path| fs::metadata(path).ok());
                let bytes = sizes.iter().flatten().map(fs::Metadata::len).sum();
                let changed = sizes.iter().flatten().filter_map(|meta| meta.modified().ok()).max();
                if !open.contains(&instance) {
                    let changed = changed.unwrap_or(SystemTime::UNIX_EPOCH);
                    kept.push(Kept { function: function.clone(), instance, bytes, changed });
                }
            }
        }
        for gone in pruning::surplus(kept, &self.limits, SystemTime::now()) {
            remove(&path_of(&self.dir, &gone.function, gone.instance));
        }
    }

    fn retain(&mut self, functions: &BTreeMap<FunctionName, Timestamp>) {
        for function in functions_in(&self.dir) {
            let born = functions.get(&function);
            for (instance, path) in files_of(&self.dir, &function) {
                let theirs = origin(&path, &function, instance).map(|origin| origin.born);
                if born.is_none() || theirs.as_ref() != born {
                    remove(&path);
                }
            }
            if born.is_none() {
                // Only if it is empty: an instance may just be ending.
                let _not_empty = fs::remove_dir(self.dir.join(function.as_str()));
            }
        }
        self.pruned = None;
        self.prune();
    }
}

impl Current {
    fn create(path: &Path, origin: &Origin) -> io::Result<Current> {
        let mut current = Current { file: BufWriter::new(File::create(path)?), bytes: 0 };
        writeln!(current.file, "{}", header(origin))?;
        Ok(current)
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let head = format!("{} {} ", line.at.0, letter(line.stream));
        self.file.write_all(head.as_bytes())?;
        self.file.write_all(&line.text)?;
        self.file.write_all(b"\n")?;
        self.bytes += (head.len() + line.text.len() + 1) as u64;
        Ok(())
    }
}

fn header(origin: &Origin) -> String {
    format!("{FORMAT} {} {}", origin.generation.0, origin.born.0)
}

fn letter(stream: Stream) -> char {
    match stream {
        Stream::Stdout => 'o',
        Stream::Stderr => 'e',
        Stream::Muster => 'm',
    }
}

/// Reads one line of a file; `None` for the header, and for what a crash has cut.
pub(super) fn parse(line: &[u8]) -> Option<Line> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let at = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let stream = match words.next()? {
        b"o" => Stream::Stdout,
        b"e" => Stream::Stderr,
        b"m" => Stream::Muster,
        _ => return None,
    };
    Some(Line { at: Nanos(at), stream, text: words.next()?.to_vec() })
}

/// Whose a file is, by its first line; `None` if it is nobody's or of another format.
fn origin(path: &Path, function: &FunctionName, instance: InstanceId) -> Option<Origin> {
    let mut first = String::new();
    BufReader::new(File::open(path).ok()?).read_line(&mut first).ok()?;
    let rest = first.trim_end().strip_prefix(FORMAT)?;
    let mut numbers = rest.split_whitespace().map(str::parse::<u64>);
    let (generation, born) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Origin {
        instance,
        generation: Generation(generation),
        function: function.clone(),
        born: Timestamp(born),
    })
}

fn path_of(dir: &Path, function: &FunctionName, instance: InstanceId) -> PathBuf {
    dir.join(function.as_str()).join(format!("{instance}.log"))
}

/// The file that `path` has replaced.
pub(super) fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

fn functions_in(dir: &Path) -> Vec<FunctionName> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| FunctionName::new(entry.file_name().to_str()?).ok()).collect()
}

fn files_of(dir: &Path, function: &FunctionName) -> Vec<(InstanceId, PathBuf)> {
    let entries = fs::read_dir(dir.join(function.as_str())).into_iter().flatten().flatten();
    let each = entries.filter_map(|entry| {
        let path = entry.path();
        let name = path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()?;
        Some((name, path))
    });
    each.collect()
}

fn remove(path: &Path) {
    for path in [older(path), path.to_owned()] {
        if let Err(error) = remove_if_there(&path) {
            tracing::warn!(path = %path.display(), %error, "old output is not removed");
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests;
