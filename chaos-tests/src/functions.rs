//! Specs of functions to deploy. Small ones: a test cluster shares its machine with others.

use std::path::Path;

use muster_api::FunctionSpec;
use serde_json::json;

use crate::cluster::programs;

/// The example function `faulty` in one of its modes, as a child process.
///
/// # Panics
/// Before a cluster was started: it builds the program.
pub fn faulty(mode: &str) -> FunctionSpec {
    let program = programs::built().join("faulty");
    let mut spec = spec(&json!({ "command": [program] }));
    spec.env.insert("MODE".into(), mode.into());
    spec
}

/// The same as a container of the image that [`programs::image`] has built.
pub fn faulty_image(image: &str, mode: &str) -> FunctionSpec {
    let mut spec = spec(&json!({ "image": image }));
    spec.env.insert("MODE".into(), mode.into());
    spec
}

/// The example function `alpha` or `beta`, as a child process, quick to load and to answer.
///
/// # Panics
/// Before a cluster was started: it builds the program.
pub fn example(name: &str) -> FunctionSpec {
    let program = programs::built().join(name);
    let mut spec = spec(&json!({ "command": [program] }));
    spec.env.insert("LOAD_MS".into(), "50".into());
    spec.env.insert("WORK_MS".into(), "5".into());
    spec
}

/// A spec whose program is at `path`, which need not be there.
pub fn command(path: impl AsRef<Path>) -> FunctionSpec {
    spec(&json!({ "command": [path.as_ref()] }))
}

fn spec(source: &serde_json::Value) -> FunctionSpec {
    let mut spec: FunctionSpec = serde_json::from_value(source.clone()).expect("a source alone is a spec");
    spec.memory_mb = 16;
    spec.cpu_millis = 20;
    spec.timeout_ms = 20_000;
    spec
}
