//! Example function `alpha`: `{"args":{"prompt":"what now?"}}` gives `{"response":"alpha says: what now?"}`.
//!
//! `LOAD_MS` (default 400) is how long it loads before it listens, `WORK_MS` (default 75) how long it
//! thinks about each prompt.

use muster_runtime::{Error, duration_ms};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Input {
    args: Args,
}

#[derive(Deserialize)]
struct Args {
    prompt: String,
}

#[derive(Serialize)]
struct Output {
    response: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let load = duration_ms("LOAD_MS", 400)?;
    let work = duration_ms("WORK_MS", 75)?;
    muster_runtime::initialize(tokio::time::sleep(load)).await?;
    muster_runtime::serve_json(move |input: Input, _context| async move {
        tokio::time::sleep(work).await;
        Ok(Output { response: format!("alpha says: {}", input.args.prompt) })
    })
    .await
    .map_err(Error::into)
}
