//! A round: taken, written, made durable, told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use muster_core::mutant;
use tokio::sync::OwnedSemaphorePermit;

use super::batch::Pending;
use super::queue::{Background, Round, Shared};
use super::{Done, Engine};
use crate::database::Failure;
use crate::memory::Memory;

/// The most keys that one round removes in the background. Appends that come meanwhile wait for it.
const REMOVE_SLICE: usize = 64;

/// What a round has written, on its way through the barrier.
struct Written {
    /// Called back, and their room given back, once it is durable.
    waiting: Vec<(Done, Option<OwnedSemaphorePermit>)>,
    /// Writes of the foreground.
    count: u64,
    /// A removal that goes on in the next round.
    remainder: Option<Background>,
    last: bool,
}

pub(super) fn run(shared: &Shared, mut engine: Engine) {
    loop {
        let round = shared.next_round();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let written = write(&mut engine, round)?;
            finish(shared, &mut engine, written)
        }));
        let failure = match outcome {
            Ok(Ok(true)) => break shared.stop(),
            Ok(Ok(false)) => continue,
            Ok(Err(failure)) => failure,
            // sled asserts some of what it reads, and a write reads what it changes.
            Err(_) => Failure {
                step: "write to",
                cause: "a failed assertion, reported above: if it comes again at the next start, the database file \
                        `db` is corrupt and this replica is lost"
                    .into(),
            },
        };
        break give_up(shared, &engine, &failure);
    }
}

/// The thread's rounds, on the clock of the runtime.
pub(super) async fn run_as_task(shared: Arc<Shared>, mut engine: Engine, memory: Memory) {
    loop {
        let round = shared.next_round_of_task().await;
        let outcome = match write(&mut engine, round) {
            Ok(written) => {
                tokio::time::sleep(memory.barrier_time()).await;
                finish(&shared, &mut engine, written)
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(true) => break shared.stop(),
            Ok(false) => {}
            Err(failure) => break give_up(&shared, &engine, &failure),
        }
    }
}

fn give_up(shared: &Shared, engine: &Engine, failure: &Failure) {
    let message = format!(
        "cannot {} the store in {}: {}. Nothing that was not acknowledged may be assumed written: \
         aborting: the next start recovers from the log, or says why it cannot",
        failure.step,
        engine.dir.display(),
        failure.cause
    );
    tracing::error!("{message}");
    eprintln!("{message}");
    (engine.fatal.0)(&message);
    shared.stop();
}

/// Writes what a round consists of.
fn write(engine: &mut Engine, round: Round) -> Result<Written, Failure> {
    let db = engine.db.clone();
    let mut batch = Pending::new(&db);
    for (key, value) in round.lazy {
        batch.put(key, value);
    }
    let mut waiting = Vec::with_capacity(round.foreground.len() + 1);
    let count = round.foreground.len() as u64;
    let background = round.background.iter().flat_map(|work| match work {
        Background::Write(write) => write.changes.as_slice(),
        Background::Remove { .. } => &[],
    });
    let waited_for =
        !round.foreground.is_empty() || matches!(round.background, Some(Background::Write(_))) || round.last;
    if let Some(witness) = engine.witness.as_mut().filter(|_| waited_for) {
        // In the first batch: where the number is not, nothing of the round is.
        witness.number(batch.changes());
        let foreground = round.foreground.iter().flat_map(|write| &write.changes);
        foreground.chain(background).for_each(|change| witness.see(change));
    }
    for write in round.foreground {
        batch.add(write.changes)?;
        waiting.push((write.done, write._room));
    }
    let mut remainder = None;
    match round.background {
        Some(Background::Write(write)) => {
            batch.add(write.changes)?;
            waiting.push((write.done, write._room));
        }
        Some(Background::Remove { from, to }) => {
            batch.apply()?;
            if !batch.remove(from, to, REMOVE_SLICE)? {
                remainder = Some(Background::Remove { from, to });
            }
        }
        None => {}
    }
    batch.apply()?;
    Ok(Written { waiting, count, remainder, last: round.last })
}

/// Makes a round durable, if anybody waits for that, and tells them; true if it was the last.
fn finish(shared: &Shared, engine: &mut Engine, written: Written) -> Result<bool, Failure> {
    let Written { waiting, count, remainder, last } = written;
    if (!waiting.is_empty() || last) && !mutant!("acknowledge-before-flush") {
        barrier(shared, engine)?;
    }
    if count > 0 {
        shared.reached.send_modify(|reached| reached.write += count);
    }
    for (done, room) in waiting {
        done();
        drop(room);
    }
    let finished = remainder.is_none();
    if let Some(work) = remainder {
        shared.lock().background.push_front(work);
    }
    Ok(last && finished)
}

fn barrier(shared: &Shared, engine: &mut Engine) -> Result<(), Failure> {
    let start = Instant::now();
    engine.db.barrier()?;
    if let Some(witness) = &mut engine.witness {
        witness.note(&engine.db).map_err(|error| {
            let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            Failure { step: "note the last write to", cause: format!("{error}{source}") }
        })?;
    }
    shared.barriers.fetch_add(1, Ordering::Relaxed);
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    shared.barrier_micros.fetch_add(micros, Ordering::Relaxed);
    Ok(())
}
