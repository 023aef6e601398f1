//! Who calls what, and whether they may: everything that is decided before a request waits.

use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri};
use muster_core::ClusterState;
use muster_core::accounts::Action;
use muster_core::functions::Spec;
use muster_core::ids::{AccountName, FunctionName};
use muster_core::instances::DecidedAction;
use muster_core::units::Timestamp;

use crate::failure::{Failure, Kind};
use crate::headers::bearer;
use crate::tally::now;

pub(crate) const PREFIX: &str = "/function/";

/// A request that may be served.
pub(crate) struct Admitted {
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
    let account = authenticate(state, head, now)?;
    let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let (name, target) = split(path);
    let missing =
        || Failure::not_started(Kind::NoFunction, format!("there is no function `{}`", shown(name)));
    let function = FunctionName::new(name).map_err(|_| missing())?;
    let spec = Arc::clone(&state.functions.get(name).ok_or_else(missing)?.current().spec);
    if !state.allows(account, Action::Invoke, &function) {
        let detail = format!("the account `{account}` has no grant to invoke `{function}`");
        return Err(Failure::not_started(Kind::Forbidden, detail));
    }
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
    Ok(Admitted { account: account.clone(), function, spec, target: Uri::from(target) })
}

/// The answer for a function that keeps failing to start, while nothing of it runs or is to be
/// launched: waiting would be in vain.
pub(crate) fn crash_loop(state: &ClusterState, function: &FunctionName, now: Timestamp) -> Option<Failure> {
    let health = &state.functions.get(function.as_str())?.health;
    let pause = health.retry_at().since(now);
    if !health.is_crash_loop() || pause.0 == 0 || has_wanted(state, function) {
        return None;
    }
    let detail = format!(
        "function `{function}` fails to start: {}; {} failures in a row; next attempt in {}.{} s",
        health.last_reason,
        health.consecutive_failures,
        pause.0 / 1000,
        pause.0 % 1000 / 100,
    );
    Some(Failure::not_started(Kind::CrashLoop, detail).retry_after(pause.0.div_ceil(1000)))
}

/// The answer for a request that found no slot by its deadline.
pub(crate) fn overdue(state: &ClusterState, function: &FunctionName) -> Failure {
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

fn authenticate<'a>(
    state: &'a ClusterState,
    head: &Parts,
    now: Timestamp,
) -> Result<&'a AccountName, Failure> {
    let Some(key) = bearer(&head.headers) else {
        let given = head.headers.contains_key(AUTHORIZATION);
        let detail = match given {
            true => "the `Authorization` header is malformed: expected `Bearer mk_…`, once",
            false => "an API key is needed: `Authorization: Bearer mk_…`",
        };
        return Err(Failure::not_started(Kind::Unauthenticated, detail));
    };
    let refused = |error: muster_core::accounts::Unauthenticated| {
        Failure::not_started(Kind::Unauthenticated, error.to_string())
    };
    state.accounts.authenticate(key, now).map_err(refused)
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

/// A name from outside, short enough for a message.
fn shown(name: &str) -> String {
    name.chars().take(2 * muster_core::ids::NAME_MAX).collect()
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
