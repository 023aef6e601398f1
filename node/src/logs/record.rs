//! What hosts tell each other of output: one JSON object per line.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use muster_core::ids::{FunctionName, InstanceId};
use muster_core::units::Timestamp;
use muster_engine::logs::{LINE_MAX, Line, Nanos, Stream as Origin};
use serde::{Deserialize, Serialize};

/// The longest text of a record between nodes: each byte of a line may be escaped as six.
const RECORD_MAX: usize = 8 * LINE_MAX;

/// What a host is asked for. The path's number is raised with every change of it or of [`Record`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) function: FunctionName,
    /// When the function was created: an earlier one of its name was somebody else's.
    pub(crate) born: Timestamp,
    /// Only this instance's output.
    pub(crate) instance: Option<InstanceId>,
    /// Lines later than this, in nanoseconds since 1970.
    pub(crate) after_ns: u64,
    /// By instance, where that is later: the last line that is known already.
    pub(crate) seen: BTreeMap<InstanceId, u64>,
    pub(crate) follow: bool,
}

impl Ask {
    pub(crate) fn after(&self, instance: InstanceId) -> Nanos {
        Nanos(self.seen.get(&instance).copied().unwrap_or_default().max(self.after_ns))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) at_ns: u64,
    /// None: a remark about the host.
    pub(crate) instance: Option<InstanceId>,
    pub(crate) stream: Source,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    Stdout,
    Stderr,
    Muster,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Source::Stdout => "stdout",
            Source::Stderr => "stderr",
            Source::Muster => "muster",
        }
    }
}

impl Record {
    pub(crate) fn of(instance: InstanceId, line: &Line) -> Self {
        let stream = match line.stream {
            Origin::Stdout => Source::Stdout,
            Origin::Stderr => Source::Stderr,
            Origin::Muster => Source::Muster,
        };
        let text = String::from_utf8_lossy(&line.text).into_owned();
        Record { at_ns: line.at.0, instance: Some(instance), stream, text }
    }

    /// Something to know about the output, of an instance or of a whole host.
    pub(crate) fn remark(instance: Option<InstanceId>, text: String) -> Self {
        Record { at_ns: Nanos::now().0, instance, stream: Source::Muster, text }
    }

    pub(crate) fn encode(&self) -> Bytes {
        line_of(self)
    }
}

/// A value as JSON, with the end of its line.
pub(crate) fn line_of<T: Serialize>(value: &T) -> Bytes {
    let mut text = serde_json::to_vec(value).expect("a record is plain data");
    text.push(b'\n');
    text.into()
}

/// The records in what a host sends. It ends with the first that is wrong.
pub(crate) fn decode<E>(
    chunks: impl Stream<Item = Result<Bytes, E>> + Send + Unpin + 'static,
) -> BoxStream<'static, Result<Record, String>>
where
    E: std::fmt::Display + Send + 'static,
{
    stream::unfold(Some((chunks, BytesMut::new())), |state| async move {
        let (mut chunks, mut text) = state?;
        loop {
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line = text.split_to(end + 1);
                return Some(match serde_json::from_slice(&line) {
                    Ok(record) => (Ok(record), Some((chunks, text))),
                    Err(error) => (Err(format!("it answers nonsense: {error}")), None),
                });
            }
            if text.len() > RECORD_MAX {
                return Some((Err("it answers with a line that never ends".to_owned()), None));
            }
            match chunks.next().await {
                Some(Ok(chunk)) => text.extend_from_slice(&chunk),
                Some(Err(error)) => return Some((Err(format!("it broke off: {error}")), None)),
                None => return None,
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_between_nodes() {
        let instance = InstanceId(0xab);
        let line = Line { at: Nanos(5), stream: Origin::Stderr, text: b"caf\xc3\xa9 \xff".to_vec() };
        let record = Record::of(instance, &line);
        let golden = "{\"at_ns\":5,\"instance\":171,\"stream\":\"stderr\",\"text\":\"café \u{fffd}\"}\n";
        assert_eq!(record.encode(), golden);
        let ask = Ask {
            function: FunctionName::new("alpha").unwrap(),
            born: Timestamp(7),
            instance: None,
            after_ns: 3,
            seen: BTreeMap::from([(instance, 9)]),
            follow: true,
        };
        let golden =
            r#"{"function":"alpha","born":7,"instance":null,"after_ns":3,"seen":{"171":9},"follow":true}"#;
        assert_eq!(serde_json::to_string(&ask).unwrap(), golden);
        assert_eq!(serde_json::from_str::<Ask>(golden).unwrap(), ask);
        assert_eq!((ask.after(instance), ask.after(InstanceId(1))), (Nanos(9), Nanos(3)));
    }

    #[tokio::test]
    async fn records_by_the_pieces_they_come_in() {
        let one = Record { at_ns: 1, instance: None, stream: Source::Muster, text: "a\nb".into() };
        let whole = [one.encode(), one.encode()].concat();
        for cut in 0..whole.len() {
            let pieces =
                [&whole[..cut], &whole[cut..]].map(|piece| Ok::<_, String>(Bytes::copy_from_slice(piece)));
            let records: Vec<_> = decode(stream::iter(pieces)).collect().await;
            assert_eq!(records, [Ok(one.clone()), Ok(one.clone())]);
        }
        for (pieces, said) in [
            (vec![Ok(Bytes::from("{}\n"))], "nonsense"),
            (vec![Ok(one.encode()), Err("reset".to_owned())], "broke off: reset"),
            (vec![Ok(Bytes::from(vec![b'x'; RECORD_MAX + 1]))], "never ends"),
        ] {
            let records: Vec<_> = decode(stream::iter(pieces)).collect().await;
            assert!(records.last().unwrap().as_ref().unwrap_err().contains(said), "{records:?}");
        }
    }
}
