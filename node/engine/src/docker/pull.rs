//! Images from registries.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{DockerEngine, READ_DEADLINE, credentials, within};
use crate::{EngineError, Progress};

const OPERATION: &str = "pull the image";
/// A registry that sends nothing for so long, or Docker, hangs.
const STALL_LIMIT: Duration = Duration::from_secs(120);

impl DockerEngine {
    /// Pulls an image; `told` hears how far it is.
    pub(super) async fn pull_image(
        &self,
        image: &str,
        told: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<(), EngineError> {
        let credentials = match &self.registry_auth {
            None => None,
            Some(file) => {
                let registry = match credentials::registry(image) {
                    Some(registry) => registry.to_owned(),
                    None => self.default_registry().await?,
                };
                let found = credentials::find(file, &registry).await;
                let operation = "read the registries' credentials";
                found.map_err(|source| EngineError::Refused { operation, source: source.into() })?
            }
        };
        let mut options = CreateImageOptionsBuilder::new().from_image(image);
        if !has_tag(image) {
            // Else Docker pulls every tag there is.
            options = options.tag("latest");
        }
        let mut answers = Box::pin(self.docker.create_image(Some(options.build()), None, credentials));
        let mut layers: HashMap<String, Progress> = HashMap::new();
        loop {
            let stalled = EngineError::Deadline { operation: OPERATION };
            let Some(answer) = timeout(STALL_LIMIT, answers.next()).await.map_err(|_| stalled)? else {
                return Ok(());
            };
            let info = answer.map_err(|error| EngineError::docker(OPERATION, error))?;
            // Layers are unpacked after they have arrived, which is told in the same words: only arrivals count.
            let arriving = info.status.as_deref() == Some("Downloading");
            let (Some(layer), Some(detail), true) = (info.id, info.progress_detail, arriving) else {
                continue;
            };
            let bytes = |count: Option<i64>| count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
            let (done, all) = (bytes(detail.current), bytes(detail.total));
            layers.insert(layer, Progress { done, all: all.max(done) });
            let sum = layers.values().fold(Progress::default(), |sum, layer| Progress {
                done: sum.done + layer.done,
                all: sum.all + layer.all,
            });
            told(sum);
        }
    }

    /// Where images are from whose names say nothing of it.
    async fn default_registry(&self) -> Result<String, EngineError> {
        let info = within("ask Docker for its registry", READ_DEADLINE, self.docker.info()).await?;
        Ok(info.index_server_address.unwrap_or_default())
    }
}

/// Whether a reference says which of a repository's images it means, by a tag or a digest.
fn has_tag(image: &str) -> bool {
    image.contains('@') || image.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        for (image, want) in [
            ("alpha", false),
            ("alpha:1", true),
            ("127.0.0.1:5000/alpha", false),
            ("127.0.0.1:5000/alpha:1", true),
            ("127.0.0.1:5000/alpha@sha256:00", true),
        ] {
            assert_eq!(has_tag(image), want, "{image}");
        }
    }
}
