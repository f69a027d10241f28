//! The fence: no write leaves a process whose lease has run out.
//!
//! It stands in the client, below everything that writes, and looks at a clock that goes on while the process is frozen and
//! while the machine sleeps. It needs no word from whoever renews the lease: a process that was stopped for a minute finds it shut
//! with its first instruction.
//!
//! # Caveats
//! A write that had reached the socket when the process froze takes effect, as does one that waits in an API server which
//! is frozen itself. Those that carry what they expect to find (UID and version) are refused there when the world has moved on.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Request;
use kube::{Client, Config, client::ClientBuilder};
use tower::{BoxError, Layer, Service};

/// Time since the machine started, its sleep included; goes on while this process is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        Self(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default()))
    }

    /// How long ago it was.
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Lets writes pass until a moment. A clone is the same fence.
#[derive(Clone, Debug)]
pub struct Fence(Arc<AtomicU64>);

/// Why a write did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not lead (any more): nothing is written")]
pub struct Lapsed;

impl Fence {
    /// Lets everything pass: for a process that nobody competes with.
    pub fn open() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// Lets no write pass yet.
    pub fn shut() -> Self {
        Self(Arc::new(AtomicU64::new(0)))
    }

    /// From now on writes pass until `end`.
    pub fn open_until(&self, end: Moment) {
        self.0.store(u64::try_from(end.0.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// From now on no write passes.
    pub fn close(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Whether a write may pass now.
    pub fn check(&self) -> Result<(), Lapsed> {
        let now = u64::try_from(Moment::now().0.as_millis()).unwrap_or(u64::MAX);
        if now < self.0.load(Ordering::SeqCst) { Ok(()) } else { Err(Lapsed) }
    }

    /// A client whose writes this fence holds.
    ///
    /// # Errors
    /// What makes the configuration unusable.
    pub fn client(&self, config: Config) -> Result<Client, kube::Error> {
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }
}

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, fence: self.clone() }
    }
}

/// A service whose writes are held.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    fence: Fence,
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    S::Response: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<S::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reads = request.method().is_safe();
        let fence = self.fence.clone();
        let mut answer = Box::pin(self.inner.call(request));
        // Looked at each time the request goes on: it may freeze while it waits for its turn or for a connection.
        Box::pin(poll_fn(move |context| {
            if !reads && let Err(lapsed) = fence.check() {
                return Poll::Ready(Err(lapsed.into()));
            }
            answer.as_mut().poll(context).map_err(Into::into)
        }))
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    async fn send(fence: &Fence, method: &str) -> Result<(), BoxError> {
        let echo = service_fn(async |_: Request<()>| Ok::<(), BoxError>(()));
        let request = Request::builder().method(method).body(()).unwrap();
        fence.layer(echo).oneshot(request).await
    }

    #[tokio::test]
    async fn writes_pass_while_the_fence_is_open_and_reads_always() {
        let fence = Fence::shut();
        let writes = ["POST", "PUT", "PATCH", "DELETE"];
        for open in [false, true, false] {
            if open {
                fence.open_until(Moment::now() + Duration::from_mins(1));
            } else {
                fence.open_until(Moment::now());
            }
            assert!(send(&fence, "GET").await.is_ok());
            for method in writes {
                assert_eq!(send(&fence, method).await.is_ok(), open, "{method}");
            }
        }
        assert!(send(&Fence::open(), "PATCH").await.is_ok());
    }

    /// If this fails, a process that froze while it waited for a connection writes when it wakes up.
    #[tokio::test]
    async fn a_write_that_was_under_way_when_the_lease_ran_out_does_not_leave() {
        let fence = Fence::shut();
        fence.open_until(Moment::now() + Duration::from_mins(1));
        let (connected, connection) = tokio::sync::oneshot::channel::<()>();
        let mut connection = Some(connection);
        let left = Arc::new(AtomicU64::new(0));
        let sent = left.clone();
        let service = service_fn(move |_: Request<()>| {
            let (connection, sent) = (connection.take(), sent.clone());
            async move {
                connection.unwrap().await.unwrap();
                sent.fetch_add(1, Ordering::SeqCst);
                Ok::<(), BoxError>(())
            }
        });
        let write =
            tokio::spawn(fence.layer(service).oneshot(Request::builder().method("POST").body(()).unwrap()));
        tokio::task::yield_now().await;
        fence.close();
        connected.send(()).unwrap();
        assert!(write.await.unwrap().unwrap_err().is::<Lapsed>());
        assert_eq!(left.load(Ordering::SeqCst), 0);
    }
}
