//! What was asked and what came of it, written down as it happens.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::op::{Op, Outcome};

/// Operations one run may make: more would be checked for longer than anyone waits.
pub const ENTRIES_MAX: usize = 1_000_000;

/// One operation, from its sending to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: u64,
    pub worker: u64,
    pub node: u64,
    pub op: Op,
    pub begin_us: u64,
    /// Absent while it is under way, or if the run ended before it did.
    pub end: Option<(u64, Outcome)>,
}

impl Entry {
    /// When it ended for all that is known: an unknown one may take effect at any later time.
    pub fn end_us(&self) -> Option<u64> {
        self.end.as_ref().map(|(at, _)| *at)
    }

    pub fn outcome(&self) -> Option<&Outcome> {
        self.end.as_ref().map(|(_, outcome)| outcome)
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Begin {
        id: u64,
        worker: u64,
        node: u64,
        at_us: u64,
        #[serde(flatten)]
        op: &'a Op,
    },
    End {
        id: u64,
        at_us: u64,
        #[serde(flatten)]
        outcome: &'a Outcome,
    },
    Note {
        at_us: u64,
        text: &'a str,
    },
}

/// Writes the history. Time is the run's own, monotonic, in microseconds.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: BufWriter<File>,
    entries: Vec<Entry>,
}

impl Recorder {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let inner = Inner { file: BufWriter::new(file), entries: Vec::new() };
        Ok(Recorder { started: Instant::now(), inner: Mutex::new(inner) })
    }

    pub fn now_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).expect("a run of less than 500,000 years")
    }

    /// Writes an operation down, before it is sent. Answers its id.
    ///
    /// # Errors
    /// Where it cannot be written: then it must not be sent.
    pub fn begin(&self, worker: u64, node: u64, op: &Op) -> Result<u64> {
        let mut inner = self.lock();
        anyhow::ensure!(inner.entries.len() < ENTRIES_MAX, "more than {ENTRIES_MAX} operations");
        let (id, at_us) = (inner.entries.len() as u64, self.now_us());
        inner.write(&Line::Begin { id, worker, node, at_us, op })?;
        inner.entries.push(Entry { id, worker, node, op: op.clone(), begin_us: at_us, end: None });
        Ok(id)
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn end(&self, id: u64, outcome: Outcome) -> Result<()> {
        let mut inner = self.lock();
        let at_us = self.now_us();
        inner.write(&Line::End { id, at_us, outcome: &outcome })?;
        let index = usize::try_from(id).context("an id is an index")?;
        inner.entries.get_mut(index).context("an operation that never began")?.end = Some((at_us, outcome));
        Ok(())
    }

    /// What else happened, for who reads the file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&self, text: &str) -> Result<()> {
        let at_us = self.now_us();
        self.lock().write(&Line::Note { at_us, text })
    }

    /// All of them, at the end of a run: there may be a million, which nobody wants twice.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.lock().entries)
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, line: &Line<'_>) -> Result<()> {
        serde_json::to_writer(&mut self.file, line).context("cannot write the history")?;
        self.file.write_all(b"\n").and_then(|()| self.file.flush()).context("cannot write the history")
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::Verdict;
    use super::*;

    #[test]
    fn an_operation_is_on_disk_before_it_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        let op = Op::PutFunction { name: "f".into(), rev: 3 };
        let id = recorder.begin(1, 2, &op).unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        assert!(read().contains(r#""event":"begin""#) && read().contains(r#""rev":3"#), "{}", read());
        assert_eq!(recorder.entries()[0].end, None);
        recorder.end(id, Outcome::new(Verdict::Unknown).detail("broke off")).unwrap();
        assert!(read().lines().nth(1).unwrap().contains(r#""verdict":"unknown""#), "{}", read());
        assert_eq!(recorder.entries()[0].outcome().unwrap().verdict, Verdict::Unknown);
        assert!(recorder.end(7, Outcome::new(Verdict::Done)).is_err());
    }
}
