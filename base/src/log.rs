//! Log output: text on standard error, with a filter that can be changed while running.

use std::{io::IsTerminal as _, sync::OnceLock};

use tracing_subscriber::{
    EnvFilter, Registry, filter::ParseError, fmt, layer::SubscriberExt as _, registry, reload,
};

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging. `filter` is a level such as `info`, or directives such as
/// `warn,outrigger_control_plane=debug`.
///
/// # Errors
/// When the filter is not valid.
pub fn init(filter: &str) -> Result<(), ParseError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(filter)?);
    let subscriber = registry().with(filter).with(
        fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr),
    );
    // A second call, as tests make, keeps the first subscriber and its handle.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        drop(FILTER.set(handle));
    }
    Ok(())
}

/// Changes the filter that [`init`] has set.
///
/// # Errors
/// When the filter is not valid.
pub fn set_filter(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    if let Some(handle) = FILTER.get() {
        // It fails only when the subscriber is gone, which is for ever.
        drop(handle.reload(filter));
    }
    Ok(())
}
