//! Who calls what, and whether they may: everything that is decided before a request waits.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use muster_core::ClusterState;
use muster_core::accounts::{Action, Unauthenticated};
use muster_core::functions::Spec;
use muster_core::ids::{AccountName, FunctionName, NAME_MAX};
use muster_core::instances::DecidedAction;
use muster_core::units::Timestamp;

use crate::failure::{Failure, Kind};
use crate::headers::bearer;
use crate::tally::now;

pub(crate) const PREFIX: &str = "/function/";

/// A request that may be served.
pub(crate) struct Admitted {
    /// What the caller proved itself with, to be looked at again should the request have to wait.
    pub(crate) key: String,
    pub(crate) account: AccountName,
    pub(crate) function: FunctionName,
    pub(crate) spec: Arc<Spec>,
    /// What follows the function's name: path and query as the function sees them.
    pub(crate) target: Uri,
}

/// Checks a request's head, in the order in which callers may learn of what is wrong: nobody without
/// a key learns which functions there are.
pub(crate) fn admit(state: &ClusterState, head: &Parts, body_max_bytes: u64) -> Result<Admitted, Failure> {
    let now = now();
    let key = key(head)?;
    let account = authenticate(state, key, now)?;
    let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let (name, target) = split(path);
    let function = FunctionName::new(name).map_err(|_| missing(name))?;
    let spec = permitted(state, account, &function)?;
    if head.method == Method::CONNECT {
        return Err(Failure::not_started(Kind::Malformed, "CONNECT is not for functions"));
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    if length.is_some_and(|length: u64| length > body_max_bytes) {
        let detail = format!("the request's body exceeds the limit of {body_max_bytes} bytes");
        return Err(Failure::not_started(Kind::BodyTooLarge, detail));
    }
    if let Some(failure) = crash_loop(state, &function, now) {
        return Err(failure);
    }
    let malformed = |_| Failure::not_started(Kind::Malformed, "the path is not valid");
    let target = PathAndQuery::try_from(target).map_err(malformed)?;
    let (key, account, target) = (key.to_owned(), account.clone(), Uri::from(target));
    Ok(Admitted { key, account, function, spec, target })
}

/// Whether a request that has waited may still be served: a key or a grant revoked in the meantime
/// is revoked for it, too.
pub(crate) fn still_admitted(
    state: &ClusterState,
    key: &str,
    function: &FunctionName,
) -> Result<(), Failure> {
    let account = authenticate(state, key, now())?;
    permitted(state, account, function).map(drop)
}

/// The answer for a function that keeps failing to start, while nothing of it runs or is to be
/// launched: waiting would be in vain.
pub(crate) fn crash_loop(state: &ClusterState, function: &FunctionName, now: Timestamp) -> Option<Failure> {
    let health = &state.functions.get(function.as_str())?.health;
    let pausing = health.retry_at().since(now).0 > 0;
    if health.is_crash_loop() && pausing { fails_to_start(state, function, now) } else { None }
}

/// The answer where the last launches failed, be they few, and no other is under way.
fn fails_to_start(state: &ClusterState, function: &FunctionName, now: Timestamp) -> Option<Failure> {
    let health = &state.functions.get(function.as_str())?.health;
    if health.consecutive_failures == 0 || has_wanted(state, function) {
        return None;
    }
    let pause = health.retry_at().since(now);
    let detail = format!(
        "function `{function}` fails to start: {}; {} failures in a row; next attempt in {}.{} s",
        health.last_reason,
        health.consecutive_failures,
        pause.0 / 1000,
        pause.0 % 1000 / 100,
    );
    Some(Failure::not_started(Kind::CrashLoop, detail).retry_after(pause.0.div_ceil(1000).max(1)))
}

/// The answer for a request that found no slot by its deadline.
pub(crate) fn overdue(state: &ClusterState, function: &FunctionName) -> Failure {
    if let Some(failure) = fails_to_start(state, function, now()) {
        return failure;
    }
    let mut decisions = state.instances.decisions().iter().rev();
    let last = decisions.find(|(_, decision)| decision.function == *function);
    match last {
        Some((_, decision)) if decision.action == DecidedAction::Hold && !has_wanted(state, function) => {
            let detail = format!("no instance of `{function}` could be launched: {}", decision.reason);
            Failure::not_started(Kind::NoCapacity, detail).retry_after(NO_CAPACITY_RETRY_S)
        }
        _ => {
            let detail = format!("no instance of `{function}` was free before the deadline");
            Failure::not_started(Kind::Deadline, detail)
        }
    }
}

const NO_CAPACITY_RETRY_S: u64 = 5;

fn key(head: &Parts) -> Result<&str, Failure> {
    bearer(&head.headers).ok_or_else(|| {
        let detail = match head.headers.contains_key(AUTHORIZATION) {
            true => "the `Authorization` header is malformed: expected `Bearer mk_…`, once",
            false => "an API key is needed: `Authorization: Bearer mk_…`",
        };
        Failure::not_started(Kind::Unauthenticated, detail)
    })
}

fn authenticate<'a>(state: &'a ClusterState, key: &str, now: Timestamp) -> Result<&'a AccountName, Failure> {
    let refused = |error: Unauthenticated| Failure::not_started(Kind::Unauthenticated, error.to_string());
    state.accounts.authenticate(key, now).map_err(refused)
}

fn permitted(
    state: &ClusterState,
    account: &AccountName,
    function: &FunctionName,
) -> Result<Arc<Spec>, Failure> {
    let known = state.functions.get(function.as_str()).ok_or_else(|| missing(function.as_str()))?;
    if !state.allows(account, Action::Invoke, function) {
        let detail = format!("the account `{account}` has no grant to invoke `{function}`");
        return Err(Failure::not_started(Kind::Forbidden, detail));
    }
    Ok(Arc::clone(&known.current().spec))
}

fn missing(name: &str) -> Failure {
    // A name from outside, made short enough for a message.
    let shown: String = name.chars().take(2 * NAME_MAX).collect();
    Failure::not_started(Kind::NoFunction, format!("there is no function `{shown}`"))
}

fn has_wanted(state: &ClusterState, function: &FunctionName) -> bool {
    state.instances.of_function(function.as_str()).any(|(_, instance)| instance.phase.is_wanted())
}

/// The name and what follows it, with the `/` that a function's path must begin with.
fn split(path_and_query: &str) -> (&str, String) {
    let rest = path_and_query.strip_prefix(PREFIX).unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (name, target) = rest.split_at(end);
    match target.starts_with('/') {
        true => (name, target.to_owned()),
        false => (name, format!("/{target}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_targets() {
        for (path, name, target) in [
            ("/function/alpha", "alpha", "/"),
            ("/function/alpha/", "alpha", "/"),
            ("/function/alpha?x=1&y", "alpha", "/?x=1&y"),
            ("/function/alpha/a%20b//c?x=/", "alpha", "/a%20b//c?x=/"),
            ("/function/", "", "/"),
            ("/function//a", "", "/a"),
            ("/other/alpha", "", "/"),
            ("", "", "/"),
        ] {
            assert_eq!(split(path), (name, target.to_owned()), "{path}");
        }
    }
}
