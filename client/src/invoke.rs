//! Invoking a function.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use muster_api::headers;

use crate::client::route;
use crate::transport::{Call, Repeat};
use crate::{Body, Client, Error, ResponseBody};

/// What a function is sent.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// Path and query below the function, such as `/items?page=2`; may be empty.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Body,
    /// Running this twice is harmless, so it may be sent again after it may have run.
    pub idempotent: bool,
}

impl Request {
    pub fn get() -> Self {
        Self::new(Method::GET, Body::empty())
    }

    pub fn post(body: impl Into<Body>) -> Self {
        Self::new(Method::POST, body.into())
    }

    pub fn new(method: Method, body: Body) -> Self {
        Request { method, path: String::new(), headers: HeaderMap::new(), body, idempotent: false }
    }

    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }

    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

/// A function's answer, with any status. What Muster itself answers is an [`Error::Problem`].
#[derive(Debug)]
pub struct Invocation {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub invocation_id: Option<String>,
    /// The node it ran on.
    pub node: Option<String>,
    pub instance: Option<String>,
    /// Whether it waited for an instance to start.
    pub cold_start: bool,
    pub body: ResponseBody,
}

impl Client {
    /// Invokes a function. See [`Client`] for when an invocation is sent again.
    ///
    /// # Errors
    /// [`Error::invocation_state`] tells whether the function may have run.
    pub async fn invoke(&self, function: &str, request: Request) -> Result<Invocation, Error> {
        let options = &self.transport.options;
        let call = Call {
            method: request.method,
            path: below(&route(&["function", function], &[])?, &request.path)?,
            headers: request.headers,
            body: request.body,
            repeat: if request.idempotent { Repeat::Harmless } else { Repeat::IfNotStarted },
            limit: options.invoke_timeout,
            deadline: options.deadline,
            patient: options.patient,
            head_limit: None,
            streams: true,
            invocation: true,
        };
        let answer = self.transport.send(&call).await?;
        let text = |name: &str| {
            let value = answer.headers.get(name)?.to_str().ok()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        Ok(Invocation {
            invocation_id: text(headers::INVOCATION_ID),
            node: text(headers::NODE),
            instance: text(headers::INSTANCE),
            cold_start: text(headers::COLD_START).as_deref() == Some("true"),
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
        })
    }
}

/// Joins a function's own path to its route; refuses one that would leave it.
fn below(function: &str, path: &str) -> Result<String, Error> {
    let slash = if path.is_empty() || path.starts_with(['/', '?']) { "" } else { "/" };
    let joined = format!("{function}{slash}{}", path.replace('#', "%23"));
    let refuse = |why: &str| Error::invalid(format!("the path `{path}`"), why);
    let url = reqwest::Url::parse(&format!("http://node{joined}")).map_err(|e| refuse(&e.to_string()))?;
    let kept = url.path().strip_prefix(function).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if kept { Ok(joined) } else { Err(refuse("it leads out of the function")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_below_its_function() {
        for (path, want) in [
            ("", Some("/function/a")),
            ("/", Some("/function/a/")),
            ("x/y?z=1", Some("/function/a/x/y?z=1")),
            ("?z=1", Some("/function/a?z=1")),
            ("/x#y", Some("/function/a/x%23y")),
            ("/x/../y", Some("/function/a/x/../y")),
            ("/../b", None),
            ("/../../v1/accounts", None),
            ("/%2e%2e/ab", None),
        ] {
            assert_eq!(below("/function/a", path).ok().as_deref(), want, "{path}");
        }
    }
}
