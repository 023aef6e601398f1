//! What instances write.

use bytes::{Buf, BytesMut};
use http::header::HeaderMap;
use http::{Method, StatusCode};
use muster_api::LogLine;

use crate::client::route;
use crate::transport::{Call, Repeat};
use crate::{Body, Client, Consistency, Error, ResponseBody};

/// The longest line of an answer: 16 KiB of text, each byte of which may be escaped.
const LINE_MAX: usize = 256 * 1024;

/// Which lines to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Also what comes, for as long as the answer is read.
    pub follow: bool,
    /// Lines of this time or later: RFC 3339, or a date.
    pub since: Option<String>,
    /// Only this instance's.
    pub instance: Option<String>,
}

/// Lines on their way. Dropping it ends the reading.
#[derive(Debug)]
pub struct Logs {
    node: String,
    body: ResponseBody,
    text: BytesMut,
}

impl Client {
    /// Reads what the instances of a function have written, on all hosts, in the order of time.
    pub async fn logs(&self, function: &str, query: &LogQuery) -> Result<Logs, Error> {
        let mut pairs = Vec::new();
        if query.follow {
            pairs.push(("follow", "true"));
        }
        pairs.extend(query.since.as_deref().map(|since| ("since", since)));
        pairs.extend(query.instance.as_deref().map(|instance| ("instance", instance)));
        if self.consistency() == Consistency::Local {
            pairs.push(("consistency", "local"));
        }
        let options = &self.transport.options;
        let call = Call {
            method: Method::GET,
            path: route(&["v1", "functions", function, "logs"], &pairs)?,
            headers: HeaderMap::new(),
            body: Body::empty(),
            repeat: Repeat::Harmless,
            // For its head alone: the rest comes when it comes.
            limit: None,
            head_limit: Some(options.attempt_timeout),
            deadline: options.deadline,
            patient: options.patient,
            streams: true,
            invocation: false,
        };
        let answer = self.transport.send(&call).await?;
        if answer.status != StatusCode::OK {
            return Err(malformed(&answer.node, answer.status, "no lines", None));
        }
        Ok(Logs { node: answer.node, body: answer.body, text: BytesMut::new() })
    }
}

impl Logs {
    /// The next line, or `None` at the end.
    ///
    /// # Errors
    /// [`Error::Broken`] when the answer is cut off, and [`Error::Malformed`] for what is no line.
    pub async fn next(&mut self) -> Result<Option<LogLine>, Error> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = self.text.split_to(end);
                self.text.advance(1);
                let parsed = serde_json::from_slice(&line);
                return parsed.map(Some).map_err(|error| {
                    malformed(&self.node, StatusCode::OK, "a line that is none", Some(error))
                });
            }
            if self.text.len() > LINE_MAX {
                return Err(malformed(&self.node, StatusCode::OK, "a line that never ends", None));
            }
            match self.body.chunk().await? {
                Some(chunk) => self.text.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

fn malformed(node: &str, status: StatusCode, what: &str, source: Option<serde_json::Error>) -> Error {
    Error::Malformed { node: node.to_owned(), status, what: what.to_owned(), source }
}
