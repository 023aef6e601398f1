//! Answers that no HTTP library would send.

use std::net::SocketAddr;

use anyhow::Context;
use muster_runtime::initialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const NONSENSE: &[u8] = b"\x16\x03 this is not HTTP\r\n\r\n";
pub(crate) const TRUNCATED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1000\r\n\r\npartial";

/// Longer request heads are answered before they are complete.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Answers every request with `answer` and closes, until SIGTERM or SIGINT.
pub(crate) async fn serve(address: SocketAddr, answer: &'static [u8]) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await.context("cannot listen")?;
    eprintln!("listening on {}", listener.local_addr()?);
    let accept = async {
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                // A caller that goes early is no concern of an answer that is wrong anyway.
                let _ = respond(stream, answer).await;
            });
        }
    };
    initialize::<std::io::Result<()>>(accept).await?.context("cannot accept a connection")
}

async fn respond(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    let mut head = Vec::new();
    // A connection that says nothing is a readiness probe or an idle one in a pool.
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    // Closing with unread input would reset the connection, and the answer might be lost with it.
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}
