//! Whom a node's two listeners let in: one real node, and callers who are not what they should be.
#![expect(clippy::unwrap_used, reason = "a helper of tests fails as they do")]

use std::collections::BTreeSet;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use muster_client::{Client, Options};
use muster_consensus::Identity;
use muster_core::ids::{ClusterId, Incarnation, NodeId, StoreId};
use muster_core::observation::NodeReport;
use muster_node::{Config, Node};
use muster_storage::codec;
use muster_tls::{Authority, Credentials, JoinTls, PeerTls, Validity};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const DEADLINE: Duration = Duration::from_secs(30);
/// The format of the log's messages between nodes, and that of reports.
const MESSAGE_FORMAT: u8 = 3;
const REPORT_FORMAT: u8 = 1;

/// What nodes of this process have logged.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    LOG.get_or_init(|| {
        // Another test may have been first; it is the same.
        let _set = tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false).try_init();
        Mutex::default()
    })
}

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn logged(text: &str) {
    let found = || String::from_utf8_lossy(&log().lock().unwrap()).lines().any(|line| line.contains(text));
    until(&format!("`{text}` is logged"), async || found()).await;
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A cluster of one node, in this process.
struct Fixture {
    node: Node,
    peer: SocketAddr,
    dir: TempDir,
}

impl Fixture {
    /// `peer` and `http` are more settings of these tables.
    async fn start(dir: TempDir, peer: &str, http: &str) -> Fixture {
        let _listening = log();
        let path = dir.path().display();
        std::fs::write(dir.path().join("peer.secret"), SECRET).unwrap();
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let held = (free(), free());
        let (public, peer_address) = (held.0.local_addr().unwrap(), held.1.local_addr().unwrap());
        let text = format!(
            r#"
            node_id = 1
            data_dir = "{path}/data"
            [peer]
            listen = "{peer_address}"
            {peer}
            [bootstrap]
            root_key_file = "{path}/root.key"
            members = [{{ id = 1, http = "{public}", peer = "{peer_address}" }}]
            [http]
            listen = "{public}"
            {http}
            "#
        );
        let file = dir.path().join("node.toml");
        std::fs::write(&file, text.replace("{dir}", &path.to_string())).unwrap();
        let config = Config::load(&file).unwrap();
        drop(held);
        let node = Node::start(config).await.unwrap();
        Fixture { node, peer: peer_address, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.peer).await.unwrap()
    }

    /// A connection to the peer port by a node.
    async fn connect(&self, from: &PeerTls) -> TlsStream<TcpStream> {
        from.connect(NodeId(1), self.tcp().await).await.unwrap()
    }
}

const SECRET_FILE: &str = "secret_file = \"{dir}/peer.secret\"";

/// Posts over a connection to the peer port: status and text, or that there was no answer.
async fn ask<S>(stream: S, path: &str, body: Vec<u8>) -> Result<(u16, String), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    post(&mut sender, path, body).await
}

async fn post(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    path: &str,
    body: Vec<u8>,
) -> Result<(u16, String), hyper::Error> {
    let request = Request::post(path).body(Full::new(Bytes::from(body))).unwrap();
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await?.to_bytes();
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

fn node(number: u64) -> PeerTls {
    let validity = Validity { now: SystemTime::now(), lasts: Duration::from_secs(3600) };
    let authority = Authority::from_secret(SECRET).unwrap();
    PeerTls::new(Credentials::issue(&authority, NodeId(number), validity).unwrap()).unwrap()
}

/// A client that takes the server for what it is, and shows a certificate as node 2 that another authority, or this
/// one long ago, has issued for an hour.
fn posing(secret: &str, issued_at: SystemTime) -> TlsConnector {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
    let validity = Validity { now: issued_at, lasts: Duration::from_secs(3600) };
    let chain = Authority::from_secret(secret).unwrap().issue(NodeId(2), request.der(), validity).unwrap();
    let chain = chain.to_der().into_iter().map(Into::into).collect();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(Authority::from_secret(SECRET).unwrap().certificate().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    TlsConnector::from(Arc::new(config))
}

/// Asks for a read's index as `node`, whoever sends it.
fn read_index(node: u64) -> Vec<u8> {
    let sender = Identity { node: NodeId(node), store: StoreId(7), incarnation: Incarnation(1) };
    let header = (sender, NodeId(1), None::<StoreId>, None::<Incarnation>, None::<ClusterId>);
    codec::encode(MESSAGE_FORMAT, &(header, ())).unwrap()
}

fn report(node: u64) -> Vec<u8> {
    let report = NodeReport {
        node: NodeId(node),
        incarnation: Incarnation(1),
        instances: Vec::new(),
        queues: Vec::new(),
        images: BTreeSet::new(),
    };
    codec::encode(REPORT_FORMAT, &report).unwrap()
}

const READ_INDEX: &str = "/peer/raft/read-index";
const REPORT: &str = "/peer/controller/report";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_speak_for_themselves_and_for_nobody_else() {
    let fixture = Fixture::start(tempfile::tempdir().unwrap(), SECRET_FILE, "").await;
    let two = node(2);
    let (status, text) = ask(fixture.connect(&two).await, READ_INDEX, read_index(2)).await.unwrap();
    assert_eq!(status, 200, "{text}");
    let (status, text) = ask(fixture.connect(&two).await, REPORT, report(2)).await.unwrap();
    assert_eq!(status, 200, "{text}");

    let (status, text) = ask(fixture.connect(&two).await, READ_INDEX, read_index(3)).await.unwrap();
    assert_eq!((status, text.trim()), (400, "node 2 spoke for node 3"));
    logged("node 2 spoke for node 3").await;
    let (status, text) = ask(fixture.connect(&two).await, REPORT, report(3)).await.unwrap();
    assert_eq!((status, text.trim()), (400, "node 2 reported for node 3"));
    logged("node 2 reported for node 3").await;

    let key = fixture.path("root.key");
    until("the cluster has begun", async || key.exists()).await;
    for (path, mode) in
        [("data", 0o700), ("data/tls", 0o700), ("data/tls/node.pem", 0o600), ("root.key", 0o600)]
    {
        let found = fixture.path(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
    fixture.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_node_of_the_cluster_is_refused_and_it_is_logged() {
    let fixture = Fixture::start(tempfile::tempdir().unwrap(), SECRET_FILE, "").await;
    // Whoever shows no certificate may ask for one, and for nothing else.
    let joining = JoinTls::new(node(2).authority()).unwrap();
    for (path, status) in [
        (READ_INDEX, 401),
        (REPORT, 401),
        ("/peer/gateway/slots", 401),
        ("/peer/gateway/invoke/any/", 401),
        ("/peer/enroll/x", 401),
        ("/v1/cluster", 401),
        ("/peer/enroll", 400),
    ] {
        let stream = joining.connect(fixture.tcp().await).await.unwrap();
        assert_eq!(ask(stream, path, read_index(2)).await.unwrap().0, status, "{path}");
    }
    logged("it showed no node's certificate").await;

    let (now, name) =
        (SystemTime::now(), format!("node-1.{}.muster", &node(1).authority().to_string()[..16]));
    for (secret, issued_at, reason) in [
        ("ffffffffffffffffffffffffffffffff", now, "UnknownIssuer"),
        (SECRET, now - Duration::from_secs(2 * 3600), "certificate expired"),
    ] {
        let name = name.clone().try_into().unwrap();
        // In TLS 1.3 the client is done before the server has looked.
        let stream = posing(secret, issued_at).connect(name, fixture.tcp().await).await.unwrap();
        let answer = ask(stream, READ_INDEX, read_index(2)).await;
        assert!(answer.is_err(), "{reason}: {answer:?}");
        logged(reason).await;
    }
    let plain = ask(fixture.tcp().await, READ_INDEX, read_index(2)).await;
    assert!(plain.is_err(), "{plain:?}");
    fixture.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_while_the_node_runs() {
    let settings = format!("{SECRET_FILE}\ncertificate_seconds = 6");
    let fixture = Fixture::start(tempfile::tempdir().unwrap(), &settings, "").await;
    let two = node(2);
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let stream = fixture.connect(&two).await;
    let first = shown(&stream);
    let (mut open, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(post(&mut open, READ_INDEX, read_index(2)).await.unwrap().0, 200);
    until("a new connection shows a new certificate", async || {
        let connected = two.connect(NodeId(1), fixture.tcp().await).await;
        connected.is_ok_and(|stream| shown(&stream) != first)
    })
    .await;
    let (status, text) = post(&mut open, READ_INDEX, read_index(2)).await.unwrap();
    assert_eq!(status, 200, "over the connection from before: {text}");
    let kept = Credentials::load(&fixture.path("data/tls")).unwrap().unwrap();
    assert_ne!(kept.chain().to_der()[0], first, "it is there for the next start");
    fixture.node.stop().await;
}

#[tokio::test]
async fn a_node_that_cannot_show_who_it_is_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let path = dir.path().display();
    let text = format!(
        "node_id = 1\ndata_dir = \"{path}/data\"\n\
        [http]\nlisten = \"127.0.0.1:0\"\n[peer]\nlisten = \"127.0.0.1:0\""
    );
    std::fs::write(&file, text).unwrap();
    let error = format!("{:#}", Node::start(Config::load(&file).unwrap()).await.unwrap_err());
    assert!(error.contains("peer.secret_file") && error.contains("data/tls"), "{error}");
}

/// Writes a certificate of its own for 127.0.0.1, and its key. Answers the certificate's file.
fn write_public(dir: &Path, copy: &str) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    let trusted = dir.join(copy);
    std::fs::write(&trusted, made.cert.pem()).unwrap();
    trusted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_speak_https_and_the_certificate_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let before = write_public(dir.path(), "before.pem");
    let http = "tls = { certificate_file = \"{dir}/cert.pem\", key_file = \"{dir}/key.pem\" }";
    let fixture = Fixture::start(dir, SECRET_FILE, http).await;
    let address = fixture.node.public_address();
    let trusting = |file: &Path| {
        let options = Options { ca_file: Some(file.to_owned()), ..Options::default() };
        Client::with_options([format!("https://{address}")], None, options).unwrap()
    };
    let early = trusting(&before);
    until("the node is ready", async || early.readyz().await.is_ok()).await;
    let plain = Client::new([format!("http://{address}")], None).unwrap();
    assert!(plain.readyz().await.is_err(), "plain HTTP is not answered");

    let after = write_public(fixture.dir.path(), "after.pem");
    until("the new certificate is in use", async || trusting(&after).readyz().await.is_ok()).await;
    early.readyz().await.expect("the open connection goes on");
    assert!(trusting(&before).readyz().await.is_err(), "new connections show the new certificate");
    fixture.node.stop().await;
}
