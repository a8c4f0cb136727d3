//! Waiting on conditions: every wait has a deadline and says at the end what was missing.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it gives a value; fails with the last reason after `deadline`.
pub async fn until<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let error = match probe().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} for {what}: {error:#}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
