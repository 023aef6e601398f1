//! Credentials for registries, as `docker login` leaves them in a file: read anew for each pull, so that whoever
//! changes them need tell nobody.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;

/// Docker's `config.json`, as far as it is of use here.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Login>,
}

#[derive(Debug, Default, Deserialize)]
struct Login {
    /// `user:password` in Base64. Absent where a helper program keeps it.
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// What is to be shown to a registry; `None` where the file has nothing for it.
pub(super) async fn find(file: &Path, registry: &str) -> io::Result<Option<DockerCredentials>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let text = tokio::fs::read(file).await.map_err(named)?;
    parse(&text, registry).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what)).map_err(named)
}

fn parse(text: &[u8], registry: &str) -> Result<Option<DockerCredentials>, String> {
    let file: File = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let Some((server, login)) = file.auths.into_iter().find(|(server, _)| host(server) == host(registry))
    else {
        return Ok(None);
    };
    let mut credentials = DockerCredentials {
        identitytoken: login.identitytoken.filter(|token| !token.is_empty()),
        ..DockerCredentials::default()
    };
    if let Some(auth) = login.auth.filter(|auth| !auth.is_empty()) {
        let decoded =
            BASE64_STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (user, password) = decoded
            .as_deref()
            .and_then(|pair| pair.split_once(':'))
            .ok_or_else(|| format!("what it has for `{server}` is no user and password"))?;
        (credentials.username, credentials.password) = (Some(user.to_owned()), Some(password.to_owned()));
    } else if credentials.identitytoken.is_none() {
        return Err(format!(
            "what there is for `{server}` is kept by a credential helper, which is not asked"
        ));
    }
    credentials.serveraddress = Some(server);
    Ok(Some(credentials))
}

/// `https://host:port/v1/` and `host:port` are the same.
fn host(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// The registry that a reference names; `None` for Docker's default one. By Docker's rule the first part is one
/// if it could not be a user's name.
pub(super) fn registry(image: &str) -> Option<&str> {
    let (first, _) = image.split_once('/')?;
    (first.contains(['.', ':']) || first == "localhost").then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_names_its_registry_or_none() {
        for (image, want) in [
            ("alpha", None),
            ("alpha:latest", None),
            ("muster/alpha:1", None),
            ("127.0.0.1:5000/alpha", Some("127.0.0.1:5000")),
            ("registry.test/team/alpha@sha256:00", Some("registry.test")),
            ("localhost/alpha", Some("localhost")),
        ] {
            assert_eq!(registry(image), want, "{image}");
        }
    }

    #[test]
    fn logins_are_found_by_host_and_what_is_of_no_use_is_named() {
        // `alice:s3cret:x`
        let text = br#"{"auths": {
            "https://registry.test/v1/": {"auth": "YWxpY2U6czNjcmV0Ong="},
            "tokens.test": {"identitytoken": "abc", "auth": ""},
            "helper.test": {}, "broken.test": {"auth": "%%"}}, "credsStore": "desktop"}"#;
        let found = parse(text, "registry.test").unwrap().unwrap();
        assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("alice"), Some("s3cret:x")));
        assert_eq!(found.serveraddress.as_deref(), Some("https://registry.test/v1/"));
        let found = parse(text, "https://tokens.test/").unwrap().unwrap();
        assert_eq!((found.identitytoken.as_deref(), found.username), (Some("abc"), None));
        assert!(parse(text, "other.test").unwrap().is_none());
        assert!(parse(text, "helper.test").unwrap_err().contains("credential helper"));
        assert!(parse(text, "broken.test").unwrap_err().contains("broken.test"));
        assert!(parse(b"{", "x").is_err());
        assert!(parse(b"{}", "x").unwrap().is_none());
    }
}
