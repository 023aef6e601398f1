//! The Rust client of Muster: every endpoint of the HTTP API as a typed method, over a transport
//! that fails over between nodes.
//!
//! ```no_run
//! # async fn example() -> Result<(), muster_client::Error> {
//! use muster_client::{Client, Key, Request};
//!
//! let key = Key::new("mk_…")?;
//! let client = Client::new(["http://10.0.0.1:8081", "http://10.0.0.2:8081"], Some(key))?;
//! let answer = client.invoke("alpha", Request::post(r#"{"args":{"prompt":"hello"}}"#)).await?;
//! println!("{} from {:?}", answer.status, answer.instance);
//! let body = answer.body.bytes().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Read [`Client`] first, for what is sent again and what never is; then [`Error`], for what a
//! failure says about whether anything happened. The transport is `transport.rs`; the endpoints
//! stand in one file per aggregate. The `muster` command line lives under `cli/` and uses nothing
//! but this library.

mod accounts;
mod body;
mod client;
mod cluster;
mod error;
mod functions;
mod invoke;
mod key;
mod logs;
mod packages;
mod tls;
mod transport;
mod usage;

pub use body::{Body, ResponseBody};
pub use client::{Client, Consistency, Options};
pub use error::{Error, Tried};
pub use invoke::{Invocation, Request};
pub use key::Key;
pub use logs::{LogQuery, Logs};
pub use muster_api as api;
pub use muster_archive as archive;
pub use usage::UsageQuery;
