//! What is said of who asks, to whom; where else things are read; and what refusals mean.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use axum::body::{Body, Bytes};
use countersign::{
    adapters::registry::{Bounds, Error, Keychain, Registry, Settings},
    domain::{
        image::{Digest, Repository},
        registry::{Mapping, Places},
    },
};
use futures::stream;

use crate::support::{
    registry::{Answer, Auth, INDEX, Image, OciServer, Seen, answer, basic, keychain, refusal, settings},
    trap::Trap,
};

const PATH: &str = "shop/cart";
const ADA: (&str, &str) = ("ada", "hunter2");

fn registry(servers: &[&OciServer]) -> Registry {
    Registry::new(settings(servers)).unwrap()
}

fn ada(server: &OciServer) -> Keychain {
    keychain(&server.host, ADA.0, ADA.1)
}

/// An honest registry with one image under the tag `1.0`, over TLS or not.
async fn with_image(tls: bool) -> (OciServer, Repository, Digest) {
    let server = if tls { OciServer::start_tls().await } else { OciServer::start().await };
    let digest = server.push_image(PATH, &Image::default());
    server.tag(PATH, "1.0", &digest);
    let repository = server.repository(PATH);
    (server, repository, digest)
}

fn redirect(to: &str) -> Answer {
    let mut answer = answer(307, "text/plain", "");
    answer.headers_mut().insert("location", to.parse().unwrap());
    answer
}

/// What each request so far said of who asks, without repetition.
fn said(server: &OciServer) -> BTreeSet<String> {
    server.seen().iter().map(Seen::authorization).collect()
}

#[track_caller]
fn forbidden<T: std::fmt::Debug>(read: Result<T, Error>, says: &str) {
    let error = read.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Forbidden { .. }) && text.contains(says), "{text}");
    assert!(!text.contains(ADA.1), "{text}");
}

/// If this fails, private images cannot be read, a registry is asked for a token with every request, or what one was let in with opens
/// something for another.
#[tokio::test]
async fn tokens_are_asked_for_once_for_each_repository_and_login() {
    let (server, repository, digest) = with_image(true).await;
    server.push_image("shop/other", &Image::default());
    server.let_in(Auth::Token { login: Some(ADA), realm: None });
    let (made, ada) = (registry(&[&server]), ada(&server));
    for _ in 0..3 {
        made.platforms(&repository, &digest, &ada).await.unwrap();
    }
    assert_eq!(server.count("/token"), 1);
    let tokens: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/token").collect();
    assert_eq!(tokens[0].authorization(), basic(ADA.0, ADA.1));
    assert!(
        tokens[0].query.contains("service=test") && tokens[0].query.ends_with("%3Apull"),
        "{}",
        tokens[0].query
    );
    made.manifest(&server.repository("shop/other"), &digest, &ada).await.unwrap();
    assert_eq!(server.count("/token"), 2);
    let passwords = server.seen().into_iter().filter(|seen| seen.authorization().starts_with("Basic"));
    assert!(passwords.into_iter().all(|seen| seen.path == "/token"), "the password goes for tokens only");
    forbidden(made.manifest(&repository, &digest, &Keychain::default()).await, "HTTP 401 UNAUTHORIZED");
    forbidden(made.manifest(&repository, &digest, &keychain(&server.host, "ada", "wrong")).await, "HTTP 401");
    // A token that is not good any more is replaced, once.
    for lasting in [false, true] {
        server.forget_seen();
        let refused = AtomicUsize::new(0);
        server.hook(move |seen| {
            let stale = seen.authorization().starts_with("Bearer")
                && (refused.fetch_add(1, Ordering::SeqCst) == 0 || lasting);
            stale.then(|| {
                let mut refused = refusal(401, "UNAUTHORIZED");
                let challenge = "Bearer realm=\"https://REALM/token\",service=\"test\"";
                let challenge = challenge.replace("REALM", seen.headers["host"].to_str().unwrap());
                refused.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
                refused
            })
        });
        assert_eq!(made.manifest(&repository, &digest, &ada).await.is_err(), lasting);
        assert_eq!((server.count("/token"), server.count("/manifests/")), (1, 2));
    }
    server.unhook();
    // Everybody gets a token, nobody says who it is.
    server.let_in(Auth::Token { login: None, realm: None });
    server.forget_seen();
    made.manifest(&repository, &digest, &Keychain::default()).await.unwrap();
    assert!(said(&server).iter().all(|said| !said.starts_with("Basic")));
}

/// CVE-2026-48978, CVE-2026-33540: a registry has a client send its password to somebody else.
#[tokio::test]
async fn a_realm_elsewhere_learns_nothing_unless_it_is_listed() {
    let (server, repository, digest) = with_image(true).await;
    let capture = OciServer::start_tls().await;
    let plain = OciServer::start().await;
    let all = [&server, &capture, &plain];
    for other in [&capture, &plain] {
        server.let_in(Auth::Token { login: Some(ADA), realm: Some(format!("{}/token", other.base())) });
        other.let_in(Auth::Token { login: None, realm: None });
        server.hook(|seen| seen.authorization().starts_with("Bearer").then(|| refusal(401, "UNAUTHORIZED")));
        forbidden(
            registry(&all).manifest(&repository, &digest, &ada(&server)).await,
            "list it among its realms",
        );
        assert_eq!(said(other), [String::new()].into());
    }
    server.unhook();
    let realms = [(server.host.clone(), [capture.host.clone(), plain.host.clone()].into())].into();
    let made = Registry::new(Settings { realms, ..settings(&all) }).unwrap();
    // Also where it is listed, nothing goes there without encryption.
    plain.forget_seen();
    made.manifest(&repository, &digest, &ada(&server)).await.unwrap();
    assert_eq!(said(&plain), [String::new()].into());
    server.let_in(Auth::Token { login: Some(ADA), realm: Some(format!("{}/token", capture.base())) });
    capture.let_in(Auth::Token { login: Some(ADA), realm: None });
    let made = Registry::new(Settings {
        realms: [(server.host.clone(), [capture.host.clone()].into())].into(),
        ..settings(&all)
    });
    capture.forget_seen();
    made.unwrap().manifest(&repository, &digest, &ada(&server)).await.unwrap();
    assert_eq!(said(&capture), [basic(ADA.0, ADA.1)].into());
    for realm in [
        "https://ada:hunter2@localhost:1/token",
        "http://unlisted.example/token",
        "file:///token",
        "nonsense",
    ] {
        server.let_in(Auth::Token { login: Some(ADA), realm: Some(realm.to_owned()) });
        let error = registry(&all).manifest(&repository, &digest, &ada(&server)).await.unwrap_err();
        assert!(!error.is_absent() && !error.to_string().contains(ADA.1), "{error}");
    }
}

/// If this fails, whoever answers for a registry, or for the place where it keeps its blobs, has the credentials.
#[tokio::test]
async fn redirects_are_followed_without_credentials_and_end() {
    let (server, repository, digest) = with_image(true).await;
    let (elsewhere, ..) = with_image(true).await;
    for auth in [Auth::Basic(ADA.0, ADA.1), Auth::Token { login: Some(ADA), realm: None }] {
        server.let_in(auth);
        let base = elsewhere.base();
        server.hook(move |seen| {
            (!seen.authorization().is_empty() && seen.path.starts_with("/v2/"))
                .then(|| redirect(&format!("{base}{}", seen.path)))
        });
        elsewhere.forget_seen();
        registry(&[&server, &elsewhere]).platforms(&repository, &digest, &ada(&server)).await.unwrap();
        assert_eq!((elsewhere.seen().len(), said(&elsewhere)), (2, [String::new()].into()));
        // Also not when it asks for them.
        elsewhere.let_in(Auth::Basic(ADA.0, ADA.1));
        elsewhere.forget_seen();
        forbidden(
            registry(&[&server, &elsewhere]).manifest(&repository, &digest, &ada(&server)).await,
            "401",
        );
        assert_eq!(said(&elsewhere), [String::new()].into());
        elsewhere.let_in(Auth::Everybody);
    }
    // On the same host they stay.
    server.let_in(Auth::Basic(ADA.0, ADA.1));
    server.hook(|seen| {
        seen.path
            .contains("/blobs/")
            .then_some(())
            .filter(|()| seen.query.is_empty())
            .map(|()| redirect("?again=1"))
    });
    registry(&[&server]).platforms(&repository, &digest, &ada(&server)).await.unwrap();
    server.let_in(Auth::Everybody);
    server.hook(|seen| Some(redirect(&format!("{}?{}x", seen.path, seen.query))));
    server.forget_seen();
    let error = registry(&[&server]).manifest(&repository, &digest, &Keychain::default()).await.unwrap_err();
    assert!(
        matches!(error, Error::Unavailable { .. }) && error.to_string().contains("more than 5 redirects"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 6);
}

/// If this fails, a registry leads the operator to what only the operator reaches.
#[tokio::test]
async fn nothing_goes_to_addresses_that_are_not_listed() {
    let trap = Trap::set_at("127.0.0.2");
    let (server, repository, digest) = with_image(false).await;
    let mut settings = settings(&[&server]);
    settings.private = "127.0.0.1".parse().unwrap();
    settings.plain_http.insert(format!("127.0.0.2:{}", trap.port));
    let made = Registry::new(settings).unwrap();
    let none = Keychain::default();
    for to in [
        format!("http://127.0.0.2:{}/x", trap.port),
        "https://169.254.169.254/latest/meta-data".to_owned(),
        "https://[::ffff:10.0.0.1]/".to_owned(),
        "https://2130706434/".to_owned(),
    ] {
        for kind in ["manifests", "blobs"] {
            let to = to.clone();
            server.hook(move |seen| seen.path.contains(kind).then(|| redirect(&to)));
            forbidden(made.platforms(&repository, &digest, &none).await, "private registries");
        }
        let realm = Auth::Token { login: None, realm: Some(to) };
        server.unhook();
        server.let_in(realm);
        forbidden(made.manifest(&repository, &digest, &none).await, "private registries");
        server.let_in(Auth::Everybody);
    }
    let unencrypted = format!("http://127.0.0.1:{}/x", trap.port);
    server.hook(move |_| Some(redirect(&unencrypted)));
    forbidden(made.manifest(&repository, &digest, &none).await, "not encrypted");
    for host in ["127.0.0.2", "localhost"] {
        let at: Repository = format!("{host}:{}/{PATH}", trap.port).parse().unwrap();
        let unlisted = Settings { private: Default::default(), ..Settings::default() };
        forbidden(Registry::new(unlisted).unwrap().manifest(&at, &digest, &none).await, "not public");
    }
    assert_eq!(trap.seen(), "");
}

/// Proxies are named in the environment, which whole processes share: so this runs itself again.
#[tokio::test]
async fn a_proxy_resolves_by_itself_is_no_registry_and_does_not_read_along() {
    const CHILD: &str = "COUNTERSIGN_TEST_REGISTRY";
    if let Ok(host) = std::env::var(CHILD) {
        let repository: Repository = format!("{host}/{PATH}").parse().unwrap();
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let plain_http = [host.clone()].into();
        let here = Settings { plain_http, private: "127.0.0.1".parse().unwrap(), ..Settings::default() };
        let settings = if host.starts_with("127.0.0.1:") { here } else { Settings::default() };
        let keychain = keychain(&host, ADA.0, ADA.1);
        let error =
            Registry::new(settings).unwrap().manifest(&repository, &digest, &keychain).await.unwrap_err();
        println!("told: {error:?}");
        return;
    }
    let run = async |host: String, proxy: &Trap| {
        let at = format!("http://localhost:{}", proxy.port);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--nocapture"]);
        command.arg("registry_trust::a_proxy_resolves_by_itself_is_no_registry_and_does_not_read_along");
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
            command.env(name, &at);
        }
        command.env("NO_PROXY", "").env("no_proxy", "").env(CHILD, host);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let proxy = Trap::set();
    let told = run("registry.invalid".to_owned(), &proxy).await;
    assert!(told.contains("told: Unavailable"), "{told}");
    assert!(proxy.seen().contains("CONNECT registry.invalid:443"), "{}", proxy.seen());
    let proxy = Trap::set();
    for host in ["10.1.2.3".to_owned(), format!("localhost:{}", proxy.port)] {
        let told = run(host, &proxy).await;
        assert!(told.contains("told: Forbidden") && told.contains("not public"), "{told}");
    }
    // What is said without encryption stays on this machine.
    let server = OciServer::start().await;
    server.let_in(Auth::Basic(ADA.0, ADA.1));
    let told = run(server.host.clone(), &proxy).await;
    assert!(told.contains("told: Absent"), "{told}");
    assert!(said(&server).contains(&basic(ADA.0, ADA.1)));
    assert_eq!(proxy.seen(), "");
}

/// If this fails, an outage looks like an image without signatures, or a signature's absence like an outage.
#[tokio::test]
async fn refusals_mean_what_they_say() {
    let (server, repository, digest) = with_image(false).await;
    let (made, none) = (registry(&[&server]), Keychain::default());
    let html = "<!DOCTYPE html><html>Sign in</html>";
    let limited = |value: Option<&str>| {
        let mut answer = refusal(429, "TOOMANYREQUESTS");
        value.map(|value| answer.headers_mut().insert("retry-after", value.parse().unwrap()));
        answer
    };
    let cases: [(&str, fn() -> Answer, &str); 16] = [
        ("absent", || refusal(404, "MANIFEST_UNKNOWN"), "is not there"),
        ("absent", || refusal(404, "NAME_UNKNOWN"), "is not there"),
        ("unavailable", || answer(404, "text/plain", "404 page not found\n"), "something else answered"),
        (
            "unavailable",
            || answer(404, "text/html", "<html>MANIFEST_UNKNOWN</html>"),
            "something else answered",
        ),
        ("unavailable", || answer(404, "application/json", ""), "something else answered"),
        ("unavailable", || refusal(404, "DENIED"), "404 DENIED"),
        (
            "unavailable",
            || answer(200, "text/html; charset=utf-8", "<!DOCTYPE html><html>Sign in</html>"),
            "web page",
        ),
        ("unavailable", || answer(200, "application/json", "\n <!DOCTYPE html>"), "web page"),
        ("invalid", || answer(200, INDEX, "{}"), "schemaVersion"),
        ("invalid", || answer(200, INDEX, "not json"), "JSON"),
        ("forbidden", || refusal(403, "DENIED"), "403 DENIED"),
        ("forbidden", || refusal(401, "UNAUTHORIZED"), "how to say who asks"),
        ("unavailable", || refusal(500, "UNKNOWN"), "500"),
        ("unavailable", || answer(503, "text/html", "<html>"), "503"),
        ("unavailable", || answer(204, INDEX, ""), "204"),
        ("limited", || refusal(403, "TOOMANYREQUESTS"), "fewer requests"),
    ];
    for (kind, answers, says) in cases {
        server.hook(move |_| Some(answers()));
        let error = made.resolve(&format!("{repository}:1.0").parse().unwrap(), &none).await.unwrap_err();
        let found = match &error {
            Error::Absent { .. } => "absent",
            Error::Forbidden { .. } => "forbidden",
            Error::RateLimited { .. } => "limited",
            Error::Unavailable { .. } => "unavailable",
            Error::Invalid { .. } => "invalid",
        };
        let text = error.to_string();
        assert!(
            found == kind && text.contains(says) && text.contains(repository.as_str()),
            "{kind}: {error:?}"
        );
        // Where there is no list, what stands for it must not be there by the registry's own word.
        let listed = made.referrers(&repository, &digest, None, &none).await;
        assert_eq!(listed.is_ok(), kind == "absent", "{says}: {listed:?}");
    }
    for (value, seconds) in
        [(Some("120"), Some(120)), (Some("999999999"), Some(86_400)), (Some("soon"), None), (None, None)]
    {
        let value = value.map(str::to_owned);
        server.hook(move |_| Some(limited(value.as_deref())));
        let error = made.manifest(&repository, &digest, &none).await.unwrap_err();
        let Error::RateLimited { after, .. } = error else { panic!("{error}") };
        assert_eq!(after, seconds.map(Duration::from_secs));
    }
    // The same at the place that hands out tokens.
    server.let_in(Auth::Token { login: None, realm: None });
    for (status, code) in [(429, "TOOMANYREQUESTS"), (500, "UNKNOWN"), (404, "NAME_UNKNOWN"), (403, "DENIED")]
    {
        server.hook(move |seen| (seen.path == "/token").then(|| refusal(status, code)));
        let error = made.manifest(&server.repository("new/one"), &digest, &none).await.unwrap_err();
        assert_eq!(matches!(error, Error::RateLimited { .. }), status == 429, "{error}");
        assert_eq!(matches!(error, Error::Forbidden { .. }), status == 403, "{error}");
        assert!(!error.is_absent(), "{error}");
    }
    server.hook(move |seen| (seen.path == "/token").then(|| answer(200, "text/html", html)));
    assert!(matches!(made.manifest(&repository, &digest, &none).await, Err(Error::Unavailable { .. })));
    server.unhook();
    made.manifest(&repository, &digest, &none).await.unwrap();
}

/// If this fails, a mirror's word counts for an image's, or a mirror that is broken takes the image away.
#[tokio::test]
async fn mirrors_have_what_digests_name_and_remaps_stand_for_the_whole() {
    let (server, repository, digest) = with_image(false).await;
    let (mirror, _, mirrored) = with_image(false).await;
    assert_eq!(digest, mirrored);
    let signed = server.attach(PATH, &digest, "application/x", "application/x", b"signed");
    mirror.attach(PATH, &digest, "application/x", "application/x", b"other");
    let mapping = || vec![Mapping::new(&server.host, &mirror.host).unwrap()];
    let mirrors = Places { mirrors: mapping(), ..Places::default() };
    let remaps = Places { remaps: mapping(), ..Places::default() };
    let with = |places: Places| Registry::new(Settings { places, ..settings(&[&server, &mirror]) }).unwrap();
    let (made, none) = (with(mirrors), keychain(&server.host, ADA.0, ADA.1));
    let tag = format!("{repository}:1.0").parse().unwrap();

    made.platforms(&repository, &digest, &none).await.unwrap();
    assert_eq!((mirror.seen().len(), server.seen().len()), (2, 0));
    made.resolve(&tag, &none).await.unwrap();
    let found = made.referrers(&repository, &digest, None, &none).await.unwrap();
    assert_eq!((found.len(), &found[0].digest), (1, &signed));
    assert_eq!((mirror.seen().len(), server.seen().len()), (2, 2));
    // What the mirror says of an image is nothing.
    server.off();
    made.platforms(&repository, &digest, &none).await.unwrap();
    assert!(made.resolve(&tag, &none).await.is_err());
    assert!(made.referrers(&repository, &digest, None, &none).await.is_err());
    server.on();
    for broken in [
        || answer(200, INDEX, "evil"),
        || refusal(404, "MANIFEST_UNKNOWN"),
        || refusal(429, "X"),
        || answer(200, "text/html", "<html>"),
    ] {
        mirror.hook(move |_| Some(broken()));
        made.platforms(&repository, &digest, &none).await.unwrap();
    }
    // One that takes its time leaves enough for the repository itself, also where there is much to read.
    mirror.hook(|_| {
        let never = stream::pending::<Result<Bytes, std::io::Error>>();
        Some(answer(200, INDEX, Body::from_stream(never)))
    });
    let bounds = Bounds { total: Duration::from_secs(8), ..Bounds::default() };
    let hurried = Settings {
        places: Places { mirrors: mapping(), ..Places::default() },
        bounds,
        ..settings(&[&server, &mirror])
    };
    let hurried = Registry::new(hurried).unwrap();
    let images: Vec<_> = (0..12)
        .map(|n| {
            let image = Image { layers: vec![format!("{n}").into_bytes()], ..Image::default() };
            (server.push_image(PATH, &image), "linux", "amd64")
        })
        .collect();
    let index = server.push_index(PATH, &images);
    assert_eq!(hurried.platforms(&repository, &index, &none).await.unwrap().images.len(), 12);
    mirror.unhook();
    // The credentials are for the other host.
    mirror.let_in(Auth::Basic(ADA.0, ADA.1));
    mirror.forget_seen();
    made.platforms(&repository, &digest, &none).await.unwrap();
    assert_eq!(said(&mirror), [String::new()].into());
    mirror.let_in(Auth::Everybody);

    let made = with(remaps);
    server.forget_seen();
    made.resolve(&tag, &none).await.unwrap();
    made.platforms(&repository, &digest, &none).await.unwrap();
    assert_ne!(made.referrers(&repository, &digest, None, &none).await.unwrap()[0].digest, signed);
    mirror.off();
    assert!(made.platforms(&repository, &digest, &none).await.is_err());
    assert!(server.seen().is_empty(), "what is remapped is never read where it was");
}
