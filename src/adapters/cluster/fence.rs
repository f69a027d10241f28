//! The fence: no write leaves a process whose lease has run out.
//!
//! It stands in the client, below everything that writes, and looks at a clock that goes on while the process is frozen and
//! while the machine sleeps. It needs no word from whoever renews the lease: a process that was stopped for a minute finds it shut
//! with its first instruction. Writes have connections of their own, and it is looked at where these go on: a request that has passed
//! every queue of the process, and waits for its turn to be written to the socket, is still held.
//!
//! # Caveats
//! A write that had reached the socket when the process froze takes effect, as does one that waits in an API server which
//! is frozen itself. Those that carry what they expect to find (UID and version) are refused there when the world has moved on.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Request;
use hyper::rt::Executor;
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{BoxError, Service, service_fn};

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
        let namespace = config.default_namespace.clone();
        let reads = Client::try_from(config.clone())?;
        let writes = ClientBuilder::try_from((config, self.clone()))?.build();
        let route = service_fn(move |request: Request<Body>| {
            let client = if request.method().is_safe() { reads.clone() } else { writes.clone() };
            async move { client.send(request).await }
        });
        Ok(ClientBuilder::new(Fenced { inner: route, fence: self.clone() }, namespace).build())
    }

    /// Goes on with some work as long as the fence is open, looked at each time.
    async fn held<T>(self, work: impl Future<Output = T>) -> Result<T, Lapsed> {
        let mut work = pin!(work);
        poll_fn(move |context| match self.check() {
            Ok(()) => work.as_mut().poll(context).map(Ok),
            Err(lapsed) => Poll::Ready(Err(lapsed)),
        })
        .await
    }
}

/// What a connection for writes does in the background, such as writing to its socket: with the fence it breaks off.
impl<F> Executor<F> for Fence
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, connection: F) {
        tokio::spawn(self.clone().held(connection));
    }
}

/// A service whose writes are held.
#[derive(Clone, Debug)]
struct Fenced<S> {
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
        let answer = self.inner.call(request);
        // Here as well, so that whoever asked learns why.
        Box::pin(async move {
            if reads {
                answer.await.map_err(Into::into)
            } else {
                fence.held(answer).await?.map_err(Into::into)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;

    async fn send(fence: &Fence, method: &str) -> Result<(), BoxError> {
        let echo = service_fn(async |_: Request<()>| Ok::<(), BoxError>(()));
        let request = Request::builder().method(method).body(()).unwrap();
        Fenced { inner: echo, fence: fence.clone() }.oneshot(request).await
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
        let request = Request::builder().method("POST").body(()).unwrap();
        let write = tokio::spawn(Fenced { inner: service, fence: fence.clone() }.oneshot(request));
        tokio::task::yield_now().await;
        fence.close();
        connected.send(()).unwrap();
        assert!(write.await.unwrap().unwrap_err().is::<Lapsed>());
        assert_eq!(left.load(Ordering::SeqCst), 0);
    }

    /// If this fails, a request that had left every queue when the process froze is written to the socket when it wakes up.
    #[tokio::test]
    async fn a_connection_for_writes_does_not_go_on_when_the_lease_has_run_out() {
        for open in [true, false] {
            let fence = Fence::open();
            let (turn, waits) = tokio::sync::oneshot::channel::<()>();
            let (wrote, written) = tokio::sync::oneshot::channel::<()>();
            fence.execute(async move {
                waits.await.unwrap();
                wrote.send(()).unwrap();
            });
            tokio::task::yield_now().await;
            if !open {
                fence.close();
            }
            turn.send(()).unwrap();
            assert_eq!(written.await.is_ok(), open);
        }
    }
}
