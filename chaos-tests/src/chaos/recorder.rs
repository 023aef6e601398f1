//! The function that a run invokes: it notes each execution before it does anything else.
//!
//! This program is that function when it is started as `muster-chaos function`. A note is one line in
//! a file of the process's own, appended with one write: it survives whatever happens to the process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use muster_api::FunctionSpec;
use muster_runtime::{BODY_LIMIT_BYTES, Failure, Request, Server, read_body};

use crate::functions;

const DIR_VARIABLE: &str = "CHAOS_EXECUTIONS";
/// The query parameter that tells one invocation from all others.
pub const TOKEN: &str = "token";
/// A hanging request never finishes: waiting for it at shutdown is in vain.
const GRACE: Duration = Duration::from_millis(500);
const EXIT_STATUS: i32 = 7;
/// The longest `?bytes=` of an answer.
const ANSWER_MAX_BYTES: u64 = 16 << 20;

/// How to deploy it. Leaves a copy of this program beside `executions`: the one that runs may be built
/// anew, and so replaced, while the run goes on.
///
/// # Errors
/// Where a path is not UTF-8, or the copy cannot be made.
pub fn spec(executions: &Path) -> Result<FunctionSpec> {
    let program = executions.with_file_name("recorder");
    fs::copy("/proc/self/exe", &program).context("cannot copy this program")?;
    let mut spec = functions::command(program);
    spec.command.get_or_insert_default().push("function".into());
    let dir = executions.to_str().context("the folder is not UTF-8")?;
    spec.env.insert(DIR_VARIABLE.into(), dir.into());
    Ok(spec)
}

/// Serves as the function until SIGTERM.
///
/// # Errors
/// Where it cannot note executions, or not listen.
pub async fn serve() -> Result<()> {
    let dir = PathBuf::from(std::env::var_os(DIR_VARIABLE).context("not started by a chaos run")?);
    let path = dir.join(format!("{}.log", std::env::var("MUSTER_INSTANCE")?));
    let file = File::options().create(true).append(true).open(path).context("cannot note executions")?;
    let file = Arc::new(file);
    let handler = move |request| handle(Arc::clone(&file), request);
    Server::from_env()?.grace(GRACE).serve(handler).await?;
    Ok(())
}

/// How often each token was executed.
///
/// # Errors
/// Where the notes cannot be read.
pub fn executions(dir: &Path) -> Result<BTreeMap<u64, u64>> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(dir).context("cannot list the executions")? {
        let text = fs::read_to_string(entry?.path()).context("cannot read an instance's executions")?;
        for token in text.lines() {
            *counts.entry(token.parse().context("a token is a number")?).or_default() += 1;
        }
    }
    Ok(counts)
}

async fn handle(file: Arc<File>, request: Request) -> Result<String, Failure> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let text = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    let token = text(TOKEN).unwrap_or_default();
    (&*file).write_all(format!("{token}\n").as_bytes())?;
    read_body(request.into_body(), BODY_LIMIT_BYTES).await?;
    match text("mode").as_deref() {
        Some("exit") => std::process::exit(EXIT_STATUS),
        Some("hang") => std::future::pending().await,
        _ => {}
    }
    let number = |name: &str| text(name).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(number("work_ms"))).await;
    let bytes = usize::try_from(number("bytes").min(ANSWER_MAX_BYTES))?;
    let mut answer = token;
    let padding = bytes.saturating_sub(answer.len());
    answer.extend(std::iter::repeat_n(' ', padding));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_of_all_instances_are_summed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("i-1.log"), "3\n4\n").unwrap();
        fs::write(dir.path().join("i-2.log"), "4\n").unwrap();
        assert_eq!(executions(dir.path()).unwrap(), BTreeMap::from([(3, 1), (4, 2)]));
        fs::write(dir.path().join("i-3.log"), "x\n").unwrap();
        assert!(executions(dir.path()).is_err());
    }
}
