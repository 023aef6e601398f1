//! Settings from the environment.

use std::env::{self, VarError};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::Error;

/// Where instances listen unless told otherwise.
const PORT: u16 = 8080;

/// A setting in milliseconds, such as `WORK_MS`.
///
/// # Errors
/// [`Error::Setting`] where it is not a whole number.
pub fn duration_ms(name: &str, default_ms: u64) -> Result<Duration, Error> {
    number(name, default_ms).map(Duration::from_millis)
}

/// A whole number from the environment; `default` where it is unset or empty.
///
/// # Errors
/// [`Error::Setting`] where it is not a whole number.
pub fn number(name: &str, default: u64) -> Result<u64, Error> {
    parsed(name, default, "expected a whole number")
}

/// `MUSTER_BIND_ADDRESS` (default 0.0.0.0) and `PORT` (default 8080; 0 takes a free port).
pub(crate) fn listen_address() -> Result<SocketAddr, Error> {
    let ip = parsed("MUSTER_BIND_ADDRESS", IpAddr::V4(Ipv4Addr::UNSPECIFIED), "expected an IP address")?;
    let port = parsed("PORT", PORT, "expected a port from 0 to 65535")?;
    Ok(SocketAddr::new(ip, port))
}

fn parsed<T: std::str::FromStr>(name: &str, default: T, problem: &str) -> Result<T, Error> {
    let refused = |value| Error::Setting { name: name.to_owned(), value, problem: problem.to_owned() };
    match env::var(name) {
        Err(VarError::NotPresent) => Ok(default),
        Err(VarError::NotUnicode(value)) => Err(refused(value.to_string_lossy().into_owned())),
        Ok(value) if value.trim().is_empty() => Ok(default),
        Ok(value) => value.trim().parse().map_err(|_| refused(value)),
    }
}
