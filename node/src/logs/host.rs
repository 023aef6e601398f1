//! The output of the instances that this host has or had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, SelectAll, StreamExt};
use muster_consensus::Consensus;
use muster_core::ids::{InstanceId, NodeId};
use muster_engine::logs::Line;
use muster_engine::{Engine, EngineError, LogRead, LogStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::merge::merged;
use super::record::{Ask, Record};
use crate::agent::Engines;

/// The least time between two looks for instances that have come.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
/// How often an instance is looked for of which the engine knows nothing yet.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Before the output of an instance is opened again after it broke off.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// Records on their way to whoever asked.
const AHEAD: usize = 64;

/// What is written already, in the order of time.
pub(super) async fn past(engines: &Engines, ask: &Ask) -> BoxStream<'static, Record> {
    let mut sources = Vec::new();
    for engine in engines.values() {
        let logged = match engine.logged(&ask.function).await {
            Ok(logged) => logged,
            Err(error) => {
                sources.push(remark(None, format!("some output cannot be read: {}", error.reason())));
                continue;
            }
        };
        let wanted = logged.into_iter().filter(|origin| {
            origin.born == ask.born && ask.instance.is_none_or(|instance| instance == origin.instance)
        });
        for origin in wanted {
            let read = LogRead { after: ask.after(origin.instance), follow: false };
            match engine.logs(&ask.function, origin.instance, read).await {
                Ok(lines) => sources.push(records(origin.instance, lines)),
                // It was given up a moment ago.
                Err(EngineError::NoSuchInstance { .. }) => {}
                Err(error) => sources.push(unreadable(origin.instance, &error)),
            }
        }
    }
    merged(sources, |record| record)
}

/// What is written from now on, of instances that are here and that come, as it is written. It does not end by
/// itself.
pub(super) fn follow(
    engines: Arc<Engines>,
    consensus: Consensus,
    node: NodeId,
    ask: Ask,
) -> BoxStream<'static, Record> {
    let (to, mut from) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let following =
            Following { engines, consensus, node, ask, known: BTreeSet::new(), troubled: BTreeSet::new() };
        tokio::select! {
            () = to.closed() => {}
            () = following.run(&to) => {}
        }
    });
    stream::poll_fn(move |cx| from.poll_recv(cx)).boxed()
}

struct Following {
    engines: Arc<Engines>,
    consensus: Consensus,
    node: NodeId,
    ask: Ask,
    /// Instances whose output is open, or has been read to its end.
    known: BTreeSet<InstanceId>,
    /// Those whose output broke off, which was told.
    troubled: BTreeSet<InstanceId>,
}

impl Following {
    async fn run(mut self, to: &mpsc::Sender<Record>) {
        let mut states = self.consensus.changes();
        let mut open = SelectAll::new();
        self.begin(&mut open, to).await;
        loop {
            let waiting = self.look(&mut open).await;
            let (paused, again) = (sleep(LOOK_PAUSE), sleep(LOOK_EVERY));
            tokio::pin!(paused, again);
            let mut news = false;
            loop {
                tokio::select! {
                    Some((instance, next)) = open.next() => {
                        news |= matches!(next, Next::Again);
                        if let Some(record) = self.take(instance, next, &mut open)
                            && to.send(record).await.is_err()
                        {
                            return;
                        }
                    }
                    changed = states.changed(), if !news => {
                        if changed.is_err() {
                            return;
                        }
                        news = true;
                    }
                    () = &mut paused, if news => break,
                    () = &mut again, if waiting => break,
                }
            }
        }
    }

    /// Opens what is there already, of instances too that the state has forgotten.
    async fn begin(&mut self, open: &mut SelectAll<Tagged>, to: &mpsc::Sender<Record>) {
        let (engines, born) = (Arc::clone(&self.engines), self.ask.born);
        for engine in engines.values() {
            match engine.logged(&self.ask.function).await {
                Ok(logged) => {
                    for origin in logged.into_iter().filter(|origin| origin.born == born) {
                        self.open(engine, origin.instance, open).await;
                    }
                }
                Err(error) => {
                    let text = format!("some output cannot be read: {}", error.reason());
                    let _gone = to.send(Record::remark(None, text)).await;
                }
            }
        }
    }

    /// Opens the output of instances that have come; whether some are awaited of which there is nothing yet.
    async fn look(&mut self, open: &mut SelectAll<Tagged>) -> bool {
        let placed: Vec<_> = self.consensus.with_state(|state| {
            let here = state.instances.iter().filter(|(id, instance)| {
                instance.node == self.node
                    && instance.function == self.ask.function
                    && instance.placed_at >= self.ask.born
                    && !self.known.contains(id)
            });
            here.map(|(id, instance)| (id, instance.engine, instance.phase.is_ended())).collect()
        });
        let engines = Arc::clone(&self.engines);
        let mut waiting = false;
        for (instance, kind, ended) in placed {
            let Some(engine) = engines.get(&kind) else { continue };
            if !self.open(engine, instance, open).await {
                match ended {
                    // It has come and gone without a word.
                    true => self.known.insert(instance),
                    false => std::mem::replace(&mut waiting, true),
                };
            }
        }
        waiting
    }

    /// Whether there is something to read, or nothing is wanted.
    async fn open(
        &mut self,
        engine: &Arc<dyn Engine>,
        instance: InstanceId,
        open: &mut SelectAll<Tagged>,
    ) -> bool {
        if self.ask.instance.is_some_and(|wanted| wanted != instance) {
            return self.known.insert(instance);
        }
        let read = LogRead { after: self.ask.after(instance), follow: true };
        let lines = match engine.logs(&self.ask.function, instance, read).await {
            Ok(lines) => lines.map(|line| line.map_or_else(Next::Failed, Next::Line)).boxed(),
            Err(EngineError::NoSuchInstance { .. }) => return false,
            Err(error) => stream::once(async move { Next::Failed(error) }).boxed(),
        };
        self.known.insert(instance);
        open.push(lines.map(move |next| (instance, next)).boxed());
        true
    }

    /// What to pass on of what came. Output that broke off is opened again after a while.
    fn take(&mut self, instance: InstanceId, next: Next, open: &mut SelectAll<Tagged>) -> Option<Record> {
        match next {
            Next::Line(line) => {
                self.troubled.remove(&instance);
                self.ask.seen.insert(instance, line.at.0);
                Some(Record::of(instance, &line))
            }
            Next::Failed(error) => {
                let again = async move {
                    sleep(REOPEN_PAUSE).await;
                    (instance, Next::Again)
                };
                open.push(stream::once(again).boxed());
                self.troubled.insert(instance).then(|| unreadable_record(instance, &error))
            }
            Next::Again => {
                self.known.remove(&instance);
                None
            }
        }
    }
}

/// What comes of one instance.
enum Next {
    Line(Line),
    Failed(EngineError),
    /// It is to be opened again.
    Again,
}

type Tagged = BoxStream<'static, (InstanceId, Next)>;

fn records(instance: InstanceId, lines: LogStream) -> BoxStream<'static, Record> {
    lines
        .map(move |line| match line {
            Ok(line) => Record::of(instance, &line),
            Err(error) => unreadable_record(instance, &error),
        })
        .boxed()
}

fn unreadable(instance: InstanceId, error: &EngineError) -> BoxStream<'static, Record> {
    let record = unreadable_record(instance, error);
    stream::once(async move { record }).boxed()
}

fn unreadable_record(instance: InstanceId, error: &EngineError) -> Record {
    Record::remark(Some(instance), format!("its output cannot be read: {}", error.reason()))
}

fn remark(instance: Option<InstanceId>, text: String) -> BoxStream<'static, Record> {
    let record = Record::remark(instance, text);
    stream::once(async move { record }).boxed()
}
