//! The server of probes and metrics, asked through real sockets.

use std::{net::SocketAddr, time::Duration};

use countersign::telemetry::{
    Metrics,
    http::{Error, PROBES, Readiness, Server, router},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// No single wait may take longer, except where a test waits for one of the server's own limits.
const PATIENCE: Duration = Duration::from_secs(10);

struct Running {
    addr: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

async fn running() -> Running {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), PROBES).await.unwrap();
    let (addr, readiness, shutdown) = (server.addr(), Readiness::default(), CancellationToken::new());
    let serving = tokio::spawn(server.serve(router(Metrics::new(), readiness.clone()), shutdown.clone()));
    Running { addr, readiness, shutdown, serving }
}

impl Running {
    /// Sends the request and reads until the server closes: so this also checks that it does.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        answer(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n")).await
    }
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // The server may close hard on those who go on sending; what came until then counts.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server closes");
    String::from_utf8(answer).unwrap()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn health_is_told_without_any_part_being_ready() {
    let running = running().await;
    let answer = running.get("/healthz").await;
    assert_eq!((status(&answer), body(&answer)), ("200", "ok\n"));
}

/// Otherwise traffic, and the judgement over an image, reaches a process that has not loaded its policies.
#[tokio::test]
async fn readiness_waits_for_every_named_part_and_names_the_missing() {
    let running = running().await;
    let answer = running.get("/readyz").await;
    assert_eq!((status(&answer), body(&answer)), ("503", ""), "no part was named yet");

    let policies = running.readiness.part("policies");
    let approvals = running.readiness.part("approvals");
    drop(running.readiness.part("workloads"));
    policies.ready();
    let answer = running.get("/readyz").await;
    assert_eq!((status(&answer), body(&answer)), ("503", "approvals\nworkloads\n"));

    approvals.ready();
    running.readiness.part("workloads").ready();
    let answer = running.get("/readyz").await;
    assert_eq!((status(&answer), body(&answer)), ("200", "ok\n"));

    running.readiness.part("policies");
    assert!(running.readiness.is_ready(), "naming a part again does not forget that it is ready");
    policies.not_ready();
    assert_eq!(running.readiness.missing(), ["policies"]);
}

#[tokio::test]
async fn metrics_are_served_as_open_metrics() {
    let answer = running().await.get("/metrics").await;
    assert_eq!(status(&answer), "200");
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(body(&answer).contains(concat!(
        "countersign_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"} 1\n"
    )));
    assert!(answer.ends_with("# EOF\n"));
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let running = running().await;
    assert_eq!(status(&running.get("/").await), "404");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: probe\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(status(&running.send(&request).await), "405", "{method} {path}");
        }
    }
}

/// Otherwise anyone who reaches the port can make the process hold as much memory as they send.
#[tokio::test]
async fn large_or_many_headers_are_refused() {
    let running = running().await;
    let large = format!("GET /healthz HTTP/1.1\r\nHost: probe\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET /healthz HTTP/1.1\r\nHost: probe\r\n{}\r\n", "X: x\r\n".repeat(200));
    for request in [large, many] {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        // The server may close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let answer = answer(&mut stream).await;
        assert!(matches!(status(&answer), "431" | ""), "{answer}");
    }
    assert_eq!(status(&running.get("/healthz").await), "200");
}

/// Otherwise a few connections that say nothing keep the kubelet's probe out until the process is restarted.
#[tokio::test]
async fn silent_connections_are_closed_and_do_not_keep_others_out() {
    let running = running().await;
    let mut silent = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(running.addr).await.unwrap();
        stream.write_all(b"GET /healthz HT").await.unwrap();
        silent.push(stream);
    }
    assert_eq!(status(&running.get("/healthz").await), "200");
    assert!(matches!(status(&answer(&mut silent[0]).await), "408" | ""));
}

#[tokio::test]
async fn shutdown_ends_what_has_begun_and_takes_nothing_new() {
    let running = running().await;
    let mut begun = TcpStream::connect(running.addr).await.unwrap();
    begun.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    // The answer to a later connection shows that the earlier one was accepted.
    running.get("/healthz").await;

    running.shutdown.cancel();
    begun.write_all(b"Host: probe\r\n\r\n").await.unwrap();
    assert_eq!(status(&answer(&mut begun).await), "200");
    timeout(PATIENCE, running.serving).await.expect("the server ends").unwrap();
    TcpStream::connect(running.addr).await.unwrap_err();
}

#[tokio::test]
async fn an_address_in_use_names_the_address_and_the_flag() {
    let first = Server::bind("127.0.0.1:0".parse().unwrap(), PROBES).await.unwrap();
    let error = Server::bind(first.addr(), PROBES).await.unwrap_err();
    assert!(matches!(error, Error::AddressInUse { .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "cannot serve metrics and probes: {} is in use; choose another address with --metrics-addr",
            first.addr()
        )
    );
}

#[tokio::test]
async fn an_address_of_another_machine_is_refused_with_the_reason_of_the_system() {
    // 192.0.2.0/24 is kept for documentation: no machine has it.
    let error = Server::bind("192.0.2.1:9090".parse().unwrap(), PROBES).await.unwrap_err();
    assert!(matches!(error, Error::Listen { .. }));
    assert!(error.to_string().contains("192.0.2.1:9090"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}
