//! A mirror on disk: one bare repository, updated in place, rebuilt beside itself if it is damaged.
//!
//! References of ours in it, and no others:
//! * `refs/countersign/head`: the commit fetched last;
//! * `refs/countersign/heads/<commit>`: it, and earlier ones that no later one descends from;
//! * `refs/countersign/incoming`: what came over HTTP last, before it is checked.
//!
//! All that was ever fetched is reachable from these, and nothing is ever collected. A first fetch takes only the last commits
//! where the server can, and libgit2 notes in the file `shallow` where history ends; [`deepen`] moves that end.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use git2::{Oid, Repository, RepositoryInitOptions, RepositoryOpenFlags};
use jiff::Timestamp;

use super::{
    Bounds, CommitId, Error, Head, health, local,
    location::Location,
    packs,
    session::{Depth, Session},
    smart,
    text::printable_bytes,
};

/// How many commits a first fetch takes: enough to look back for what workloads ran before, and to go on from a commit that
/// was applied some days ago.
pub(super) const FIRST: i32 = 100;

const HEAD: &str = "refs/countersign/head";
const HEADS: &str = "refs/countersign/heads/";
const LOG: &str = "what is fetched is kept by Countersign";

/// What all users of one mirror share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Held while fetching.
    pub fetching: Arc<tokio::sync::Mutex<()>>,
    /// A read found damage: the next fetch rebuilds.
    damaged: AtomicBool,
    /// The head that this process found complete.
    complete: Mutex<Option<Oid>>,
    /// The sizes of the files that were listed last: a name stands for one content for ever.
    sizes: Mutex<HashMap<Oid, u64>>,
    /// How many have the mirror open for reading. While it is locked, nobody opens it.
    readers: Mutex<usize>,
}

/// A mirror, open for reading. The methods block; they do not change anything.
pub struct Mirror {
    pub(super) repository: Repository,
    pub(super) bounds: Bounds,
    directory: PathBuf,
    shared: Arc<Shared>,
}

impl Mirror {
    pub(super) fn open(
        directory: PathBuf,
        shared: Arc<Shared>,
        bounds: Bounds,
        location: &Location,
    ) -> Result<Self, Error> {
        if !directory.exists() {
            return Err(Error::NotFetched { url: location.to_string() });
        }
        let mut readers = shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = open(&directory);
        let repository = opened.map_err(|error| {
            shared.damaged.store(true, Ordering::Relaxed);
            Error::mirror("its configuration", &directory, error)
        })?;
        *readers += 1;
        drop(readers);
        Ok(Self { repository, bounds, directory, shared })
    }

    /// What the last fetch found.
    pub fn head(&self) -> Result<Head, Error> {
        let oid = self.repository.refname_to_id(HEAD).map_err(|error| self.damage("its head", error))?;
        head(&self.repository, oid).map_err(|error| self.damage("its head", error))
    }

    /// An error of libgit2 in reading: notes that the mirror is to be rebuilt.
    pub(super) fn damage(&self, what: &'static str, error: git2::Error) -> Error {
        let error = Error::mirror(what, &self.directory, error);
        if matches!(error, Error::Corrupt { .. }) {
            self.shared.damaged.store(true, Ordering::Relaxed);
        }
        error
    }

    /// The sizes of the files that were listed last.
    pub(super) fn sizes(&self) -> MutexGuard<'_, HashMap<Oid, u64>> {
        self.shared.sizes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The commit, if the mirror has it.
    pub(super) fn commit(&self, commit: CommitId) -> Result<git2::Commit<'_>, Error> {
        self.repository.find_commit(commit.0).map_err(|error| match error.code() {
            git2::ErrorCode::NotFound => Error::UnknownCommit { commit },
            _ => self.damage("a commit", error),
        })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        *self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

impl Shared {
    /// Runs `work` unless somebody reads, and keeps readers out meanwhile.
    fn unless_read(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if *readers > 0 { Ok(()) } else { work() }
    }
}

/// Opens a bare repository, exactly there. libgit2's own function for these passes over where a shallow history ends.
fn open(directory: &Path) -> Result<Repository, git2::Error> {
    let flags = RepositoryOpenFlags::BARE | RepositoryOpenFlags::NO_SEARCH | RepositoryOpenFlags::NO_DOTGIT;
    Repository::open_ext(directory, flags, std::iter::empty::<&Path>())
}

/// Updates the mirror, or builds it (again) beside its place and then puts it there.
pub(super) fn fetch(directory: &Path, shared: &Shared, session: &Arc<Session>) -> Result<Head, Error> {
    session.check_time()?;
    if directory.exists() && !shared.damaged.load(Ordering::Relaxed) {
        let kept = open(directory).map_err(|error| Error::mirror("its configuration", directory, error));
        match kept.and_then(|repository| update(&repository, shared, session)) {
            Err(error @ Error::Corrupt { .. }) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a git mirror is damaged and is built again"
                );
            }
            outcome => return outcome,
        }
    }
    rebuild(directory, shared, session)
}

fn rebuild(directory: &Path, shared: &Shared, session: &Arc<Session>) -> Result<Head, Error> {
    let fresh = directory.with_extension("new");
    remove_directory(&fresh)?;
    fs::create_dir_all(&fresh).map_err(|source| Error::storage("create", &fresh, source))?;
    let built = initialise(&fresh).and_then(|repository| {
        *shared.complete.lock().unwrap_or_else(PoisonError::into_inner) = None;
        update(&repository, shared, session)
    });
    let head = match built {
        Ok(head) => head,
        Err(error) => {
            // Gives the space back; what stays goes with the next attempt.
            let _ = remove_directory(&fresh);
            return Err(match error {
                // There was nothing of ours that could be damaged.
                Error::Corrupt { what: _, source } => session.unusable(&source),
                other => other,
            });
        }
    };
    let old = directory.with_extension("old");
    remove_directory(&old)?;
    if directory.exists() {
        fs::rename(directory, &old).map_err(|source| Error::storage("move away", directory, source))?;
    }
    fs::rename(&fresh, directory).map_err(|source| Error::storage("put in place", directory, source))?;
    shared.damaged.store(false, Ordering::Relaxed);
    remove_directory(&old)?;
    Ok(head)
}

fn initialise(directory: &Path) -> Result<Repository, Error> {
    let mut options = RepositoryInitOptions::new();
    // No template: it could bring hooks and configuration.
    options.bare(true).no_reinit(true).external_template(false).initial_head("countersign");
    Repository::init_opts(directory, &options)
        .map_err(|error| Error::mirror("the new mirror", directory, error))
}

pub(super) fn remove(directory: &Path) -> Result<(), Error> {
    for extension in ["new", "old"] {
        remove_directory(&directory.with_extension(extension))?;
    }
    remove_directory(directory)
}

fn remove_directory(directory: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(directory) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::storage("remove", directory, source))
        }
        _ => Ok(()),
    }
}

/// Fetches into `repository`, makes sure that all is there, and only then notes the new head.
fn update(repository: &Repository, shared: &Shared, session: &Arc<Session>) -> Result<Head, Error> {
    health::sweep(repository.path())?;
    let broken = |error| Error::mirror("its references", repository.path(), error);
    let earlier = heads(repository)?;
    let complete = *shared.complete.lock().unwrap_or_else(PoisonError::into_inner);
    if complete.is_none() {
        // Once per process: a crash or a full disk may have left anything, and what is not asked for is not noticed.
        for head in &earlier {
            health::verify(repository, session, *head, &[])?;
        }
    }
    let depth = if earlier.is_empty() { Depth::Commits(FIRST) } else { Depth::Missing };
    let tip = match &session.location {
        Location::Http(_) | Location::Ssh(_) => match smart::fetch(repository, session, depth) {
            // Not every server that says it can end history somewhere gets it right.
            Err(error @ Error::Protocol { .. }) if depth != Depth::Missing => {
                tracing::debug!(error = &error as &dyn std::error::Error, "history is fetched whole instead");
                smart::fetch(repository, session, Depth::Missing)?
            }
            outcome => outcome?,
        },
        Location::Local(path) => local::fetch(repository, session, path)?,
    };
    session.check_time()?;
    let commit = health::commit_of(repository, session, tip)?;
    if !earlier.contains(&commit) || complete.is_none() {
        health::verify(repository, session, commit, &earlier)?;
    }
    note(repository, commit, &earlier).map_err(broken)?;
    *shared.complete.lock().unwrap_or_else(PoisonError::into_inner) = Some(commit);
    // The fetch itself is done; packs that cannot be merged now can be later.
    if let Err(error) = packs::merge(repository, session, |remove| shared.unless_read(remove)) {
        tracing::debug!(error = &error as &dyn std::error::Error, "the packs of a git mirror are not merged");
    }
    let head = head(repository, commit).map_err(broken)?;
    Ok(Head { tag: session.tag(), ..head })
}

/// Fetches history behind where the mirror ends.
pub(super) fn deepen(
    directory: &Path,
    shared: &Shared,
    session: &Arc<Session>,
    depth: Depth,
) -> Result<(), Error> {
    session.check_time()?;
    let deepened = open(directory)
        .map_err(|error| Error::mirror("its configuration", directory, error))
        .and_then(|repository| {
            health::sweep(repository.path())?;
            match &session.location {
                Location::Http(_) | Location::Ssh(_) => smart::fetch(&repository, session, depth)?,
                Location::Local(_) => return Ok(()),
            };
            heads(&repository)?
                .into_iter()
                .try_for_each(|head| health::verify(&repository, session, head, &[]))
        });
    if matches!(deepened, Err(Error::Corrupt { .. })) {
        shared.damaged.store(true, Ordering::Relaxed);
    }
    deepened
}

/// The commits that our references name.
pub(super) fn heads(repository: &Repository) -> Result<Vec<Oid>, Error> {
    let broken = |error| Error::mirror("its references", repository.path(), error);
    let mut heads = Vec::new();
    for reference in repository.references_glob(&format!("{HEADS}*")).map_err(broken)? {
        heads.extend(reference.map_err(broken)?.target());
    }
    Ok(heads)
}

fn note(repository: &Repository, commit: Oid, earlier: &[Oid]) -> Result<(), git2::Error> {
    let name = |oid: &Oid| format!("{HEADS}{oid}");
    repository.reference(&name(&commit), commit, true, LOG)?;
    if repository.refname_to_id(HEAD).ok() != Some(commit) {
        repository.reference(HEAD, commit, true, LOG)?;
    }
    for old in earlier {
        if *old != commit && repository.graph_descendant_of(commit, *old)? {
            repository.find_reference(&name(old))?.delete()?;
        }
    }
    Ok(())
}

fn head(repository: &Repository, oid: Oid) -> Result<Head, git2::Error> {
    let commit = repository.find_commit(oid)?;
    let summary = printable_bytes(commit.summary_bytes().unwrap_or_default());
    Ok(Head { commit: CommitId(oid), time: time(&commit), summary, tag: None })
}

/// The committer's time. Git stores any number; one outside of the calendar becomes its nearest end.
pub(super) fn time(commit: &git2::Commit<'_>) -> Timestamp {
    let seconds = commit.time().seconds();
    let end = if seconds < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_second(seconds).unwrap_or(end)
}
