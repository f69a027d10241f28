//! Git mirrors: fetching, and reading files from the object database.
//!
//! [`Mirrors`] keeps one bare repository per source in a cache directory. There is no work tree, no hook runs, no
//! configuration but the mirror's own is read, and what came from a remote is treated as hostile: every size, count and
//! wait has a bound. A mirror is only a cache: whatever is wrong with it, it is rebuilt from the remote.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the entry points; one fetch at a time per mirror; time-outs |
//! | `remote.rs` | what a source names: URL and reference, checked |
//! | `mirror.rs` | a mirror on disk: update, verify, rebuild |
//! | `health.rs` | whether a mirror is whole |
//! | `packs.rs` | many small packs of a mirror become one |
//! | `session.rs` | one fetch: its deadline, its caps, why it failed |
//! | `location.rs`, `credentials.rs` | a checked URL; what opens what is there |
//! | `smart.rs`, `transport.rs`, `advertised.rs` | fetching over libgit2's protocol; what our transports below it share |
//! | `resolve.rs` | from a host to the addresses that may be connected to |
//! | `http.rs`, `exchange.rs` | the transport for HTTP(S); one request |
//! | `ssh.rs`, `ssh_program.rs` | the transport for SSH; the program that it runs |
//! | `local.rs` | fetching from a repository on this machine |
//! | `setup.rs` | libgit2's settings for the whole process |
//! | `tree.rs`, `lookup.rs`, `history.rs` | reading: manifests of a commit; one path; changes between commits |
//! | `ignored.rs` | what a repository keeps out of its sources |

mod advertised;
mod credentials;
mod error;
mod exchange;
mod health;
mod history;
mod http;
mod ignored;
mod local;
mod location;
mod lookup;
mod mirror;
mod packs;
mod remote;
mod resolve;
mod session;
mod setup;
mod smart;
mod ssh;
mod ssh_program;
pub(super) mod text;
mod transport;
mod tree;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

pub use self::{
    credentials::{Channel, ClientCertificate, Credentials, HttpsKeys, Keys, Login, SshKeys},
    error::Error,
    history::{Change, LogEntry, Older},
    lookup::At,
    mirror::Mirror,
    remote::{Reference, Remote},
    tree::{Entry, Reason, Refused, Tree, normal as normal_paths},
};
use self::{
    history::Descent,
    location::Location,
    mirror::Shared,
    session::{Depth, Session},
};

/// How much longer than its time-out a fetch may take to notice that it is over.
const GRACE: Duration = Duration::from_secs(5);

/// The name of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(git2::Oid);

/// The name of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(git2::Oid);

/// What may be fetched and read at most. Beyond a bound nothing is cut off in silence: it is an error, or a refused entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one file; a larger one is refused and listed.
    pub file_bytes: u64,
    /// Manifests in one commit.
    pub files: usize,
    /// Bytes of all manifests in one commit.
    pub total_bytes: u64,
    /// Tree entries looked at in one commit (or between two), files of any kind and directories.
    pub tree_entries: usize,
    /// Objects in one transfer.
    pub objects: usize,
    /// Bytes of one transfer.
    pub pack_bytes: u64,
}

/// Room for a repository of some 100,000 files, of which half are manifests. `file_bytes` leaves room for bundles of
/// many documents: a single object in a cluster cannot pass 1.5 MiB anyway.
impl Default for Bounds {
    fn default() -> Self {
        Self {
            file_bytes: 4 << 20,
            files: 50_000,
            total_bytes: 256 << 20,
            tree_entries: 250_000,
            objects: 5_000_000,
            pack_bytes: 1 << 30,
        }
    }
}

/// The commit that a reference named when it was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The commit itself, where the reference is a tag too.
    pub commit: CommitId,
    /// The committer's clock, which nobody vouches for.
    pub time: Timestamp,
    /// The first line of the message: printable and short, but still a stranger's words.
    pub summary: String,
    /// The tag that was chosen, if a range of versions is followed.
    pub tag: Option<String>,
}

/// The mirrors of all sources, below one cache directory.
#[derive(Debug)]
pub struct Mirrors {
    root: PathBuf,
    /// Where ssh finds its keys while it runs.
    private: PathBuf,
    bounds: Bounds,
    /// Kept small by [`Mirrors::remove`].
    shared: Mutex<HashMap<PathBuf, Arc<Shared>>>,
}

impl Mirrors {
    /// Mirrors below `cache_dir`, which is made when first needed.
    pub fn new(cache_dir: &Path) -> Self {
        Self::with_bounds(cache_dir, Bounds::default())
    }

    /// The same with other bounds.
    pub fn with_bounds(cache_dir: &Path, bounds: Bounds) -> Self {
        setup::libgit2();
        let private = cache_dir.join("ssh");
        ssh_program::sweep(&private);
        Self { root: cache_dir.join("git"), private, bounds, shared: Mutex::default() }
    }

    /// Fetches what `remote` names into the mirror of `key` and resolves it to a commit.
    ///
    /// *Guarantees*: what was fetched earlier stays readable, whatever happens. Nothing is transferred if the mirror
    /// has the commit already. It returns within `timeout` and a few seconds; dropping the future ends the fetch too.
    ///
    /// *Caveats*: one fetch runs per mirror; others wait for it, within their own time-outs.
    ///
    /// *Errors*: all of [`Error`] but those of reading.
    pub async fn fetch(&self, key: &str, remote: &Remote, timeout: Duration) -> Result<Head, Error> {
        let head = self.alone(key, remote, timeout, mirror::fetch).await?;
        self.remove_other_urls(key, &self.directory(key, &Location::parse(&remote.url)?));
        Ok(head)
    }

    /// Whether `head` is `ancestor` or has it in its history. Where the mirror's history ends too early to tell, more of it is
    /// fetched first: twice as much, then all. An ancestor that is not in all of it was rewritten.
    ///
    /// *Caveats*: a negative answer may take a walk through the whole history.
    ///
    /// *Errors*: [`Error::UnknownCommit`] if the mirror has no commit `head`, and those of [`Mirrors::fetch`].
    pub async fn descends(
        &self,
        key: &str,
        remote: &Remote,
        head: CommitId,
        ancestor: CommitId,
        timeout: Duration,
    ) -> Result<bool, Error> {
        let descent = async || self.read(key, remote, move |mirror| mirror.descent(head, ancestor)).await;
        let mut known = descent().await?;
        for depth in [Depth::Commits(2 * mirror::FIRST), Depth::Whole] {
            if known != Descent::Unknown {
                break;
            }
            let deepen = move |directory: &Path, shared: &Shared, session: &Arc<Session>| {
                mirror::deepen(directory, shared, session, depth)
            };
            self.alone(key, remote, timeout, deepen).await?;
            known = descent().await?;
        }
        Ok(known == Descent::Proved)
    }

    /// Works on a mirror, with the remote, while nobody else does.
    async fn alone<T, F>(&self, key: &str, remote: &Remote, timeout: Duration, work: F) -> Result<T, Error>
    where
        F: FnOnce(&Path, &Shared, &Arc<Session>) -> Result<T, Error> + Send + 'static,
        T: Send + 'static,
    {
        let location = Location::parse(&remote.url)?;
        remote.reference.check()?;
        credentials::check(&location, remote.credentials.as_deref())?;
        let url = location.to_string();
        let deadline = Instant::now() + timeout;
        let timed_out = || Error::TimedOut { url: url.clone(), after: timeout };

        let directory = self.directory(key, &location);
        let shared = self.shared(&directory);
        let waiting = tokio::time::timeout(timeout, Arc::clone(&shared.fetching).lock_owned());
        let turn = waiting.await.map_err(|_| timed_out())?;

        let cancel = CancellationToken::new();
        let _cancel_when_dropped = cancel.clone().drop_guard();
        let (private, bounds) = (self.private.clone(), self.bounds.clone());
        let session = Session::new(location, remote, private, bounds, timeout, deadline, cancel);
        let session = Arc::new(session);
        let job = move || {
            let done = work(&directory, &shared, &session);
            drop(turn);
            done
        };
        let running = tokio::time::timeout_at((deadline + GRACE).into(), tokio::task::spawn_blocking(job));
        running.await.map_err(|_| timed_out())?.map_err(|source| Error::Internal { source })?
    }

    /// Opens the mirror that an earlier fetch left, without asking the remote: also after a restart.
    ///
    /// *Caveats*: blocks for a moment; see [`Mirrors::read`].
    pub fn open(&self, key: &str, remote: &Remote) -> Result<Mirror, Error> {
        let location = Location::parse(&remote.url)?;
        let directory = self.directory(key, &location);
        let shared = self.shared(&directory);
        Mirror::open(directory, shared, self.bounds.clone(), &location)
    }

    /// Opens a mirror and reads from it where blocking does no harm.
    pub async fn read<T, F>(&self, key: &str, remote: &Remote, read: F) -> Result<T, Error>
    where
        F: FnOnce(&Mirror) -> Result<T, Error> + Send + 'static,
        T: Send + 'static,
    {
        let location = Location::parse(&remote.url)?;
        let directory = self.directory(key, &location);
        let (shared, bounds) = (self.shared(&directory), self.bounds.clone());
        let job = move || read(&Mirror::open(directory, shared, bounds, &location)?);
        tokio::task::spawn_blocking(job).await.map_err(|source| Error::Internal { source })?
    }

    /// Removes all mirrors of a source that is gone. One that is being fetched goes when that ends.
    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        for directory in self.directories(key)? {
            let shared = self.shared(&directory);
            let turn = Arc::clone(&shared.fetching).lock_owned().await;
            let removed = tokio::task::spawn_blocking(move || {
                let removed = mirror::remove(&directory);
                drop(turn);
                removed.map(|()| directory)
            });
            let directory = removed.await.map_err(|source| Error::Internal { source })??;
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).remove(&directory);
        }
        Ok(())
    }

    /// Best effort: after a change of URL the mirror of the old one is only lost space.
    fn remove_other_urls(&self, key: &str, current: &Path) {
        for other in self.directories(key).unwrap_or_default() {
            if other == current {
                continue;
            }
            let shared = self.shared(&other);
            let Ok(turn) = Arc::clone(&shared.fetching).try_lock_owned() else { continue };
            tokio::task::spawn_blocking(move || {
                if let Err(error) = mirror::remove(&other) {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot remove an unused git mirror"
                    );
                }
                drop(turn);
            });
        }
    }

    /// `<hash of the key>-<hash of the URL>`: no name of ours can leave the cache directory, and none clash.
    fn directory(&self, key: &str, location: &Location) -> PathBuf {
        self.root.join(format!("{}-{}", short_hash(key), short_hash(&location.to_string())))
    }

    fn directories(&self, key: &str) -> Result<Vec<PathBuf>, Error> {
        let storage = |source| Error::storage("list", &self.root, source);
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(storage(error)),
        };
        let prefix = format!("{}-", short_hash(key));
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(storage)?;
            let name = entry.file_name();
            // What a rebuild keeps beside a mirror has an extension, and goes with it.
            if name.to_str().is_some_and(|name| name.starts_with(&prefix) && !name.contains('.')) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    fn shared(&self, directory: &Path) -> Arc<Shared> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shared.entry(directory.to_owned()).or_default())
    }
}

fn short_hash(text: &str) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..16])
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A full name: 40 hexadecimal digits. Short names are ambiguous sooner or later.
impl FromStr for CommitId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        remote::full_oid(text).map(Self).ok_or_else(|| Error::InvalidReference {
            reference: text::printable(text),
            why: "a commit is named by its 40 hexadecimal digits".to_owned(),
        })
    }
}
