//! A TCP proxy that a test stands between nodes to slow or cut what they say to each other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Pieces under way in one direction of one connection; more stay with the sender, as on a full line.
const PIECES_MAX: usize = 256;
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// How a link behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Open,
    /// Every piece arrives this much later, in each direction. Nothing is lost or reordered.
    Slow(Duration),
    /// Nothing arrives, and nobody is told: what is sent meanwhile arrives when the link is open
    /// again, new connections included.
    Silent,
    /// Connections break, and new ones are closed at once.
    Cut,
}

/// Listens on a port of its own and passes on whatever comes. Ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    link: Arc<watch::Sender<Link>>,
    _serving: AbortOnDropHandle<()>,
}

impl Proxy {
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot open a proxy's port")?;
        let address = listener.local_addr().context("a proxy has no address")?;
        let link = Arc::new(watch::Sender::new(Link::Open));
        let serving = tokio::spawn(serve(listener, target, Arc::clone(&link)));
        Ok(Proxy { address, link, _serving: AbortOnDropHandle::new(serving) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for connections there are and those to come.
    pub fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, link: Arc<watch::Sender<Link>>) {
    // Dropped with the proxy: connections end with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that broke before it was accepted is its client's concern.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(pass(stream, target, link.subscribe()));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// One connection, both ways, until both directions have ended, one has failed or the link is cut.
async fn pass(client: TcpStream, target: SocketAddr, mut link: watch::Receiver<Link>) {
    let both_ways = async {
        due(Instant::now(), &mut link.clone()).await;
        let server = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::try_join!(
            one_way(from_client, to_server, link.clone()),
            one_way(from_server, to_client, link.clone()),
        )?;
        io::Result::Ok(())
    };
    let mut cut = link.clone();
    tokio::select! {
        // Either end sees the connection close, which is all there is to say.
        _ended = both_ways => {}
        _cut = cut.wait_for(|link| *link == Link::Cut) => {}
    }
    link.mark_unchanged();
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link: watch::Receiver<Link>,
) -> io::Result<()> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reading = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES_MAX);
            // A reset arrives as an end: what was sent before it arrives all the same.
            let ended = from.read_buf(&mut piece).await.unwrap_or(0) == 0;
            if sender.send((Instant::now(), piece)).await.is_err() || ended {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((sent, piece)) = pieces.recv().await {
            due(sent, &mut link).await;
            if piece.is_empty() {
                break;
            }
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    let ((), written) = tokio::join!(reading, writing);
    written
}

/// Returns when a piece that was sent at `sent` should arrive.
async fn due(sent: Instant, link: &mut watch::Receiver<Link>) {
    loop {
        let now = *link.borrow_and_update();
        let arrival = async {
            match now {
                Link::Open => {}
                Link::Slow(delay) => sleep_until(sent + delay).await,
                Link::Silent | Link::Cut => std::future::pending().await,
            }
        };
        tokio::select! {
            () = arrival => return,
            changed = link.changed() => {
                // The proxy is gone, and this task with it.
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    /// A server that echoes, behind a proxy, and a connection to it.
    async fn echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await.map(drop)
                });
            }
        });
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, client)
    }

    async fn round_trip(client: &mut TcpStream) -> Duration {
        let began = Instant::now();
        client.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        tokio::time::timeout(LONG, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"hello");
        began.elapsed()
    }

    #[tokio::test]
    async fn a_slow_link_delays_both_ways_and_an_open_one_does_not() {
        let (proxy, mut client) = echo().await;
        round_trip(&mut client).await;
        proxy.set(Link::Slow(Duration::from_millis(100)));
        assert!(round_trip(&mut client).await >= Duration::from_millis(200));
        proxy.set(Link::Open);
        // One of them, on a busy machine; over a link that is still slow none.
        let mut best = LONG;
        for _ in 0..20 {
            best = best.min(round_trip(&mut client).await);
        }
        assert!(best < Duration::from_millis(200), "{best:?}");
    }

    #[tokio::test]
    async fn a_silent_link_keeps_what_is_sent_until_it_opens() {
        let (proxy, mut client) = echo().await;
        round_trip(&mut client).await;
        proxy.set(Link::Silent);
        client.write_all(b"later").await.unwrap();
        let mut answer = [0; 5];
        let read = tokio::time::timeout(Duration::from_millis(100), client.read_exact(&mut answer)).await;
        assert!(read.is_err(), "nothing arrives");
        proxy.set(Link::Open);
        tokio::time::timeout(LONG, client.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"later");
    }

    #[tokio::test]
    async fn a_cut_breaks_connections_until_it_is_mended() {
        let (proxy, mut client) = echo().await;
        round_trip(&mut client).await;
        proxy.set(Link::Cut);
        let ended = tokio::time::timeout(LONG, client.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        let ended = tokio::time::timeout(LONG, refused.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        proxy.set(Link::Open);
        round_trip(&mut TcpStream::connect(proxy.address()).await.unwrap()).await;
    }
}
