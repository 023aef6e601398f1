//! Images out of packages. What is loaded gets names of this node's own: an image that has the same name on
//! this host stays what it is, and nothing else loaded here takes the place of the package's.

use std::io::{self, Read, Write};
use std::path::Path;

use bollard::query_parameters::{
    ImportImageOptionsBuilder, ListImagesOptionsBuilder, RemoveImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muster_core::ids::PackageDigest;
use serde_json::{Value, json};
use tar::{Archive, Builder, EntryType};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{DockerEngine, LOAD_DEADLINE, READ_DEADLINE, docker_status, within};
use crate::EngineError;
use crate::package::{self, ENTRIES_MAX, PackageError, UNPACKED_BYTES_MAX};

const MANIFEST: &str = "manifest.json";
/// They name the same images again, in other ways; the manifest alone is to count.
const OTHER_NAMES: [&str; 3] = ["repositories", "index.json", "oci-layout"];
const MANIFEST_MAX: u64 = 4 << 20;
/// Pieces on their way to Docker.
const PIECES_AHEAD: usize = 8;
const PIECE_BYTES: usize = 128 << 10;

impl DockerEngine {
    /// The repository that images of a package are in.
    fn repository(&self, package: PackageDigest) -> String {
        format!("muster-package/{}-{}/{}", self.cluster, self.node, package.hex())
    }

    /// The id of an image that was loaded from a package; `None` if it is not loaded.
    pub(super) async fn loaded(
        &self,
        package: PackageDigest,
        image: &str,
    ) -> Result<Option<String>, EngineError> {
        let name = own_name(&self.repository(package), image);
        match within("inspect the image", READ_DEADLINE, self.docker.inspect_image(&name)).await {
            Ok(found) => Ok(found.id),
            Err(error) if docker_status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives Docker the images of a package, under names of this node.
    pub(super) async fn load(&self, package: PackageDigest, file: &Path) -> Result<(), EngineError> {
        const OPERATION: &str = "load the package's images";
        let (pieces, arriving) = mpsc::channel(PIECES_AHEAD);
        let (file, repository) = (file.to_owned(), self.repository(package));
        let renaming = tokio::task::spawn_blocking(move || {
            let done = rename(&file, &repository, Pieces { piece: Vec::new(), pieces: pieces.clone() });
            if done.is_err() {
                // Docker must not take what came for the whole.
                let _gone =
                    pieces.blocking_send(Err(io::Error::other("the package is not an image archive")));
            }
            done
        });
        let body = stream::unfold(arriving, |mut arriving| async {
            let piece: io::Result<Bytes> = arriving.recv().await?;
            Some((piece, arriving))
        });
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut answers = Box::pin(self.docker.import_image_stream(options, body, None));
        let loading = async {
            let mut outcome = Ok(());
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(info) => {
                        if let Some(detail) = info.error_detail {
                            let problem = detail.message.unwrap_or_default();
                            outcome = Err(EngineError::Unexpected { operation: OPERATION, problem });
                        }
                    }
                    Err(error) => outcome = Err(EngineError::docker(OPERATION, error)),
                }
            }
            outcome
        };
        let loaded = timeout(LOAD_DEADLINE, loading).await;
        drop(answers);
        // Its own mistake explains Docker's.
        match renaming.await {
            Ok(Err(source)) if !is_closed(&source) => Err(EngineError::BadPackage { package, source }),
            _ => loaded.unwrap_or(Err(EngineError::Deadline { operation: OPERATION })),
        }
    }

    /// Removes images of packages that are not among `keep`, unless a container is of them.
    pub(super) async fn unload_all_but(
        &self,
        keep: &std::collections::BTreeSet<PackageDigest>,
    ) -> Result<(), EngineError> {
        let options = ListImagesOptionsBuilder::new().build();
        let images = within("list the images", READ_DEADLINE, self.docker.list_images(Some(options))).await?;
        let own = format!("muster-package/{}-{}/", self.cluster, self.node);
        for name in images.iter().flat_map(|image| &image.repo_tags) {
            let Some(rest) = name.strip_prefix(&own) else { continue };
            let digest = rest.split('/').next().and_then(PackageDigest::from_hex);
            if digest.is_some_and(|digest| keep.contains(&digest)) {
                continue;
            }
            let options = RemoveImageOptionsBuilder::new().force(false).build();
            let removal = self.docker.remove_image(name, Some(options), None);
            match within("remove the image", READ_DEADLINE, removal).await {
                Ok(_) => tracing::info!(image = name, "the image of a package was removed"),
                // A container is of it, or it is gone.
                Err(error) if matches!(docker_status(&error), Some(404 | 409)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_closed(error: &PackageError) -> bool {
    matches!(error, PackageError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe)
}

/// What an image of a package is called on this host.
fn own_name(repository: &str, image: &str) -> String {
    let image = tagged(image);
    let (name, tag) = image.rsplit_once(':').expect("it was given a tag");
    // A registry's port is no part of a path.
    format!("{repository}/{}:{tag}", name.replace(':', "_"))
}

fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// Copies an image archive with other names in its manifest.
fn rename(file: &Path, repository: &str, to: Pieces) -> Result<(), PackageError> {
    let mut archive = Archive::new(package::open(file, UNPACKED_BYTES_MAX)?);
    let mut out = Builder::new(to);
    let mut named = false;
    for (count, entry) in archive.entries()?.enumerate() {
        if count >= ENTRIES_MAX {
            return Err(PackageError::TooMuch { max: ENTRIES_MAX as u64, what: "entries" });
        }
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mut header = entry.header().clone();
        if OTHER_NAMES.iter().any(|other| path == Path::new(other)) {
            continue;
        }
        if path == Path::new(MANIFEST) {
            let mut text = Vec::new();
            entry.take(MANIFEST_MAX).read_to_end(&mut text)?;
            let manifest = renamed(&text, repository).map_err(PackageError::Malformed)?;
            header.set_size(manifest.len() as u64);
            out.append_data(&mut header, MANIFEST, manifest.as_slice())?;
            named = true;
            continue;
        }
        match header.entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                out.append_link(&mut header, &path, &target)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::Directory => {
                header.set_size(entry.size());
                out.append_data(&mut header, &path, &mut entry)?;
            }
            _ => {}
        }
    }
    if !named {
        let problem = format!("it is no image archive: it has no `{MANIFEST}` (make it with `docker save`)");
        return Err(PackageError::Malformed(problem));
    }
    out.into_inner()?.flush()?;
    Ok(())
}

/// The manifest with each image's names made this node's own.
fn renamed(manifest: &[u8], repository: &str) -> Result<Vec<u8>, String> {
    let mut images: Vec<serde_json::Map<String, Value>> =
        serde_json::from_slice(manifest).map_err(|error| format!("its `{MANIFEST}`: {error}"))?;
    for image in &mut images {
        let names = image.get("RepoTags").and_then(Value::as_array).cloned().unwrap_or_default();
        let names: Vec<String> =
            names.iter().filter_map(Value::as_str).map(|name| own_name(repository, name)).collect();
        image.insert("RepoTags".into(), json!(names));
    }
    serde_json::to_vec(&images).map_err(|error| error.to_string())
}

/// Hands on what is written, in pieces of one size.
struct Pieces {
    piece: Vec<u8>,
    pieces: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.pieces.blocking_send(Ok(piece)).map_err(|_gone| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_get_names_of_the_node_s_own() {
        for (image, own) in [
            ("alpha", "r/alpha:latest"),
            ("muster/alpha:1", "r/muster/alpha:1"),
            ("localhost:5000/a", "r/localhost_5000/a:latest"),
            ("localhost:5000/a:b", "r/localhost_5000/a:b"),
        ] {
            assert_eq!(own_name("r", image), own);
        }
        let manifest = br#"[{"Config":"c.json","RepoTags":["a:1","b/c:2"],"Layers":["l"]},{"Config":"d","RepoTags":null}]"#;
        let renamed: Value = serde_json::from_slice(&renamed(manifest, "r").unwrap()).unwrap();
        assert_eq!(renamed[0], json!({"Config":"c.json","RepoTags":["r/a:1","r/b/c:2"],"Layers":["l"]}));
        assert_eq!(renamed[1]["RepoTags"], json!([]));
    }
}
