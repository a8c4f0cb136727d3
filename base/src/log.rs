//! Log output: text on standard error.

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts logging. `filter` is a level such as `info`, or directives such as
/// `warn,outrigger_control_plane=debug`.
///
/// # Errors
/// When the filter is not valid.
pub fn init(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).finish();
    // A second call, as tests make, keeps the first subscriber.
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(())
}
