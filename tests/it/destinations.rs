//! Where the operator connects to for a source: past no name, no spelling of an address, and no program.

use std::{process::Command, sync::Arc, time::Duration};

use countersign::{
    adapters::{
        chain,
        git::{Credentials, Error, HttpsKeys, Keys, Mirrors, Reference, Remote, SshKeys},
    },
    domain::destination::Destinations,
};
use tempfile::TempDir;

use crate::support::{
    repo::{GitHttp, Repo, roots},
    ssh::Sshd,
    trap::Trap,
};

fn tenants(listed: &str) -> Destinations {
    Destinations::new(false, Arc::new(listed.parse().unwrap()))
}

/// Fetches anew; answers with the commit.
async fn fetch(url: &str, keys: Option<Keys>, destinations: Destinations) -> Result<String, Error> {
    let cache = TempDir::new().unwrap();
    let credentials = keys.map(|keys| Arc::new(Credentials { secret: "apps/git".to_owned(), keys }));
    let reference = Reference::Branch("main".to_owned());
    let remote = Remote { url: url.to_owned(), reference, credentials, destinations };
    let fetched = Mirrors::new(cache.path()).fetch("apps/source", &remote, Duration::from_mins(1)).await;
    fetched.map(|head| head.commit.to_string())
}

fn refused(url: &str, fetched: Result<String, Error>) -> String {
    let error = fetched.unwrap_err();
    let told = chain(&error);
    assert_eq!(error.reason(), "AddressNotAllowed", "{url}: {told}");
    assert!(told.contains(url) && told.contains("--private-git-hosts"), "{told}");
    assert!(!error.retry(), "it is not asked again and again");
    told
}

fn ssh(known_hosts: &str) -> Keys {
    let (identity, known_hosts) = ("not needed".into(), known_hosts.to_owned());
    Keys::Ssh(SshKeys { identity, passphrase: None, known_hosts })
}

/// If this fails, one more way to write an address leads to servers that only the operator reaches.
#[tokio::test]
async fn no_spelling_of_a_private_address_is_connected_to_for_a_tenant() {
    let trap = Trap::set();
    let port = trap.port;
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::127.0.0.1]",
        "[::1]",
        // This machine, too.
        "0.0.0.0",
        "0",
        "[::]",
        "[::ffff:0:0]",
    ] {
        for scheme in ["http", "https"] {
            let url = url::Url::parse(&format!("{scheme}://{host}:{port}/repo")).unwrap();
            refused(url.as_str(), fetch(url.as_str(), None, tenants("10.0.0.0/8,git.example")).await);
        }
        // With a dot behind it, ssh takes it for a name.
        if host != "127.0.0.1." {
            let url = url::Url::parse(&format!("ssh://git@{host}:{port}/repo")).unwrap();
            refused(
                url.as_str(),
                fetch(url.as_str(), Some(ssh("")), tenants("10.0.0.0/8,git.example")).await,
            );
        }
    }
    let short = "git@localhost:repo";
    refused(short, fetch(short, Some(ssh("")), tenants("")).await);
    for host in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "0.0.0.0"] {
        let url = url::Url::parse(&format!("http://{host}:{port}/latest/meta-data")).unwrap();
        let told = refused(url.as_str(), fetch(url.as_str(), None, roots()).await);
        assert!(told.contains("that very address"), "{told}");
    }
    assert_eq!(trap.seen(), "");
    assert!(fetch(&format!("http://localhost:{port}/repo"), None, roots()).await.is_err());
    assert!(trap.seen().contains("GET /repo/info/refs"), "whoever comes is seen");
}

/// If this fails, a git server inside cannot be opened to tenants, or opening one opens its neighbours.
#[tokio::test]
async fn what_is_listed_is_reached_by_name_or_by_address() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let (server, tls) = (GitHttp::start(&repo).await, GitHttp::start_tls(&repo).await);
    let ca = String::from_utf8(tls.ca.clone().unwrap()).unwrap();
    let trusted = || Some(Keys::Https(HttpsKeys { ca: Some(ca.clone()), ..HttpsKeys::default() }));
    let by_address = server.url.clone();
    let by_name = by_address.replace("127.0.0.1", "localhost");
    for listed in ["127.0.0.1", "127.0.0.0/8", "localhost,127.0.0.1", "0.0.0.0/0"] {
        assert_eq!(fetch(&by_address, None, tenants(listed)).await.unwrap(), commit, "{listed}");
        assert_eq!(fetch(&by_name, None, tenants(listed)).await.unwrap(), commit, "{listed}");
        assert_eq!(fetch(&tls.url, trusted(), tenants(listed)).await.unwrap(), commit, "{listed}");
    }
    assert_eq!(fetch(&by_name, None, tenants("localhost")).await.unwrap(), commit);
    refused(&by_address, fetch(&by_address, None, tenants("localhost,127.0.0.2")).await);
    refused(&by_name, fetch(&by_name, None, tenants("127.0.0.2,localhost.example")).await);
    assert_eq!(fetch(&by_name, None, roots()).await.unwrap(), commit);
}

/// If this fails, the ssh program resolves the name once more, and finds another address; or a host key counts for another name.
#[tokio::test]
async fn ssh_goes_to_the_address_that_was_judged_and_the_key_is_that_of_the_name() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let sshd = Sshd::start().await;
    let by_address = sshd.url(repo.path());
    let by_name = by_address.replace("127.0.0.1", "LocalHost");
    let of_address = sshd.known_hosts();
    let of_name = of_address.replace("127.0.0.1", "localhost");
    let keys = |known_hosts: &str| {
        let (identity, known_hosts) = (sshd.identity().into(), known_hosts.to_owned());
        Some(Keys::Ssh(SshKeys { identity, passphrase: None, known_hosts }))
    };
    for listed in ["localhost", "127.0.0.0/8"] {
        assert_eq!(fetch(&by_name, keys(&of_name), tenants(listed)).await.unwrap(), commit, "{listed}");
    }
    assert_eq!(fetch(&by_address, keys(&of_address), tenants("127.0.0.1")).await.unwrap(), commit);
    assert_eq!(fetch(&by_name, keys(&of_name), roots()).await.unwrap(), commit);
    let before = sshd.log();
    refused(&by_name, fetch(&by_name, keys(&of_name), tenants("127.0.0.2")).await);
    assert_eq!(sshd.log(), before, "nobody came");
    for (url, known_hosts) in [(&by_name, &of_address), (&by_address, &of_name)] {
        let error = fetch(url, keys(known_hosts), roots()).await.unwrap_err();
        assert_eq!(error.reason(), "HostKeyRefused", "{url}: {}", chain(&error));
    }
}

/// Proxies are named in the environment, which whole processes share: so this runs itself again.
#[tokio::test]
async fn a_proxy_resolves_by_itself_and_is_no_destination() {
    const CHILD: &str = "COUNTERSIGN_TEST_DESTINATION";
    if let Ok(url) = std::env::var(CHILD) {
        let error = fetch(&url, None, tenants("")).await.unwrap_err();
        println!("told: {} {}", error.reason(), chain(&error));
        return;
    }
    let run = async |url: String, proxy: &Trap| {
        let at = format!("http://localhost:{}", proxy.port);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture"]);
        command.arg("destinations::a_proxy_resolves_by_itself_and_is_no_destination");
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
            command.env(name, &at);
        }
        command.env("NO_PROXY", "").env("no_proxy", "").env(CHILD, url);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let proxy = Trap::set();
    let told = run("https://git.invalid/repo".to_owned(), &proxy).await;
    assert!(told.contains("told: FetchFailed"), "{told}");
    assert!(proxy.seen().contains("CONNECT git.invalid:443"), "{}", proxy.seen());
    // But it is not asked for what the URL itself shows to be private, nor for what is the proxy itself.
    let proxy = Trap::set();
    for url in ["https://10.1.2.3/repo".to_owned(), format!("https://localhost:{}/repo", proxy.port)] {
        let told = run(url, &proxy).await;
        assert!(told.contains("told: AddressNotAllowed"), "{told}");
        assert_eq!(proxy.seen(), "");
    }
}
