//! The output of containers. While a container is there Docker keeps it, bounded, and is asked for it;
//! before it is removed its output is copied to the node's own files.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder, LogsOptionsBuilder};
use futures_util::{StreamExt, TryStreamExt, future, stream};
use muster_core::ids::{FunctionName, InstanceId};
use tokio::time::timeout;

use super::{DockerEngine, READ_DEADLINE, container, docker_status, within};
use crate::EngineError;
use crate::logs::{Line, LogRead, LogStream, Nanos, Origin, Stream};

/// For copying all output of a container, some 8 MB at most.
const COPY_DEADLINE: Duration = Duration::from_secs(20);
/// Lines that are copied together.
const COPY_LINES: usize = 256;
const READ: &str = "read the container's output";

impl DockerEngine {
    pub(super) async fn logged_instances(&self, function: &FunctionName) -> Result<Vec<Origin>, EngineError> {
        let mut filters = container::filters(self.cluster, self.node);
        filters.entry("label".into()).or_default().push(container::function_label(function));
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found =
            within("list the containers", READ_DEADLINE, self.docker.list_containers(Some(options))).await?;
        let mut logged: Vec<Origin> =
            found.iter().filter_map(|found| container::origin(found.labels.as_ref()?)).collect();
        let copied = self.logs.list(function).await;
        logged.extend(
            copied
                .into_iter()
                .filter(|one| !logged.iter().any(|l| l.instance == one.instance))
                .collect::<Vec<_>>(),
        );
        Ok(logged)
    }

    /// The container's output, or what was kept of it.
    pub(super) async fn read_logs(
        &self,
        function: &FunctionName,
        instance: InstanceId,
        read: LogRead,
    ) -> Result<LogStream, EngineError> {
        let name = container::name(self.cluster, instance);
        let inspection = self.docker.inspect_container(&name, None::<InspectContainerOptions>);
        match within("inspect the container", READ_DEADLINE, inspection).await {
            Ok(_) => Ok(self.lines(&name, read)),
            Err(error) if docker_status(&error) == Some(404) => {
                // Copied before it was removed, so there is no moment in which it is nowhere.
                let kept = self.logs.read(function, instance, read).await;
                kept.ok_or(EngineError::NoSuchInstance { instance })
            }
            Err(error) => Err(error),
        }
    }

    fn lines(&self, name: &str, read: LogRead) -> LogStream {
        // Docker counts in seconds here; what is too much is dropped below.
        let since = i32::try_from(read.after.0 / 1_000_000_000).unwrap_or(i32::MAX);
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).since(since);
        let output = self.docker.logs(name, Some(options.follow(read.follow).build())).boxed();
        let failed = |error| EngineError::docker(READ, error);
        let output = stream::try_unfold(output, move |mut output| async move {
            let next = match read.follow {
                // Silence is no fault of Docker's: the program may have nothing to say.
                true => output.next().await,
                false => {
                    let next = timeout(READ_DEADLINE, output.next()).await;
                    next.map_err(|_elapsed| EngineError::Deadline { operation: READ })?
                }
            };
            Ok(next.transpose().map_err(failed)?.map(|frame| (frame, output)))
        });
        let lines = output.try_filter_map(|frame| future::ok(line(&frame)));
        lines.try_filter(move |line| future::ready(line.at > read.after)).boxed()
    }

    /// Keeps the output of a container that has ended and is about to be removed. What goes wrong with it
    /// does not keep the container.
    pub(super) async fn keep_logs(&self, name: &str, origin: Origin) {
        let copied = match timeout(COPY_DEADLINE, self.copy_logs(name, origin)).await {
            Ok(copied) => copied,
            Err(_elapsed) => Err(EngineError::Deadline { operation: READ }),
        };
        match copied {
            Err(error) if docker_status(&error) == Some(404) => {}
            Err(error) => tracing::warn!(name, "output of a container is lost: {}", error.reason()),
            Ok(()) => {}
        }
    }

    async fn copy_logs(&self, name: &str, origin: Origin) -> Result<(), EngineError> {
        let writer = self.logs.begin(origin);
        let mut batches = self.lines(name, LogRead::default()).ready_chunks(COPY_LINES);
        let mut copied = Ok(());
        while let Some(batch) = batches.next().await {
            let (lines, mut failed): (Vec<_>, Vec<_>) = batch.into_iter().partition(Result::is_ok);
            writer.append(lines.into_iter().flatten().collect()).await;
            if let Some(Err(error)) = failed.pop() {
                copied = Err(error);
                break;
            }
        }
        writer.end().await;
        copied
    }
}

/// One line of Docker's, which begins with its time.
fn line(frame: &LogOutput) -> Option<Line> {
    let (stream, bytes) = match frame {
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (Stream::Stdout, message),
        LogOutput::StdIn { .. } => return None,
    };
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let time: jiff::Timestamp = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let text = &bytes[space + 1..];
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    Some(Line { at: Nanos(u64::try_from(time.as_nanosecond()).ok()?), stream, text: text.to_vec() })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn lines_as_docker_gives_them() {
        let at = Nanos(1_700_000_000_123_456_789);
        for (message, text) in [
            ("2023-11-14T22:13:20.123456789Z hello world\n", Some("hello world")),
            ("2023-11-14T22:13:20.123456789Z \n", Some("")),
            ("2023-11-14T22:13:20.123456789Z part", Some("part")),
            ("no time\n", None),
            ("", None),
        ] {
            let frame = LogOutput::StdErr { message: Bytes::from(message) };
            let want = text.map(|text| Line { at, stream: Stream::Stderr, text: text.into() });
            assert_eq!(line(&frame), want, "{message:?}");
        }
    }
}
