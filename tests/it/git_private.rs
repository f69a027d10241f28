//! Private repositories: credentials reach whom they are for, and nobody else; SSH; versions; how deep history is fetched.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign::adapters::{
    chain,
    git::{
        ClientCertificate, Credentials, Error, Head, HttpsKeys, Keys, Login, Mirrors, Reference, Remote,
        SshKeys,
    },
};
use tempfile::TempDir;

use crate::support::{
    repo::{GitHttp, Manner, Repo, roots},
    ssh::{Sshd, holds},
    trap::Trap,
};

const KEY: &str = "apps/source";
const LONG: Duration = Duration::from_mins(1);
const SECRET: &str = "apps/git";
const PASSWORD: &str = "hunter2-and-more";

struct Setup {
    cache: TempDir,
    mirrors: Mirrors,
    remote: Remote,
}

impl Setup {
    fn new(url: &str, keys: impl Into<Option<Keys>>) -> Self {
        let cache = TempDir::new().unwrap();
        let mirrors = Mirrors::new(cache.path());
        let remote = Remote {
            url: url.to_owned(),
            reference: Reference::Branch("main".to_owned()),
            credentials: None,
            destinations: roots(),
        };
        let mut setup = Self { cache, mirrors, remote };
        setup.with(keys);
        setup
    }

    fn with(&mut self, keys: impl Into<Option<Keys>>) {
        self.remote.credentials =
            keys.into().map(|keys| Arc::new(Credentials { secret: SECRET.to_owned(), keys }));
    }

    async fn fetch(&self) -> Result<Head, Error> {
        self.mirrors.fetch(KEY, &self.remote, LONG).await
    }

    async fn commit(&self) -> String {
        self.fetch().await.unwrap_or_else(|error| panic!("{}", chain(&error))).commit.to_string()
    }

    /// The reason of a failure, and all that is told about it.
    async fn refusal(&self) -> (&'static str, String) {
        let error = self.fetch().await.unwrap_err();
        (error.reason(), format!("{} {error:?}", chain(&error)))
    }

    async fn descends(&self, head: &str, ancestor: &str) -> bool {
        let (head, ancestor) = (head.parse().unwrap(), ancestor.parse().unwrap());
        self.mirrors.descends(KEY, &self.remote, head, ancestor, LONG).await.unwrap()
    }

    fn is_shallow(&self) -> bool {
        self.mirrors.open(KEY, &self.remote).unwrap().is_shallow()
    }
}

fn basic(password: &str) -> Login {
    Login::Basic { username: "ada".to_owned(), password: password.into() }
}

fn https(login: impl Into<Option<Login>>, ca: Option<&[u8]>) -> Keys {
    let ca = ca.map(|ca| String::from_utf8(ca.to_vec()).unwrap());
    Keys::Https(HttpsKeys { login: login.into(), certificate: None, ca })
}

fn encoded() -> String {
    STANDARD.encode(format!("ada:{PASSWORD}"))
}

/// The usual private repository, and what its owner is told when something is wrong.
#[tokio::test]
async fn a_private_repository_opens_with_a_password_or_a_token() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start_tls(&repo).await;
    let ca = server.ca.as_deref();
    for (login, said) in [
        (basic(PASSWORD), format!("Basic {}", encoded())),
        (Login::Bearer(PASSWORD.into()), format!("Bearer {PASSWORD}")),
    ] {
        server.behave(Manner::Needs(said.clone()));
        let before = server.authorizations().len();
        let mut setup = Setup::new(&server.url, https(login, ca));
        assert_eq!(setup.commit().await, commit);
        let said_so_far = server.authorizations();
        assert!(said_so_far.len() > before + 1 && said_so_far[before..].iter().all(|each| *each == said));

        setup.with(https(basic("hunter3"), ca));
        let (reason, told) = setup.refusal().await;
        assert_eq!(reason, "AccessDenied");
        assert!(told.contains(SECRET) && told.contains("401") && !told.contains("hunter"), "{told}");
        setup.with(https(None, ca));
        let (reason, told) = setup.refusal().await;
        assert_eq!(reason, "AccessDenied");
        assert!(told.contains("spec.secretRef"), "{told}");
    }
}

/// Where the connection itself proves who asks.
#[tokio::test]
async fn a_private_repository_opens_with_a_client_certificate() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).unwrap();
    let issuer = rcgen::Issuer::new(params, authority);
    let issue = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["ada".to_owned()]).unwrap().signed_by(&key, &issuer);
        (certificate.unwrap().pem(), key.serialize_pem())
    };
    let ((chain, key), (_, other_key)) = (issue(), issue());
    let server = GitHttp::start_tls_for(&repo, Some(root.der().clone())).await;
    let keys = |chain: &str, key: &str| {
        let certificate = ClientCertificate { chain: chain.to_owned(), key: key.into() };
        let ca = String::from_utf8(server.ca.clone().unwrap()).unwrap();
        Keys::Https(HttpsKeys { login: None, certificate: Some(certificate), ca: Some(ca) })
    };
    let mut setup = Setup::new(&server.url, keys(&chain, &key));
    assert_eq!(setup.commit().await, commit);

    setup.with(https(None, server.ca.as_deref()));
    assert_eq!(setup.refusal().await.0, "FetchFailed", "the server hangs up");
    for (chain, key, told_of) in [
        (chain.as_str(), other_key.as_str(), "tls.key is not the key"),
        (chain.as_str(), PASSWORD, "PEM form"),
        (PASSWORD, key.as_str(), "PEM form"),
    ] {
        setup.with(keys(chain, key));
        let (reason, told) = setup.refusal().await;
        assert_eq!(reason, "InvalidCredentials", "{told}");
        assert!(told.contains(told_of) && told.contains(SECRET) && !told.contains(PASSWORD), "{told}");
        assert!(!told.contains("PRIVATE KEY"), "{told}");
    }
}

/// The servers that a hostile one would like to send us to must not even hear of us.
#[tokio::test]
async fn credentials_seen_by_a_hostile_server_none() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let (server, tls) = (GitHttp::start(&repo).await, GitHttp::start_tls(&repo).await);
    let trap = Trap::set();
    let own = |server: &GitHttp| -> u16 { url::Url::parse(&server.url).unwrap().port().unwrap() };
    let elsewhere = |own: u16| {
        let port = trap.port;
        [
            format!("http://127.0.0.1:{port}/repo"),
            format!("https://127.0.0.1:{port}/repo"),
            format!("http://localhost:{port}/repo"),
            format!("//127.0.0.1:{port}/repo"),
            format!("http://127.0.0.1:{own}@127.0.0.1:{port}/repo"),
            format!("http://ada:other@127.0.0.1:{own}/repo"),
            format!("ssh://127.0.0.1:{port}/repo"),
            format!("file://{}", repo.path().display()),
        ]
    };
    let mut asked = 0;
    for (server, others) in [
        // The same machine under another name, and the same port with another scheme.
        (
            &server,
            [
                format!("http://localhost:{}/repo", own(&server)),
                format!("https://127.0.0.1:{}/repo", own(&server)),
            ],
        ),
        (
            &tls,
            [format!("https://127.0.0.1:{}/repo", own(&tls)), format!("http://localhost:{}/repo", own(&tls))],
        ),
    ] {
        let setup = Setup::new(&server.url, https(basic(PASSWORD), server.ca.as_deref()));
        for to in elsewhere(own(server)).into_iter().chain(others) {
            for status in [301, 302, 303, 307, 308] {
                let location = format!("{to}/info/refs?service=git-upload-pack");
                server.behave(Manner::Says(status, vec![("location", location)]));
                let before = server.authorizations().len();
                let (reason, told) = setup.refusal().await;
                assert_eq!(reason, "Redirected", "{status} {to}: {told}");
                assert!(!told.contains(PASSWORD) && !told.contains(&encoded()), "{told}");
                assert_eq!(server.authorizations().len(), before + 1, "{status} {to}");
                asked += 1;
            }
            // In the middle of a fetch, when all seemed well.
            server.behave(Manner::SaysToPacks(307, vec![("location", format!("{to}/git-upload-pack"))]));
            let fresh = Setup::new(&server.url, https(basic(PASSWORD), server.ca.as_deref()));
            assert_eq!(fresh.refusal().await.0, "Redirected", "{to}");
        }
        for header in
            ["www-authenticate", "proxy-authenticate", "link", "refresh", "alt-svc", "content-location"]
        {
            for status in [200, 401, 403, 407] {
                let port = trap.port;
                let value = match header {
                    "www-authenticate" | "proxy-authenticate" => {
                        format!(
                            "Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"git\",scope=\"pull\""
                        )
                    }
                    "link" => format!("<http://127.0.0.1:{port}/repo>; rel=\"next\""),
                    "refresh" => format!("0; url=http://127.0.0.1:{port}/repo"),
                    "alt-svc" => format!("h2=\":{port}\", http/1.1=\":{port}\""),
                    _ => format!("http://127.0.0.1:{port}/repo"),
                };
                server.behave(Manner::Says(status, vec![(header, value)]));
                let (_, told) = setup.refusal().await;
                assert!(!told.contains(PASSWORD) && !told.contains(&encoded()), "{told}");
                asked += 1;
            }
        }
        // A place on the same scheme, host and port is the same server.
        server.behave(Manner::RedirectTo(server.url.replace("/repo", "/moved")));
        assert_eq!(setup.commit().await, commit);
        assert!(server.authorizations().iter().all(|said| *said == format!("Basic {}", encoded())));
    }
    assert!(asked > 100);
    assert_eq!(trap.seen(), "");
    let _ = reqwest::get(format!("http://127.0.0.1:{}/repo", trap.port)).await;
    assert!(trap.seen().contains("GET /repo"), "whoever comes is seen");
}

/// What is not encrypted is readable on the way, also where the proxy is nearer than the server.
#[tokio::test]
async fn credentials_are_not_sent_in_clear() {
    let trap = Trap::set();
    for host in ["git.example", "10.255.255.1", "localhost.example"] {
        let setup = Setup::new(&format!("http://{host}:{}/repo", trap.port), https(basic(PASSWORD), None));
        let started = Instant::now();
        let (reason, told) = setup.refusal().await;
        assert_eq!(reason, "InvalidCredentials");
        assert!(told.contains("https://") && told.contains(SECRET) && !told.contains(PASSWORD), "{told}");
        assert!(started.elapsed() < Duration::from_secs(5), "nobody is asked");
    }
    assert_eq!(trap.seen(), "");
}

/// A proxy is named with its password in the environment, where whole processes share it: so this runs itself again.
#[tokio::test]
async fn proxies_are_those_of_the_environment_and_what_opens_them_is_not_told() {
    const CHILD: &str = "COUNTERSIGN_TEST_BEHIND_A_PROXY";
    if let Ok(url) = std::env::var(CHILD) {
        let (reason, told) = Setup::new(&url, https(basic(PASSWORD), None)).refusal().await;
        println!("told: {reason} {told}");
        return;
    }
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    server.behave(Manner::Status(500));
    let run = async |url: &str, no_proxy: &str| {
        let proxy = Trap::set();
        let at = format!("http://ada:proxy-hunter2@127.0.0.1:{}", proxy.port);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture"]);
        command.arg("git_private::proxies_are_those_of_the_environment_and_what_opens_them_is_not_told");
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
            command.env(name, &at);
        }
        command.env("NO_PROXY", no_proxy).env("no_proxy", no_proxy).env(CHILD, url);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(told.contains("told: FetchFailed"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
        proxy.seen()
    };
    let seen = run("https://git.invalid/repo", "").await;
    assert!(seen.contains("CONNECT git.invalid:443") && !seen.contains(&encoded()), "{seen}");
    assert_eq!(run("https://git.invalid/repo", "git.invalid").await, "");
    // In clear, and so not through anybody else, even where the environment says so.
    assert_eq!(run(&server.url, "").await, "");
    assert_eq!(server.authorizations(), [format!("Basic {}", encoded())]);
}

fn ssh(identity: String, passphrase: Option<&str>, known_hosts: String) -> Keys {
    Keys::Ssh(SshKeys { identity: identity.into(), passphrase: passphrase.map(Into::into), known_hosts })
}

/// The other usual private repository: clone, fetch again, fetch what is new, tags and versions.
#[tokio::test]
async fn follows_a_branch_over_ssh() {
    let repo = Repo::new();
    let first = repo.commit_file("a.yaml", "a: 1\n");
    let sshd = Sshd::start().await;
    let url = sshd.url(repo.path());
    let mut setup = Setup::new(&url, ssh(sshd.identity(), None, sshd.known_hosts()));
    assert_eq!(setup.commit().await, first);
    assert_eq!(setup.commit().await, first);
    for n in 2..40 {
        repo.commit_file("a.yaml", &format!("a: {n}\n"));
    }
    let last = repo.head();
    assert_eq!(setup.commit().await, last);
    assert!(setup.descends(&last, &first).await && !setup.descends(&first, &last).await);

    repo.git(&["tag", "v1.2.0", &first]);
    setup.remote.reference = Reference::Semver("1.x".to_owned());
    assert_eq!(setup.commit().await, first);
    setup.remote.reference = Reference::Commit(last.clone());
    assert_eq!(setup.commit().await, last);
    setup.remote.reference = Reference::Branch("gone".to_owned());
    assert_eq!(setup.refusal().await.0, "ReferenceNotFound");
    setup.remote.url = sshd.url(Path::new("/nowhere/at/all"));
    assert_eq!(setup.refusal().await.0, "RepositoryNotFound");
    setup.remote.url = sshd.url(Repo::new().path());
    let (reason, told) = setup.refusal().await;
    assert_eq!(reason, "RepositoryNotFound", "{told}");

    // Nothing of the keys stays behind.
    assert_eq!(fs::read_dir(setup.cache.path().join("ssh")).unwrap().count(), 0);
    assert!(!holds(setup.cache.path(), "PRIVATE KEY").unwrap());
}

/// Each calls for something else; and a server whose host key is not pinned must not be believed, nor hear anything of the key.
#[tokio::test]
async fn ssh_refuses_what_is_wrong_and_says_what_to_mend() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let sshd = Sshd::start().await;
    let url = sshd.url(repo.path());
    let elsewhere = sshd.known_hosts().replace("127.0.0.1", "192.0.2.1");
    let locked = sshd.locked(PASSWORD);
    for (keys, reason, told_of) in [
        (Some(ssh(sshd.stranger(), None, sshd.known_hosts())), "AccessDenied", "refuses the credentials"),
        (Some(ssh(sshd.identity(), None, elsewhere)), "HostKeyRefused", "does not stand"),
        (Some(ssh(sshd.identity(), None, sshd.other_known_hosts())), "HostKeyRefused", "another one"),
        (
            Some(ssh(locked.clone(), Some("hunter3"), sshd.known_hosts())),
            "AccessDenied",
            "not its passphrase",
        ),
        (Some(ssh("hunter3".to_owned(), None, sshd.known_hosts())), "InvalidCredentials", "no private key"),
        (Some(https(basic(PASSWORD), None)), "InvalidCredentials", "for HTTPS"),
        (None, "InvalidCredentials", "spec.secretRef"),
    ] {
        let (got, told) = Setup::new(&url, keys).refusal().await;
        assert_eq!(got, reason, "{told}");
        assert!(told.contains(told_of) && !told.contains("hunter"), "{told_of}: {told}");
        assert!(told.contains(SECRET) || told_of == "spec.secretRef", "{told}");
    }
    assert!(!sshd.log().contains("Accepted publickey"), "{}", sshd.log());

    let setup = Setup::new(&url, ssh(locked, Some(PASSWORD), sshd.known_hosts()));
    assert_eq!(setup.commit().await, commit);
    assert!(sshd.log().contains("Accepted publickey"), "{}", sshd.log());
    assert!(!holds(setup.cache.path(), PASSWORD).unwrap());
}

/// What a killed operator left must not lie about.
#[tokio::test]
async fn ssh_keys_of_an_earlier_run_are_swept() {
    let cache = TempDir::new().unwrap();
    let left = cache.path().join("ssh/1-0");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("identity"), PASSWORD).unwrap();
    let _mirrors = Mirrors::new(cache.path());
    assert!(!holds(cache.path(), PASSWORD).unwrap());
}

/// A server that hangs must cost its own source a time-out, and leave neither a process nor a key.
#[tokio::test]
async fn an_ssh_fetch_ends_when_its_time_is_up() {
    // It takes connections, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ssh://git@127.0.0.1:{}/repo", silent.local_addr().unwrap().port());
    let sshd = Sshd::start().await;
    let setup = Setup::new(&url, ssh(sshd.identity(), None, sshd.known_hosts()));
    let started = Instant::now();
    let error = setup.mirrors.fetch(KEY, &setup.remote, Duration::from_millis(700)).await.unwrap_err();
    assert_eq!(error.reason(), "TimedOut", "{}", chain(&error));
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let (mut connection, _) = silent.accept().unwrap();
    connection.set_read_timeout(Some(LONG / 4)).unwrap();
    let mut greeting = Vec::new();
    connection.read_to_end(&mut greeting).expect("ssh is gone, and with it the connection");
    assert!(greeting.starts_with(b"SSH-2.0-"));
    assert_eq!(fs::read_dir(setup.cache.path().join("ssh")).unwrap().count(), 0);
    drop(silent);
    assert_eq!(setup.refusal().await.0, "FetchFailed");
}

/// The tag that is rolled out is the highest version, wherever the repository is.
#[tokio::test]
async fn the_highest_version_of_a_range_is_followed() {
    let repo = Repo::new();
    let mut commits = Vec::new();
    for tag in ["v1.2.0", "v1.9.0", "1.10.0", "v2.0.0-rc.1", "latest"] {
        commits.push(repo.commit_file("a.yaml", &format!("a: {tag}\n")));
        repo.git(&["tag", "-a", tag, "-m", tag]);
    }
    // A name that is not UTF-8 must not stop anything.
    let mut packed = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    packed.extend(format!("{} refs/tags/", commits[0]).bytes());
    packed.extend(b"v9.0.0\xff\n");
    fs::write(repo.path().join(".git/packed-refs"), packed).unwrap();
    let server = GitHttp::start(&repo).await;
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        let mut setup = Setup::new(url, None);
        let mut highest = async |range: &str| {
            setup.remote.reference = Reference::Semver(range.to_owned());
            setup.fetch().await.map(|head| (head.commit.to_string(), head.tag.unwrap()))
        };
        for (range, n, tag) in
            [(">=1.2.0 <2.0.0", 2, "1.10.0"), ("~1.9", 1, "v1.9.0"), (">=2.0.0-rc.0", 3, "v2.0.0-rc.1")]
        {
            assert_eq!(highest(range).await.unwrap(), (commits[n].clone(), tag.to_owned()), "{url}");
        }
        let error = highest(">=2").await.unwrap_err();
        assert_eq!(error.reason(), "ReferenceNotFound");
        assert!(error.to_string().contains("range >=2"), "{error}");
        assert_eq!(highest("newest").await.unwrap_err().reason(), "InvalidReference");
        repo.git(&["tag", "v1.11.0", &commits[4]]);
        let newest = (commits[4].clone(), "v1.11.0".to_owned());
        assert_eq!(highest("1").await.unwrap(), newest, "{url}: a new tag");
        repo.git(&["tag", "-d", "v1.11.0"]);
        setup.remote.reference = Reference::Tag("v1.9.0".to_owned());
        assert_eq!(setup.fetch().await.unwrap().tag, None, "nothing is chosen");
    }
}

/// Commits in a line, made fast; the first of them and the last.
fn long_history(repo: &Repo, commits: usize) -> (String, String) {
    use std::fmt::Write as _;
    let mut stream = String::new();
    for n in 0..commits {
        let content = format!("n: {n}\n");
        let (time, length) = (1_700_000_000 + n, content.len());
        write!(
            stream,
            "commit refs/heads/main\ncommitter A <a@example.com> {time} +0000\ndata 2\nn\nM 644 inline a.yaml\ndata {length}\n{content}\n"
        )
        .unwrap();
    }
    repo.git_with(&["fast-import", "--quiet"], stream.as_bytes());
    (repo.git(&["rev-list", "--max-parents=0", "main"]), repo.git(&["rev-parse", "main"]))
}

/// A first look must not take a repository's whole past; but "does not descend" is only said by who has seen all of it.
#[tokio::test]
async fn history_is_fetched_as_deep_as_it_is_needed() {
    let repo = Repo::new();
    let (root, head) = long_history(&repo, 1000);
    let back = |n: usize| repo.git(&["rev-parse", &format!("main~{n}")]);
    let (near, middle) = (back(80), back(150));
    repo.git(&["branch", "side", &back(900)]);
    let side = repo.git(&["commit-tree", "-p", "side", "-m", "side", &format!("{head}^{{tree}}")]);
    let server = GitHttp::start(&repo).await;
    let sshd = Sshd::start().await;
    let over_ssh = ssh(sshd.identity(), None, sshd.known_hosts());
    for (url, keys) in [(server.url.clone(), None), (sshd.url(repo.path()), Some(over_ssh))] {
        let setup = Setup::new(&url, keys);
        assert_eq!(setup.commit().await, head);
        let has = |commit: &str| {
            setup.mirrors.open(KEY, &setup.remote).unwrap().tree(commit.parse().unwrap(), &[]).is_ok()
        };
        let log =
            setup.mirrors.open(KEY, &setup.remote).unwrap().log(head.parse().unwrap(), 50, &[]).unwrap();
        assert_eq!(log.len(), 50, "what workloads ran before");
        let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
        let all = mirror.first_parents(head.parse().unwrap(), 5000).unwrap();
        assert_eq!(all.len(), 100, "as far as it is here");
        drop(mirror);
        assert!(setup.is_shallow() && has(&near) && !has(&middle));
        assert!(setup.descends(&head, &near).await);
        assert!(!has(&middle), "what is proved already asks for no more");

        assert!(setup.descends(&head, &middle).await);
        assert!(has(&middle) && !has(&root) && setup.is_shallow());
        assert!(!setup.descends(&head, &side).await);
        assert!(has(&root) && !setup.is_shallow(), "{url}: all was looked at");
        assert!(setup.descends(&head, &root).await);
        let fresh = Setup::new(&url, None);
        if url == server.url {
            fresh.fetch().await.unwrap();
            assert!(!fresh.descends(&middle, &near).await, "what is asked about may lie behind the end, too");
            assert!(fresh.descends(&middle, &root).await);
        }

        // And it goes on from there.
        repo.git(&["update-ref", "refs/heads/main", &head]);
        let next = repo.git(&["commit-tree", "-p", &head, "-m", "next", &format!("{head}^{{tree}}")]);
        repo.git(&["update-ref", "refs/heads/main", &next]);
        assert_eq!(setup.commit().await, next);
        assert!(setup.descends(&next, &root).await);
        repo.git(&["update-ref", "refs/heads/main", &head]);
    }
}

/// A source that is pinned to something old must find it, also where its mirror began with something new.
#[tokio::test]
async fn what_lies_behind_a_short_history_is_found() {
    let repo = Repo::new();
    let (root, head) = long_history(&repo, 500);
    let old = repo.git(&["rev-parse", "main~400"]);
    repo.git(&["tag", "v0.1.0", &old]);
    let server = GitHttp::start(&repo).await;
    for allowed in ["false", "true"] {
        repo.git(&["config", "uploadpack.allowReachableSHA1InWant", allowed]);
        for reference in [
            Reference::Commit(old.clone()),
            Reference::Tag("v0.1.0".to_owned()),
            Reference::Semver("0.1".to_owned()),
        ] {
            let mut setup = Setup::new(&server.url, None);
            assert_eq!(setup.commit().await, head);
            assert!(setup.is_shallow());
            setup.remote.reference = reference.clone();
            assert_eq!(setup.commit().await, old, "{reference}, {allowed}");
            assert!(setup.descends(&old, &root).await && setup.descends(&head, &old).await, "{reference}");
            let restarted = Mirrors::new(setup.cache.path());
            let again = restarted.fetch(KEY, &setup.remote, LONG).await.unwrap();
            assert_eq!(again.commit.to_string(), old, "{reference}, {allowed}");
        }
    }
}

/// A server whose short histories do not work must cost time, not the source.
#[tokio::test]
async fn history_is_fetched_whole_where_a_server_cannot_end_it() {
    let repo = Repo::new();
    let (root, head) = long_history(&repo, 300);
    let server = GitHttp::start(&repo).await;
    server.behave(Manner::NoDepth);
    let setup = Setup::new(&server.url, None);
    assert_eq!(setup.commit().await, head);
    assert!(!setup.is_shallow() && setup.descends(&head, &root).await);
}

/// New commits on top of a short history, a rewritten branch, a merge of something old: each must be noticed for what it is.
#[tokio::test]
async fn a_short_history_goes_on_and_rewriting_is_noticed() {
    let repo = Repo::new();
    let (root, head) = long_history(&repo, 500);
    let old = repo.git(&["rev-parse", "main~400"]);
    let server = GitHttp::start(&repo).await;
    let setup = Setup::new(&server.url, None);
    assert_eq!(setup.commit().await, head);
    let tree = format!("{head}^{{tree}}");
    let push = |commit: &str| repo.git(&["update-ref", "refs/heads/main", commit]);
    let next = repo.git(&["commit-tree", "-p", &head, "-m", "next", &tree]);
    push(&next);
    assert_eq!(setup.commit().await, next);
    assert!(setup.descends(&next, &head).await && setup.is_shallow());

    // A branch from long ago is merged: its past is behind where ours ends.
    let ancient = repo.git(&["commit-tree", "-p", &old, "-m", "from long ago", &tree]);
    let merge = repo.git(&["commit-tree", "-p", &next, "-p", &ancient, "-m", "merge", &tree]);
    push(&merge);
    assert_eq!(setup.commit().await, merge);
    assert!(setup.descends(&merge, &next).await && setup.descends(&merge, &ancient).await);

    // Rewritten: from a commit that was there, and from nothing.
    let rewritten = repo.git(&["commit-tree", "-p", &head, "-m", "instead", &tree]);
    push(&rewritten);
    assert_eq!(setup.commit().await, rewritten);
    assert!(!setup.descends(&rewritten, &merge).await);
    assert!(setup.descends(&rewritten, &root).await);
    let orphan = repo.git(&["commit-tree", "-m", "from nothing", &tree]);
    push(&orphan);
    assert_eq!(setup.commit().await, orphan);
    assert!(!setup.descends(&orphan, &rewritten).await);
    assert!(setup.descends(&merge, &next).await, "what was applied before stays readable");

    // After a restart the mirror is looked through, and found whole.
    let restarted = Mirrors::new(setup.cache.path());
    assert_eq!(restarted.fetch(KEY, &setup.remote, LONG).await.unwrap().commit.to_string(), orphan);
}
