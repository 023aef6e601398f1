//! The client: which nodes it knows, how long it waits, and how a typed request becomes a call.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use reqwest::Url;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::transport::{Answer, Call, Repeat, Transport};
use crate::{Body, Error, Key, ResponseBody};

/// A client of one Muster cluster, through any of its nodes. Cheap to clone; clones share their
/// connections and which node answered last.
///
/// **What is sent again.** A node that can't be connected to is passed over for the next, whatever
/// the request: nothing was sent. A request that may have been carried out (the connection broke,
/// or time ran out, after it was sent) is repeated only if repeating is harmless: reads, `PUT` and
/// `DELETE`, and invocations whose caller said so with [`Request::idempotent`](crate::Request).
/// The same goes for a 503, except that an invocation is also repeated when Muster says that the
/// function did not start. Once every node has been asked, the client waits as `Retry-After` says,
/// with jitter, and asks again until [`Options::deadline`].
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    consistency: Consistency,
}

/// How fresh an answer to a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// It shows every write acknowledged before the read was sent.
    #[default]
    Linearizable,
    /// What the asked node knows; answers without a quorum too, but may be stale.
    Local,
}

/// How long a client waits.
#[derive(Clone, Debug)]
pub struct Options {
    /// For a connection, before the next node is tried.
    pub connect_timeout: Duration,
    /// For one node to answer an administrative request, before the next is tried.
    pub attempt_timeout: Duration,
    /// For an administrative request in all; for an invocation, how long it is repeated where it
    /// did not start.
    pub deadline: Duration,
    /// For the whole answer to an invocation. Absent: as long as the function's own deadline lets
    /// it run, since the node answers 504 then.
    pub invoke_timeout: Option<Duration>,
    /// Whether to wait and ask again when every node was busy or broke off. If not, each node is
    /// asked once at most.
    pub patient: bool,
    /// The authorities whose certificates are accepted from `https://` nodes, in PEM. Absent: those that the system
    /// trusts.
    pub ca_file: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: Duration::from_secs(2),
            attempt_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(30),
            invoke_timeout: None,
            patient: true,
            ca_file: None,
        }
    }
}

impl Client {
    /// A client of the nodes at `urls`, tried in this order. `http://` may be left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a URL that is no node's, or when there is none.
    pub fn new<U: AsRef<str>>(urls: impl IntoIterator<Item = U>, key: Option<Key>) -> Result<Self, Error> {
        Self::with_options(urls, key, Options::default())
    }

    /// As [`new`](Self::new), with other waiting times.
    pub fn with_options<U: AsRef<str>>(
        urls: impl IntoIterator<Item = U>,
        key: Option<Key>,
        options: Options,
    ) -> Result<Self, Error> {
        let nodes = urls.into_iter().map(|url| parse_node(url.as_ref())).collect::<Result<_, _>>()?;
        let transport = Arc::new(Transport::new(nodes, key, options)?);
        Ok(Client { transport, consistency: Consistency::default() })
    }

    /// The same client with another freshness of its reads.
    #[must_use]
    pub fn with_consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// A read's answer as it comes. Another node is asked only until one begins to answer.
    pub(crate) async fn get_streamed(&self, segments: &[&str]) -> Result<ResponseBody, Error> {
        let path = route(segments, &self.consistency_query())?;
        let call = admin(&self.transport, Method::GET, path, Body::empty(), Repeat::Harmless);
        let call = Call { limit: None, head_limit: call.limit, streams: true, ..call };
        Ok(self.transport.send(&call).await?.body)
    }

    pub(crate) fn consistency(&self) -> Consistency {
        self.consistency
    }

    fn consistency_query(&self) -> Vec<(&'static str, &'static str)> {
        match self.consistency {
            Consistency::Local => vec![("consistency", "local")],
            Consistency::Linearizable => Vec::new(),
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, Error> {
        let mut query = query.to_vec();
        query.extend(self.consistency_query());
        self.call(Method::GET, route(segments, &query)?, Body::empty(), Repeat::Harmless).await?.json()
    }

    /// Repeating a `PUT` is harmless, so the status may be that of the repetition.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<(StatusCode, T), Error> {
        let answer = self.call(Method::PUT, route(segments, &[])?, json(body)?, Repeat::Harmless).await?;
        Ok((answer.status, answer.json()?))
    }

    /// A `PUT` without a body, whose answer has none.
    pub(crate) async fn put_nothing(&self, segments: &[&str]) -> Result<(), Error> {
        self.call(Method::PUT, route(segments, &[])?, Body::empty(), Repeat::Harmless).await.map(drop)
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.call(Method::POST, route(segments, &[])?, json(body)?, Repeat::IfNotStarted).await?.json()
    }

    pub(crate) async fn delete(&self, segments: &[&str], query: &[(&str, &str)]) -> Result<(), Error> {
        let path = route(segments, query)?;
        let mut doubted = false;
        let call = admin(&self.transport, Method::DELETE, path, Body::empty(), Repeat::Harmless);
        match self.transport.send_noting(&call, &mut doubted).await {
            Ok(_) => Ok(()),
            // An earlier attempt, whose answer was lost, has deleted it.
            Err(error) if doubted && error.status() == Some(404) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks each node once at most, until one succeeds.
    pub(crate) async fn probe(&self, path: &str) -> Result<(), Error> {
        let call = admin(&self.transport, Method::GET, path.to_owned(), Body::empty(), Repeat::Harmless);
        self.transport.send(&Call { patient: false, ..call }).await.map(drop)
    }

    async fn call(&self, method: Method, path: String, body: Body, repeat: Repeat) -> Result<Answer, Error> {
        self.transport.send(&admin(&self.transport, method, path, body, repeat)).await
    }
}

fn admin(transport: &Transport, method: Method, path: String, body: Body, repeat: Repeat) -> Call {
    let mut headers = HeaderMap::new();
    if !body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let options = &transport.options;
    Call {
        method,
        path,
        headers,
        body,
        repeat,
        limit: Some(options.attempt_timeout),
        deadline: options.deadline,
        patient: options.patient,
        head_limit: None,
        streams: false,
        invocation: false,
    }
}

fn json(value: &impl Serialize) -> Result<Body, Error> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::invalid("the request", e.to_string()))?;
    Ok(Body::from(bytes))
}

/// Path and query, percent-encoded.
pub(crate) fn route(segments: &[&str], query: &[(&str, &str)]) -> Result<String, Error> {
    let mut url = Url::parse("http://node/").map_err(|e| Error::invalid("the path", e.to_string()))?;
    if let Some(bad) = segments.iter().find(|s| matches!(**s, "" | "." | "..")) {
        return Err(Error::invalid(format!("the name `{bad}`"), "it can't stand in a URL"));
    }
    if let Ok(mut path) = url.path_segments_mut() {
        path.clear().extend(segments);
    }
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    Ok(match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    })
}

/// A node's base URL. Refuses what could not work, or would show a secret in messages.
fn parse_node(text: &str) -> Result<Url, Error> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let refuse = |why: &str| Err(Error::invalid(format!("the node URL `{text}`"), why));
    match Url::parse(&full) {
        // Before anything is quoted: a password must not get into a message.
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(Error::invalid("a node URL with credentials", "give a key instead"))
        }
        Ok(url) if !matches!(url.scheme(), "http" | "https") => refuse("expected http[s]://HOST:PORT"),
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            refuse("expected http[s]://HOST:PORT")
        }
        Ok(url) => Ok(url),
        Err(error) => refuse(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_encoded() {
        for (segments, query, want) in [
            (&["v1", "functions"][..], &[][..], Some("/v1/functions")),
            (&["v1", "functions", "a/b c?"], &[], Some("/v1/functions/a%2Fb%20c%3F")),
            (&["v1", "accounts", "a", "grants", "al*"], &[], Some("/v1/accounts/a/grants/al*")),
            (
                &["v1", "usage"],
                &[("from", "2026-01-01T00:00:00+01:00")],
                Some("/v1/usage?from=2026-01-01T00%3A00%3A00%2B01%3A00"),
            ),
            (&["v1", "functions", ".."], &[], None),
            (&["v1", "functions", ""], &[], None),
        ] {
            assert_eq!(route(segments, query).ok().as_deref(), want, "{segments:?}");
        }
    }

    #[test]
    fn node_urls_by_form() {
        for (text, want) in [
            ("http://127.0.0.1:8081", Some("http://127.0.0.1:8081/")),
            (" node-1:8081 ", Some("http://node-1:8081/")),
            ("http://proxy/muster/", Some("http://proxy/muster/")),
            ("https://node", Some("https://node/")),
            ("ftp://node", None),
            ("http://node/?a=b", None),
            ("http://root:hunter2@node", None),
            ("root:hunter2@node", None),
            ("", None),
        ] {
            let parsed = parse_node(text);
            assert_eq!(parsed.as_ref().ok().map(Url::as_str), want, "{text:?}");
            assert!(!format!("{parsed:?}").contains("hunter2"), "{parsed:?}");
        }
        assert!(Client::new([""; 0], None).is_err());
    }
}
