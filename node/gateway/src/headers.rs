//! Which headers pass, in both directions.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

/// Describes an attempt from entry to host. Never passed on.
pub(crate) const PEER_INVOCATION: HeaderName = HeaderName::from_static("muster-peer-invocation");
/// What came of it: `answer`, `failed` or `refused`. Never passed on.
pub(crate) const PEER_RESULT: HeaderName = HeaderName::from_static("muster-peer-result");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Ours alone, in both directions.
const OWN_PREFIX: &str = "muster-";

/// The headers of a client's request as its function gets them, but for those that Muster adds.
pub(crate) fn from_client(headers: &HeaderMap, client: IpAddr) -> HeaderMap {
    let mut passed = headers.clone();
    strip_hop_by_hop(&mut passed);
    strip_own(&mut passed);
    // It carries the caller's key, which the function could use elsewhere.
    passed.remove(AUTHORIZATION);
    // The entry answers it by reading the body.
    passed.remove(EXPECT);
    let known = passed.get_all(&FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok());
    let mut route: Vec<String> = known.map(str::to_owned).collect();
    route.push(client.to_canonical().to_string());
    if let Ok(route) = HeaderValue::try_from(route.join(", ")) {
        passed.insert(FORWARDED_FOR, route);
    }
    passed
}

/// Removes what concerns one connection only: RFC 9110, section 7.6.1.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// Removes every `Muster-…` header: neither a client nor a function may speak for Muster.
pub(crate) fn strip_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// The credentials of an `Authorization: Bearer …` header; `None` if there is no such header or not
/// exactly one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credentials.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in rows {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_passes_to_a_function() {
        let client = map(&[
            ("host", "example.org"),
            ("accept", "*/*"),
            ("authorization", "Bearer mk_x"),
            ("connection", "keep-alive, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("muster-account", "root"),
            ("muster-anything", "1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
        ]);
        let passed = from_client(&client, "::ffff:192.0.2.1".parse().unwrap());
        let want = map(&[
            ("host", "example.org"),
            ("accept", "*/*"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 192.0.2.1"),
        ]);
        assert_eq!(passed, want);
    }

    #[test]
    fn bearer_credentials() {
        for (rows, want) in [
            (&[("authorization", "Bearer abc")][..], Some("abc")),
            (&[("authorization", "bearer abc")], Some("abc")),
            (&[("authorization", "Basic abc")], None),
            (&[("authorization", "abc")], None),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], None),
            (&[], None),
        ] {
            assert_eq!(bearer(&map(rows)), want, "{rows:?}");
        }
    }
}
