//! Images for the tests, made in memory: no registry and no builder are needed.

use bollard::Docker;
use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image says of itself.
pub(crate) struct Image<'a> {
    pub tag: &'a str,
    pub architecture: &'a str,
    pub user: &'a str,
    pub entrypoint: &'a [&'a str],
}

/// This machine's architecture in Docker's words.
pub(crate) fn native() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Image<'_> {
    /// Gives it to Docker, with the fixture as its only file: `/program`.
    pub(crate) async fn load(&self, docker: &Docker) -> anyhow::Result<()> {
        let archive = self.archive(&std::fs::read(crate::program::path())?)?;
        let body = bollard::body_full(Bytes::from(archive));
        let options = ImportImageOptionsBuilder::new().build();
        docker.import_image(options, body, None).try_collect::<Vec<_>>().await?;
        Ok(())
    }

    /// The format of `docker save`: a manifest, a configuration and one layer.
    pub(crate) fn archive(&self, program: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (config, layer) = self.parts(program)?;
        let manifest = json!([{ "Config": "config.json", "RepoTags": [self.tag], "Layers": ["layer.tar"] }]);
        tar_of(&[
            ("layer.tar", &layer, 0o644),
            ("config.json", config.as_bytes(), 0o644),
            ("manifest.json", manifest.to_string().as_bytes(), 0o644),
        ])
    }

    /// Its configuration and its layer.
    pub(crate) fn parts(&self, program: &[u8]) -> anyhow::Result<(String, Vec<u8>)> {
        let layer = tar_of(&[("program", program, 0o755)])?;
        let diff_id: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
        let config: Value = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "User": self.user, "Labels": { "tag": self.tag } },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        });
        Ok((config.to_string(), layer))
    }
}

pub(crate) fn tar_of(files: &[(&str, &[u8], u32)]) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes, mode) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(bytes.len())?);
        header.set_mode(*mode);
        tar.append_data(&mut header, name, *bytes)?;
    }
    Ok(tar.into_inner()?)
}
