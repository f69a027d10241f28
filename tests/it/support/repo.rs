//! Real repositories, made by the git program, and a server for them that can misbehave.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use countersign::domain::destination::Destinations;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, rustls, server::TlsStream};

/// A repository with a work tree, on branch `main`, empty at first.
pub struct Repo {
    directory: TempDir,
    /// Every commit is a minute younger than the one before.
    clock: AtomicU64,
}

impl Repo {
    pub fn new() -> Self {
        let repo = Self { directory: TempDir::new().unwrap(), clock: AtomicU64::new(1_700_000_000) };
        repo.git(&["init", "-q", "-b", "main"]);
        repo
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, path: &str, content: &str) -> &Self {
        self.write_bytes(path, content.as_bytes())
    }

    pub fn write_bytes(&self, path: &str, content: &[u8]) -> &Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Commits the whole work tree.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.head()
    }

    pub fn commit_file(&self, path: &str, content: &str) -> String {
        self.write(path, content).commit(&format!("Change {path}"))
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        self.git_with(arguments, b"")
    }

    /// Runs git with something on its standard input.
    pub fn git_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let date = format!("@{} +0000", self.clock.fetch_add(60, Ordering::Relaxed));
        let mut command = git();
        command
            .arg("-C")
            .arg(self.path())
            .args(["-c", "commit.gpgSign=false", "-c", "gc.auto=0"])
            .args(arguments);
        command.env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        String::from_utf8(run(command, input)).unwrap().trim_end().to_owned()
    }

    /// Makes a tree that git itself would not: lines of `<mode> <kind> <oid>\t<name>`.
    pub fn commit_tree(&self, entries: &[(&str, &str, &str, &[u8])]) -> String {
        let mut lines = Vec::new();
        for (mode, kind, oid, name) in entries {
            lines.extend(format!("{mode} {kind} {oid}\t").bytes());
            lines.extend(*name);
            lines.push(0);
        }
        let tree = self.git_with(&["mktree", "-z", "--missing"], &lines);
        let commit = self.git(&["commit-tree", &tree, "-m", "Odd tree"]);
        self.git(&["update-ref", "refs/heads/main", &commit]);
        commit
    }

    pub fn blob(&self, content: &[u8]) -> String {
        self.git_with(&["hash-object", "-w", "--stdin"], content)
    }

    /// Many small files in one commit, without a work tree.
    pub fn commit_many(&self, files: usize) -> String {
        let mut stream =
            "commit refs/heads/main\ncommitter A <a@example.com> 1700000000 +0000\ndata 4\nMany\n".to_owned();
        for n in 0..files {
            let content = format!("n: {n}\n");
            let directory = n / 100;
            let length = content.len();
            writeln!(stream, "M 644 inline d{directory}/f{n}.yaml\ndata {length}\n{content}").unwrap();
        }
        self.git_with(&["fast-import", "--quiet"], stream.as_bytes());
        self.git(&["rev-parse", "refs/heads/main"])
    }
}

/// Takes one object out of a bare repository with one pack.
pub fn lose_object(repository: &Path, oid: &str) {
    let packs = repository.join("objects/pack");
    let mut pack = fs::read_dir(&packs).unwrap().map(|entry| entry.unwrap().path());
    let pack = pack.find(|path| path.extension().unwrap() == "pack").unwrap();
    let bytes = fs::read(pack).unwrap();
    fs::remove_dir_all(&packs).unwrap();
    let mut unpack = git();
    unpack.arg("--git-dir").arg(repository).args(["unpack-objects", "-q"]);
    run(unpack, &bytes);
    fs::remove_file(repository.join("objects").join(&oid[..2]).join(&oid[2..])).unwrap();
}

fn git() -> Command {
    let mut command = Command::new("git");
    // Neither this machine's configuration nor a repository around the tests may have a say.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Ada").env(format!("GIT_{role}_EMAIL"), "ada@example.com");
    }
    command
}

fn run(mut command: Command, input: &[u8]) -> Vec<u8> {
    let output = output(&mut command, input);
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn output(command: &mut Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

/// Where a source of the root namespace may connect to: private addresses too.
pub fn roots() -> Destinations {
    Destinations::new(true, Arc::default())
}

/// How a server treats the requests that come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    Well,
    /// Only to who says this in `Authorization`.
    Needs(String),
    /// Answers everything with this status and these headers.
    Says(u16, Vec<(&'static str, String)>),
    /// The same, but only where a pack is asked for.
    SaysToPacks(u16, Vec<(&'static str, String)>),
    Status(u16),
    /// To this URL, with the rest of the request's path and query.
    RedirectTo(String),
    Html,
    /// Never answers.
    Hang,
    /// A list of references without an end.
    EndlessList,
    /// Says that it can end history somewhere, and cannot.
    NoDepth,
    /// Says where history ends without an end.
    EndlessShallow,
    /// Answers the request for a pack with progress messages without an end.
    EndlessProgress,
    /// The same, a few bytes at a time.
    Trickle,
    /// Breaks off in the middle of a pack.
    CutPack,
}

/// Serves one repository over HTTP or HTTPS on loopback.
pub struct GitHttp {
    /// The URL of the repository.
    pub url: String,
    /// Certificates to trust, with HTTPS.
    pub ca: Option<Vec<u8>>,
    shared: Arc<Shared>,
}

struct Shared {
    root: PathBuf,
    manner: Mutex<Manner>,
    lists: AtomicUsize,
    packs: AtomicUsize,
    agent: Mutex<String>,
    authorizations: Mutex<Vec<String>>,
}

impl GitHttp {
    pub async fn start(repo: &Repo) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/repo", listener.local_addr().unwrap().port());
        let shared = Shared::new(repo);
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, ca: None, shared }
    }

    pub async fn start_tls(repo: &Repo) -> Self {
        Self::start_tls_for(repo, None).await
    }

    /// With HTTPS, for clients whose certificate this authority issued.
    pub async fn start_tls_for(
        repo: &Repo,
        clients: Option<rustls::pki_types::CertificateDer<'static>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/repo", listener.local_addr().unwrap().port());
        let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(identity.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority).unwrap();
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let config = config.with_single_cert(vec![identity.cert.der().clone()], key).unwrap();
        let listener = TlsListener { tcp: listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
        let shared = Shared::new(repo);
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, ca: Some(identity.cert.pem().into_bytes()), shared }
    }

    pub fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// How often the references were asked for.
    pub fn lists(&self) -> usize {
        self.shared.lists.load(Ordering::SeqCst)
    }

    /// How often a pack was asked for.
    pub fn packs(&self) -> usize {
        self.shared.packs.load(Ordering::SeqCst)
    }

    /// What each request so far said in `Authorization`; empty: nothing.
    pub fn authorizations(&self) -> Vec<String> {
        self.shared.authorizations.lock().unwrap().clone()
    }

    /// The user agent seen last.
    pub fn agent(&self) -> String {
        self.shared.agent.lock().unwrap().clone()
    }
}

impl Shared {
    fn new(repo: &Repo) -> Arc<Self> {
        Arc::new(Self {
            root: repo.path().to_owned(),
            manner: Mutex::new(Manner::Well),
            lists: AtomicUsize::default(),
            packs: AtomicUsize::default(),
            agent: Mutex::default(),
            authorizations: Mutex::default(),
        })
    }
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.tcp.accept().await else { continue };
            // A client that does not trust us hangs up here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let path = head.uri.path().to_owned();
    let pack = path.ends_with("/git-upload-pack");
    if pack { &shared.packs } else { &shared.lists }.fetch_add(1, Ordering::SeqCst);
    *shared.agent.lock().unwrap() =
        head.headers.get("user-agent").map(|agent| agent.to_str().unwrap().to_owned()).unwrap_or_default();
    let said = head.headers.get("authorization").map(|said| said.to_str().unwrap().to_owned());
    let said = said.unwrap_or_default();
    shared.authorizations.lock().unwrap().push(said.clone());
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    // What comes before only settles what the pack is to hold.
    let last = body.ends_with(b"0009done\n");
    let deepens = body.windows(7).any(|window| window == b"deepen ");
    let good = |shared: Arc<Shared>| async move {
        tokio::task::spawn_blocking(move || http_backend(&shared.root, &path, &query, pack, &body))
            .await
            .unwrap()
    };

    let manner = shared.manner.lock().unwrap().clone();
    match manner {
        Manner::Needs(wanted) if wanted != said => {
            (axum::http::StatusCode::UNAUTHORIZED, [("www-authenticate", "Basic realm=\"git\"")])
                .into_response()
        }
        Manner::Says(status, headers) => says(status, headers),
        Manner::SaysToPacks(status, headers) if pack => says(status, headers),
        Manner::Status(status) => axum::http::StatusCode::from_u16(status).unwrap().into_response(),
        Manner::RedirectTo(base) => {
            if head.uri.path().starts_with("/moved") {
                return good(shared).await;
            }
            let to = format!("{base}/info/refs?{}", head.uri.query().unwrap_or_default());
            (axum::http::StatusCode::MOVED_PERMANENTLY, [("location", to)]).into_response()
        }
        Manner::Html => ([("content-type", "text/html")], "<h1>Please log in</h1>").into_response(),
        Manner::Hang => std::future::pending().await,
        Manner::EndlessList => {
            let line = b"00400123456789012345678901234567890123456789 refs/heads/endless\n";
            let first = b"001e# service=git-upload-pack\n0000".to_vec();
            endless(first, line.repeat(1000), Duration::ZERO, "advertisement")
        }
        Manner::NoDepth if deepens => {
            ([("content-type", "application/x-git-upload-pack-result")], "0008NAK\n").into_response()
        }
        Manner::EndlessShallow if pack => {
            let mut lines = String::new();
            for n in 0..1000 {
                write!(lines, "0034shallow {n:040x}").unwrap();
            }
            endless(Vec::new(), lines.into_bytes(), Duration::ZERO, "result")
        }
        Manner::EndlessProgress if last => {
            endless(b"0008NAK\n".to_vec(), b"000a\x02hello".repeat(5000), Duration::ZERO, "result")
        }
        Manner::Trickle if last => {
            endless(b"0008NAK\n".to_vec(), b"000a\x02hello".to_vec(), Duration::from_millis(20), "result")
        }
        Manner::CutPack if last => {
            let whole = good(shared).await;
            let bytes = axum::body::to_bytes(whole.into_body(), usize::MAX).await.unwrap();
            let half = bytes.slice(..bytes.len() / 2);
            ([("content-type", "application/x-git-upload-pack-result")], half).into_response()
        }
        Manner::Well
        | Manner::Needs(_)
        | Manner::SaysToPacks(..)
        | Manner::NoDepth
        | Manner::EndlessShallow
        | Manner::EndlessProgress
        | Manner::Trickle
        | Manner::CutPack => good(shared).await,
    }
}

fn says(status: u16, headers: Vec<(&'static str, String)>) -> Response {
    let mut response = axum::http::StatusCode::from_u16(status).unwrap().into_response();
    for (name, value) in headers {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

fn endless(first: Vec<u8>, more: Vec<u8>, pause: Duration, kind: &str) -> Response {
    let more = Bytes::from(more);
    let chunks = futures::stream::unfold(Some(Bytes::from(first)), move |first| {
        let more = more.clone();
        async move {
            if first.is_none() && !pause.is_zero() {
                // A paced server, not a wait: it answers this slowly.
                let pace = tokio::time::Instant::now() + pause;
                tokio::time::interval_at(pace, pause).tick().await;
            }
            Some((Ok::<_, std::io::Error>(first.unwrap_or(more)), None))
        }
    });
    let kind = format!("application/x-git-upload-pack-{kind}");
    ([("content-type", kind)], Body::from_stream(chunks)).into_response()
}

/// Runs git's own server program. The repository stands at `/repo`, and at `/moved`.
fn http_backend(root: &Path, path: &str, query: &str, post: bool, body: &[u8]) -> Response {
    let rest = path.trim_start_matches("/repo").trim_start_matches("/moved");
    let mut command = git();
    command.arg("http-backend");
    command.env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1").env("QUERY_STRING", query);
    command.env("PATH_INFO", format!("/.git{rest}")).env("REQUEST_METHOD", if post { "POST" } else { "GET" });
    command
        .env("CONTENT_TYPE", "application/x-git-upload-pack-request")
        .env("CONTENT_LENGTH", body.len().to_string());
    // It also fails when it refuses what was asked for, and says so in its answer.
    let output = output(&mut command, body).stdout;
    let split = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut response = Response::new(Body::from(output[split + 4..].to_vec()));
    for line in std::str::from_utf8(&output[..split]).unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        if name == "Status" {
            *response.status_mut() = value.split(' ').next().unwrap().parse().unwrap();
        } else {
            let name: axum::http::HeaderName = name.parse().unwrap();
            response.headers_mut().append(name, value.parse().unwrap());
        }
    }
    response
}
