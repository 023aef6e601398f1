//! SIGTERM and SIGINT.
//!
//! In a container the function is process 1, for which a signal without a handler does nothing: the
//! node would wait out its whole grace period. So the signals are watched from the first moment.

use std::future::Future;
use std::sync::OnceLock;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::Error;

/// Runs `load` before the function listens: whatever must be ready before the first request. A signal
/// to stop meanwhile ends the process with status 0, because nothing is in flight.
///
/// The time until the function listens is its cold start.
///
/// # Errors
/// [`Error::Signals`] where the system refuses to tell of signals.
pub async fn initialize<T>(load: impl Future<Output = T>) -> Result<T, Error> {
    let stop = requested()?;
    tokio::select! {
        loaded = load => Ok(loaded),
        () = stop => std::process::exit(0),
    }
}

/// Completes once the process was asked to stop, also if that was before this call but after an
/// earlier one: the process watches from the first call on. Call it within the process's one runtime.
pub(crate) fn requested() -> Result<impl Future<Output = ()> + Send + use<>, Error> {
    static STOPPED: OnceLock<watch::Receiver<bool>> = OnceLock::new();
    let mut stopped = match STOPPED.get() {
        Some(stopped) => stopped.clone(),
        None => {
            let watching = watch_signals().map_err(|source| Error::Signals { source })?;
            STOPPED.get_or_init(|| watching).clone()
        }
    };
    Ok(async move {
        // An error means that the runtime is going down, which is a stop as well.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    })
}

fn watch_signals() -> std::io::Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.send_replace(true);
    });
    Ok(stopped)
}
