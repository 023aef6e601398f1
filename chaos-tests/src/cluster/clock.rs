//! A node's clocks, which can be wrong.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};

/// The file's layout: see the package `muster-clock`.
const SHIFTED_AT: u64 = 8;
const DRIFTED_AT: u64 = 16;
const BEGUN_AT: u64 = 24;
const STRETCHES_AT: u64 = 32;
const STRETCH_BYTES: u64 = 32;
const STRETCHES: u64 = 64;
const FILE_BYTES: usize = 32 + 64 * 32;

/// A stretch is written so long before it begins: a clock that was told before must not be set back. A busy machine
/// may take its time to write it.
const LEAD: Duration = Duration::from_millis(250);
const MILLION: i64 = 1_000_000;

/// The clocks of the programs that are started with its [`env`](Self::env).
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
    drift: Mutex<Drift>,
}

/// How clocks go, from one moment of the right monotonic clock on.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    since_ns: i64,
    ahead_ns: i64,
    rate_ppm: i64,
    until_ns: i64,
}

#[derive(Debug, Default)]
struct Drift {
    begun: u64,
    last: Stretch,
}

impl Stretch {
    fn ahead_ns(&self, now_ns: i64) -> i64 {
        let gaining_ns = now_ns.min(self.until_ns).saturating_sub(self.since_ns).max(0);
        self.ahead_ns + gaining_ns / MILLION * self.rate_ppm + gaining_ns % MILLION * self.rate_ppm / MILLION
    }
}

impl Clock {
    /// Right clocks. `library` is [`programs::clock`](super::programs::clock).
    ///
    /// # Errors
    /// Where its file cannot be made.
    pub fn new(path: PathBuf, library: PathBuf) -> Result<Self> {
        fs::write(&path, [0; FILE_BYTES]).with_context(|| format!("cannot write {}", path.display()))?;
        let file =
            File::options().read(true).write(true).open(&path).context("cannot open a clock's file")?;
        Ok(Clock { library, path, file, drift: Mutex::default() })
    }

    /// What a program is started with to have these clocks.
    pub fn env(&self) -> [(String, String); 2] {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        [("LD_PRELOAD".into(), text(&self.library)), ("MUSTER_CLOCK_FILE".into(), text(&self.path))]
    }

    /// Sets the wall clock wrong by so much, from now on; 0 is right.
    ///
    /// # Errors
    /// Where its file cannot be written.
    pub fn shift_ms(&self, ms: i64) -> Result<()> {
        let shift_ns = ms.saturating_mul(1_000_000);
        self.file.write_all_at(&shift_ns.to_ne_bytes(), 0).context("cannot set a clock")
    }

    /// Lets all clocks gain so much in a million, or lose it, in a moment.
    ///
    /// # Errors
    /// Where its file cannot be written.
    pub fn drift_ppm(&self, rate_ppm: i64) -> Result<()> {
        self.begin(|_| (rate_ppm, i64::MAX))
    }

    /// Lets them come back to the right time, at a rate of at most so much, and then keep it: no clock is
    /// ever set back.
    ///
    /// # Errors
    /// Where its file cannot be written.
    pub fn come_back_ppm(&self, most_ppm: i64) -> Result<()> {
        self.begin(|now| match now.ahead_ns {
            0 => (0, now.since_ns),
            ahead_ns => {
                let takes_ns = ahead_ns.abs().saturating_mul(MILLION) / most_ppm;
                (-ahead_ns.signum() * most_ppm, now.since_ns.saturating_add(takes_ns))
            }
        })
    }

    /// How often a shifted wall clock was looked at.
    ///
    /// # Errors
    /// Where its file cannot be read.
    pub fn told_shifted(&self) -> Result<u64> {
        self.read(SHIFTED_AT)
    }

    /// How often a clock was looked at that had gained or lost something.
    ///
    /// # Errors
    /// Where its file cannot be read.
    pub fn told_drifted(&self) -> Result<u64> {
        self.read(DRIFTED_AT)
    }

    /// Begins a stretch in a moment; `rate` answers its rate, and when it ends.
    fn begin(&self, rate: impl FnOnce(Stretch) -> (i64, i64)) -> Result<()> {
        let mut drift = self.drift.lock().unwrap_or_else(PoisonError::into_inner);
        let since_ns = now_ns()? + i64::try_from(LEAD.as_nanos()).context("a moment")?;
        let ahead_ns = drift.last.ahead_ns(since_ns);
        let unhurried = Stretch { since_ns, ahead_ns, ..Stretch::default() };
        let (rate_ppm, until_ns) = rate(unhurried);
        let next = Stretch { rate_ppm, until_ns, ..unhurried };
        let fields = [next.since_ns, next.ahead_ns, next.rate_ppm, next.until_ns];
        let place = STRETCHES_AT + drift.begun % STRETCHES * STRETCH_BYTES;
        self.file
            .write_all_at(&fields.map(i64::to_ne_bytes).concat(), place)
            .context("cannot set a clock")?;
        drift.begun += 1;
        drift.last = next;
        self.file.write_all_at(&drift.begun.to_ne_bytes(), BEGUN_AT).context("cannot set a clock")?;
        ensure!(
            now_ns()? < since_ns,
            "this machine stood still as a clock was set: it may have been set back"
        );
        Ok(())
    }

    fn read(&self, at: u64) -> Result<u64> {
        let mut number = [0; 8];
        self.file.read_exact_at(&mut number, at).context("cannot read a clock's file")?;
        Ok(u64::from_ne_bytes(number))
    }
}

/// By the right monotonic clock.
fn now_ns() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("there is no monotonic clock")?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}
