//! How a node comes to be one of the cluster: it shows a token to a member, which answers with the node's
//! id and certificate.
//!
//! The one thing that is answered to who has no certificate. The token tells the joiner which authority to trust
//! before it sends anything, and the member whom to take for which node. That it is good once is settled in
//! the log, so it is so for all members together.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use muster_core::accounts::{KeyHash, SECRET_BYTES};
use muster_core::ids::{NodeId, StoreId, TokenId};
use muster_core::members::{Addresses, Command as Members};
use muster_core::version::{Range, Version};
use muster_core::{Command, Reply};
use muster_storage::codec::{self, CodecError};
use muster_tls::{Authority, Chain, Credentials, Fingerprint, JoinTls, NodeKey, Validity};
use rustls::pki_types::CertificateSigningRequestDer;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Config, Join};
use crate::parts::Parts;

pub(crate) const ENROLL_PATH: &str = "/peer/enroll";
/// The largest message of an enrollment: a certificate or a request for one, and room to spare.
pub(crate) const MESSAGE_MAX: usize = 64 * 1024;
/// Format of both messages. History:
/// * 1, 2026-11;
/// * 2, 2026-11: the application ends with the cluster versions that the joiner supports.
const FORMAT: u8 = 2;
const FORMAT_WITHOUT_VERSIONS: u8 = 1;
/// What a joiner of a release from before there were cluster versions supports.
const BEFORE_VERSIONS: Range = Range { oldest: Version::FIRST, newest: Version::FIRST };
/// For one member to answer: a commit and a signature.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);
/// The pause before the members are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Where the token is looked for if no file is named.
const TOKEN_VARIABLE: &str = "MUSTER_JOIN_TOKEN";

/// What a node shows to join: `mj_<token id>_<secret>_<authority's fingerprint>`.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) id: TokenId,
    secret: String,
    authority: Fingerprint,
}

impl Token {
    pub(crate) fn new(id: TokenId, secret: &[u8; SECRET_BYTES], authority: Fingerprint) -> Self {
        let secret = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        Token { id, secret, authority }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().strip_prefix("mj_")?.split('_');
        let (id, secret, authority) = (parts.next()?, parts.next()?, parts.next()?);
        let shaped = secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|b| b.is_ascii_hexdigit());
        if !shaped || parts.next().is_some() {
            return None;
        }
        Some(Token { id: id.parse().ok()?, secret: secret.to_owned(), authority: authority.parse().ok()? })
    }

    /// With its secret: for whoever asked for it, once.
    pub(crate) fn reveal(&self) -> String {
        format!("mj_{}_{}_{}", self.id, self.secret, self.authority)
    }

    pub(crate) fn hash(&self) -> KeyHash {
        KeyHash::of(&self.secret)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

/// What a joiner asks.
#[derive(Serialize, Deserialize)]
struct Application {
    token: TokenId,
    secret: String,
    store: StoreId,
    addresses: Addresses,
    /// A PKCS #10 request in DER, signed by the key that the certificate is for.
    request: Vec<u8>,
    versions: Range,
}

impl Application {
    /// From a message of any format, with the format that the answer is to have.
    fn decode(body: &[u8]) -> Result<(u8, Self), CodecError> {
        if body.first() != Some(&FORMAT_WITHOUT_VERSIONS) {
            return Ok((FORMAT, codec::decode(&[FORMAT], MESSAGE_MAX, body)?));
        }
        let (token, secret, store, addresses, request) =
            codec::decode(&[FORMAT_WITHOUT_VERSIONS], MESSAGE_MAX, body)?;
        let versions = BEFORE_VERSIONS;
        Ok((FORMAT_WITHOUT_VERSIONS, Application { token, secret, store, addresses, request, versions }))
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Decision {
    /// With the certificate and those above it, in DER.
    Enrolled { node: NodeId, chain: Vec<Vec<u8>> },
    /// For good: asking again will not help.
    Refused(String),
    /// For now.
    NotNow(String),
}

/// Answers a joiner. An error is a message that is none.
pub(crate) async fn answer(parts: &Parts, lasts: Duration, body: &[u8]) -> Result<Vec<u8>, String> {
    let (format, application) = Application::decode(body).map_err(|error| error.to_string())?;
    let decision = decide(parts, lasts, application).await;
    match &decision {
        Decision::Enrolled { node, .. } => tracing::info!(%node, "a node was enrolled"),
        Decision::Refused(why) | Decision::NotNow(why) => tracing::warn!(why, "a node was not enrolled"),
    }
    codec::encode(format, &decision).map_err(|error| error.to_string())
}

async fn decide(parts: &Parts, lasts: Duration, application: Application) -> Decision {
    let consensus = &parts.consensus;
    let Application { token, secret, store, addresses, request, versions } = application;
    let hash = KeyHash::of(&secret);
    // Whoever has no token must not fill the log with guesses.
    let known = || {
        consensus
            .with_state(|state| state.members.would_enroll(token, hash, store, &addresses, consensus.now()))
    };
    if known().is_err()
        && let Err(error) = consensus.linearize().await
    {
        return Decision::NotNow(error.to_string());
    }
    if let Err(rejection) = known() {
        return Decision::Refused(rejection.to_string());
    }
    // Before the token is used up.
    if let Err(unsupported) = versions.check(consensus.version()) {
        return Decision::Refused(unsupported.to_string());
    }
    let Some(seed) = consensus.with_state(|state| state.authority) else {
        return Decision::NotNow("the cluster has no certificate authority yet".into());
    };
    let enroll = Members::Enroll { token, hash, store, addresses };
    let node = match consensus.propose(Command::Members(enroll)).await {
        Ok(Ok(Reply::Enrolled { node })) => node,
        Ok(Ok(other)) => return Decision::Refused(format!("an unexpected answer: {other:?}")),
        Ok(Err(rejection)) => return Decision::Refused(rejection.to_string()),
        Err(error) => return Decision::NotNow(error.to_string()),
    };
    let issued = Authority::from_seed(seed.0).and_then(|authority| {
        let request = CertificateSigningRequestDer::from(request);
        authority.issue(node, &request, Validity { now: SystemTime::now(), lasts })
    });
    match issued {
        Ok(chain) => Decision::Enrolled { node, chain: chain.to_der() },
        Err(error) => Decision::Refused(format!("{:#}", anyhow::Error::new(error))),
    }
}

/// Has this node enrolled; its certificate is kept when this returns. Asks until a member has decided.
pub(crate) async fn enroll(config: &Config, join: &Join, store: StoreId) -> anyhow::Result<NodeId> {
    let token = read_token(join.token_file.as_deref())?;
    let key = NodeKey::generate().context("cannot make a key")?;
    let request = key.request().context("cannot ask for a certificate")?;
    let tls = JoinTls::new(token.authority).context("cannot set up TLS")?;
    let application = Application {
        token: token.id,
        secret: token.secret.clone(),
        store,
        addresses: Addresses { http: config.http_address(), peer: config.peer_address() },
        request: request.as_ref().to_vec(),
        versions: config.raft.versions,
    };
    let body = Bytes::from(codec::encode(FORMAT, &application).context("cannot encode the application")?);
    loop {
        for address in &join.addresses {
            let asking = timeout(ATTEMPT_LIMIT, ask(&tls, address, body.clone()));
            let why = match asking.await {
                Ok(Ok(Decision::Enrolled { node, chain })) => {
                    let chain = Chain::from_der(chain).context("the member sent no certificate")?;
                    let credentials =
                        Credentials::new(chain, key).context("the member sent another's certificate")?;
                    ensure!(credentials.node() == node, "the member sent another node's certificate");
                    credentials.save(&config.credentials_dir()).context("cannot keep the certificate")?;
                    return Ok(node);
                }
                Ok(Ok(Decision::Refused(why))) => bail!("{address} refuses this node: {why}"),
                Ok(Ok(Decision::NotNow(why))) => why,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_elapsed) => "no answer".to_owned(),
            };
            tracing::info!(address, why, "not enrolled yet");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn ask(tls: &JoinTls, address: &str, body: Bytes) -> anyhow::Result<Decision> {
    let stream = TcpStream::connect(address).await.context("cannot connect")?;
    stream.set_nodelay(true).context("cannot set up the connection")?;
    let stream = tls.connect(stream).await.context("it is no node of the token's cluster")?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.context("cannot speak HTTP with it")?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(ENROLL_PATH)
        .header(header::HOST, address)
        .body(Full::new(body))
        .context("cannot make the request")?;
    let answer = sender.send_request(request).await.context("it broke off")?;
    let status = answer.status();
    let answer = Limited::new(answer.into_body(), MESSAGE_MAX).collect().await;
    connection.abort();
    ensure!(status == StatusCode::OK, "it answers {status}");
    let answer = answer.map_err(|error| anyhow::anyhow!("it broke off: {error}"))?.to_bytes();
    codec::decode(&[FORMAT_WITHOUT_VERSIONS, FORMAT], MESSAGE_MAX, &answer)
        .context("cannot decode its answer")
}

fn read_token(file: Option<&Path>) -> anyhow::Result<Token> {
    let (text, from) = match file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let from = format!("`join.token_file` {}", file.display());
            (text.with_context(|| format!("cannot read {from}"))?, from)
        }
        None => {
            let text = std::env::var(TOKEN_VARIABLE).ok();
            let text =
                text.with_context(|| format!("neither `join.token_file` nor {TOKEN_VARIABLE} is set"))?;
            (text, TOKEN_VARIABLE.to_owned())
        }
    };
    Token::parse(&text).with_context(|| format!("{from} holds no token of `muster cluster join`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let authority = Authority::from_secret("0123456789abcdef0123456789abcdef").unwrap();
        Token::new(TokenId(7), &[0xab; SECRET_BYTES], authority.fingerprint())
    }

    #[test]
    fn a_token_is_read_as_it_is_written_and_not_shown() {
        let text = token().reveal();
        let read = Token::parse(&format!("{text}\n")).unwrap();
        assert_eq!(read.reveal(), text);
        assert_eq!(read.hash(), token().hash());
        assert!(!format!("{read:?}").contains("abab"), "{read:?}");
        for bad in
            ["", "mj_", &text[1..], &text[..text.len() - 1], &format!("{text}_x"), &text.replace("ab", "zz")]
        {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }

    /// The messages, byte by byte: nodes of other releases speak them.
    #[test]
    fn messages_keep_their_form() {
        let application = Application {
            token: TokenId(1),
            secret: "s".into(),
            store: StoreId(2),
            addresses: Addresses { http: "h".into(), peer: "p".into() },
            request: vec![9],
            versions: Range { oldest: Version(1), newest: Version(2) },
        };
        let bytes = codec::encode(FORMAT, &application).unwrap();
        assert_eq!(bytes, [2, 1, 1, b's', 2, 1, b'h', 1, b'p', 1, 9, 1, 2]);
        let (format, read) = Application::decode(&bytes).unwrap();
        assert_eq!((format, read.versions), (FORMAT, application.versions));
        let (format, old) = Application::decode(&[1, 1, 1, b's', 2, 1, b'h', 1, b'p', 1, 9]).unwrap();
        assert_eq!((format, old.versions, old.request), (FORMAT_WITHOUT_VERSIONS, BEFORE_VERSIONS, vec![9]));
        assert!(Application::decode(&[3, 1]).is_err(), "from the future");
        for (decision, bytes) in [
            (Decision::Enrolled { node: NodeId(4), chain: vec![vec![7]] }, &[2, 0, 4, 1, 1, 7][..]),
            (Decision::Refused("r".into()), &[2, 1, 1, b'r']),
            (Decision::NotNow("n".into()), &[2, 2, 1, b'n']),
        ] {
            assert_eq!(codec::encode(FORMAT, &decision).unwrap(), bytes, "{decision:?}");
        }
    }
}
