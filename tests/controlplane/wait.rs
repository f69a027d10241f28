//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Asks `probe` again and again until it answers with a value; its errors say why the condition does not hold
/// yet.
///
/// ```ignore
/// eventually("the deployment is available", Duration::from_secs(30), async || {
///     let deployment = deployments.get("web").await?;
///     ensure!(is_available(&deployment), "{:?}", deployment.status);
///     Ok(deployment)
/// }).await
/// ```
///
/// # Panics
/// When the time is up, with the description and the last error.
#[track_caller]
pub fn eventually<T, P>(description: &str, timeout: Duration, probe: P) -> impl Future<Output = T>
where
    P: AsyncFnMut() -> anyhow::Result<T>,
{
    let caller = std::panic::Location::caller();
    async move {
        match within(timeout, probe).await {
            Ok(value) => value,
            Err(last) => panic!("{caller}: not within {timeout:?}: {description}; last seen: {last:#}"),
        }
    }
}

/// Like [`eventually`], but answers with the last error instead of panicking.
pub async fn within<T>(
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + timeout;
    let mut last = anyhow::anyhow!("the first look took too long");
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => return Err(last),
        }
        // A probe that waits for nothing is never late.
        if Instant::now() >= deadline {
            return Err(last);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
