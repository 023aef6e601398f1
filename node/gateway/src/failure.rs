//! Every way an invocation can go wrong, and what its caller is told.

use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use muster_api::{InvocationState, PROBLEM_JSON, Problem, headers};
use muster_core::ids::{InstanceId, NodeId};
use serde::{Deserialize, Serialize};

use crate::body::Body;

/// What went wrong. Also the `outcome` label of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Malformed,
    Unauthenticated,
    Forbidden,
    NoFunction,
    BodyTooSlow,
    BodyTooLarge,
    QueueFull,
    CrashLoop,
    Broken,
    NoLease,
    NoQuorum,
    NoCapacity,
    Unrecorded,
    Deadline,
    /// The caller went away; nobody reads the answer.
    ClientGone,
}

impl Kind {
    /// A refusal that rests on what this replica does not have, which may only not have arrived yet.
    pub(crate) fn may_be_stale(self) -> bool {
        matches!(self, Kind::Unauthenticated | Kind::Forbidden | Kind::NoFunction)
    }

    pub(crate) const ALL: [Kind; 15] = [
        Kind::Malformed,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::NoFunction,
        Kind::BodyTooSlow,
        Kind::BodyTooLarge,
        Kind::QueueFull,
        Kind::CrashLoop,
        Kind::Broken,
        Kind::NoLease,
        Kind::NoQuorum,
        Kind::NoCapacity,
        Kind::Unrecorded,
        Kind::Deadline,
        Kind::ClientGone,
    ];

    /// The status, the title and the metrics label.
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Kind::Malformed => (400, "Malformed request", "malformed"),
            Kind::Unauthenticated => (401, "Not authenticated", "unauthenticated"),
            Kind::Forbidden => (403, "Not permitted", "forbidden"),
            Kind::NoFunction => (404, "No such function", "no_function"),
            Kind::BodyTooSlow => (408, "Request body too slow", "body_too_slow"),
            Kind::BodyTooLarge => (413, "Request body too large", "body_too_large"),
            Kind::QueueFull => (429, "Queue full", "queue_full"),
            Kind::CrashLoop => (502, "Function fails to start", "crash_loop"),
            Kind::Broken => (502, "Function broke off", "broken"),
            Kind::NoLease => (503, "No permission lease", "no_lease"),
            Kind::NoQuorum => (503, "No quorum", "no_quorum"),
            Kind::NoCapacity => (503, "No capacity", "no_capacity"),
            Kind::Unrecorded => (503, "Usage not recorded", "unrecorded"),
            Kind::Deadline => (504, "Deadline passed", "deadline"),
            Kind::ClientGone => (400, "Request body broke off", "client_gone"),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        StatusCode::from_u16(self.row().0).expect("the table holds valid statuses")
    }

    pub(crate) const fn label(self) -> &'static str {
        self.row().2
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// Where an invocation ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) instance: InstanceId,
    pub(crate) cold_start: bool,
}

impl Place {
    pub(crate) fn write(&self, to: &mut HeaderMap) {
        let text = |text: String| HeaderValue::try_from(text).expect("ids are printable ASCII");
        to.insert(headers::NODE, HeaderValue::from(self.node.0));
        to.insert(headers::INSTANCE, text(self.instance.to_string()));
        let cold = if self.cold_start { "true" } else { "false" };
        to.insert(headers::COLD_START, HeaderValue::from_static(cold));
    }
}

/// A failed attempt, or the failed invocation. Also sent from host to entry as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) state: InvocationState,
    pub(crate) detail: String,
    pub(crate) retry_after_s: Option<u64>,
    pub(crate) place: Option<Place>,
}

impl Failure {
    /// The function did not see the request.
    pub(crate) fn not_started(kind: Kind, detail: impl Into<String>) -> Self {
        let state = InvocationState::NotStarted;
        Failure { kind, state, detail: detail.into(), retry_after_s: None, place: None }
    }

    pub(crate) fn started(kind: Kind, detail: impl Into<String>, place: Place) -> Self {
        let state = InvocationState::Started;
        Failure { kind, state, detail: detail.into(), retry_after_s: None, place: Some(place) }
    }

    pub(crate) fn unknown(kind: Kind, detail: impl Into<String>) -> Self {
        let state = InvocationState::Unknown;
        Failure { kind, state, detail: detail.into(), retry_after_s: None, place: None }
    }

    /// The same failure of an invocation that had been run before: it did start, whatever this last
    /// attempt saw.
    pub(crate) fn after(mut self, earlier: Option<InvocationState>) -> Self {
        if let (InvocationState::NotStarted, Some(earlier)) = (self.state, earlier) {
            self.state = earlier;
        }
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(crate) fn into_response(self, invocation: &str) -> Response<Body> {
        let problem = Problem {
            status: self.kind.status().as_u16(),
            title: self.kind.row().1.to_owned(),
            detail: self.detail,
            invocation_id: Some(invocation.to_owned()),
            invocation_state: Some(self.state),
        };
        let text = serde_json::to_vec(&problem).expect("a problem is plain data");
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.kind.status();
        let to = response.headers_mut();
        to.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Ok(id) = HeaderValue::try_from(invocation) {
            to.insert(headers::INVOCATION_ID, id);
        }
        if let Some(place) = self.place {
            place.write(to);
        }
        if let Some(seconds) = self.retry_after_s {
            to.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthenticated {
            to.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_in_order() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index, "{kind:?}");
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
        }
    }

    #[test]
    fn a_refusal_after_a_run_does_not_say_that_nothing_ran() {
        use InvocationState::{NotStarted, Started, Unknown};
        for (last, earlier, state) in [
            (NotStarted, None, NotStarted),
            (NotStarted, Some(Started), Started),
            (NotStarted, Some(Unknown), Unknown),
            (Unknown, Some(Started), Unknown),
        ] {
            let mut failure = Failure::not_started(Kind::Unauthenticated, "revoked");
            failure.state = last;
            assert_eq!(failure.after(earlier).state, state, "{last:?} after {earlier:?}");
        }
    }
}
