//! The server that API servers ask, through real TLS connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use countersign::{
    adapters::certificate::{Pair, make},
    domain::certificate::Terms,
    telemetry::{
        http::{Error, Purpose},
        https::{Answers, Bounds, Refusal, Served, Server},
    },
};
use http::{Request, Response};
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::controlplane::eventually;

/// No single wait may take longer, except where a test waits for one of the server's own limits.
const PATIENCE: Duration = Duration::from_secs(20);
const NAME: &str = "webhook.example";
const PURPOSE: Purpose = Purpose { what: "admission", flag: "--webhook-addr" };

/// Says how much it read; holds what it is told to hold; fails where it is told to.
struct Echo {
    /// How many requests are held.
    held: AtomicUsize,
    /// Lets them go.
    release: Semaphore,
}

impl Answers for Echo {
    async fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        match request.uri().path() {
            "/panic" => panic!("as this test wants it"),
            "/panic-later" => {
                tokio::task::yield_now().await;
                panic!("as this test wants it")
            }
            "/hang" => std::future::pending().await,
            "/hold" => {
                self.held.fetch_add(1, Ordering::SeqCst);
                let _ = self.release.acquire().await;
                self.held.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Response::new(Bytes::from(format!("read {}", request.body().len())))
    }

    fn refuse(&self, refusal: Refusal, request: &Request<Bytes>) -> Response<Bytes> {
        let body = format!("{refusal:?} {} {}", request.uri().path(), request.body().len());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = refusal.status();
        response
    }
}

struct Running {
    addr: SocketAddr,
    served: Served,
    pair: Pair,
    echo: Arc<Echo>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

fn new_pair() -> Pair {
    let now = Timestamp::now();
    make(&[NAME.to_owned()], Terms::default().life_from(now), now).unwrap()
}

async fn running(bounds: Bounds) -> Running {
    let (served, pair, shutdown) = (Served::default(), new_pair(), CancellationToken::new());
    served.set(pair.certificate().certified());
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), PURPOSE, served.clone(), bounds).await.unwrap();
    let echo = Arc::new(Echo { held: AtomicUsize::new(0), release: Semaphore::new(0) });
    let addr = server.addr();
    let serving = tokio::spawn(server.serve(Arc::clone(&echo), shutdown.clone()));
    Running { addr, served, pair, echo, shutdown, serving }
}

/// A client that trusts these authorities only.
pub fn trusts(bundle: &str) -> TlsConnector {
    trusts_and_speaks(bundle, &[b"http/1.1"])
}

fn trusts_and_speaks(bundle: &str, protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(authority.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

struct Connection(TlsStream<TcpStream>);

async fn connect(addr: SocketAddr, connector: &TlsConnector) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(addr).await?;
    Ok(Connection(connector.connect(ServerName::try_from(NAME)?, stream).await?))
}

/// An answer: its status, its head, its body.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn closes(&self) -> bool {
        self.head.to_lowercase().contains("\r\nconnection: close\r\n")
    }
}

fn post(path: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {length}\r\n\r\n")
}

impl Connection {
    async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(bytes).await?;
        Ok(self.0.flush().await?)
    }

    async fn post(&mut self, path: &str, length: usize) -> anyhow::Result<Answer> {
        self.write(post(path, length).as_bytes()).await?;
        self.write(&vec![b'x'; length]).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<Answer> {
        timeout(PATIENCE, self.read_answer()).await.context("no answer")?
    }

    async fn read_answer(&mut self) -> anyhow::Result<Answer> {
        let mut read = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&read);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() == length.context("a length")?.parse::<usize>()? {
                    let status = head.split(' ').nth(1).context("a status")?.parse()?;
                    return Ok(Answer { status, head: format!("{head}\r\n"), body: body.to_owned() });
                }
            }
            ensure!(self.0.read_buf(&mut read).await? > 0, "it is closed");
        }
    }

    /// Waits until the server closes, which it may do without a word.
    async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("the server closes");
        assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
    }
}

impl Running {
    async fn connect(&self) -> Connection {
        connect(self.addr, &trusts(self.pair.authority())).await.unwrap()
    }

    async fn held(&self, count: usize) {
        eventually("requests are held", PATIENCE, async || {
            let held = self.echo.held.load(Ordering::SeqCst);
            ensure!(held == count, "{held}");
            Ok(())
        })
        .await;
    }
}

/// If this fails, each renewal of the certificate is a moment in which nothing can be changed in the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_swapped_a_hundred_times_under_load_without_a_lost_request() {
    const SWAPS: usize = 100;
    let running = running(Bounds::default()).await;
    let pairs: Vec<Pair> = (0..SWAPS).map(|_| new_pair()).collect();
    let all: String = pairs.iter().chain([&running.pair]).map(Pair::authority).collect();
    let answered = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for keeps in [true, true, true, false, false, false] {
        let (connector, addr) = (trusts(&all), running.addr);
        let (answered, done) = (Arc::clone(&answered), Arc::clone(&done));
        clients.spawn(async move {
            let mut connection = connect(addr, &connector).await?;
            while !done.load(Ordering::SeqCst) {
                if !keeps {
                    connection = connect(addr, &connector).await?;
                }
                let answer = connection.post("/", 10_000).await?;
                ensure!(answer.status == 200 && answer.body == "read 10000", "{answer:?}");
                answered.fetch_add(1, Ordering::SeqCst);
            }
            anyhow::Ok(())
        });
    }
    let mut before = &running.pair;
    for pair in &pairs {
        running.served.set(pair.certificate().certified());
        connect(running.addr, &trusts(pair.authority())).await.expect("who trusts the new one is served it");
        let old = connect(running.addr, &trusts(before.authority())).await;
        assert!(old.is_err(), "who trusts only the old one is served the new one");
        before = pair;
        let seen = answered.load(Ordering::SeqCst);
        eventually("requests go on", PATIENCE, async || {
            let more = answered.load(Ordering::SeqCst) - seen;
            ensure!(more > 12, "{more}");
            Ok(())
        })
        .await;
    }
    done.store(true, Ordering::SeqCst);
    let mut ended = 0;
    while let Some(client) = clients.join_next().await {
        client.unwrap().expect("no request is lost");
        ended += 1;
    }
    assert_eq!(ended, 6, "all went on to the end, three of them on one connection");
}

#[tokio::test]
async fn nothing_is_served_before_there_is_a_certificate_and_only_http_1() {
    let served = Served::default();
    let bound =
        Server::bind("127.0.0.1:0".parse().unwrap(), PURPOSE, served.clone(), Bounds::default()).await;
    let (server, pair) = (bound.unwrap(), new_pair());
    let addr = server.addr();
    let echo = Arc::new(Echo { held: AtomicUsize::new(0), release: Semaphore::new(0) });
    tokio::spawn(server.serve(echo, CancellationToken::new()));
    let connector = trusts(pair.authority());
    assert!(connect(addr, &connector).await.is_err());

    served.set(pair.certificate().certified());
    let both = trusts_and_speaks(pair.authority(), &[b"h2", b"http/1.1"]);
    let mut connection = connect(addr, &both).await.unwrap();
    assert_eq!(connection.0.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(connection.post("/", 3).await.unwrap().body, "read 3");
    let error = connect(addr, &trusts_and_speaks(pair.authority(), &[b"h2"])).await.err().unwrap();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
}

/// Otherwise a few connections that say nothing keep the API server out.
#[tokio::test]
async fn who_is_slow_to_ask_is_closed() {
    let running = running(Bounds { head: Duration::from_millis(300), ..Bounds::default() }).await;
    let mut silent = TcpStream::connect(running.addr).await.unwrap();
    let (mut shaken, mut begun, mut asked) =
        (running.connect().await, running.connect().await, running.connect().await);
    begun.write(b"POST / HTTP/1.1\r\nHost: webh").await.unwrap();
    assert_eq!(asked.post("/", 1).await.unwrap().status, 200);
    assert_eq!(timeout(PATIENCE, silent.read(&mut [0])).await.expect("it is closed").unwrap_or(0), 0);
    shaken.is_closed().await;
    begun.is_closed().await;
    assert_eq!(asked.post("/", 2).await.unwrap().body, "read 2", "who asked once is kept");
}

/// API servers keep connections for 90 s; whoever closes one first may lose what is on its way.
#[tokio::test]
async fn a_connection_that_does_nothing_is_closed_in_the_end() {
    let idle = Duration::from_millis(300);
    let running = running(Bounds { idle, ..Bounds::default() }).await;
    let mut connection = running.connect().await;
    connection.post("/", 1).await.unwrap();
    let began = Instant::now();
    connection.is_closed().await;
    assert!(began.elapsed() >= idle, "{:?}", began.elapsed());
    assert!(Bounds::default().idle > Duration::from_secs(90));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let running = running(Bounds::default()).await;
    for head in [format!("X: {}\r\n", "x".repeat(64 * 1024)), "X: x\r\n".repeat(100)] {
        let mut connection = running.connect().await;
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n");
        // The server may close before it has read all.
        let _ = connection.write(request.as_bytes()).await;
        if let Ok(answer) = connection.answer().await {
            assert_eq!(answer.status, 431);
        }
    }
    assert_eq!(running.connect().await.post("/", 1).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_in_time() {
    let running = running(Bounds { answer: Duration::from_millis(300), ..Bounds::default() }).await;
    let mut connection = running.connect().await;
    connection.write(post("/slow", 5000).as_bytes()).await.unwrap();
    connection.write(&[b'x'; 3000]).await.unwrap();
    let answer = connection.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (504, "TooLate /slow 3000"));
    assert!(answer.closes(), "the rest of the body is no request");
    connection.is_closed().await;
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up_in_time() {
    let running = running(Bounds { answer: Duration::from_millis(300), ..Bounds::default() }).await;
    let mut connection = running.connect().await;
    let answer = connection.post("/hang", 10).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (504, "TooLate /hang 10"));
    assert_eq!(connection.post("/", 10).await.unwrap().body, "read 10");
}

/// If this fails, one who sends large bodies makes the process hold as much memory as they like.
#[tokio::test]
async fn a_huge_body_is_refused_with_an_answer_and_the_connection_goes_on() {
    let running = running(Bounds { body: 100_000, ..Bounds::default() }).await;
    let mut connection = running.connect().await;
    assert_eq!(connection.post("/", 100_000).await.unwrap().body, "read 100000");
    let answer = connection.post("/huge", 100_001).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (413, "TooLarge /huge 1024"));
    assert_eq!(connection.post("/", 7).await.unwrap().body, "read 7");

    // Without a length, and without an end.
    connection
        .write(b"POST /endless HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 50_000, "x".repeat(50_000));
    let (mut reader, mut writer) = tokio::io::split(connection.0);
    let writing = tokio::spawn(async move { while writer.write_all(chunk.as_bytes()).await.is_ok() {} });
    let mut read = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut read)).await.expect("the server closes");
    let read = String::from_utf8(read).unwrap();
    assert!(read.starts_with("HTTP/1.1 413 ") && read.ends_with("TooLarge /endless 1024"), "{read}");
    timeout(PATIENCE, writing).await.unwrap().unwrap();
}

/// If this fails, whoever sends large bodies keeps small ones from being answered.
#[tokio::test]
async fn large_bodies_share_a_budget_and_small_ones_need_none() {
    let running = running(Bounds { bodies: 200_000, ..Bounds::default() }).await;
    let mut holder = running.connect().await;
    holder.write(post("/hold", 200_000).as_bytes()).await.unwrap();
    holder.write(&vec![b'x'; 200_000]).await.unwrap();
    running.held(1).await;
    let mut other = running.connect().await;
    let answer = other.post("/", 200_000).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (429, "Busy / 1024"));
    assert_eq!(other.post("/", 60_000).await.unwrap().status, 200);
    running.echo.release.add_permits(1);
    assert_eq!(holder.answer().await.unwrap().body, "read 200000");
    assert_eq!(other.post("/", 200_000).await.unwrap().status, 200, "what was held is free again");
}

#[tokio::test]
async fn too_much_at_once_is_refused_at_once() {
    let running = running(Bounds { answering: 4, ..Bounds::default() }).await;
    let mut holders = Vec::new();
    for _ in 0..4 {
        let mut holder = running.connect().await;
        holder.write(post("/hold", 0).as_bytes()).await.unwrap();
        holders.push(holder);
    }
    running.held(4).await;
    let mut other = running.connect().await;
    let began = Instant::now();
    for _ in 0..20 {
        let answer = other.post("/", 500).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (429, "Busy / 500"), "the whole body is there");
    }
    assert!(began.elapsed() < Bounds::default().answer / 2, "{:?}", began.elapsed());
    running.echo.release.add_permits(4);
    for holder in &mut holders {
        assert_eq!(holder.answer().await.unwrap().status, 200);
    }
    assert_eq!(other.post("/", 500).await.unwrap().status, 200);
}

/// If this fails, a Pod that opens connections and keeps them locks the cluster.
#[tokio::test]
async fn too_many_connections_do_not_keep_others_out_nor_end_what_is_answered() {
    let running = running(Bounds { connections: 8, ..Bounds::default() }).await;
    let mut holder = running.connect().await;
    holder.write(post("/hold", 0).as_bytes()).await.unwrap();
    running.held(1).await;
    let mut many = Vec::new();
    for _ in 0..40 {
        let mut connection = running.connect().await;
        // Half of them look like good clients.
        if many.len() % 2 == 0 {
            assert_eq!(connection.post("/", 1).await.unwrap().status, 200);
        }
        many.push(connection);
    }
    for connection in many.iter_mut().take(40 - 7) {
        connection.is_closed().await;
    }
    assert_eq!(many[39].post("/", 5).await.unwrap().body, "read 5", "the last ones are kept");
    running.echo.release.add_permits(1);
    assert_eq!(holder.answer().await.unwrap().status, 200);
}

/// A bug over one object must be a denial of that object, not of everything.
#[tokio::test]
async fn a_panic_is_an_answer() {
    let running = running(Bounds::default()).await;
    let mut connection = running.connect().await;
    for path in ["/panic", "/panic-later"] {
        let answer = connection.post(path, 9).await.unwrap();
        assert_eq!((answer.status, answer.body), (500, format!("Panicked {path} 9")));
    }
    assert_eq!(connection.post("/", 9).await.unwrap().body, "read 9");
}

/// If this fails, each restart and each upgrade makes requests fail.
#[tokio::test]
async fn at_the_end_clients_are_sent_elsewhere_first_and_what_has_begun_ends() {
    let running = running(Bounds { drain: Duration::from_secs(2), ..Bounds::default() }).await;
    let (mut idle, mut used, mut holder) =
        (running.connect().await, running.connect().await, running.connect().await);
    for connection in [&mut idle, &mut used] {
        assert!(!connection.post("/", 1).await.unwrap().closes());
    }
    holder.write(post("/hold", 0).as_bytes()).await.unwrap();
    running.held(1).await;

    running.shutdown.cancel();
    let late = eventually("the end is told", PATIENCE, async || {
        let mut late = running.connect().await;
        let answer = late.post("/", 2).await?;
        ensure!(answer.status == 200 && answer.closes(), "{answer:?}");
        Ok(late)
    });
    let mut late = late.await;
    late.is_closed().await;
    let answer = used.post("/", 3).await.unwrap();
    assert!(answer.body == "read 3" && answer.closes(), "{answer:?}");
    idle.is_closed().await;
    TcpStream::connect(running.addr).await.unwrap_err();

    assert!(!running.serving.is_finished(), "one request has begun");
    running.echo.release.add_permits(1);
    let answer = holder.answer().await.unwrap();
    assert!(answer.status == 200 && answer.closes(), "{answer:?}");
    timeout(PATIENCE, running.serving).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn who_does_not_go_does_not_keep_the_server_from_ending() {
    let (drain, answer) = (Duration::ZERO, Duration::from_millis(300));
    let running = running(Bounds { drain, answer, ..Bounds::default() }).await;
    let mut half = running.connect().await;
    half.write(b"POST / HTTP/1.1\r\nHost").await.unwrap();
    let unshaken = TcpStream::connect(running.addr).await.unwrap();
    running.connect().await.post("/", 1).await.unwrap();
    running.shutdown.cancel();
    timeout(PATIENCE, running.serving).await.expect("the server ends").unwrap();
    drop((half, unshaken));
}

#[tokio::test]
async fn an_address_in_use_names_the_address_and_the_flag() {
    let running = running(Bounds::default()).await;
    let again = Server::bind(running.addr, PURPOSE, Served::default(), Bounds::default()).await;
    let Err(error) = again else { panic!("it is in use") };
    assert!(matches!(error, Error::AddressInUse { .. }));
    assert!(error.to_string().ends_with("choose another address with --webhook-addr"), "{error}");
}
