//! Plain HTTP, and over it the probes and the metrics: `/healthz`, `/readyz`, `/metrics`.
//!
//! Everyone in the cluster may ask, so everything is bounded: connections at a time, headers, the time of a whole
//! exchange; one exchange for each connection. Of probes and metrics nothing but GET (and HEAD) is answered, no request body
//! is read, and the answers hold counts and states, no names.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::metrics::Metrics;

/// A kubelet and a few scrapers; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 32;
/// From accept to the last byte of the answer. Longer than a scraper's own time-out, so that it only ever hits those
/// who mean it.
const MAX_EXCHANGE: Duration = Duration::from_secs(15);
/// For the request line and all headers.
const MAX_HEAD_TIME: Duration = Duration::from_secs(5);
/// The smallest that hyper allows.
const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 32;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why nobody can ask.
#[derive(Debug, Error)]
pub enum Error {
    /// Another process has the address.
    #[error("cannot serve {what}: {addr} is in use; choose another address with {flag}")]
    AddressInUse {
        /// What was to be served.
        what: &'static str,
        /// The flag that names the address.
        flag: &'static str,
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// Any other reason the system gives.
    #[error("cannot serve {what} on {addr} (see {flag})")]
    Listen {
        /// What was to be served.
        what: &'static str,
        /// The flag that names the address.
        flag: &'static str,
        /// The address that was asked for.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// The cryptography that is built in does not offer what is needed.
    #[error("cannot serve {what} over TLS")]
    Tls {
        /// What was to be served.
        what: &'static str,
        /// The reason of the library.
        source: rustls::Error,
    },
}

/// What a server is for, in its errors.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// What is served.
    pub what: &'static str,
    /// The flag that names its address.
    pub flag: &'static str,
}

/// Metrics and probes.
pub const PROBES: Purpose = Purpose { what: "metrics and probes", flag: "--metrics-addr" };

/// A listener that already has its address. Bound apart from serving, so that a wrong address ends the start.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Server {
    /// Takes the address; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use or cannot be had.
    pub async fn bind(addr: SocketAddr, purpose: Purpose) -> Result<Self, Error> {
        let (listener, addr) = listen(addr, purpose).await?;
        Ok(Self { listener, addr })
    }

    /// The address that was taken.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `shutdown`, then lets the exchanges that have begun end.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let connections = TaskTracker::new();
        let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accepting = async {
            // The semaphore is never closed.
            while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
                let Some((stream, _)) = accept(&self.listener).await else { continue };
                let exchange = exchange(stream, router.clone());
                connections.spawn(async move {
                    exchange.await;
                    drop(permit);
                });
            }
        };
        shutdown.run_until_cancelled(accepting).await;
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// Says whether the process can do its work yet: when all parts that were named are ready. A clone is the same value.
///
/// Where no part was named nothing is ready: a probe that comes before the parts are made must not succeed.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, bool>>>);

impl Readiness {
    /// Names a part that must be ready before the process is. It stays missing until its handle says otherwise, also
    /// when the handle is dropped.
    pub fn part(&self, name: &'static str) -> PartHandle {
        self.parts(|parts| *parts.entry(name).or_insert(false));
        PartHandle { name, readiness: self.clone() }
    }

    /// Whether there are parts, and all are ready.
    pub fn is_ready(&self) -> bool {
        self.parts(|parts| !parts.is_empty() && parts.values().all(|ready| *ready))
    }

    /// The parts that are not ready, by name.
    pub fn missing(&self) -> Vec<&'static str> {
        self.parts(|parts| parts.iter().filter(|(_, ready)| !**ready).map(|(name, _)| *name).collect())
    }

    fn parts<T>(&self, with: impl FnOnce(&mut BTreeMap<&'static str, bool>) -> T) -> T {
        // No code that can panic runs under the lock.
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One part of [`Readiness`].
#[derive(Clone, Debug)]
pub struct PartHandle {
    name: &'static str,
    readiness: Readiness,
}

impl PartHandle {
    /// The part is loaded.
    pub fn ready(&self) {
        self.set(true);
    }

    /// The part is not loaded any more.
    pub fn not_ready(&self) {
        self.set(false);
    }

    fn set(&self, ready: bool) {
        self.readiness.parts(|parts| parts.insert(self.name, ready));
    }
}

/// What is answered. Tests of a single answer can call it without a socket.
pub fn router(metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(encode).with_state(metrics))
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    if readiness.is_ready() {
        return "ok\n".into_response();
    }
    let lines: String = readiness.missing().iter().flat_map(|part| [part, "\n"]).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn encode(State(metrics): State<Metrics>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.encode()).into_response()
}

/// Takes an address, and says which one it is.
pub(super) async fn listen(addr: SocketAddr, purpose: Purpose) -> Result<(TcpListener, SocketAddr), Error> {
    let Purpose { what, flag } = purpose;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => Error::AddressInUse { what, flag, addr },
        _ => Error::Listen { what, flag, addr, source },
    };
    let listener = TcpListener::bind(addr).await.map_err(failed)?;
    let addr = listener.local_addr().map_err(failed)?;
    Ok((listener, addr))
}

pub(super) async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            // Mostly: no more file descriptors. Without a pause this would spin until there are some.
            tracing::warn!(%error, "cannot accept a connection");
            sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn exchange(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(MAX_EXCHANGE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an exchange broke off"),
        Err(_) => tracing::debug!("an exchange took too long"),
    }
}
