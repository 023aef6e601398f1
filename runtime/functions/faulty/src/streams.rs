//! `MODE=slow-stream` and `MODE=big`.

use std::time::Duration;

use bytes::Bytes;
use muster_runtime::http::{HeaderValue, header};
use muster_runtime::{Body, Failure, Request, Response};

use crate::query_number;

const CHUNKS_MAX: u64 = 100_000;
const INTERVAL_MS_MAX: u64 = 60_000;
const BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// A multiple of 26, so that the alphabet goes on from piece to piece and a lost one shows.
const PIECE_BYTES: usize = 26 * 2048;

/// `chunk 1` to `chunk N`, a line each, `interval_ms` apart. The first leaves at once.
pub(crate) async fn slow(request: Request) -> Result<Response, Failure> {
    let chunks = query_number(&request, "chunks", 10, CHUNKS_MAX)?;
    let interval = Duration::from_millis(query_number(&request, "interval_ms", 100, INTERVAL_MS_MAX)?);
    let (pieces, body) = Body::channel();
    tokio::spawn(async move {
        for chunk in 1..=chunks {
            if !pieces.send(format!("chunk {chunk}\n")).await {
                return;
            }
            if chunk < chunks {
                tokio::time::sleep(interval).await;
            }
        }
    });
    Ok(Response::new(body))
}

/// `a` to `z` over and over, `bytes` of it.
pub(crate) async fn big(request: Request) -> Result<Response, Failure> {
    let bytes = query_number(&request, "bytes", 1024 * 1024, BYTES_MAX)?;
    let (pieces, body) = Body::channel();
    tokio::spawn(async move {
        let piece: Bytes = (b'a'..=b'z').cycle().take(PIECE_BYTES).collect();
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            if !pieces.send(piece.slice(..length)).await {
                return;
            }
            left -= length as u64;
        }
    });
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    Ok(response)
}
