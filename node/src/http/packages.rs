//! Packages: put one, see which there are.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode, header};
use muster_api as api;
use muster_core::accounts::Action;
use muster_core::ids::PackageDigest;
use muster_core::packages::{Command, Package};
use muster_core::{ClusterState, Command as Any};
use tokio::time::timeout;

use super::App;
use super::convert;
use super::extract::{Caller, Nothing, Params, Path, Read};
use super::problem::ApiError;
use crate::packages::{Files, Held, Unfit};

/// How long an upload may stand still.
const STALL_LIMIT: Duration = Duration::from_secs(60);

/// Stores what the body is, unless the cluster has it. Then the body is not read.
pub(super) async fn put(
    State(app): State<App>,
    caller: Caller,
    Path(digest): Path<String>,
    _: Params<Nothing>,
    request: Request,
) -> Result<(StatusCode, Json<api::Package>), ApiError> {
    let package: PackageDigest = digest.parse()?;
    must_deploy(&app, &caller).await?;
    let packages = &app.packages;
    let known = app.consensus.with_state(|state| state.packages.get(package).is_some());
    // What no node has any more, after a restore, is taken again.
    if known && let Ok(held) = packages.obtain(package).await {
        drop(held);
        return Ok((StatusCode::OK, Json(shown(&app, package, 0))));
    }
    app.consensus.check(&Any::Packages(Command::Store { package, bytes: 0 }))?;
    let _place = packages
        .uploads
        .try_acquire()
        .map_err(|_| ApiError::Overloaded("too many packages are being uploaded through this node"))?;
    let announced = announced(request.headers());
    if announced.is_some_and(|bytes| bytes > packages.bytes_max) {
        return Err(too_large(packages.bytes_max));
    }
    if !known {
        app.consensus.with_state(|state| state.packages.check_room(announced.unwrap_or(0)))?;
    }
    let files = packages.files().map_err(ApiError::Unavailable)?;
    let (held, bytes) = receive(files, package, request.into_body(), packages.bytes_max).await?;
    // Before anyone hears that the cluster has it: losing this node must not lose it.
    packages.copy_to_another(package, bytes).await.map_err(ApiError::Unavailable)?;
    app.consensus.propose(Any::Packages(Command::Store { package, bytes })).await??;
    drop(held);
    tracing::info!(%package, bytes, "a package was stored");
    Ok((StatusCode::CREATED, Json(shown(&app, package, bytes))))
}

/// Those there are, for whoever may deploy a function.
pub(super) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(read): Params<Read>,
) -> Result<Json<Vec<api::Package>>, ApiError> {
    read.consistency.settle(&app).await?;
    must_deploy(&app, &caller).await?;
    let published = app.consensus.state();
    let state = &published.state;
    let visible = |name: &muster_core::ids::FunctionName| super::functions::may_see(state, &caller, name);
    let mut users = users(state, visible);
    let all = state.packages.iter();
    Ok(Json(all.map(|(digest, known)| convert_one(digest, known, users.remove(&digest))).collect()))
}

/// The functions whose kept versions are of each package.
fn users(
    state: &ClusterState,
    visible: impl Fn(&muster_core::ids::FunctionName) -> bool,
) -> std::collections::BTreeMap<PackageDigest, Vec<String>> {
    let mut users = std::collections::BTreeMap::<_, Vec<String>>::new();
    for (name, function) in state.functions.iter().filter(|(name, _)| visible(name)) {
        let of: std::collections::BTreeSet<_> =
            function.versions().iter().filter_map(|version| version.spec.source.package()).collect();
        for package in of {
            users.entry(package).or_default().push(name.to_string());
        }
    }
    users
}

fn convert_one(digest: PackageDigest, known: &Package, functions: Option<Vec<String>>) -> api::Package {
    api::Package {
        digest: digest.to_string(),
        bytes: known.bytes,
        stored_at: convert::time(known.stored_at),
        functions: functions.unwrap_or_default(),
    }
}

fn shown(app: &App, package: PackageDigest, bytes: u64) -> api::Package {
    let published = app.consensus.state();
    match published.state.packages.get(package) {
        Some(known) => convert_one(package, known, None),
        // Forgotten since; it was stored all the same.
        None => api::Package {
            digest: package.to_string(),
            bytes,
            stored_at: convert::time(published.state.clock),
            functions: Vec::new(),
        },
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(bytes_max: u64) -> ApiError {
    ApiError::TooLarge { max_bytes: usize::try_from(bytes_max).unwrap_or(usize::MAX) }
}

async fn receive(
    files: &Files,
    package: PackageDigest,
    body: Body,
    bytes_max: u64,
) -> Result<(Held, u64), ApiError> {
    let cannot_write = |error: std::io::Error| {
        tracing::warn!(%package, %error, "a package could not be written");
        ApiError::Unavailable("this node cannot write the package: its disk is full or fails".into())
    };
    let mut arrival = files.begin(package).map_err(cannot_write)?;
    let mut chunks = body.into_data_stream();
    loop {
        let chunk = timeout(STALL_LIMIT, chunks.next()).await;
        let Some(chunk) = chunk.map_err(|_| ApiError::TooSlow { limit: STALL_LIMIT })? else { break };
        let chunk = chunk.map_err(|_| ApiError::BadRequest("the body broke off".into()))?;
        if arrival.bytes() + chunk.len() as u64 > bytes_max {
            return Err(too_large(bytes_max));
        }
        arrival.write(&chunk).map_err(cannot_write)?;
    }
    let bytes = arrival.bytes();
    let finished = tokio::task::spawn_blocking(move || arrival.finish()).await;
    match finished.map_err(|_| ApiError::Unavailable("the package could not be checked".into()))? {
        Ok(held) => Ok((held, bytes)),
        Err(unfit @ Unfit::Digest { .. }) => Err(ApiError::BadRequest(unfit.to_string())),
        Err(Unfit::Io(error)) => Err(cannot_write(error)),
    }
}

/// Whoever may create or change some function may give the cluster what it is made of.
async fn must_deploy(app: &App, caller: &Caller) -> Result<(), ApiError> {
    let allowed = || app.consensus.with_state(|state| may_deploy(state, caller));
    if allowed() {
        return Ok(());
    }
    // The grant may have been made through another node a moment ago.
    app.consensus.linearize().await?;
    match allowed() {
        true => Ok(()),
        false => Err(ApiError::Forbidden(format!("`{}` may not deploy any function", caller.account))),
    }
}

fn may_deploy(state: &ClusterState, caller: &Caller) -> bool {
    let account = &caller.account;
    state.accounts.is_admin(account)
        || state.functions.owned_by(account).is_some()
        || state
            .accounts
            .get(account.as_str())
            .is_some_and(|known| known.grants.values().any(|actions| actions.contains(&Action::Manage)))
}
