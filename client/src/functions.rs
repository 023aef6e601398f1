//! Functions, their instances, and what the leader decided about them.

use std::time::{Duration, Instant};

use http::StatusCode;
use muster_api::{Decision, Function, FunctionSpec, Instance};

use crate::{Client, Error};

/// Between two looks at a function that is becoming ready.
const POLL: Duration = Duration::from_millis(200);

impl Client {
    /// Creates or changes a function. The first part tells whether it was created; it is `false`
    /// too when an attempt whose answer was lost had created it.
    pub async fn put_function(&self, name: &str, spec: &FunctionSpec) -> Result<(bool, Function), Error> {
        let (status, function) = self.put(&["v1", "functions", name], spec).await?;
        Ok((status == StatusCode::CREATED, function))
    }

    pub async fn functions(&self) -> Result<Vec<Function>, Error> {
        self.get(&["v1", "functions"], &[]).await
    }

    pub async fn function(&self, name: &str) -> Result<Function, Error> {
        self.get(&["v1", "functions", name], &[]).await
    }

    /// Deletes a function. One with live instances is refused (409) unless `force` is set.
    pub async fn delete_function(&self, name: &str, force: bool) -> Result<(), Error> {
        let query: &[_] = if force { &[("force", "true")] } else { &[] };
        self.delete(&["v1", "functions", name], query).await
    }

    /// Instances, of one function or of all. Ended ones are listed for a while.
    pub async fn instances(&self, function: Option<&str>) -> Result<Vec<Instance>, Error> {
        self.get(&["v1", "instances"], &of(function)).await
    }

    /// What the leader decided lately, and why; for one function or all.
    pub async fn decisions(&self, function: Option<&str>) -> Result<Vec<Decision>, Error> {
        self.get(&["v1", "decisions"], &of(function)).await
    }

    /// Waits until a function has as many instances of its present version ready as its
    /// `scaling.min` asks for; none are needed where that is zero.
    ///
    /// # Errors
    /// [`Error::NotReady`] when its launches crash again and again, or `within` runs out.
    pub async fn wait_ready(&self, name: &str, within: Duration) -> Result<Function, Error> {
        let began = Instant::now();
        loop {
            let function = self.function(name).await?;
            let wanted = function.spec.scaling.min;
            let ready = if wanted == 0 { 0 } else { self.ready(name, function.version).await? };
            let cause = function.last_failure.as_ref().map(|f| format!(": {f}")).unwrap_or_default();
            let gave_up = |why: String| Err(Error::NotReady { function: name.to_owned(), why });
            if ready >= wanted {
                return Ok(function);
            } else if function.health == "crash_loop" {
                return gave_up(format!("its instances fail again and again{cause}"));
            } else if began.elapsed() >= within {
                let waited = within.as_secs();
                return gave_up(format!("{ready} of {wanted} instances after {waited} s{cause}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ready(&self, name: &str, version: u64) -> Result<u32, Error> {
        let instances = self.instances(Some(name)).await?;
        let ready = instances.iter().filter(|i| i.version == version && i.phase == "ready").count();
        Ok(u32::try_from(ready).unwrap_or(u32::MAX))
    }
}

fn of(function: Option<&str>) -> Vec<(&'static str, &str)> {
    function.map(|name| ("function", name)).into_iter().collect()
}
