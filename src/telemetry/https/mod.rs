//! HTTPS for API servers that ask about admission: a server that is never the reason why something cannot be changed.
//!
//! - Its certificate is replaced while it serves: connections that are open go on, new ones see the new one.
//! - Connections are kept, and for longer than API servers keep them: who closes first may lose a request that is on its way,
//!   and API servers do not send it again. It is HTTP/1.1, as they speak nothing else to webhooks.
//! - Everyone who reaches the port may send anything, so everything is bounded, and no bound lets some keep out the others: when
//!   all places are taken, whoever has the most and is not being answered loses one; small bodies do not wait for large ones.
//! - Whatever goes wrong, there is a well-formed answer, and quickly: what is served says itself what that looks like.
//! - When it ends it first goes on for a while, as clients hear of the end later, and asks them to come back elsewhere.

mod body;
mod places;

use std::{
    convert::Infallible,
    fmt, io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures::FutureExt as _;
use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::RwLock;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    body::Budget,
    places::{Place, Places},
};
use super::http::{Error, Purpose, accept, listen};

/// What is answered, and what is said where that fails. Nothing here knows what is asked.
pub trait Answers: Send + Sync + 'static {
    /// Answers a request whose body is there, within its bounds.
    fn answer(&self, request: &Request<Bytes>) -> impl Future<Output = Response<Bytes>> + Send;

    /// Says that it is not answered. Of a body that is too large or late, the beginning is there.
    fn refuse(&self, refusal: Refusal, request: &Request<Bytes>) -> Response<Bytes>;
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too much is asked at once.
    Busy,
    /// Not everything that an answer needs is loaded.
    NotReady,
    /// The body is larger than any that is read.
    TooLarge,
    /// The time for an answer is over.
    TooLate,
    /// What answers has a bug.
    Panicked,
}

impl Refusal {
    /// The code that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Busy => StatusCode::TOO_MANY_REQUESTS,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooLate => StatusCode::GATEWAY_TIMEOUT,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "Countersign is asked too much at once; try again",
            Self::NotReady => "Countersign has begun and has not read everything yet; try again",
            Self::TooLarge => "this is larger than anything that Countersign reads",
            Self::TooLate => "Countersign had no answer in time; try again",
            Self::Panicked => "Countersign failed on this; its log says more",
        })
    }
}

/// How much of everything, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections. An API server keeps 25 open, and opens more while it asks more at once.
    pub connections: usize,
    /// Requests that are being answered.
    pub answering: usize,
    /// Bytes of one body. An object has at most 3 MiB, and a review holds two.
    pub body: usize,
    /// Bytes of all bodies, of each those after the first 64 KiB.
    pub bodies: usize,
    /// From the head of a request until its answer. Must be less than what the API server waits for.
    pub answer: Duration,
    /// From the first byte of a connection until the first request is there, its body apart.
    pub head: Duration,
    /// How long a connection may do nothing, or take for the head of another request. API servers close theirs after 90 s.
    pub idle: Duration,
    /// How long it goes on when it was told to end.
    pub drain: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 1024,
            answering: 256,
            body: 8 << 20,
            bodies: 32 << 20,
            answer: Duration::from_secs(3),
            head: Duration::from_secs(5),
            idle: Duration::from_secs(150),
            drain: Duration::from_secs(5),
        }
    }
}

/// For a request's line and headers. API servers send some hundred bytes.
const HEAD_BYTES: usize = 16 * 1024;
const HEADERS: usize = 64;

/// The certificate that is served. A clone is the same.
#[derive(Clone, Default)]
pub struct Served(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl Served {
    /// From now on, new connections see this one.
    pub fn set(&self, certified: Arc<CertifiedKey>) {
        *self.0.write() = Some(certified);
    }

    /// Whether there is one. Until then every connection is refused.
    pub fn is_set(&self) -> bool {
        self.0.read().is_some()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

/// Without the key.
impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Served").field(&self.is_set()).finish()
    }
}

/// A listener that already has its address. Bound apart from serving, so that a wrong address ends the start.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    acceptor: TlsAcceptor,
    bounds: Bounds,
}

impl Server {
    /// Takes the address; port 0 lets the system choose.
    ///
    /// # Errors
    /// The address is in use or cannot be had.
    pub async fn bind(
        addr: SocketAddr,
        purpose: Purpose,
        served: Served,
        bounds: Bounds,
    ) -> Result<Self, Error> {
        let config = config(served).map_err(|source| Error::Tls { what: purpose.what, source })?;
        let (listener, addr) = listen(addr, purpose).await?;
        Ok(Self { listener, addr, acceptor: TlsAcceptor::from(Arc::new(config)), bounds })
    }

    /// The address that was taken.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Answers until `shutdown`, and for [`Bounds::drain`] after it; then lets the requests that have begun end.
    pub async fn serve<A: Answers>(self, answers: Arc<A>, shutdown: CancellationToken) {
        let Self { listener, acceptor, bounds, .. } = self;
        let connections = TaskTracker::new();
        let abort = CancellationToken::new();
        let places = Arc::new(Places::new(bounds.connections, abort.clone()));
        let shared = Arc::new(Shared {
            answers,
            acceptor,
            bounds,
            answering: Semaphore::new(bounds.answering),
            budget: Budget::new(bounds.body, bounds.bodies),
            draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
        });
        let mut told = pin!(async {
            shutdown.cancelled().await;
            shared.draining.store(true, Ordering::Relaxed);
            sleep(bounds.drain).await;
        });
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener) => accepted,
                () = &mut told => break,
            };
            match accepted {
                Some((stream, peer)) => {
                    if let Some(place) = places.take(peer.ip()) {
                        connections.spawn(converse(stream, place, Arc::clone(&shared)));
                    }
                }
                // Mostly: no more file descriptors.
                None => places.free(),
            }
        }
        drop(listener);
        shared.closing.cancel();
        connections.close();
        if timeout(bounds.answer, connections.wait()).await.is_err() {
            abort.cancel();
            connections.wait().await;
        }
    }
}

/// No session is resumed: API servers do not ask for it, and whoever did would not look at the certificate again.
fn config(served: Served) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(served));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What all connections share.
struct Shared<A> {
    answers: Arc<A>,
    acceptor: TlsAcceptor,
    bounds: Bounds,
    answering: Semaphore,
    budget: Budget,
    /// Answers ask clients to come back on another connection.
    draining: AtomicBool,
    /// Nothing new is begun.
    closing: CancellationToken,
}

/// One connection, from its first byte to its last.
async fn converse<A: Answers>(stream: TcpStream, place: Place, shared: Arc<Shared<A>>) {
    let place = Arc::new(place);
    let asked = Arc::new(AtomicBool::new(false));
    let silent = async {
        sleep(shared.bounds.head).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let exchanges = async {
        // One request is one small packet, and so is its answer.
        stream.set_nodelay(true)?;
        let stream = shared.acceptor.accept(stream).await?;
        let service = service_fn(|request| {
            asked.store(true, Ordering::Relaxed);
            respond(request, Arc::clone(&place), Arc::clone(&shared))
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(shared.bounds.idle)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADERS)
                .serve_connection(TokioIo::new(stream), service)
        );
        tokio::select! {
            ended = &mut connection => return ended.map_err(io::Error::other),
            () = shared.closing.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await.map_err(io::Error::other)
    };
    tokio::select! {
        ended = exchanges => if let Err(error) = ended {
            tracing::debug!(%error, "a connection broke off");
        },
        () = silent => tracing::debug!("a connection asked nothing"),
        () = place.lost() => tracing::debug!("a connection was closed in favour of others"),
    }
}

async fn respond<A: Answers>(
    request: Request<Incoming>,
    place: Arc<Place>,
    shared: Arc<Shared<A>>,
) -> Result<Response<Body>, Infallible> {
    let until = tokio::time::Instant::now() + shared.bounds.answer;
    place.waits();
    let (head, incoming) = request.into_parts();
    let mut reading = shared.budget.reading();
    let read = timeout_at(until, reading.read(incoming)).await;
    let request = Request::from_parts(head, reading.content());
    let answered = match read {
        Err(_) => Err(Refusal::TooLate),
        Ok(Err(refusal)) => Err(refusal),
        Ok(Ok(())) => match shared.answering.try_acquire() {
            Err(_) => Err(Refusal::Busy),
            Ok(_permit) => {
                place.is_answered();
                answer(&*shared.answers, &request, until).await
            }
        },
    };
    let mut response =
        answered.unwrap_or_else(|refusal| shared.answers.refuse(refusal, &request)).map(Body::from);
    if !reading.ended() || shared.draining.load(Ordering::Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    place.waits();
    Ok(response)
}

async fn answer<A: Answers>(
    answers: &A,
    request: &Request<Bytes>,
    until: tokio::time::Instant,
) -> Result<Response<Bytes>, Refusal> {
    // The block: what panics before the first await is caught, too.
    let answer = AssertUnwindSafe(async { answers.answer(request).await }).catch_unwind();
    match timeout_at(until, answer).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => {
            tracing::error!(path = request.uri().path(), "answering a request panicked");
            Err(Refusal::Panicked)
        }
        Err(_) => Err(Refusal::TooLate),
    }
}
