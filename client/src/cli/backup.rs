//! `muster cluster backup`: a backup into a file, and a look at one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_client::archive::{self, Damage, Decoder, Metadata};
use tokio::time::timeout;

use super::Context;
use super::failure::{Doing, Failure};
use super::output::{Output, Table, note};

const DOING: &str = "back up the cluster";
/// How long the node may send nothing.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Checks a file and says what it is.
pub(super) fn verify(output: &Output, file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let opened = File::open(file).map_err(|e| Failure::failed(format!("cannot open {shown}: {e}")))?;
    let checked = archive::read(BufReader::new(opened), |_content| ());
    let (metadata, bytes) = checked.map_err(|damage| {
        Failure::failed(format!("{shown} is no backup to rely on: {}", with_cause(&damage)))
    })?;
    output.show(&metadata, || describe(&metadata, bytes))
}

/// Has a backup written to `file`. What is not whole never gets that name.
pub(super) async fn write(context: &Context, file: Option<&Path>) -> Result<(), Failure> {
    if file == Some(Path::new("-")) {
        let (metadata, _) = receive(context, &mut io::stdout().lock()).await?;
        note(&format!("backup of cluster {} up to log entry {}", metadata.cluster, metadata.index));
        return Ok(());
    }
    let partial = partial(file.unwrap_or(Path::new("muster.backup")));
    let cannot = |what: &str, error: io::Error| Failure::failed(format!("cannot {what}: {error}"));
    // What is left of an earlier attempt might be someone else's to read, or a link to elsewhere.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(cannot(&format!("remove {}", partial.display()), error));
        }
        _ => {}
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial);
    let mut out = made.map_err(|error| cannot(&format!("write {}", partial.display()), error))?;
    let received = async {
        let (metadata, bytes) = receive(context, &mut out).await?;
        let own = format!("muster-{}-{}.backup", metadata.cluster, metadata.index);
        let file = file.map_or_else(|| PathBuf::from(own), Path::to_owned);
        out.sync_all().map_err(|error| cannot(&format!("write {}", partial.display()), error))?;
        let keep = fs::rename(&partial, &file).and_then(|()| sync_folder_of(&file));
        keep.map_err(|error| cannot(&format!("give {} its name", file.display()), error))?;
        Ok((file, metadata, bytes))
    };
    match received.await {
        Ok((file, metadata, bytes)) => {
            note(&format!("backup written to {}", file.display()));
            context.output.show(&metadata, || describe(&metadata, bytes))
        }
        Err(failure) => {
            // It is of no use to anyone; that it stays is no reason to hide why.
            let _left = fs::remove_file(&partial);
            Err(failure)
        }
    }
}

/// Copies a backup to `out` as it comes, and checks it on its way.
async fn receive(context: &Context, out: &mut impl Write) -> Result<(Metadata, u64), Failure> {
    let damaged = |damage: Damage| {
        Failure::failed(format!("cannot {DOING}: what the node sent is damaged: {}", with_cause(&damage)))
    };
    let mut body = context.client.backup().await.doing(DOING)?;
    let mut decoder = Decoder::default();
    loop {
        let chunk = timeout(STALL_LIMIT, body.chunk()).await.map_err(|_elapsed| {
            Failure::failed(format!("cannot {DOING}: the node sent nothing for {} s", STALL_LIMIT.as_secs()))
        })?;
        let Some(chunk) = chunk.doing(DOING)? else { break };
        decoder.push(&chunk, |_content| ()).map_err(damaged)?;
        out.write_all(&chunk)?;
    }
    out.flush()?;
    decoder.finish().map_err(damaged)
}

fn partial(file: &Path) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(".partial");
    name.into()
}

fn sync_folder_of(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn with_cause(damage: &Damage) -> String {
    match std::error::Error::source(damage) {
        Some(cause) => format!("{damage}: {cause}"),
        None => damage.to_string(),
    }
}

fn describe(about: &Metadata, bytes: u64) -> String {
    let counts = &about.counts;
    Table::of_fields(&[
        ("Cluster", about.cluster.clone()),
        ("Log entry", format!("{} of term {}", about.index, about.term)),
        ("Taken", format!("{} by node {} of version {}", about.taken_at, about.node, about.version)),
        ("Functions", counts.functions.to_string()),
        ("Accounts", counts.accounts.to_string()),
        ("Nodes", counts.nodes.to_string()),
        ("Instances", counts.instances.to_string()),
        ("Ledger rows", counts.ledger_rows.to_string()),
        ("Bytes", bytes.to_string()),
    ])
}
