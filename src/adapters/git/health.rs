//! Whether a mirror is whole, and what a killed process leaves in it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use git2::{Commit, ObjectType, Odb, Oid, Repository};

use super::{Error, session::Session, tree::TREE_BYTES};

/// Bytes of one commit or tag, in full: some 80,000 parents, or a very long message.
const COMMIT_BYTES: usize = 4 << 20;
/// A tag may name a tag; nobody needs more.
const TAGS: usize = 8;
/// After how many entries of one directory the clock is looked at.
const ENTRIES: usize = 1024;

/// Looks at what was fetched. Some kilobytes can unfold to gigabytes: every object is asked for its size before it is read.
struct Examined<'a> {
    repository: &'a Repository,
    odb: Odb<'a>,
    session: &'a Session,
}

/// Makes sure that the history of `commit` is there down to commits of `known`, and all its files.
///
/// A killed fetch, a lost file or a careless server leave gaps that libgit2 does not look for.
pub(super) fn verify(
    repository: &Repository,
    session: &Session,
    commit: Oid,
    known: &[Oid],
) -> Result<(), Error> {
    let examined = Examined::new(repository, session)?;
    examined.history(commit, known)?;
    examined.files(commit)
}

/// The commit that a fetched object is, or that it names as a tag.
pub(super) fn commit_of(repository: &Repository, session: &Session, tip: Oid) -> Result<Oid, Error> {
    let examined = Examined::new(repository, session)?;
    let mut at = tip;
    for _ in 0..TAGS {
        match examined.bounded(at, "bytes of a commit or tag", COMMIT_BYTES)? {
            ObjectType::Commit => return Ok(at),
            ObjectType::Tag => {
                at = repository.find_tag(at).map_err(|error| examined.broken(error))?.target_id();
            }
            _ => break,
        }
    }
    Err(session.no_commit())
}

impl<'a> Examined<'a> {
    fn new(repository: &'a Repository, session: &'a Session) -> Result<Self, Error> {
        let odb = repository.odb();
        let odb = odb.map_err(|error| Error::mirror("its objects", repository.path(), error))?;
        Ok(Self { repository, odb, session })
    }

    fn broken(&self, error: git2::Error) -> Error {
        Error::mirror("its objects", self.repository.path(), error)
    }

    /// What an object is, if it is not too large to be read.
    fn bounded(&self, object: Oid, what: &'static str, bound: usize) -> Result<ObjectType, Error> {
        let (size, kind) = self.odb.read_header(object).map_err(|error| self.broken(error))?;
        if size > bound {
            return Err(Error::TooLarge { what, bound: bound as u64 });
        }
        Ok(kind)
    }

    fn commit(&self, commit: Oid) -> Result<Commit<'a>, Error> {
        self.session.check_time()?;
        self.bounded(commit, "bytes of a commit or tag", COMMIT_BYTES)?;
        self.repository.find_commit(commit).map_err(|error| self.broken(error))
    }

    /// Walks from the newest commit to older ones until only what `known` descends from is left.
    fn history(&self, head: Oid, known: &[Oid]) -> Result<(), Error> {
        let mut walk = Walk::default();
        walk.meet(&self.commit(head)?, Side::New);
        for oid in known {
            walk.meet(&self.commit(*oid)?, Side::Known);
        }
        while let Some((oid, side)) = walk.next() {
            for parent in self.commit(oid)?.parent_ids() {
                if walk.is_news(parent, side) {
                    walk.meet(&self.commit(parent)?, side);
                }
            }
        }
        Ok(())
    }

    fn files(&self, commit: Oid) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut trees = vec![self.commit(commit)?.tree_id()];
        while let Some(tree) = trees.pop() {
            self.session.check_time()?;
            self.bounded(tree, "bytes of a directory", TREE_BYTES)?;
            let tree = self.repository.find_tree(tree).map_err(|error| self.broken(error))?;
            for (count, entry) in tree.iter().enumerate() {
                if count % ENTRIES == 0 {
                    self.session.check_time()?;
                }
                match entry.kind() {
                    Some(ObjectType::Tree) if seen.insert(entry.id()) => trees.push(entry.id()),
                    Some(ObjectType::Blob) if !self.odb.exists(entry.id()) => return Err(self.lost_file()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn lost_file(&self) -> Error {
        let (code, class) = (git2::ErrorCode::NotFound, git2::ErrorClass::Odb);
        self.broken(git2::Error::new(code, class, "a file's content is missing"))
    }
}

/// Whether a commit is one that `known` descends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    New,
    Known,
}

/// A walk like libgit2's own, which would read commits of any size.
#[derive(Default)]
struct Walk {
    met: HashMap<Oid, Side>,
    /// What to go on from, by the committer's clock: where it is wrong, a little more is looked at.
    ahead: BTreeSet<(i64, Oid)>,
    /// Those ahead that are new.
    new: HashSet<Oid>,
}

impl Walk {
    /// Whether anything follows from meeting a commit on this side.
    fn is_news(&self, commit: Oid, side: Side) -> bool {
        self.met.get(&commit).is_none_or(|met| *met < side)
    }

    fn meet(&mut self, commit: &Commit<'_>, side: Side) {
        let oid = commit.id();
        if !self.is_news(oid, side) {
            return;
        }
        self.met.insert(oid, side);
        self.ahead.insert((commit.time().seconds(), oid));
        match side {
            Side::New => self.new.insert(oid),
            Side::Known => self.new.remove(&oid),
        };
    }

    /// The newest to go on from; none once all that is left is known.
    fn next(&mut self) -> Option<(Oid, Side)> {
        if self.new.is_empty() {
            return None;
        }
        let (_, oid) = self.ahead.pop_last()?;
        self.new.remove(&oid);
        Some((oid, self.met.get(&oid).copied()?))
    }
}

/// Removes what a killed fetch leaves: locks, which nobody would ever open, and halves of packs.
pub(super) fn sweep(repository: &Path) -> Result<(), Error> {
    let sweep = |directory: PathBuf, leftover: fn(&str) -> bool| {
        let storage = |source| Error::storage("clean", &directory, source);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(storage(error)),
        };
        for entry in entries {
            let entry = entry.map_err(storage)?;
            if entry.file_name().to_str().is_some_and(leftover) {
                fs::remove_file(entry.path()).map_err(storage)?;
            }
        }
        Ok(())
    };
    let lock: fn(&str) -> bool = |name| name.strip_suffix(".lock").is_some();
    sweep(repository.to_owned(), lock)?;
    sweep(repository.join("refs/countersign"), lock)?;
    sweep(repository.join("refs/countersign/heads"), lock)?;
    sweep(repository.join("objects/pack"), |name| name.starts_with("pack_git2_"))
}
