//! Reading the files of one instance from the oldest line to the newest, while they are written and
//! replaced.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use muster_core::ids::InstanceId;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio::time::timeout;

use super::store::{Shared, older, parse};
use super::{Line, LogRead, LogStream};
use crate::EngineError;

const BUFFER_BYTES: usize = 32 * 1024;
/// A follower looks again after this even if nobody has told it of something new.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

struct Reader {
    path: PathBuf,
    instance: InstanceId,
    read: LogRead,
    shared: Arc<Shared>,
    written: watch::Receiver<u64>,
    /// To be read, in this order, the last one first.
    files: Vec<Open>,
    /// What has replaced the last of them.
    successor: Option<Open>,
    begun: bool,
    /// A line of which the end is not written yet.
    partial: Vec<u8>,
}

struct Open {
    file: BufReader<File>,
    inode: u64,
}

pub(super) fn stream(path: PathBuf, instance: InstanceId, read: LogRead, shared: Arc<Shared>) -> LogStream {
    let written = shared.written.subscribe();
    let (files, partial) = (Vec::new(), Vec::new());
    let reader =
        Reader { path, instance, read, shared, written, files, successor: None, begun: false, partial };
    stream::unfold(reader, |mut reader| async move {
        let next = reader.next().await.transpose()?;
        let next = next.map_err(|error| EngineError::Refused {
            operation: "read the instance's output",
            source: error.into(),
        });
        Some((next, reader))
    })
    .boxed()
}

impl Reader {
    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            // What is written from here on is told, so a look that finds nothing misses nothing.
            self.written.mark_unchanged();
            // Asked before the files are: an end found now was written before.
            let ended = !self.shared.is_open(self.instance);
            if let Some(line) = self.next_written().await? {
                if line.at > self.read.after {
                    return Ok(Some(line));
                }
            } else if ended || !self.read.follow {
                return Ok(None);
            } else {
                let _told_or_not = timeout(LOOK_AGAIN, self.written.changed()).await;
            }
        }
    }

    /// The next line that is in a file whole.
    async fn next_written(&mut self) -> io::Result<Option<Line>> {
        if !self.begun {
            self.begin().await?;
        }
        while let Some(open) = self.files.last_mut() {
            let count = open.file.read_until(b'\n', &mut self.partial).await?;
            if count > 0 && self.partial.ends_with(b"\n") {
                let line = std::mem::take(&mut self.partial);
                if let Some(line) = parse(&line[..line.len() - 1]) {
                    return Ok(Some(line));
                }
            } else if count == 0 && !self.next_file().await? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The newer file is opened first: if it is replaced meanwhile, it is found again as the older.
    async fn begin(&mut self) -> io::Result<()> {
        let Some(newer) = open(&self.path).await? else { return Ok(()) };
        let older = open(&older(&self.path)).await?;
        let inode = newer.inode;
        self.files.push(newer);
        self.files.extend(older.filter(|older| older.inode != inode));
        self.begun = true;
        Ok(())
    }

    /// Goes on to the next file, if there is one: this one is at its end.
    async fn next_file(&mut self) -> io::Result<bool> {
        if self.files.len() > 1 {
            self.files.pop();
            return Ok(true);
        }
        if let Some(next) = self.successor.take() {
            self.files = vec![next];
            self.partial.clear();
            return Ok(true);
        }
        // This file was at its end before it was seen to be replaced: more may have come between, so
        // it is read once more.
        let current = self.files.last().map(|open| open.inode);
        self.successor = open(&self.path).await?.filter(|next| Some(next.inode) != current);
        Ok(self.successor.is_some())
    }
}

async fn open(path: &std::path::Path) -> io::Result<Option<Open>> {
    match File::open(path).await {
        Ok(file) => {
            let inode = file.metadata().await?.ino();
            Ok(Some(Open { file: BufReader::with_capacity(BUFFER_BYTES, file), inode }))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
