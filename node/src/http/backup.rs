//! The whole state, for safe keeping.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use muster_core::{Command, nodes};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::App;
use super::convert;
use super::extract::{Caller, Consistency, Params, Read};
use super::problem::ApiError;

/// Backups that one node writes at a time: each keeps an old state in memory, and a thread.
const AT_ONCE: usize = 2;
static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);
/// Pieces on their way to the client, each at most a frame of the archive.
const PIECES_UNDER_WAY: usize = 4;
/// How long a client may take nothing before its backup is given up.
const STALL_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn backup(
    State(app): State<App>,
    caller: Caller,
    Params(read): Params<Read>,
) -> Result<Response, ApiError> {
    caller.must_be_admin()?;
    let place = PLACES.try_acquire().map_err(|_| ApiError::TooMany { what: "backups", max: AT_ONCE })?;
    if read.consistency == Consistency::Linearizable {
        set_clock(&app).await?;
    }
    let published = app.consensus.state();
    let Some(cluster) = published.state.cluster else {
        return Err(ApiError::NotFound("there is no cluster yet".into()));
    };
    let name = format!("muster-{cluster}-{}.backup", published.applied_index());
    let taken_at = convert::time(published.state.clock);
    let node = app.consensus.node().0;
    let (pieces, arriving) = mpsc::channel(PIECES_UNDER_WAY);
    let out = Pieces { pieces: pieces.clone(), runtime: Handle::current() };
    tokio::task::spawn_blocking(move || {
        let _until_written = place;
        let by = (node, env!("CARGO_PKG_VERSION"));
        if let Err(error) = muster_consensus::write_archive(&published, taken_at, by, out) {
            tracing::warn!(%error, "a backup was not written to its end");
            // Without this the answer would end as if it were whole; the archive's reader would still see it.
            let _gone = pieces.try_send(Err(error));
        }
    });
    let body = stream::unfold(arriving, |mut arriving| async {
        let piece: io::Result<Bytes> = arriving.recv().await?;
        Some((piece, arriving))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        // Key hashes are in it.
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Waits for an entry of this node to be applied: everything acknowledged before is then in the state, and
/// its clock, up to which a restore charges instance time, is the present. The command itself is a
/// repetition.
async fn set_clock(app: &App) -> Result<(), ApiError> {
    let node = app.consensus.node();
    let store = app.store.identity().store.expect("a node claims its directory before it listens");
    app.consensus.propose(Command::Nodes(nodes::Command::Claim { node, store })).await??;
    Ok(())
}

/// Sends what is written to the client, and waits for it to be taken.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sending = timeout(STALL_LIMIT, self.pieces.send(Ok(Bytes::copy_from_slice(bytes))));
        match self.runtime.block_on(sending) {
            Ok(Ok(())) => Ok(bytes.len()),
            Ok(Err(_gone)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone")),
            Err(_elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
