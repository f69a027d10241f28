//! The manifests of a commit, read from the object database.

use std::collections::{BTreeMap, BTreeSet};

use git2::{ObjectType, Oid};

use super::{
    BlobId, CommitId, Error, Mirror,
    ignored::{self, Ignored},
    text::{misleading, printable_bytes},
};

/// Directories in directories. Deeper ones are refused and listed.
const DEPTH: usize = 64;
/// Bytes of one directory: some 100,000 entries.
pub(super) const TREE_BYTES: usize = 8 << 20;
const NAME_BYTES: usize = 255;
const MANIFESTS: [&str; 3] = [".yaml", ".yml", ".json"];
/// Names without such an extension of what is read, too.
const NAMES: [&str; 2] = ["Kustomization", ignored::FILE];

/// What a commit holds below the paths of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The manifests, by path.
    pub entries: Vec<Entry>,
    /// What is not read, and why, by path. Whoever reads the manifests must not take these for absent.
    pub refused: Vec<Refused>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the root of the repository, with `/`.
    pub path: String,
    /// The content.
    pub blob: BlobId,
    /// Its size in bytes.
    pub size: u64,
}

/// Something that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The path, made printable.
    pub path: String,
    /// Why.
    pub reason: Reason,
}

/// Why something in a commit is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It could point anywhere.
    #[error("symbolic links are not followed")]
    Symlink,
    /// Another repository.
    #[error("submodules are not read")]
    Submodule,
    /// A kind of entry that git does not make.
    #[error("the kind of entry is unknown")]
    UnknownKind,
    /// A name that means one thing here and another thing elsewhere.
    #[error("the name is not allowed: {0}")]
    Name(&'static str),
    /// The directory has two entries of this name.
    #[error("the name stands twice in its directory")]
    Duplicate,
    /// Too many directories in directories.
    #[error("it is deeper than {DEPTH} directories")]
    TooDeep,
    /// An ignore file, or a line of it, that cannot be read.
    #[error("nothing is ignored by it: {0}")]
    IgnoreFile(String),
    /// A path of the source that the commit does not have.
    #[error("the commit has no such path; take it out of spec.paths, or bring it back")]
    Missing,
    /// A path of the source that is a file of another kind.
    #[error("it is neither a directory nor a .yaml, .yml or .json file")]
    NoManifest,
    /// Too large a file.
    #[error("it has {size} bytes, and the bound is {bound}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
        /// The bound for one file.
        bound: u64,
    },
}

/// What an entry of a directory is to us.
pub(super) enum Found {
    Directory(Oid),
    Manifest(Oid),
    Refused(Reason),
}

/// An entry of a directory by its name; nothing beside the names of files that are not ours to read.
type Listed = (Vec<u8>, Option<Found>);

impl Mirror {
    /// The manifests of `commit` below `paths` (directories or files; none means everything). A path that is not there, or
    /// nothing to read, is refused and listed.
    ///
    /// *Caveats*: blocks; reads all directories below `paths` and no file.
    ///
    /// *Errors*: also when there is none of the paths.
    pub fn tree(&self, commit: CommitId, paths: &[String]) -> Result<Tree, Error> {
        let root = self.commit(commit)?.tree_id();
        let mut walk = Walk {
            mirror: self,
            ignored: Ignored::default(),
            visited: 0,
            bytes: 0,
            entries: BTreeMap::new(),
            refused: BTreeMap::new(),
        };
        let paths = normal(paths)?;
        let mut missed = Vec::new();
        for path in &paths {
            let wrong = walk.ignored.around(self, commit, path)?;
            walk.refused.extend(wrong);
            match self.find(root, path, commit) {
                Ok(Found::Directory(tree)) => walk.directory(path, tree, 0)?,
                Ok(Found::Manifest(blob)) => walk.file(path.clone(), blob)?,
                Ok(Found::Refused(reason)) => {
                    let why = "it is no directory or file to read";
                    missed.push((path, reason, Error::InvalidPath { path: path.clone(), why }));
                }
                Err(error @ Error::PathNotFound { .. }) => missed.push((path, Reason::Missing, error)),
                Err(error @ Error::InvalidPath { .. }) => missed.push((path, Reason::NoManifest, error)),
                Err(error) => return Err(error),
            }
        }
        if missed.len() == paths.len() {
            return missed.into_iter().next().map_or_else(|| Ok(Tree::default()), |(_, _, error)| Err(error));
        }
        walk.refused
            .extend(missed.into_iter().map(|(path, reason, _)| (printable_bytes(path.as_bytes()), reason)));
        let entries =
            walk.entries.into_iter().map(|(path, (blob, size))| Entry { path, blob, size }).collect();
        let refused = walk.refused.into_iter().map(|(path, reason)| Refused { path, reason }).collect();
        Ok(Tree { entries, refused })
    }

    /// The content of a file, within the bound for one file.
    ///
    /// *Caveats*: blocks.
    pub fn blob(&self, blob: BlobId) -> Result<Vec<u8>, Error> {
        let broken = |error| self.damage("a file", error);
        let odb = self.repository.odb().map_err(broken)?;
        let (size, _) = odb.read_header(blob.0).map_err(broken)?;
        if size as u64 > self.bounds.file_bytes {
            return Err(Error::TooLarge { what: "bytes of a file", bound: self.bounds.file_bytes });
        }
        Ok(odb.read(blob.0).map_err(broken)?.data().to_vec())
    }

    /// What stands at `path` in a tree.
    fn find(&self, root: Oid, path: &str, commit: CommitId) -> Result<Found, Error> {
        let missing = || Error::PathNotFound { path: path.to_owned(), commit };
        let mut found = Found::Directory(root);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Found::Directory(tree) = found else { return Err(missing()) };
            let listed = self.list(tree)?;
            let same = listed.into_iter().find(|(entry, _)| entry == name.as_bytes());
            found = same.ok_or_else(missing)?.1.ok_or(Error::InvalidPath {
                path: path.to_owned(),
                why: "it is neither a directory nor a .yaml, .yml or .json file",
            })?;
        }
        Ok(found)
    }

    /// The entries of a directory.
    pub(super) fn list(&self, tree: Oid) -> Result<Vec<Listed>, Error> {
        let broken = |error| self.damage("a directory", error);
        let odb = self.repository.odb().map_err(broken)?;
        if odb.read_header(tree).map_err(broken)?.0 > TREE_BYTES {
            return Err(Error::TooLarge { what: "bytes of a directory", bound: TREE_BYTES as u64 });
        }
        let tree = self.repository.find_tree(tree).map_err(broken)?;
        let mut names = BTreeSet::new();
        let mut listed = Vec::with_capacity(tree.len());
        for entry in &tree {
            let name = entry.name_bytes().to_vec();
            let found = if names.insert(name.clone()) {
                judge(&entry)
            } else {
                Some(Found::Refused(Reason::Duplicate))
            };
            listed.push((name, found));
        }
        Ok(listed)
    }
}

/// Files that are no manifests by their names are left out in silence; all else that is not read is refused.
fn judge(entry: &git2::TreeEntry<'_>) -> Option<Found> {
    let name = entry.name_bytes();
    let manifest = MANIFESTS.iter().any(|extension| name.ends_with(extension.as_bytes()))
        || NAMES.iter().any(|own| name == own.as_bytes());
    let found = match (entry.filemode(), entry.kind()) {
        (0o120_000, _) => return Some(Found::Refused(Reason::Symlink)),
        (0o160_000, _) => return Some(Found::Refused(Reason::Submodule)),
        (0o040_000, Some(ObjectType::Tree)) => Found::Directory(entry.id()),
        (0o100_644 | 0o100_664 | 0o100_755, Some(ObjectType::Blob)) if manifest => {
            Found::Manifest(entry.id())
        }
        (0o100_644 | 0o100_664 | 0o100_755, Some(ObjectType::Blob)) => return None,
        _ => return Some(Found::Refused(Reason::UnknownKind)),
    };
    Some(odd(name).map_or(found, |why| Found::Refused(Reason::Name(why))))
}

/// Why a name is not allowed. Git's own rules are looser than those of the tools that read the files later.
pub(super) fn odd(name: &[u8]) -> Option<&'static str> {
    let Ok(text) = std::str::from_utf8(name) else { return Some("it is not UTF-8") };
    if text.is_empty() || text == "." || text == ".." {
        Some("it is not a name")
    } else if text.eq_ignore_ascii_case(".git") {
        Some("it is git's own")
    } else if text.contains(['/', '\\']) {
        Some("it holds a separator of paths")
    } else if text.chars().any(misleading) {
        Some("it holds control or invisible characters")
    } else if text.len() > NAME_BYTES {
        Some("it is too long")
    } else {
        None
    }
}

/// The paths as they stand in trees, without those that are inside of others. The empty one is the root.
pub fn normal(paths: &[String]) -> Result<BTreeSet<String>, Error> {
    let mut all = BTreeSet::new();
    for path in paths {
        let names: Vec<_> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        if let Some(why) = names.iter().find_map(|name| odd(name.as_bytes())) {
            return Err(Error::InvalidPath { path: printable_bytes(path.as_bytes()), why });
        }
        all.insert(names.join("/"));
    }
    if all.is_empty() {
        all.insert(String::new());
    }
    let outermost = |path: &&String| !all.iter().any(|other| other != *path && inside(path, other));
    Ok(all.iter().filter(outermost).cloned().collect())
}

/// Whether `path` is `directory` or something below it.
pub(super) fn inside(path: &str, directory: &str) -> bool {
    directory.is_empty()
        || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

struct Walk<'a> {
    mirror: &'a Mirror,
    ignored: Ignored,
    visited: usize,
    bytes: u64,
    entries: BTreeMap<String, (BlobId, u64)>,
    refused: BTreeMap<String, Reason>,
}

impl Walk<'_> {
    fn directory(&mut self, path: &str, tree: Oid, depth: usize) -> Result<(), Error> {
        if depth > DEPTH {
            self.refused.insert(path.to_owned(), Reason::TooDeep);
            return Ok(());
        }
        let listed = self.mirror.list(tree)?;
        let outside = self.ignored.depth();
        self.ignore(path, &listed)?;
        for (name, found) in listed {
            self.visited += 1;
            let bound = self.mirror.bounds.tree_entries;
            if self.visited > bound {
                return Err(Error::TooLarge {
                    what: "files and directories of the commit",
                    bound: bound as u64,
                });
            }
            let Some(found) = found.filter(|_| name != ignored::FILE.as_bytes()) else { continue };
            // Names that are not UTF-8 are refused, so this changes no other.
            let path = join(path, &String::from_utf8_lossy(&name));
            match found {
                Found::Directory(_) if self.ignored.directory(&path) => {}
                Found::Manifest(_) if self.ignored.file(&path) => {}
                // A submodule, for one, is a directory to git.
                Found::Refused(_) if self.ignored.file(&path) || self.ignored.directory(&path) => {}
                Found::Directory(tree) => self.directory(&path, tree, depth + 1)?,
                Found::Manifest(blob) => self.file(path, blob)?,
                Found::Refused(reason) => {
                    self.refused.insert(printable_bytes(path.as_bytes()), reason);
                }
            }
        }
        self.ignored.leave(outside);
        Ok(())
    }

    /// Reads the ignore file of a directory, if it has one.
    fn ignore(&mut self, path: &str, listed: &[Listed]) -> Result<(), Error> {
        let own = listed.iter().filter(|(name, _)| name == ignored::FILE.as_bytes());
        for found in own.filter_map(|(_, found)| found.as_ref()) {
            let wrong = match found {
                Found::Directory(_) => None,
                Found::Refused(reason) => Some(reason.clone()),
                Found::Manifest(blob) => {
                    let odb = self.mirror.repository.odb();
                    let size = odb.and_then(|odb| odb.read_header(*blob));
                    let (size, _) = size.map_err(|error| self.mirror.damage("a file", error))?;
                    self.ignored.enter(self.mirror, path, BlobId(*blob), size as u64)?
                }
            };
            self.refused.extend(wrong.map(|reason| (join(path, ignored::FILE), reason)));
        }
        Ok(())
    }

    fn file(&mut self, path: String, blob: Oid) -> Result<(), Error> {
        let bounds = &self.mirror.bounds;
        let odb = self.mirror.repository.odb().map_err(|error| self.mirror.damage("a file", error))?;
        let (size, _) = odb.read_header(blob).map_err(|error| self.mirror.damage("a file", error))?;
        let size = size as u64;
        if size > bounds.file_bytes {
            self.refused.insert(path, Reason::TooLarge { size, bound: bounds.file_bytes });
            return Ok(());
        }
        self.bytes += size;
        if self.bytes > bounds.total_bytes {
            return Err(Error::TooLarge { what: "bytes of all manifests", bound: bounds.total_bytes });
        }
        self.entries.insert(path, (BlobId(blob), size));
        if self.entries.len() > bounds.files {
            return Err(Error::TooLarge { what: "manifests of the commit", bound: bounds.files as u64 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that other tools read differently would let a file be two things.
    #[test]
    fn odd_names_are_found() {
        for name in [&b"a.yaml"[..], b".github", b"gitea", "é.yaml".as_bytes(), b"...", b"a b", b"-x"] {
            assert_eq!(odd(name), None, "{name:?}");
        }
        for name in [
            &b""[..],
            b".",
            b"..",
            b".git",
            b".GIT",
            b"a\\b",
            b"a/b",
            b"a\n",
            b"\xff",
            "a\u{202e}".as_bytes(),
        ] {
            assert!(odd(name).is_some(), "{name:?}");
        }
    }

    /// Two paths of a source, one inside of the other, must not list files twice.
    #[test]
    fn paths_are_made_normal() {
        let normal = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
            normal(&paths).map(|paths| paths.into_iter().collect::<Vec<_>>().join(" "))
        };
        assert_eq!(normal(&[]).unwrap(), "");
        assert_eq!(normal(&["./apps/", "/apps/a", "apps-b", "x//y"]).unwrap(), "apps apps-b x/y");
        assert_eq!(normal(&["apps", "."]).unwrap(), "");
        assert!(normal(&["apps/../../etc"]).is_err());
    }
}
