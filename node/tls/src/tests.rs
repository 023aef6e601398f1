//! Handshakes over a pipe, each side with its own view of who is who.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_core::ids::NodeId;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsConnector, client};

use crate::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn authority(secret: &str) -> Authority {
    Authority::from_secret(secret).unwrap()
}

fn issued(secret: &str, node: u64, now: SystemTime) -> Credentials {
    let validity = Validity { now, lasts: 90 * DAY };
    Credentials::issue(&authority(secret), NodeId(node), validity).unwrap()
}

fn node(number: u64) -> PeerTls {
    PeerTls::new(issued(SECRET, number, SystemTime::now())).unwrap()
}

/// What both ends of a connection come to know: the client, whether it can talk; the server, whom it talks to.
async fn meet<F>(
    server: &PeerTls,
    connecting: impl FnOnce(DuplexStream) -> F,
) -> (io::Result<()>, io::Result<Option<NodeId>>)
where
    F: Future<Output = io::Result<client::TlsStream<DuplexStream>>>,
{
    let (near, far) = duplex(64 * 1024);
    let calling = async {
        let mut stream = connecting(near).await?;
        stream.write_all(b"?").await?;
        // In TLS 1.3 only the first answer shows that the server went along.
        (stream.read(&mut [0]).await? == 1).then_some(()).ok_or(io::ErrorKind::UnexpectedEof.into())
    };
    let answering = async {
        let (mut stream, caller) = server.accept(far).await?;
        stream.read_exact(&mut [0]).await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(caller)
    };
    tokio::join!(calling, answering)
}

#[tokio::test]
async fn nodes_of_one_cluster_know_each_other() {
    let (one, two) = (node(1), node(2));
    let (client, server) = meet(&two, |io| one.connect(NodeId(2), io)).await;
    client.unwrap();
    assert_eq!(server.unwrap(), Some(NodeId(1)));
}

#[tokio::test]
async fn whoever_is_not_who_was_meant_is_refused() {
    let now = SystemTime::now();
    let server = node(2);
    let long_ago = now - 100 * DAY;
    let ahead = now + 2 * DAY;
    for (what, client, target) in [
        ("another node's certificate at the server", issued(SECRET, 1, now), 3),
        ("another cluster's", issued("ffffffffffffffffffffffffffffffff", 1, now), 2),
        ("one that has expired", issued(SECRET, 1, long_ago), 2),
        ("one that is not valid yet", issued(SECRET, 1, ahead), 2),
    ] {
        let client = PeerTls::new(client).unwrap();
        let (connected, served) = meet(&server, |io| client.connect(NodeId(target), io)).await;
        assert!(connected.is_err() && served.is_err(), "{what}: {connected:?} {served:?}");
    }
    let stale = PeerTls::new(issued(SECRET, 2, long_ago)).unwrap();
    let (connected, served) = meet(&stale, |io| node(1).connect_owned(io)).await;
    assert!(connected.is_err() && served.is_err(), "an expired one at the server");
}

impl PeerTls {
    async fn connect_owned(self, io: DuplexStream) -> io::Result<client::TlsStream<DuplexStream>> {
        self.connect(NodeId(2), io).await
    }
}

#[tokio::test]
async fn who_shows_no_certificate_is_nobody() {
    let server = node(2);
    let joining = JoinTls::new(authority(SECRET).fingerprint()).unwrap();
    let (client, served) = meet(&server, |io| joining.connect(io)).await;
    client.unwrap();
    assert_eq!(served.unwrap(), None);
    let other = JoinTls::new(authority("another cluster's secret, 32 chars").fingerprint()).unwrap();
    let (client, _) = meet(&server, |io| other.connect(io)).await;
    assert!(client.is_err(), "the fingerprint of the token is another authority's");
}

#[tokio::test]
async fn a_leaf_cannot_pose_as_an_authority() {
    // Node 1 signs a certificate for "node 3" with its own key, and shows it with its own as the authority.
    let (key, victim) = (rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), NodeKey::generate());
    let real = authority(SECRET);
    let mut params = rcgen::CertificateParams::default();
    let name = real.fingerprint().node_name(NodeId(3));
    params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
    let issuer = rcgen::Issuer::from_params(&params, &key);
    let request = rcgen::CertificateSigningRequestParams::from_der(&victim.unwrap().request().unwrap());
    let forged = params.signed_by(&request.unwrap().public_key, &issuer).unwrap();
    let chain = Chain::from_der(vec![forged.der().to_vec(), real.certificate().to_vec()]).unwrap();
    assert!(matches!(chain.read(), Err(Error::Authority(_))));
}

#[tokio::test]
async fn older_tls_is_refused() {
    let mut roots = RootCertStore::empty();
    roots.add(authority(SECRET).certificate().clone()).unwrap();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let old = TlsConnector::from(Arc::new(old));
    let name = authority(SECRET).fingerprint().node_name(NodeId(2)).try_into().unwrap();
    let (client, served) = meet(&node(2), |io| old.connect(name, io)).await;
    assert!(client.is_err() && served.is_err(), "{client:?} {served:?}");
}

#[tokio::test]
async fn renewed_credentials_are_shown_from_the_next_connection_on() {
    let (one, two) = (node(1), node(2));
    let (near, far) = duplex(64 * 1024);
    let (open, accepted) = tokio::join!(one.connect(NodeId(2), near), two.accept(far));
    let (mut open, (mut accepted, _)) = (open.unwrap(), accepted.unwrap());
    let before = two.credentials().expires_at();
    let renewed = Credentials::issue(
        &authority(SECRET),
        NodeId(2),
        Validity { now: SystemTime::now(), lasts: 200 * DAY },
    );
    two.replace(renewed.unwrap()).unwrap();
    assert!(two.credentials().expires_at() > before);
    open.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    accepted.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still here");
    let (near, far) = duplex(64 * 1024);
    let (anew, _accepted) = tokio::join!(one.connect(NodeId(2), near), two.accept(far));
    let anew = anew.unwrap();
    let shown = anew.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    assert_eq!(shown, two.credentials().chain().to_der()[0]);

    assert!(matches!(two.replace(issued(SECRET, 3, SystemTime::now())), Err(Error::Node { .. })));
    let foreign = issued("ffffffffffffffffffffffffffffffff", 2, SystemTime::now());
    assert!(matches!(two.replace(foreign), Err(Error::Authority(_))));
}

#[test]
fn an_authority_follows_from_its_secret() {
    let (one, same, other) = (authority(SECRET), authority(SECRET), authority("another"));
    assert_eq!(one.certificate(), same.certificate());
    assert_eq!(one.fingerprint(), same.fingerprint());
    assert_ne!(one.fingerprint(), other.fingerprint());
    let seeded = Authority::from_seed(one.seed()).unwrap();
    assert_eq!(seeded.certificate(), one.certificate());
    // What follows from a secret must be the same in every version: a change here locks running clusters out.
    assert_eq!(one.fingerprint().to_string(), FINGERPRINT);
    let debug = format!("{one:?} {:?}", issued(SECRET, 1, SystemTime::now()));
    let seed: Vec<String> = one.seed().iter().map(ToString::to_string).collect();
    assert!(!debug.contains(SECRET) && !debug.contains(&seed.join(", ")), "{debug}");
}

const FINGERPRINT: &str = "nkxplb5nog6jqky3aicvv5s5gtyrt7uky6paccrq2tvdma7g33pa";

#[test]
fn when_credentials_are_due() {
    let issued_at = SystemTime::UNIX_EPOCH + 20_000 * DAY;
    let credentials = issued(SECRET, 1, issued_at);
    let hours = |hours: i64| {
        let span = Duration::from_secs(hours.unsigned_abs() * 3600);
        if hours < 0 { issued_at - span } else { issued_at + span }
    };
    for (at, due, why) in [
        (hours(0), false, "fresh"),
        (hours(-2), false, "the clock went back two hours"),
        (hours(59 * 24), false, "two thirds are not over"),
        (hours(60 * 24), true, "two thirds are over"),
        (hours(91 * 24), true, "expired"),
        (hours(-25), true, "issued by a clock that was ahead"),
    ] {
        assert_eq!(credentials.are_due(at, 90 * DAY), due, "{why}");
    }
}

#[test]
fn credentials_are_kept_where_nobody_else_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("tls");
    assert!(Credentials::load(&dir).unwrap().is_none());
    let credentials = issued(SECRET, 7, SystemTime::now());
    credentials.save(&dir).unwrap();
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let file = dir.join("node.pem");
    assert_eq!(mode(&file), 0o600);
    let loaded = Credentials::load(&dir).unwrap().unwrap();
    assert_eq!((loaded.node(), loaded.chain()), (NodeId(7), credentials.chain()));
    let renewed = issued(SECRET, 7, SystemTime::now());
    renewed.save(&dir).unwrap();
    assert_eq!(Credentials::load(&dir).unwrap().unwrap().chain(), renewed.chain());
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");

    let text = std::fs::read_to_string(&file).unwrap();
    for (what, text) in [
        ("no key", text.replace("PRIVATE", "PUBLIC")),
        ("one certificate", text[..text.rfind("-----BEGIN").unwrap()].to_owned()),
        ("nothing", String::new()),
    ] {
        std::fs::write(&file, text).unwrap();
        assert!(Credentials::load(&dir).is_err(), "{what}");
    }
    let foreign = NodeKey::generate().unwrap();
    assert!(matches!(Credentials::new(renewed.chain().clone(), foreign), Err(Error::Mismatch)));
}

#[test]
fn what_is_asked_for_in_a_request_is_not_given() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["node-9.example".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::NoCa;
    let request = params.serialize_request(&key).unwrap();
    let validity = Validity { now: SystemTime::now(), lasts: DAY };
    let chain = authority(SECRET).issue(NodeId(4), request.der(), validity).unwrap();
    assert_eq!(chain.read().unwrap().0.node, NodeId(4));
    let mut broken = request.der().to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let refused = authority(SECRET).issue(NodeId(4), &broken.into(), validity);
    assert!(matches!(refused, Err(Error::Request(_))), "{refused:?}");
}

/// A certificate for `localhost` with its key, written where a public listener reads them.
fn write_public(dir: &std::path::Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key)
}

#[test]
fn the_public_certificate_is_read_again_when_its_files_change() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = write_public(dir.path(), "a.example");
    let public = PublicTls::load(&certificate, &key).unwrap();
    assert!(!public.reload().unwrap(), "nothing has changed");
    write_public(dir.path(), "b.example");
    assert!(public.reload().unwrap());
    assert!(!public.reload().unwrap());
    let other = rcgen::generate_simple_self_signed(vec!["c.example".to_owned()]).unwrap();
    std::fs::write(&certificate, other.cert.pem()).unwrap();
    assert!(matches!(public.reload(), Err(Error::Mismatch)), "the key is not there yet");
    std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
    assert!(public.reload().unwrap());
    std::fs::write(&certificate, "nothing").unwrap();
    let named = public.reload().unwrap_err().to_string();
    assert!(named.contains("cert.pem"), "{named}");
    assert!(PublicTls::load(&dir.path().join("none"), &key).is_err());
}
