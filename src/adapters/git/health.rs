//! Whether a mirror is whole, and what a killed process leaves in it.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use git2::{ObjectType, Oid, Repository};

use super::{Error, session::Session};

/// Makes sure that the history of `commit` is there down to commits of `known`, and all its files.
///
/// A killed fetch, a lost file or a careless server leave gaps that libgit2 does not look for.
pub(super) fn verify(
    repository: &Repository,
    session: &Session,
    commit: Oid,
    known: &[Oid],
) -> Result<(), Error> {
    let broken = |error| Error::mirror("its objects", repository.path(), error);
    let mut walk = repository.revwalk().map_err(broken)?;
    walk.push(commit).map_err(broken)?;
    for head in known {
        walk.hide(*head).map_err(broken)?;
    }
    for (count, next) in walk.enumerate() {
        next.map_err(broken)?;
        if count % 1024 == 0 {
            session.check_time()?;
        }
    }
    let odb = repository.odb().map_err(broken)?;
    let mut seen = HashSet::new();
    let mut trees = vec![repository.find_commit(commit).map_err(broken)?.tree_id()];
    while let Some(tree) = trees.pop() {
        session.check_time()?;
        for entry in &repository.find_tree(tree).map_err(broken)? {
            match entry.kind() {
                Some(ObjectType::Tree) if seen.insert(entry.id()) => trees.push(entry.id()),
                Some(ObjectType::Blob) if !odb.exists(entry.id()) => {
                    return Err(broken(git2::Error::new(
                        git2::ErrorCode::NotFound,
                        git2::ErrorClass::Odb,
                        "a file's content is missing",
                    )));
                }
                _ => {}
            }
        }
    }
    Ok(())
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
