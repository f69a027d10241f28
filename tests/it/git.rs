//! Git mirrors against real repositories and a server that can misbehave.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::adapters::git::{
    Bounds, CommitId, Credentials, Error, Head, HttpsKeys, Keys, Mirrors, Reason, Reference, Remote,
};
use tempfile::TempDir;

use crate::support::repo::{GitHttp, Manner, Repo, lose_object, roots};

const KEY: &str = "apps/source";
const LONG: Duration = Duration::from_mins(1);

/// Something done to the directory of a mirror.
type Damage = fn(&Path);

/// A cache of mirrors and what is fetched into it.
struct Setup {
    cache: TempDir,
    mirrors: Mirrors,
    remote: Remote,
}

impl Setup {
    fn new(url: &str) -> Self {
        Self::with(url, Bounds::default())
    }

    fn with(url: &str, bounds: Bounds) -> Self {
        let cache = TempDir::new().unwrap();
        let mirrors = Mirrors::with_bounds(cache.path(), bounds);
        Self { cache, mirrors, remote: remote(url) }
    }

    fn local(repo: &Repo) -> Self {
        Self::new(repo.path().to_str().unwrap())
    }

    fn http(server: &GitHttp) -> Self {
        let mut setup = Self::new(&server.url);
        setup.trust(server.ca.as_deref());
        setup
    }

    /// Certificates (PEM) to trust.
    fn trust(&mut self, ca: Option<&[u8]>) {
        self.remote.credentials = ca.map(|ca| {
            let keys =
                HttpsKeys { ca: Some(String::from_utf8(ca.to_vec()).unwrap()), ..HttpsKeys::default() };
            Arc::new(Credentials { secret: "apps/ca".to_owned(), keys: Keys::Https(keys) })
        });
    }

    async fn descends(&self, head: &str, ancestor: &str) -> Result<bool, Error> {
        self.mirrors.descends(KEY, &self.remote, id(head), id(ancestor), LONG).await
    }

    fn want(&mut self, reference: Reference) -> &mut Self {
        self.remote.reference = reference;
        self
    }

    async fn fetch(&self) -> Result<Head, Error> {
        self.mirrors.fetch(KEY, &self.remote, LONG).await
    }

    async fn commit(&self) -> String {
        self.fetch().await.unwrap().commit.to_string()
    }

    /// After a restart, and without the remote.
    fn reopen(&mut self) {
        self.mirrors = Mirrors::new(self.cache.path());
    }

    fn paths(&self, commit: &str, paths: &[&str]) -> String {
        let mirror = self.mirrors.open(KEY, &self.remote).unwrap();
        let tree = mirror.tree(id(commit), &strings(paths)).unwrap();
        tree.entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>().join(" ")
    }

    /// The content of a file at a commit.
    fn read(&self, commit: &str, path: &str) -> String {
        let mirror = self.mirrors.open(KEY, &self.remote).unwrap();
        let tree = mirror.tree(id(commit), &strings(&[path])).unwrap();
        String::from_utf8(mirror.blob(tree.entries[0].blob).unwrap()).unwrap()
    }

    fn directory(&self) -> PathBuf {
        let mut found: Vec<_> = fs::read_dir(self.cache.path().join("git")).unwrap().collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.pop().unwrap().unwrap().path()
    }
}

fn remote(url: &str) -> Remote {
    let (url, reference) = (url.to_owned(), Reference::Branch("main".to_owned()));
    Remote { url, reference, credentials: None, destinations: roots() }
}

fn id(commit: &str) -> CommitId {
    commit.parse().unwrap()
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The message with all its causes, as a log shows it.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or(error.to_string(), |source| format!("{error}: {}", chain(source)))
}

fn packs(directory: &Path) -> usize {
    let pack = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "pack");
    fs::read_dir(directory.join("objects/pack")).unwrap().map(Result::unwrap).filter(pack).count()
}

/// Fetch, fetch again, fetch what is new: the life of every source.
async fn follows_a_branch(repo: &Repo, setup: &mut Setup) {
    let first = setup.fetch().await.unwrap();
    assert_eq!(first.commit.to_string(), repo.head());
    assert_eq!(first.summary, "Change a.yaml");
    assert_eq!(setup.read(&repo.head(), "a.yaml"), "a: 1\n");
    assert_eq!(setup.fetch().await.unwrap(), first);

    let second = repo.commit_file("a.yaml", "a: 2\n");
    assert_eq!(setup.commit().await, second);
    assert_eq!(setup.read(&second, "a.yaml"), "a: 2\n");
    assert_eq!(setup.read(&first.commit.to_string(), "a.yaml"), "a: 1\n");
    assert_eq!(packs(&setup.directory()), 2);

    setup.reopen();
    assert_eq!(setup.mirrors.open(KEY, &setup.remote).unwrap().head().unwrap().commit.to_string(), second);
    assert_eq!(setup.commit().await, second);
    assert_eq!(packs(&setup.directory()), 2);
}

/// A source may be a directory, for tests and air-gapped clusters.
#[tokio::test]
async fn follows_a_branch_by_path_and_file_url() {
    for prefix in ["", "file://"] {
        let repo = Repo::new();
        repo.commit_file("a.yaml", "a: 1\n");
        let mut setup = Setup::new(&format!("{prefix}{}", repo.path().display()));
        follows_a_branch(&repo, &mut setup).await;
    }
}

/// The usual case. An unchanged head must cost one small request and no pack.
#[tokio::test]
async fn follows_a_branch_over_http() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    follows_a_branch(&repo, &mut Setup::http(&server)).await;
    // A first clone asks where history is to end, and then for the pack.
    assert_eq!((server.lists(), server.packs()), (4, 3));
    assert_eq!(server.agent(), concat!("countersign/", env!("CARGO_PKG_VERSION")));
}

/// The same with TLS, and only for who trusts the server's certificate.
#[tokio::test]
async fn follows_a_branch_over_https_with_its_own_ca() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start_tls(&repo).await;
    let mut setup = Setup::http(&server);
    follows_a_branch(&repo, &mut setup).await;

    setup.trust(Some(b"no certificate"));
    assert!(matches!(setup.fetch().await, Err(Error::InvalidCredentials { .. })));
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).unwrap().cert.pem();
    setup.trust(Some(other.as_bytes()));
    let error = setup.fetch().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
}

/// Tags are how releases are named; an annotated one must resolve to its commit.
#[tokio::test]
async fn resolves_tags_and_commits() {
    let repo = Repo::new();
    let first = repo.commit_file("a.yaml", "a: 1\n");
    repo.git(&["tag", "light"]);
    let second = repo.commit_file("a.yaml", "a: 2\n");
    repo.git(&["tag", "-a", "heavy", "-m", "A release"]);
    repo.git(&["tag", "-a", "nested", "-m", "A tag of a tag", "heavy"]);
    let third = repo.commit_file("a.yaml", "a: 3\n");
    repo.git(&["branch", "topic", &first]);
    let server = GitHttp::start(&repo).await;
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        for (reference, commit) in [
            (Reference::Tag("light".into()), &first),
            (Reference::Tag("heavy".into()), &second),
            (Reference::Tag("nested".into()), &second),
            (Reference::Branch("topic".into()), &first),
            (Reference::Commit(third.clone()), &third),
            (Reference::Commit(second.clone()), &second),
        ] {
            // Each into its own mirror, so that nothing is there by chance.
            let mut setup = Setup::new(url);
            let fetched = setup.want(reference.clone()).commit().await;
            assert_eq!((&fetched, &reference), (commit, &reference), "{url}");
        }
    }
}

/// A server that gives out any commit is asked for just that one.
#[tokio::test]
async fn asks_for_a_commit_directly_where_the_server_allows_it() {
    let repo = Repo::new();
    let first = repo.commit_file("a.yaml", "a: 1\n");
    repo.commit_file("b.yaml", "b: 1\n");
    repo.git(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
    let server = GitHttp::start(&repo).await;
    let mut setup = Setup::http(&server);
    assert_eq!(setup.want(Reference::Commit(first.clone())).commit().await, first);
    assert_eq!(setup.paths(&first, &[]), "a.yaml");
    let head = setup.mirrors.open(KEY, &setup.remote).unwrap();
    assert!(
        matches!(head.tree(id(&repo.head()), &[]), Err(Error::UnknownCommit { .. })),
        "no more than asked for"
    );

    let error = setup.want(Reference::Commit("1".repeat(40))).fetch().await.unwrap_err();
    assert_eq!(error.reason(), "ReferenceNotFound");
}

/// The message must tell a wrong branch from a wrong repository.
#[tokio::test]
async fn what_is_missing_is_named() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    repo.git(&["tag", "blob", &repo.blob(b"x")]);
    let empty = Repo::new();
    let server = GitHttp::start(&repo).await;
    let empty_server = GitHttp::start(&empty).await;
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        let mut setup = Setup::new(url);
        for reference in [
            Reference::Branch("gone".into()),
            Reference::Tag("gone".into()),
            Reference::Commit("0123456789".repeat(4)),
        ] {
            let error = setup.want(reference.clone()).fetch().await.unwrap_err();
            assert_eq!(error.reason(), "ReferenceNotFound", "{url} {reference}: {}", chain(&error));
            assert!(error.to_string().contains(&reference.to_string()));
        }
        let error = setup.want(Reference::Tag("blob".into())).fetch().await.unwrap_err();
        assert_eq!(error.reason(), "InvalidReference", "{url}: {}", chain(&error));
        assert!(matches!(setup.mirrors.open(KEY, &setup.remote), Err(Error::NotFetched { .. })));
    }
    for url in [empty_server.url.as_str(), empty.path().to_str().unwrap()] {
        assert_eq!(Setup::new(url).fetch().await.unwrap_err().reason(), "ReferenceNotFound", "{url}");
    }
    let nothing = TempDir::new().unwrap();
    let error = Setup::new(nothing.path().to_str().unwrap()).fetch().await.unwrap_err();
    assert_eq!(error.reason(), "RepositoryNotFound", "{}", chain(&error));
}

/// Who may push any branch must not be able to stop all deliveries, revocations among them.
#[tokio::test]
async fn odd_references_beside_the_wanted_one_do_no_harm() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let mut packed = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    packed.extend(format!("{commit} refs/heads/").bytes());
    packed.extend(b"odd-\xff\xfe\n");
    fs::write(repo.path().join(".git/packed-refs"), packed).unwrap();
    let server = GitHttp::start(&repo).await;
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        let mut setup = Setup::new(url);
        assert_eq!(setup.commit().await, commit);
        assert_eq!(setup.want(Reference::Commit(commit.clone())).commit().await, commit);
    }
    // And where all branches are fetched to find a commit.
    let second = repo.commit_file("a.yaml", "a: 2\n");
    assert_eq!(Setup::http(&server).want(Reference::Commit(second.clone())).commit().await, second);
}

/// A rewritten branch must be noticed, and what was applied before stays readable.
#[tokio::test]
async fn a_rewritten_branch_does_not_descend_and_the_old_commit_stays() {
    let repo = Repo::new();
    let base = repo.commit_file("a.yaml", "a: 1\n");
    let applied = repo.commit_file("a.yaml", "a: 2\n");
    let server = GitHttp::start(&repo).await;
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        repo.git(&["reset", "-q", "--hard", &applied]);
        let mut setup = Setup::new(url);
        assert_eq!(setup.commit().await, applied);
        repo.git(&["reset", "-q", "--hard", &base]);
        let rewritten = repo.commit_file("a.yaml", "a: 3\n");
        assert_eq!(setup.commit().await, rewritten);
        setup.reopen();
        assert_eq!(setup.commit().await, rewritten);

        assert!(!setup.descends(&rewritten, &applied).await.unwrap());
        assert!(setup.descends(&rewritten, &base).await.unwrap());
        assert!(setup.descends(&rewritten, &rewritten).await.unwrap());
        assert!(!setup.descends(&base, &rewritten).await.unwrap());
        assert!(!setup.descends(&rewritten, &"1".repeat(40)).await.unwrap());
        assert!(setup.descends(&"1".repeat(40), &base).await.is_err());
        assert_eq!(setup.read(&applied, "a.yaml"), "a: 2\n");
    }
}

/// A server that hangs must cost its own source a time-out, and no thread for ever.
#[tokio::test]
async fn a_fetch_ends_when_its_time_is_up() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    for manner in [Manner::Hang, Manner::Trickle, Manner::EndlessProgress] {
        server.behave(manner.clone());
        let started = Instant::now();
        let error = setup.mirrors.fetch(KEY, &setup.remote, Duration::from_millis(500)).await.unwrap_err();
        let bounded = error.reason() == "TimedOut"
            || (manner == Manner::EndlessProgress && error.reason() == "TooLarge");
        assert!(bounded, "{manner:?}: {}", chain(&error));
        assert!(started.elapsed() < Duration::from_secs(4), "{manner:?}: {:?}", started.elapsed());
        assert!(error.retry() || error.reason() == "TooLarge");
    }
    // The mirror is free again, and so is its thread: it holds the lock to its end.
    server.behave(Manner::Well);
    assert_eq!(setup.commit().await, repo.head());
}

/// A repository on this machine has no network to time out, but may be as large.
#[tokio::test]
async fn a_local_fetch_ends_when_its_time_is_up() {
    let repo = Repo::new();
    let commit = repo.commit_many(20_000);
    let setup = Setup::local(&repo);
    let started = Instant::now();
    let error = setup.mirrors.fetch(KEY, &setup.remote, Duration::from_millis(5)).await.unwrap_err();
    assert_eq!(error.reason(), "TimedOut", "{}", chain(&error));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!(setup.commit().await, commit);
}

/// Who stops waiting (a deleted source, a shutdown) must not leave the fetch running.
#[tokio::test]
async fn a_dropped_fetch_ends() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    server.behave(Manner::Hang);
    let dropped = tokio::time::timeout(Duration::from_millis(300), setup.fetch()).await;
    assert!(dropped.is_err());
    server.behave(Manner::Well);
    let next = tokio::time::timeout(LONG / 4, setup.fetch()).await;
    assert_eq!(next.unwrap().unwrap().commit.to_string(), repo.head());
}

/// Sizes are the remote's to choose, so they need bounds of ours.
#[tokio::test]
async fn transfers_are_bounded() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", &"x".repeat(10_000));
    let server = GitHttp::start(&repo).await;
    let bounds = Bounds { pack_bytes: 1_000_000, ..Bounds::default() };
    let setup = Setup::with(&server.url, bounds);
    for manner in [Manner::EndlessList, Manner::EndlessShallow, Manner::EndlessProgress] {
        server.behave(manner.clone());
        let error = setup.fetch().await.unwrap_err();
        assert_eq!(error.reason(), "TooLarge", "{manner:?}: {}", chain(&error));
    }
    // Without a cap on the whole, what comes before the pack still has one: it is kept in memory.
    let setup = Setup::with(&server.url, Bounds { pack_bytes: u64::MAX, ..Bounds::default() });
    let error = setup.fetch().await.unwrap_err();
    assert_eq!(error.to_string(), "bytes before the pack pass the bound of 67108864");

    server.behave(Manner::Well);
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        let setup = Setup::with(url, Bounds { objects: 2, ..Bounds::default() });
        assert_eq!(
            setup.fetch().await.unwrap_err().to_string(),
            "objects of the transfer pass the bound of 2",
            "{url}"
        );
        let setup = Setup::with(url, Bounds { pack_bytes: 50, ..Bounds::default() });
        assert_eq!(
            setup.fetch().await.unwrap_err().to_string(),
            "bytes of the transfer pass the bound of 50",
            "{url}"
        );
    }
}

/// Credentials and trust belong to the host that was named: no other one may even hear of the request.
#[tokio::test]
async fn redirects_stay_on_the_host() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let other = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);

    server.behave(Manner::RedirectTo(other.url.clone()));
    let error = setup.fetch().await.unwrap_err();
    assert_eq!(error.reason(), "Redirected");
    assert!(error.to_string().contains(&other.url) && !error.to_string().contains("service="), "{error}");
    assert_eq!((other.lists(), other.packs()), (0, 0));

    // Renamed at the same host: followed, and the pack is asked for there.
    server.behave(Manner::RedirectTo(server.url.replace("/repo", "/moved")));
    assert_eq!(setup.commit().await, repo.head());
    // In circles: given up.
    server.behave(Manner::RedirectTo(server.url.clone()));
    assert_eq!(setup.fetch().await.unwrap_err().reason(), "Redirected");
}

/// What the server says must reach the person, and decide whether to try again.
#[tokio::test]
async fn answers_that_are_not_git_are_told_apart() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    for (manner, reason, retry) in [
        (Manner::Html, "NotAGitServer", false),
        (Manner::Status(204), "NotAGitServer", false),
        (Manner::Status(401), "AccessDenied", false),
        (Manner::Status(403), "AccessDenied", false),
        (Manner::Status(404), "RepositoryNotFound", false),
        (Manner::Status(429), "RateLimited", true),
        (Manner::Status(500), "FetchFailed", true),
        (Manner::Status(503), "FetchFailed", true),
        (Manner::CutPack, "FetchFailed", true),
    ] {
        server.behave(manner.clone());
        let error = setup.fetch().await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (reason, retry), "{manner:?}: {}", chain(&error));
        assert!(error.to_string().contains(&server.url), "{error}");
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/repo", closed.local_addr().unwrap());
    drop(closed);
    let error = Setup::new(&url).fetch().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.retry(), "{}", chain(&error));
}

/// A failed fetch must leave the last good state in place.
#[tokio::test]
async fn a_failed_fetch_leaves_what_was_there() {
    let repo = Repo::new();
    let first = repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    setup.fetch().await.unwrap();
    let second = repo.commit_file("a.yaml", "a: 2\n");
    for manner in [Manner::CutPack, Manner::Status(500), Manner::Html] {
        server.behave(manner);
        setup.fetch().await.unwrap_err();
        let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
        assert_eq!(mirror.head().unwrap().commit.to_string(), first);
        assert_eq!(setup.read(&first, "a.yaml"), "a: 1\n");
    }
    server.behave(Manner::Well);
    assert_eq!(setup.commit().await, second);
}

fn first_commit(mirror: &Path) -> String {
    let repository = git2::Repository::open_bare(mirror).unwrap();
    let head = repository.find_reference("refs/countersign/head").unwrap().peel_to_commit().unwrap();
    head.parent_id(0).unwrap().to_string()
}

/// A crash may leave anything; the cluster must not need a person to delete a cache.
#[tokio::test]
async fn a_damaged_mirror_is_built_again() {
    let repo = Repo::new();
    let first = repo.commit_file("b.yaml", "b: 1\n");
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let damages: [(&str, Damage); 8] = [
        ("a lost file", |mirror| lose_object(mirror, "a8926a52d8dcba5c4386945476ab6a2ad008afd4")),
        ("a lost commit", |mirror| lose_object(mirror, &first_commit(mirror))),
        ("no configuration", |mirror| fs::remove_file(mirror.join("HEAD")).unwrap()),
        ("an empty directory", |mirror| {
            fs::remove_dir_all(mirror).unwrap();
            fs::create_dir(mirror).unwrap();
        }),
        ("no objects", |mirror| {
            fs::remove_dir_all(mirror.join("objects")).unwrap();
            fs::create_dir_all(mirror.join("objects/pack")).unwrap();
        }),
        ("half a pack", |mirror| {
            for entry in fs::read_dir(mirror.join("objects/pack")).unwrap() {
                let path = entry.unwrap().path();
                let mut permissions = fs::metadata(&path).unwrap().permissions();
                #[expect(clippy::permissions_set_readonly_false, reason = "a file of the test's own")]
                permissions.set_readonly(false);
                fs::set_permissions(&path, permissions).unwrap();
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
        }),
        ("a reference to nothing", |mirror| {
            fs::write(mirror.join("refs/countersign/heads").join("1".repeat(40)), "1".repeat(40) + "\n")
                .unwrap();
        }),
        ("an empty reference", |mirror| fs::write(mirror.join("refs/countersign/head"), "").unwrap()),
    ];
    for (damage, make) in damages {
        for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
            let mut setup = Setup::new(url);
            setup.fetch().await.unwrap();
            make(&setup.directory());
            setup.reopen();
            let head = setup.fetch().await.unwrap_or_else(|error| panic!("{damage}: {}", chain(&error)));
            assert_eq!(head.commit.to_string(), repo.head(), "{damage}");
            assert_eq!(setup.read(&repo.head(), "a.yaml"), "a: 1\n", "{damage}");
            assert_eq!(setup.read(&first, "b.yaml"), "b: 1\n", "{damage}");
        }
    }
}

/// Damage that only a reader meets is mended by the next fetch, in the same process.
#[tokio::test]
async fn damage_found_by_a_reader_is_mended() {
    let repo = Repo::new();
    let commit = repo.commit_file("a.yaml", "a: 1\n");
    let setup = Setup::local(&repo);
    setup.fetch().await.unwrap();
    fs::remove_dir_all(setup.directory().join("objects")).unwrap();
    fs::create_dir_all(setup.directory().join("objects/pack")).unwrap();
    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    let error = mirror.head().unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{}", chain(&error));
    setup.fetch().await.unwrap();
    assert_eq!(setup.read(&commit, "a.yaml"), "a: 1\n");
}

/// Locks and halves of packs that a killed process left must not stop the next one.
#[tokio::test]
async fn what_a_killed_fetch_left_is_swept() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let mut setup = Setup::local(&repo);
    setup.fetch().await.unwrap();
    let directory = setup.directory();
    let leftovers = ["refs/countersign/head.lock", "objects/pack/pack_git2_0123456789abcdef", "config.lock"];
    for leftover in leftovers {
        fs::write(directory.join(leftover), "x").unwrap();
    }
    fs::create_dir(directory.with_extension("new")).unwrap();
    setup.reopen();
    let second = repo.commit_file("a.yaml", "a: 2\n");
    assert_eq!(setup.commit().await, second);
    assert!(leftovers.iter().all(|leftover| !directory.join(leftover).exists()));
    setup.mirrors.remove(KEY).await.unwrap();
    assert_eq!(fs::read_dir(setup.cache.path().join("git")).unwrap().count(), 0);
}

/// A source that changes every minute must not get slower by the day, nor forget what it had.
#[tokio::test]
async fn many_packs_become_few_and_nothing_is_lost() {
    let repo = Repo::new();
    let mut commits = vec![repo.commit_file("a.yaml", "a: first\n")];
    let setup = Setup::local(&repo);
    setup.fetch().await.unwrap();
    for n in 0..60 {
        let commit = repo.commit_file("a.yaml", &format!("a: {n}\n"));
        assert_eq!(setup.commit().await, commit);
        commits.push(commit);
        if n == 20 {
            // Nothing but the packs keeps this one's content.
            repo.git(&["reset", "-q", "--hard", &commits[0]]);
        }
        if n == 45 {
            // Packs that a reader may have listed stay for as long as it reads.
            let reader = setup.mirrors.open(KEY, &setup.remote).unwrap();
            for more in 0..10 {
                repo.commit_file("b.yaml", &format!("b: {more}\n"));
                setup.fetch().await.unwrap();
            }
            assert!(packs(&setup.directory()) > 50);
            assert!(reader.tree(id(&commits[1]), &[]).is_ok());
        }
    }
    assert!(packs(&setup.directory()) < 20, "{}", packs(&setup.directory()));
    for commit in commits {
        assert_eq!(setup.paths(&commit, &["a.yaml"]), "a.yaml");
        assert!(setup.read(&commit, "a.yaml").starts_with("a: "));
    }
}

/// Reconciles, a webhook and a person may all ask at once.
#[tokio::test]
async fn one_fetch_at_a_time_per_mirror() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    let heads = futures::future::join_all((0..5).map(|_| setup.fetch())).await;
    assert!(heads.iter().all(|head| head.as_ref().unwrap().commit.to_string() == repo.head()));
    assert_eq!((server.lists(), server.packs()), (5, 2));

    // Whoever waits for another's fetch does not wait longer than asked.
    server.behave(Manner::Hang);
    let (hung, waited) =
        tokio::join!(setup.mirrors.fetch(KEY, &setup.remote, Duration::from_secs(2)), async {
            while server.lists() < 6 {
                tokio::task::yield_now().await;
            }
            let started = Instant::now();
            let waited = setup.mirrors.fetch(KEY, &setup.remote, Duration::from_millis(100)).await;
            assert!(started.elapsed() < Duration::from_secs(1));
            waited
        });
    assert_eq!(hung.unwrap_err().reason(), "TimedOut");
    assert_eq!(waited.unwrap_err().reason(), "TimedOut");
}

/// Nothing that could lead out of the tree is read, and nothing is left out in silence.
#[tokio::test]
async fn odd_entries_are_refused_and_listed() {
    let repo = Repo::new();
    let blob = repo.blob(b"a: 1\n");
    let tree = repo.git_with(&["mktree"], format!("100644 blob {blob}\tb.yaml\n").as_bytes());
    let link = repo.blob(b"/etc/passwd");
    let commit = repo.commit_tree(&[
        ("100644", "blob", &blob, b"a.yaml"),
        ("100755", "blob", &blob, b"executable.json"),
        ("100644", "blob", &blob, b"README.md"),
        ("100644", "blob", &blob, b"odd\x01name.md"),
        ("100644", "blob", &blob, b"control\x1b.yaml"),
        ("100644", "blob", &blob, b"latin\xe9.yaml"),
        ("100644", "blob", &blob, b"back\\slash.yml"),
        ("120000", "blob", &link, b"link"),
        ("160000", "commit", &"1".repeat(40), b"module"),
        ("040000", "tree", &tree, b"directory"),
        ("040000", "tree", &tree, b".GIT"),
        ("040000", "tree", &tree, b".."),
    ]);
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    setup.fetch().await.unwrap();
    assert_eq!(setup.paths(&commit, &[]), "a.yaml directory/b.yaml executable.json");
    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    let refused = mirror.tree(id(&commit), &[]).unwrap().refused;
    let refused: Vec<_> =
        refused.iter().map(|refused| format!("{}: {}", refused.path, refused.reason)).collect();
    assert_eq!(
        refused,
        [
            "..: the name is not allowed: it is not a name",
            ".GIT: the name is not allowed: it is git's own",
            "back\\slash.yml: the name is not allowed: it holds a separator of paths",
            "control\\u{1b}.yaml: the name is not allowed: it holds control or invisible characters",
            "latin\u{fffd}.yaml: the name is not allowed: it is not UTF-8",
            "link: symbolic links are not followed",
            "module: submodules are not read",
        ]
    );
}

/// One large file must not take the others with it.
#[tokio::test]
async fn too_large_is_refused_or_an_error() {
    let repo = Repo::new();
    repo.write("large.yaml", &"#".repeat(101)).write("just.yaml", &"#".repeat(100));
    let commit = repo.commit_file("d/small.yaml", "a: 1\n");
    let bounds = Bounds { file_bytes: 100, ..Bounds::default() };
    let read = |bounds: Bounds| async {
        let setup = Setup::with(repo.path().to_str().unwrap(), bounds);
        setup.fetch().await.unwrap();
        let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
        (mirror.tree(id(&commit), &[]), mirror)
    };
    let (tree, mirror) = read(bounds.clone()).await;
    let tree = tree.unwrap();
    assert_eq!(tree.entries.len(), 2);
    assert_eq!(tree.refused[0].path, "large.yaml");
    assert_eq!(tree.refused[0].reason, Reason::TooLarge { size: 101, bound: 100 });
    // Nor can it be read by its name.
    let change = mirror.changed(None, id(&commit), &strings(&["large.yaml"])).unwrap().remove(0);
    assert!(matches!(mirror.blob(change.new.unwrap()), Err(Error::TooLarge { bound: 100, .. })));

    for bounds in [
        Bounds { files: 2, ..Bounds::default() },
        Bounds { tree_entries: 3, ..Bounds::default() },
        Bounds { total_bytes: 205, ..Bounds::default() },
    ] {
        assert!(matches!(read(bounds.clone()).await.0, Err(Error::TooLarge { .. })), "{bounds:?}");
    }
}

/// Some kilobytes can unfold to gigabytes: whoever may push would end the operator for lack of memory.
#[tokio::test]
async fn objects_that_unfold_too_far_are_not_read() {
    let long = "x".repeat(5 << 20);
    let with =
        |header: &str| format!("{header}\nauthor a <a@b> 1 +0000\ncommitter a <a@b> 1 +0000\n\n{long}\n");
    let commit = |repo: &Repo| {
        let tree = repo.git(&["rev-parse", "HEAD^{tree}"]);
        repo.git_with(
            &["hash-object", "-t", "commit", "-w", "--stdin"],
            with(&format!("tree {tree}")).as_bytes(),
        )
    };
    let older = |repo: &Repo| {
        let (tree, parent) = (repo.git(&["rev-parse", "HEAD^{tree}"]), commit(repo));
        repo.git(&["commit-tree", &tree, "-p", &parent, "-m", "after it"])
    };
    let tag = |repo: &Repo| {
        let tag = format!("object {}\ntype commit\ntag t\ntagger a <a@b> 1 +0000\n\n{long}\n", repo.head());
        repo.git_with(&["hash-object", "-t", "tag", "-w", "--stdin"], tag.as_bytes())
    };
    let tree = |repo: &Repo| {
        let blob = repo.blob(b"a");
        let listed: Vec<_> = (0..40_000).map(|n| format!("100644 blob {blob}\t{n:0>250}.yaml\n")).collect();
        let tree = repo.git_with(&["mktree"], listed.concat().as_bytes());
        repo.git(&["commit-tree", &tree, "-m", "many files"])
    };
    let bombs: [(&str, &dyn Fn(&Repo) -> String); 4] =
        [("commit", &commit), ("older commit", &older), ("tag", &tag), ("tree", &tree)];
    for (what, bomb) in bombs {
        let repo = Repo::new();
        repo.commit_file("a.yaml", "a: 1\n");
        let bad = bomb(&repo);
        repo.git(&["update-ref", "refs/tags/bad", &bad]);
        let mut setup = Setup::local(&repo);
        setup.want(Reference::Tag("bad".to_owned()));
        let fetched = setup.fetch().await;
        assert!(matches!(fetched, Err(Error::TooLarge { .. })), "{what}: {fetched:?}");
    }
}

/// A source that names paths must get these and no others, and hear of a typing error.
#[tokio::test]
async fn only_the_asked_paths_are_listed() {
    let repo = Repo::new();
    for path in ["apps/a.yaml", "apps/deep/b.yaml", "apps-other/c.yaml", "d.yaml", "notes.txt"] {
        repo.write(path, "a: 1\n");
    }
    let commit = repo.commit("Files");
    let setup = Setup::local(&repo);
    setup.fetch().await.unwrap();
    assert_eq!(setup.paths(&commit, &["apps"]), "apps/a.yaml apps/deep/b.yaml");
    assert_eq!(setup.paths(&commit, &["./apps/deep/", "d.yaml", "apps/deep"]), "apps/deep/b.yaml d.yaml");
    assert_eq!(setup.paths(&commit, &["."]), "apps-other/c.yaml apps/a.yaml apps/deep/b.yaml d.yaml");
    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    for (path, reason) in [
        ("app", "PathNotFound"),
        ("d.yaml/x", "PathNotFound"),
        ("notes.txt", "InvalidPath"),
        ("../x", "InvalidPath"),
    ] {
        let error = mirror.tree(id(&commit), &strings(&[path])).unwrap_err();
        assert_eq!(error.reason(), reason);
        assert!(error.to_string().contains(path), "{error}");
    }
}

/// One path that is gone must not hide the others, nor pass for a directory that was emptied.
#[tokio::test]
async fn a_path_that_is_missing_is_refused_beside_the_others() {
    let repo = Repo::new();
    repo.write("notes.txt", "no manifest");
    repo.write("apps/a.yaml", "a: 1\n");
    std::os::unix::fs::symlink("apps", repo.path().join("link.yaml")).unwrap();
    let commit = repo.commit("two paths");
    let setup = Setup::local(&repo);
    setup.commit().await;
    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    let tree = mirror.tree(id(&commit), &strings(&["gone/x", "apps", "notes.txt", "link.yaml"])).unwrap();
    let refused: Vec<_> = tree.refused.into_iter().map(|refused| (refused.path, refused.reason)).collect();
    assert_eq!(tree.entries.len(), 1);
    assert_eq!(
        refused,
        [
            ("gone/x".to_owned(), Reason::Missing),
            ("link.yaml".to_owned(), Reason::Symlink),
            ("notes.txt".to_owned(), Reason::NoManifest),
        ]
    );
    let none = mirror.tree(id(&commit), &strings(&["gone", "link.yaml"])).unwrap_err();
    assert_eq!(none.reason(), "PathNotFound");
}

/// Withdrawals are counted between two commits: nothing may be missing from the difference.
#[tokio::test]
async fn changes_between_commits_are_found() {
    let repo = Repo::new();
    for path in ["kept.yaml", "edited.yaml", "apps/removed.yaml", "apps/same.yaml", "swap", "notes.txt"] {
        repo.write(path, "a: 1\n");
    }
    let from = repo.write("turns.yaml", "a: 1\n").commit("Before");
    fs::remove_file(repo.path().join("apps/removed.yaml")).unwrap();
    fs::remove_file(repo.path().join("turns.yaml")).unwrap();
    repo.write("edited.yaml", "a: 2\n").write("new/added.yaml", "a: 1\n").write("notes.txt", "b");
    let to = repo.write("turns.yaml/inside.yaml", "a: 1\n").commit("After");
    let setup = Setup::local(&repo);
    setup.fetch().await.unwrap();
    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    let changed = |from: Option<&str>, paths: &[&str]| {
        let changes = mirror.changed(from.map(id), id(&to), &strings(paths)).unwrap();
        let sign = |change: &countersign::adapters::git::Change| match (change.old, change.new) {
            (None, _) => '+',
            (_, None) => '-',
            _ => '~',
        };
        changes.iter().map(|change| format!("{}{}", sign(change), change.path)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        changed(Some(&from), &[]),
        "-apps/removed.yaml ~edited.yaml +new/added.yaml -turns.yaml +turns.yaml/inside.yaml"
    );
    assert_eq!(changed(Some(&from), &["apps", "gone"]), "-apps/removed.yaml");
    assert_eq!(changed(Some(&to), &[]), "");
    assert_eq!(changed(None, &["apps", "new"]), "+apps/same.yaml +new/added.yaml");
    assert!(matches!(
        mirror.changed(Some(id(&"1".repeat(40))), id(&to), &[]),
        Err(Error::UnknownCommit { .. })
    ));
}

/// A rollback needs the version that a workload's manifest had before.
#[tokio::test]
async fn the_log_finds_older_versions() {
    let repo = Repo::new();
    repo.commit_file("apps/a.yaml", "a: 1\n");
    let second = repo.commit_file("apps/a.yaml", "a: 2\n");
    repo.commit_file("other.yaml", "b: 1\n");
    repo.git(&["checkout", "-q", "-b", "topic"]);
    repo.commit_file("apps/a.yaml", "a: 3\n");
    repo.git(&["checkout", "-q", "main"]);
    repo.commit_file("other.yaml", "b: 2\n");
    repo.git(&["merge", "-q", "--no-ff", "-m", "Merge topic", "topic"]);
    let merge = repo.head();
    fs::remove_file(repo.path().join("apps/a.yaml")).unwrap();
    let removed = repo.commit("Remove");
    let setup = Setup::local(&repo);
    setup.fetch().await.unwrap();

    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    let log = |limit| {
        let entries = mirror.log(id(&removed), limit, &strings(&["apps"])).unwrap();
        let version = |entry: &countersign::adapters::git::LogEntry| {
            assert_eq!(entry.changed.len(), 1);
            let older = mirror.blob(entry.changed[0].blob).unwrap();
            (entry.commit.to_string(), String::from_utf8(older).unwrap())
        };
        entries.iter().map(version).collect::<Vec<_>>()
    };
    let expected = [
        (removed.clone(), "a: 3\n".to_owned()),
        (merge.clone(), "a: 2\n".to_owned()),
        (second.clone(), "a: 1\n".to_owned()),
    ];
    assert_eq!(log(100), expected);
    assert_eq!(log(1), expected[..1]);
    // Along first parents: what was on a branch was never applied.
    let parents = |limit| {
        let found = mirror.first_parents(id(&removed), limit).unwrap();
        found.into_iter().map(|(commit, _)| commit.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(parents(2), [removed.clone(), merge.clone()]);
    assert_eq!(parents(100).len(), 6);
    assert!(setup.descends(&merge, &repo.git(&["rev-parse", "topic"])).await.unwrap());
}

/// An empty commit is a tree like any other: what it means is for others to judge.
#[tokio::test]
async fn an_empty_tree_is_read() {
    let repo = Repo::new();
    let commit = repo.commit("Nothing");
    let server = GitHttp::start(&repo).await;
    for url in [server.url.as_str(), repo.path().to_str().unwrap()] {
        let setup = Setup::new(url);
        assert_eq!(setup.commit().await, commit);
        assert_eq!(setup.paths(&commit, &[]), "");
    }
}

/// The size of a large company's repository must be no reason to wait.
#[tokio::test]
async fn twenty_thousand_files_are_read_in_reasonable_time() {
    let repo = Repo::new();
    let first = repo.commit_many(20_000);
    let server = GitHttp::start(&repo).await;
    let setup = Setup::http(&server);
    let timed = |what: &str, started: Instant| {
        eprintln!("{what}: {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(30), "{what}: {:?}", started.elapsed());
    };
    let started = Instant::now();
    setup.fetch().await.unwrap();
    timed("first fetch", started);
    let started = Instant::now();
    let (tree, read) = setup
        .mirrors
        .read(KEY, &setup.remote, move |mirror| {
            let tree = mirror.tree(id(&first), &[])?;
            let read: usize = tree.entries.iter().map(|entry| mirror.blob(entry.blob).unwrap().len()).sum();
            Ok((tree, read))
        })
        .await
        .unwrap();
    timed("tree and blobs", started);
    assert_eq!((tree.entries.len(), tree.refused.len()), (20_000, 0));
    assert!(read > 100_000);
    let started = Instant::now();
    setup.fetch().await.unwrap();
    timed("unchanged", started);
}

/// A cache that cannot be written is the operator's trouble, not the repository's: the message says which.
#[tokio::test]
async fn an_unusable_cache_directory_is_told() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let place = TempDir::new().unwrap();
    // A file in the way stops even root, whom permissions do not.
    fs::write(place.path().join("cache"), "").unwrap();
    let mirrors = Mirrors::new(&place.path().join("cache"));
    let error = mirrors.fetch(KEY, &remote(repo.path().to_str().unwrap()), LONG).await.unwrap_err();
    assert_eq!(error.reason(), "StorageFailed");
    assert!(error.retry() && chain(&error).contains("Not a directory"), "{}", chain(&error));
}

/// A new URL is a new repository until proven otherwise: nothing of the old one may be taken for it.
#[tokio::test]
async fn another_url_gets_another_mirror_and_removal_takes_all() {
    let (repo, other) = (Repo::new(), Repo::new());
    let old = repo.commit_file("a.yaml", "a: 1\n");
    other.commit_file("b.yaml", "b: 1\n");
    let mut setup = Setup::local(&repo);
    setup.fetch().await.unwrap();
    let old_directory = setup.directory();
    setup.remote.url = other.path().to_str().unwrap().to_owned();
    assert!(matches!(setup.mirrors.open(KEY, &setup.remote), Err(Error::NotFetched { .. })));
    setup.fetch().await.unwrap();
    let mirror = setup.mirrors.open(KEY, &setup.remote).unwrap();
    assert!(matches!(mirror.tree(id(&old), &[]), Err(Error::UnknownCommit { .. })));
    // Waits for what clears up behind the fetch.
    while old_directory.exists() {
        tokio::task::yield_now().await;
    }
    setup.mirrors.fetch("apps/another", &setup.remote, LONG).await.unwrap();
    setup.mirrors.remove(KEY).await.unwrap();
    assert!(matches!(setup.mirrors.open(KEY, &setup.remote), Err(Error::NotFetched { .. })));
    assert!(setup.mirrors.open("apps/another", &setup.remote).is_ok());
}

/// A mounted repository often belongs to another user; reading it runs nothing of it.
#[cfg(unix)]
#[tokio::test]
async fn a_repository_of_another_user_is_read_and_its_configuration_is_not_obeyed() {
    let repo = Repo::new();
    repo.commit_file("a.yaml", "a: 1\n");
    let trap = repo.path().join("trap");
    let run = format!("touch {}", trap.display());
    for name in ["core.fsmonitor", "core.sshCommand", "uploadpack.packObjectsHook", "core.pager"] {
        repo.git(&["config", name, &run]);
    }
    repo.git(&["config", "url.http://192.0.2.1/.insteadOf", "/"]);
    // Only root can give files away; for others this still reads their own.
    let _ = std::os::unix::fs::chown(repo.path().join(".git"), Some(12_345), Some(12_345));
    let _ = std::os::unix::fs::chown(repo.path(), Some(12_345), Some(12_345));
    let setup = Setup::local(&repo);
    assert_eq!(setup.paths(&setup.commit().await, &[]), "a.yaml");
    assert!(!trap.exists());
}
