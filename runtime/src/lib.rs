//! What runs inside a Muster instance: an async handler becomes an HTTP server on `PORT`.
//!
//! ```no_run
//! use muster_runtime::Error;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Input { name: String }
//! #[derive(Serialize)]
//! struct Output { greeting: String }
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Error> {
//!     muster_runtime::serve_json(|input: Input, _context| async move {
//!         Ok(Output { greeting: format!("Hello, {}!", input.name) })
//!     })
//!     .await
//! }
//! ```
//!
//! Reading order: [`Server`] accepts connections and shuts down gracefully; [`serve_json`] turns a typed
//! handler into a plain one; [`Body`], [`IntoResponse`] and [`Failure`] are what handlers give back;
//! [`Context`] is what the cluster says about a request.
//!
//! **Invariant.** Nothing here authenticates, queues or enforces deadlines. A function is reached only
//! through the node it runs on, and that node does.

mod body;
mod context;
mod failure;
mod json;
mod response;
mod server;
mod settings;
mod shutdown;

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use body::{Body, BoxError, Sender, read_body};
pub use context::{ACCOUNT_HEADER, Context, INVOCATION_ID_HEADER};
pub use failure::Failure;
pub use http;
pub use response::IntoResponse;
pub use server::{BODY_LIMIT_BYTES, CONNECTIONS_MAX, GRACE, Server};
pub use settings::{duration_ms, number};
pub use shutdown::initialize;

/// A request as it arrived; its body streams. [`read_body`] collects it.
pub type Request = http::Request<hyper::body::Incoming>;

/// An answer whose body may stream.
pub type Response = http::Response<Body>;

/// Why a function cannot start or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("the environment variable {name} is `{value}`: {problem}")]
    Setting { name: String, value: String, problem: String },
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("cannot watch for SIGTERM and SIGINT")]
    Signals { source: std::io::Error },
}

/// Serves plain HTTP on `PORT` until SIGTERM or SIGINT. See [`Server::serve`].
pub async fn serve<H, F>(handler: H) -> Result<(), Error>
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output: IntoResponse> + Send + 'static,
{
    Server::from_env()?.serve(handler).await
}

/// Serves typed JSON on `PORT` until SIGTERM or SIGINT. See [`Server::serve_json`].
pub async fn serve_json<In, Out, H, F>(handler: H) -> Result<(), Error>
where
    In: DeserializeOwned + Send + 'static,
    Out: Serialize + Send + 'static,
    H: Fn(In, Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Out, Failure>> + Send + 'static,
{
    Server::from_env()?.serve_json(handler).await
}
