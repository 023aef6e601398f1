//! How containers ended, asked once for each. Why, where it is in doubt, is [`oom`]'s to find out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bollard::Docker;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::TryStreamExt;
use tokio::sync::Notify;

use super::container::{self, Listed, Sighting};
use super::oom::{self, Count};
use super::{READ_DEADLINE, docker_status, within};
use crate::instance::{Exit, RunState};
use crate::output::Tail;
use crate::{EngineError, OUTPUT_MAX};

/// What is known of the ends of this node's containers, by container id. An ended one never changes, and
/// asking takes two calls and more.
#[derive(Debug)]
pub(super) struct Exits {
    docker: Docker,
    known: Arc<Mutex<HashMap<String, Known>>>,
    /// Of kills for want of memory.
    count: Count,
    /// Notified when the cause of an exit has become known.
    changes: Arc<Notify>,
}

#[derive(Clone, Debug)]
enum Known {
    /// Its cause is being asked for.
    Asking,
    Exit(Exit),
}

impl Exits {
    pub(super) fn new(docker: Docker, changes: Arc<Notify>) -> Self {
        let exits = Exits { docker, known: Arc::default(), count: Count::default(), changes };
        exits.count.look();
        exits
    }

    /// Takes note of a list: containers that are not on it are forgotten.
    pub(super) fn listed(&self, listed: &[Listed]) {
        self.count.look();
        lock(&self.known).retain(|id, _| listed.iter().any(|l| l.id == *id));
    }

    /// The state of a container that has ended; `None` if it has been removed meanwhile. Never waits for
    /// the cause: others are on the same list.
    pub(super) async fn state_of(&self, id: &str) -> Result<Option<RunState>, EngineError> {
        let known = lock(&self.known).get(id).cloned();
        match known {
            Some(Known::Exit(exit)) => return Ok(Some(RunState::Exited(exit))),
            Some(Known::Asking) => return Ok(Some(RunState::Ended)),
            None => {}
        }
        let inspection = self.docker.inspect_container(id, None);
        let found = match within("inspect the container", READ_DEADLINE, inspection).await {
            Err(error) if docker_status(&error) == Some(404) => return Ok(None),
            found => found?,
        };
        let Sighting::Exited { code, oom_killed } = container::sighting(&found, 0)? else { return Ok(None) };
        // Output that cannot be read hides no exit.
        let last_output = tail(&self.docker, id).await.map(|tail| tail.last_lines()).unwrap_or_default();
        let exit = container::exit(code, oom_killed, last_output);
        let has_grown = self.count.has_grown();
        if !oom::is_in_doubt(&exit, has_grown) {
            lock(&self.known).insert(id.to_owned(), Known::Exit(exit.clone()));
            return Ok(Some(RunState::Exited(exit)));
        }
        // Another list may have begun to ask meanwhile.
        if let Entry::Vacant(vacant) = lock(&self.known).entry(id.to_owned()) {
            vacant.insert(Known::Asking);
            self.ask(id.to_owned(), exit, has_grown);
        }
        Ok(Some(RunState::Ended))
    }

    /// The exit with its cause, for which it waits.
    pub(super) async fn explain(&self, id: &str, exit: Exit) -> Exit {
        let has_grown = self.count.has_grown();
        match oom::is_in_doubt(&exit, has_grown) {
            true => oom::explain(&self.docker, id, exit, has_grown).await,
            false => exit,
        }
    }

    /// Asks beside everything else, and hints when it is known.
    fn ask(&self, id: String, exit: Exit, has_grown: Option<bool>) {
        let (docker, known, changes) = (self.docker.clone(), Arc::clone(&self.known), self.changes.clone());
        tokio::spawn(async move {
            let exit = oom::explain(&docker, &id, exit, has_grown).await;
            // One that is listed no longer was forgotten, and stays so.
            if let Some(known) = lock(&known).get_mut(&id) {
                *known = Known::Exit(exit);
            }
            changes.notify_one();
        });
    }
}

/// The end of a container's output.
pub(super) async fn tail(docker: &Docker, name: &str) -> Result<Tail, EngineError> {
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(container::OUTPUT_LINES).build();
    let collected =
        docker.logs(name, Some(options)).try_fold(Tail::new(OUTPUT_MAX), |mut tail, chunk| async move {
            tail.push(chunk.as_ref());
            Ok(tail)
        });
    within("read the container's output", READ_DEADLINE, collected).await
}

fn lock(known: &Mutex<HashMap<String, Known>>) -> MutexGuard<'_, HashMap<String, Known>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
