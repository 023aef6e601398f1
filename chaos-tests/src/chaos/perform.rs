//! Sends one operation to one node, once, and says what is known of its end.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::Method;
use muster_api::{Account, CreatedKey, Function, InvocationState};
use reqwest::RequestBuilder;
use serde_json::json;

use super::catalog;
use super::op::{Mode, Op, Outcome, Verdict};
use super::recorder::TOKEN;
use crate::Cluster;
use crate::cluster::{Answer, send};

/// For an administrative request: longer than a node pursues a proposal.
const ADMIN_LIMIT: Duration = Duration::from_secs(6);
/// The most of an error that the history keeps.
const DETAIL_MAX: usize = 300;
/// What every guest's grant is for.
const PATTERN: &str = "*";

/// A key as its creation has answered it.
#[derive(Clone, Debug)]
struct Secret {
    id: String,
    key: String,
}

/// What operations need to know of each other: the keys that were made.
#[derive(Debug, Default)]
pub struct Keys(Mutex<BTreeMap<String, Secret>>);

impl Keys {
    /// Gives a lasting key a name.
    pub fn put(&self, name: &str, id: &str, key: &str) {
        let secret = Secret { id: id.to_owned(), key: key.to_owned() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), secret);
    }

    /// The key of an account with a lasting one, or with that label.
    pub(super) fn key(&self, name: &str) -> Option<String> {
        self.get(name).map(|secret| secret.key)
    }

    fn get(&self, name: &str) -> Option<Secret> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// Carries out operation `id` and answers how it ended; `limit` is for administrative ones.
///
/// # Errors
/// Where the request could not even be made.
pub async fn perform(
    cluster: &Cluster,
    keys: &Keys,
    node: u64,
    id: u64,
    op: &Op,
    limit: Option<Duration>,
    margin: Duration,
) -> Result<Outcome> {
    if let Op::Invoke { function, caller, work_ms, mode } = op {
        return Ok(invoke(cluster, keys, node, id, function, caller, (*work_ms, *mode), margin).await);
    }
    let Some(request) = request(cluster, keys, node, op)? else {
        return Ok(Outcome::new(Verdict::Skipped));
    };
    match send(request.timeout(limit.unwrap_or(ADMIN_LIMIT))).await {
        Ok(answer) => Ok(Outcome { applied: answer.applied, ..judge(keys, op, &answer) }),
        Err(error) => Ok(unanswered(&error)),
    }
}

fn request(cluster: &Cluster, keys: &Keys, node: u64, op: &Op) -> Result<Option<RequestBuilder>> {
    let root = Some(cluster.root_key());
    let ask = |method, path: &str| cluster.request(node, method, path, root);
    let read = |path: &str, local: bool| {
        let query = if local { "?consistency=local" } else { "" };
        ask(Method::GET, &format!("{path}{query}"))
    };
    Ok(Some(match op {
        Op::PutFunction { name, rev } => {
            ask(Method::PUT, &format!("/v1/functions/{name}")).json(&catalog::register(*rev)?)
        }
        Op::DeleteFunction { name } => ask(Method::DELETE, &format!("/v1/functions/{name}?force=true")),
        Op::ReadFunction { name, local } => read(&format!("/v1/functions/{name}"), *local),
        Op::CreateAccount { name } => ask(Method::POST, "/v1/accounts").json(&json!({ "name": name })),
        Op::DeleteAccount { name } => ask(Method::DELETE, &format!("/v1/accounts/{name}")),
        Op::ReadAccount { name, local } => read(&format!("/v1/accounts/{name}"), *local),
        Op::Grant { account, actions } => {
            let path = format!("/v1/accounts/{account}/grants/{PATTERN}");
            let named = ["invoke", "manage"].iter().enumerate().filter(|(bit, _)| actions >> bit & 1 == 1);
            let actions: Vec<&str> = named.map(|(_, name)| *name).collect();
            ask(Method::PUT, &path).json(&json!({ "actions": actions }))
        }
        Op::RevokeGrant { account } => {
            ask(Method::DELETE, &format!("/v1/accounts/{account}/grants/{PATTERN}"))
        }
        Op::ReadGrant { account, local } => read(&format!("/v1/accounts/{account}"), *local),
        Op::CreateKey { account, .. } => ask(Method::POST, &format!("/v1/accounts/{account}/keys")),
        Op::RevokeKey { account, label } => {
            let Some(secret) = keys.get(label) else { return Ok(None) };
            ask(Method::DELETE, &format!("/v1/accounts/{account}/keys/{}", secret.id))
        }
        Op::Appoint { account } => {
            ask(Method::POST, "/v1/accounts").json(&json!({ "name": account, "role": "admin" }))
        }
        Op::Dismiss { account } => ask(Method::DELETE, &format!("/v1/accounts/{account}")),
        Op::Administer { caller, name, rev } => {
            let Some(secret) = keys.get(caller) else { return Ok(None) };
            let ask = |method, path: &str| cluster.request(node, method, path, Some(&secret.key));
            match rev {
                Some(rev) => {
                    ask(Method::PUT, &format!("/v1/functions/{name}")).json(&catalog::register(*rev)?)
                }
                None => ask(Method::GET, "/v1/nodes"),
            }
        }
        Op::Deploy { function, spec } => ask(Method::PUT, &format!("/v1/functions/{function}")).json(spec),
        Op::ReadUsage { account } => ask(Method::GET, &format!("/v1/usage?account={account}&by=total")),
        Op::Invoke { .. } => return Ok(None),
    }))
}

/// An answer to an administrative request.
fn judge(keys: &Keys, op: &Op, answer: &Answer) -> Outcome {
    let status = answer.status;
    let is_read = !op.is_write();
    let outcome = |verdict| Outcome::new(verdict).status(status);
    let told = |verdict| outcome(verdict).detail(detail(answer));
    match status {
        200..300 if is_read => match value(op, &answer.body) {
            Ok(value) => outcome(Verdict::Done).value(value),
            Err(error) => outcome(Verdict::Unknown).detail(format!("its answer cannot be read: {error}")),
        },
        200..300 => {
            if let (Op::CreateKey { label, .. }, Ok(made)) =
                (op, serde_json::from_slice::<CreatedKey>(&answer.body))
            {
                keys.put(label, &made.id, &made.key);
                return Outcome { key_id: Some(made.id), ..outcome(Verdict::Done) };
            }
            outcome(Verdict::Done)
        }
        404 if is_read => outcome(Verdict::Done),
        400..500 => told(Verdict::Refused),
        // The API promises this text only where it is certain.
        503 if detail(answer).contains("nothing was changed") => told(Verdict::Refused),
        _ => told(Verdict::Unknown),
    }
}

/// What a read saw, as the value of its register.
fn value(op: &Op, body: &[u8]) -> Result<Option<u64>, serde_json::Error> {
    Ok(match op {
        Op::ReadFunction { .. } => rev(&serde_json::from_slice(body)?),
        Op::ReadAccount { .. } => serde_json::from_slice::<Account>(body).map(|_| Some(1))?,
        Op::ReadGrant { .. } => granted(&serde_json::from_slice(body)?),
        _ => None,
    })
}

/// The value of a function that is a register.
pub fn rev(function: &Function) -> Option<u64> {
    function.spec.env.get("REV")?.parse().ok()
}

/// An account's grant as the bits of [`Op::Grant`].
pub fn granted(account: &Account) -> Option<u64> {
    let grant = account.grants.iter().find(|grant| grant.pattern == PATTERN)?;
    let bit = |action: &muster_api::Action| match action {
        muster_api::Action::Invoke => 1,
        muster_api::Action::Manage => 2,
    };
    Some(grant.actions.iter().map(bit).sum())
}

#[expect(clippy::too_many_arguments, reason = "the parts of one operation")]
async fn invoke(
    cluster: &Cluster,
    keys: &Keys,
    node: u64,
    id: u64,
    function: &str,
    caller: &str,
    (work_ms, mode): (u64, Mode),
    margin: Duration,
) -> Outcome {
    let Some(secret) = keys.get(caller) else { return Outcome::new(Verdict::Skipped) };
    let mode = match mode {
        Mode::Answer => "",
        Mode::Exit => "&mode=exit",
        Mode::Hang => "&mode=hang",
        Mode::Exhaust => "&mode=exhaust",
    };
    let path = format!("/function/{function}/run?{TOKEN}={id}&work_ms={work_ms}{mode}");
    let limit = Duration::from_millis(catalog::TIMEOUT_MS) + margin;
    let request = cluster.request(node, Method::POST, &path, Some(&secret.key)).timeout(limit);
    match send(request.body("x")).await {
        Ok(answer) => invoked(&answer),
        Err(error) => unanswered(&error),
    }
}

/// An answer to an invocation.
pub(super) fn invoked(answer: &Answer) -> Outcome {
    let verdict = match (&answer.problem, answer.status) {
        (None, 200..300) => Verdict::Done,
        (Some(problem), _) if problem.invocation_state == Some(InvocationState::NotStarted) => {
            Verdict::Refused
        }
        _ => Verdict::Failed,
    };
    let shown = if verdict == Verdict::Done { String::new() } else { detail(answer) };
    Outcome {
        state: answer.state(),
        invocation_id: answer.invocation_id.clone(),
        host: answer.node,
        cold_start: answer.cold_start == Some(true),
        ..Outcome::new(verdict).status(answer.status).detail(shown)
    }
}

fn unanswered(error: &reqwest::Error) -> Outcome {
    if error.is_connect() {
        return Outcome::new(Verdict::Refused).detail("could not connect");
    }
    let hung = error.is_timeout();
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cut = error.is_decode() || error.is_body();
    let when = if cut { "in the answer" } else { "before the answer" };
    Outcome { hung, cut, ..Outcome::new(Verdict::Unknown).detail(shortened(&format!("{when}: {cause}"))) }
}

fn detail(answer: &Answer) -> String {
    match &answer.problem {
        Some(problem) => shortened(&format!("{}: {}", problem.title, problem.detail)),
        None => shortened(&String::from_utf8_lossy(&answer.body)),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(DETAIL_MAX).collect()
}
