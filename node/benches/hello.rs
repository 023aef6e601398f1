//! The function that `warm_path.py` invokes: it does nothing but answer, so that what is measured is
//! the way to it.

use anyhow::Context;
use muster_runtime::{Failure, Request, Server};

async fn hello(_request: Request) -> Result<&'static str, Failure> {
    Ok("hello\n")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    Server::from_env()?.serve(hello).await.context("cannot serve")
}
