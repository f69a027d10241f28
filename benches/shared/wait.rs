//! Waiting for what a large cluster takes its time for.

use std::time::{Duration, Instant};

use anyhow::ensure;

/// Asks until it holds.
pub async fn until(
    what: &str,
    pause: Duration,
    mut holds: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    const LIMIT: Duration = Duration::from_mins(20);
    let began = Instant::now();
    while !holds().await? {
        ensure!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(pause).await;
    }
    Ok(())
}
