//! The two listeners: one for the public, one for peers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::Request;
use hyper::body::Incoming;
use muster_gateway::{Caller, Door, Gateway};
use muster_tls::{PeerTls, PublicTls};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::config::Config;
use crate::http::App;
use crate::peer::PeerService;

/// How often it is looked whether the public listener's certificate was replaced.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

pub(crate) fn public_door(config: &Config) -> anyhow::Result<Door> {
    let Some(files) = &config.http.tls else { return Ok(Door::Plain) };
    let tls = PublicTls::load(&files.certificate_file, &files.key_file);
    tls.map(Door::Public).context("cannot use the certificate of `http.tls`")
}

/// Takes new files of the public certificate into use, without end.
pub(crate) async fn keep_reloaded(tls: PublicTls) {
    loop {
        tokio::time::sleep(RELOAD_EVERY).await;
        let reloading = tls.clone();
        let reloaded = tokio::task::spawn_blocking(move || reloading.reload()).await;
        match reloaded.expect("reloading does not panic") {
            Ok(true) => tracing::info!("the certificate of the public listener was replaced"),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                "the certificate of `http.tls` has changed and cannot be used; the one before stays in use: {:#}",
                anyhow::Error::new(error)
            ),
        }
    }
}

pub(crate) async fn serve_peers(
    listener: TcpListener,
    tls: PeerTls,
    service: PeerService,
    stop: CancellationToken,
) {
    let door = Door::Peers(tls, service.refusals.clone());
    let handler = move |request: Request<Incoming>, caller| service.clone().handle(request, caller);
    let limits = muster_gateway::Limits::for_peers();
    muster_gateway::serve(listener, door, handler, limits, stop).await;
}

/// One port for both: invocations never pass through the admin API's router.
pub(crate) async fn serve_public(
    listener: TcpListener,
    door: Door,
    gateway: Arc<Gateway>,
    app: App,
    stop: CancellationToken,
) {
    let admin = crate::http::router(app);
    let handler = move |request: Request<Incoming>, caller: Caller| {
        let (gateway, admin) = (Arc::clone(&gateway), admin.clone());
        async move {
            if muster_gateway::is_invocation(&request) {
                // In a box: every request to the admin API would carry the room it takes along.
                return Box::pin(gateway.handle(request, caller.address)).await;
            }
            let answer = admin
                .oneshot(muster_gateway::lingering(request))
                .await
                .unwrap_or_else(|never| match never {});
            answer.map(muster_gateway::boxed)
        }
    };
    muster_gateway::serve(listener, door, handler, muster_gateway::Limits::default(), stop).await;
}
