//! One path of a commit, of whatever kind: what overlays name is looked up, not listed.

use git2::{ObjectType, Oid};

use super::{
    BlobId, CommitId, Error, Mirror,
    tree::{Reason, TREE_BYTES, odd},
};

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// The content.
        blob: BlobId,
        /// Its size in bytes.
        size: u64,
    },
    /// Something that is not read.
    Refused(Reason),
    /// Nothing.
    Nothing,
}

impl Mirror {
    /// What stands at `path` (from the root, without `.` and `..`; empty: the root) in a commit.
    ///
    /// *Caveats*: blocks.
    pub fn at(&self, commit: CommitId, path: &str) -> Result<At, Error> {
        let mut directory = self.commit(commit)?.tree_id();
        let mut names = path.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(name) = names.next() {
            if let Some(why) = odd(name.as_bytes()) {
                return Ok(At::Refused(Reason::Name(why)));
            }
            let found = match self.entries_of(directory, name)?.as_slice() {
                [] => return Ok(At::Nothing),
                [one] => *one,
                _ => return Ok(At::Refused(Reason::Duplicate)),
            };
            match found {
                (0o040_000, ObjectType::Tree, tree) => directory = tree,
                (0o100_644 | 0o100_664 | 0o100_755, ObjectType::Blob, blob) if names.peek().is_none() => {
                    return self.file(blob);
                }
                (0o100_644 | 0o100_664 | 0o100_755, ObjectType::Blob, _) => return Ok(At::Nothing),
                (0o120_000, ..) => return Ok(At::Refused(Reason::Symlink)),
                (0o160_000, ..) => return Ok(At::Refused(Reason::Submodule)),
                _ => return Ok(At::Refused(Reason::UnknownKind)),
            }
        }
        Ok(At::Directory)
    }

    fn file(&self, blob: Oid) -> Result<At, Error> {
        let broken = |error| self.damage("a file", error);
        let (size, _) = self.repository.odb().and_then(|odb| odb.read_header(blob)).map_err(broken)?;
        let (size, bound) = (size as u64, self.bounds.file_bytes);
        if size > bound {
            return Ok(At::Refused(Reason::TooLarge { size, bound }));
        }
        Ok(At::File { blob: BlobId(blob), size })
    }

    /// The entries of a directory by this name: mode, kind and content.
    fn entries_of(&self, directory: Oid, name: &str) -> Result<Vec<(i32, ObjectType, Oid)>, Error> {
        let broken = |error| self.damage("a directory", error);
        let (size, _) = self.repository.odb().and_then(|odb| odb.read_header(directory)).map_err(broken)?;
        if size > TREE_BYTES {
            return Err(Error::TooLarge { what: "bytes of a directory", bound: TREE_BYTES as u64 });
        }
        let tree = self.repository.find_tree(directory).map_err(broken)?;
        let same = tree.iter().filter(|entry| entry.name_bytes() == name.as_bytes());
        Ok(same
            .map(|entry| (entry.filemode(), entry.kind().unwrap_or(ObjectType::Any), entry.id()))
            .collect())
    }
}
