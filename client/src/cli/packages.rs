//! `muster packages`, and packages on their way to the cluster.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Read, Seek, Write};
use std::path::Path;

use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::stream;
use muster_client::Client;
use muster_client::api::Package;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Context;
use super::failure::{Doing, Failure};
use super::human::moment;
use super::output::{Table, note};

const PIECE_BYTES: usize = 128 << 10;
const MANIFEST: &str = "manifest.json";
const MANIFEST_MAX: u64 = 4 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// List the packages that the cluster keeps: image archives, and folders of programs
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) async fn run(context: &Context, _: Arguments) -> Result<(), Failure> {
    let packages = context.client.packages().await.doing("list packages")?;
    context.output.list(&packages, "packages", || table(&packages))
}

fn table(packages: &[Package]) -> Table {
    let mut table = Table::new(&["DIGEST", ">BYTES", "STORED", "FUNCTIONS"]);
    for package in packages {
        table.row([
            package.digest.clone(),
            package.bytes.to_string(),
            moment(&package.stored_at),
            package.functions.join(", "),
        ]);
    }
    table
}

/// Sees to it that the cluster has the package in `path`; its digest.
pub(super) async fn upload(client: &Client, path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let unreadable = |error: io::Error| Failure::Usage(format!("cannot read {shown}: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let (digest, bytes) = digest_of(&mut file).map_err(unreadable)?;
    let known = client.packages().await.doing("list packages")?;
    if known.iter().any(|package| package.digest == digest) {
        note(&format!("the cluster has {shown} already"));
        return Ok(digest);
    }
    file.rewind().map_err(unreadable)?;
    let progress = Progress { total: bytes, sent: 0, percent: None, shown: io::stderr().is_terminal() };
    // Reads of the page cache, filled a moment ago by the digest.
    let content = stream::try_unfold((file, progress), |(mut file, mut progress)| async move {
        let mut piece = vec![0; PIECE_BYTES];
        let count = file.read(&mut piece)?;
        piece.truncate(count);
        progress.add(count);
        Ok((count > 0).then(|| (Bytes::from(piece), (file, progress))))
    });
    let stored = client.put_package(&digest, bytes, content).await;
    stored.changing(format_args!("store the package {shown}"))?;
    note(&format!("stored {shown}, {bytes} bytes, as {digest}"));
    Ok(digest)
}

fn digest_of(file: &mut File) -> io::Result<(String, u64)> {
    let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0, vec![0; PIECE_BYTES]);
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
        bytes += count as u64;
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((format!("sha256:{digits}"), bytes))
}

/// Says on a terminal how far an upload is.
struct Progress {
    total: u64,
    sent: u64,
    percent: Option<u64>,
    shown: bool,
}

impl Progress {
    fn add(&mut self, bytes: usize) {
        self.sent += bytes as u64;
        let percent = (self.sent.saturating_mul(100)).checked_div(self.total).unwrap_or(100);
        if self.shown && self.percent != Some(percent) {
            self.percent = Some(percent);
            let end = if bytes == 0 { "\n" } else { "" };
            // A remark nobody can read is no reason to fail.
            let _ = write!(io::stderr(), "\ruploading: {percent} %{end}");
        }
    }
}

/// The names of images in an archive that `docker save` has written.
pub(super) fn images_in(path: &Path) -> Result<BTreeSet<String>, Failure> {
    #[derive(Deserialize)]
    struct Image {
        #[serde(rename = "RepoTags")]
        names: Option<Vec<String>>,
    }
    let shown = path.display();
    let bad = |why: String| Failure::Usage(format!("{shown} is not an image archive: {why}"));
    let manifest = manifest(path).map_err(|error| bad(error.to_string()))?;
    let manifest =
        manifest.ok_or_else(|| bad(format!("it has no `{MANIFEST}` (make it with `docker save`)")))?;
    let images: Vec<Image> =
        serde_json::from_slice(&manifest).map_err(|error| bad(format!("its `{MANIFEST}`: {error}")))?;
    Ok(images.into_iter().flat_map(|image| image.names.unwrap_or_default()).collect())
}

fn manifest(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = File::open(path)?;
    let mut magic = Vec::new();
    Read::by_ref(&mut file).take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
    file.rewind()?;
    let file = BufReader::new(file);
    let plain: Box<dyn Read> =
        if magic == GZIP_MAGIC { Box::new(GzDecoder::new(file)) } else { Box::new(file) };
    for entry in tar::Archive::new(plain).entries()? {
        let entry = entry?;
        if entry.path()? == Path::new(MANIFEST) {
            let mut text = Vec::new();
            entry.take(MANIFEST_MAX).read_to_end(&mut text)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}
