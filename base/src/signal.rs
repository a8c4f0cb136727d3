//! Signals that ask a process to stop.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Resolves when the process is asked to stop, with the name of the signal.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop() -> std::io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// Resolves once the flag says that everything is to stop.
pub async fn stopped(mut flag: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    drop(flag.wait_for(|stop| *stop).await);
}
