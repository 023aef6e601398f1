//! A registry with one image, for whoever has the password: as much of the distribution protocol as a pull takes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// `muster:s3cret`
pub(crate) const LOGIN: &str = "bXVzdGVyOnMzY3JldA==";
const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(crate) struct Registry {
    pub addr: SocketAddr,
    server: JoinHandle<()>,
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

impl Registry {
    /// Serves an image with this configuration and layer as `name:tag`.
    pub(crate) async fn start(name: &str, tag: &str, config: String, layer: Vec<u8>) -> Registry {
        let blob = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "size": bytes.len(), "digest": digest(bytes) });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob("application/vnd.docker.container.image.v1+json", config.as_bytes()),
            "layers": [blob("application/vnd.docker.image.rootfs.diff.tar.gzip", &layer)],
        });
        let manifest = Bytes::from(manifest.to_string());
        let mut pages = BTreeMap::from([("/v2/".to_owned(), Bytes::from("{}"))]);
        for reference in [tag.to_owned(), digest(&manifest)] {
            pages.insert(format!("/v2/{name}/manifests/{reference}"), manifest.clone());
        }
        for blob in [Bytes::from(config), Bytes::from(layer)] {
            pages.insert(format!("/v2/{name}/blobs/{}", digest(&blob)), blob);
        }
        let pages = Arc::new(pages);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let pages = Arc::clone(&pages);
                let service = service_fn(move |request| {
                    std::future::ready(Ok::<_, Infallible>(answer(&pages, &request)))
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Registry { addr, server }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn answer(pages: &BTreeMap<String, Bytes>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let refused = |status: u16| Response::builder().status(status);
    let login = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if login != Some(&format!("Basic {LOGIN}")) {
        let asked = refused(401).header("www-authenticate", "Basic realm=\"here\"");
        return asked.body(Full::default()).unwrap();
    }
    let path = request.uri().path();
    let Some(page) = pages.get(path) else { return refused(404).body(Full::default()).unwrap() };
    let kind = if path.contains("/manifests/") { MANIFEST } else { "application/octet-stream" };
    let found =
        Response::builder().header("content-type", kind).header("docker-content-digest", digest(page));
    let body = if request.method() == "HEAD" { Bytes::new() } else { page.clone() };
    found.header("content-length", page.len()).body(Full::new(body)).unwrap()
}
