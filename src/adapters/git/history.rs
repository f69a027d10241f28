//! What happened between commits.

use std::collections::{BTreeMap, BTreeSet};

use git2::Oid;
use jiff::Timestamp;

use super::{
    BlobId, CommitId, Error, Mirror, mirror,
    tree::{Found, inside, join, normal},
};

/// A manifest that differs between two commits. Its absence is `None`; so is what is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the root of the repository.
    pub path: String,
    /// The content before.
    pub old: Option<BlobId>,
    /// The content after.
    pub new: Option<BlobId>,
}

/// A commit that changed or removed manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// The commit.
    pub commit: CommitId,
    /// The committer's clock, which nobody vouches for.
    pub time: Timestamp,
    /// What its first parent had instead, by path.
    pub changed: Vec<Older>,
}

/// An earlier version of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Older {
    /// From the root of the repository.
    pub path: String,
    /// The content before the commit.
    pub blob: BlobId,
}

/// What a mirror knows of whether one commit descends from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descent {
    Proved,
    Disproved,
    /// The mirror's history ends before.
    Unknown,
}

impl Mirror {
    /// Whether `head` is `ancestor` or has it in its history, as far as that is here.
    ///
    /// *Caveats*: blocks; it may take a walk through the whole history.
    pub(super) fn descent(&self, head: CommitId, ancestor: CommitId) -> Result<Descent, Error> {
        let here = |commit| match self.commit(commit) {
            Err(Error::UnknownCommit { .. }) => Ok(false),
            found => found.map(|_| true),
        };
        let (head_here, ancestor_here) = (here(head)?, here(ancestor)?);
        if head_here && ancestor_here && self.reaches(head, ancestor)? {
            return Ok(Descent::Proved);
        }
        if self.is_shallow() {
            return Ok(Descent::Unknown);
        }
        if head_here { Ok(Descent::Disproved) } else { Err(Error::UnknownCommit { commit: head }) }
    }

    fn reaches(&self, head: CommitId, ancestor: CommitId) -> Result<bool, Error> {
        if head == ancestor {
            return Ok(true);
        }
        let descends = self.repository.graph_descendant_of(head.0, ancestor.0);
        descends.map_err(|error| self.damage("the history", error))
    }

    /// Whether history ends before its beginning: a walk down from a commit may then not see all that came before it.
    pub fn is_shallow(&self) -> bool {
        self.repository.is_shallow()
    }

    /// The manifests below `paths` that differ between two commits, by path; all of `to` if there is no `from`.
    /// A path that one of the commits does not have is no error.
    ///
    /// *Caveats*: blocks; reads only the directories that differ, and no file.
    pub fn changed(
        &self,
        from: Option<CommitId>,
        to: CommitId,
        paths: &[String],
    ) -> Result<Vec<Change>, Error> {
        let paths = normal(paths)?;
        let old = from.map(|from| self.commit(from)).transpose()?.map(|commit| commit.tree_id());
        let new = self.commit(to)?.tree_id();
        let mut walk = Compare { mirror: self, paths: &paths, visited: 0, changes: Vec::new() };
        walk.directories("", old, Some(new))?;
        Ok(walk.done())
    }

    /// `from` and what came before it, along first parents and `limit` commits at most, as far as that is here. With the committers'
    /// clocks, which nobody vouches for.
    ///
    /// *Caveats*: blocks.
    pub fn first_parents(&self, from: CommitId, limit: usize) -> Result<Vec<(CommitId, Timestamp)>, Error> {
        let mut commit = self.commit(from)?;
        let mut found = Vec::new();
        while found.len() < limit {
            found.push((CommitId(commit.id()), mirror::time(&commit)));
            if commit.parent_count() == 0 {
                break;
            }
            commit = commit.parent(0).map_err(|error| self.damage("the history", error))?;
        }
        Ok(found)
    }

    /// Goes back from `from`, along first parents and `limit` commits at most, and tells which commits changed or
    /// removed manifests below `paths`, and what was there before. Newest first.
    ///
    /// *Caveats*: blocks. It ends early, without an error, once it has looked at as many entries as one commit may have.
    pub fn log(&self, from: CommitId, limit: usize, paths: &[String]) -> Result<Vec<LogEntry>, Error> {
        let paths = normal(paths)?;
        let mut commit = self.commit(from)?;
        let mut visited = 0;
        let mut entries = Vec::new();
        for _ in 0..limit {
            if commit.parent_count() == 0 {
                break;
            }
            let parent = commit.parent(0).map_err(|error| self.damage("the history", error))?;
            let mut walk = Compare { mirror: self, paths: &paths, visited, changes: Vec::new() };
            match walk.directories("", Some(parent.tree_id()), Some(commit.tree_id())) {
                Err(Error::TooLarge { .. }) => break,
                outcome => outcome?,
            }
            visited = walk.visited;
            let older = |change: Change| change.old.map(|blob| Older { path: change.path, blob });
            let changed: Vec<_> = walk.done().into_iter().filter_map(older).collect();
            if !changed.is_empty() {
                entries.push(LogEntry {
                    commit: CommitId(commit.id()),
                    time: mirror::time(&commit),
                    changed,
                });
            }
            commit = parent;
        }
        Ok(entries)
    }
}

struct Compare<'a> {
    mirror: &'a Mirror,
    paths: &'a BTreeSet<String>,
    visited: usize,
    changes: Vec<Change>,
}

impl Compare<'_> {
    fn directories(&mut self, path: &str, old: Option<Oid>, new: Option<Oid>) -> Result<(), Error> {
        if old == new {
            return Ok(());
        }
        let (old, new) = (self.list(old)?, self.list(new)?);
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let path = join(path, name);
            if !self.concerns(&path) {
                continue;
            }
            let (old, new) = (Side::of(old.get(name)), Side::of(new.get(name)));
            self.directories(&path, old.directory, new.directory)?;
            if old.file != new.file && self.paths.iter().any(|wanted| inside(&path, wanted)) {
                self.changes.push(Change { path, old: old.file, new: new.file });
            }
        }
        Ok(())
    }

    fn list(&mut self, tree: Option<Oid>) -> Result<BTreeMap<String, Found>, Error> {
        let Some(tree) = tree else { return Ok(BTreeMap::new()) };
        let mut listed = BTreeMap::new();
        for (name, found) in self.mirror.list(tree)? {
            self.visited += 1;
            let bound = self.mirror.bounds.tree_entries;
            if self.visited > bound {
                return Err(Error::TooLarge {
                    what: "files and directories that differ",
                    bound: bound as u64,
                });
            }
            // Refused ones are neither here nor there; names that are not UTF-8 are among them.
            if let (Ok(name), Some(found @ (Found::Directory(_) | Found::Manifest(_)))) =
                (String::from_utf8(name), found)
            {
                listed.insert(name, found);
            }
        }
        Ok(listed)
    }

    /// Whether `path` is inside of a wanted path or leads to one.
    fn concerns(&self, path: &str) -> bool {
        self.paths.iter().any(|wanted| inside(path, wanted) || inside(wanted, path))
    }

    /// By path: a file and a directory of one name come in another order in trees.
    fn done(mut self) -> Vec<Change> {
        self.changes.sort_by(|a, b| a.path.cmp(&b.path));
        self.changes
    }
}

struct Side {
    directory: Option<Oid>,
    file: Option<BlobId>,
}

impl Side {
    fn of(found: Option<&Found>) -> Self {
        match found {
            Some(Found::Directory(tree)) => Self { directory: Some(*tree), file: None },
            Some(Found::Manifest(blob)) => Self { directory: None, file: Some(BlobId(*blob)) },
            Some(Found::Refused(_)) | None => Self { directory: None, file: None },
        }
    }
}
