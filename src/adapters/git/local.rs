//! Fetching from a repository on this machine.
//!
//! libgit2's own local transport packs every reference of the remote, each time anew; this takes only what is wanted.

use std::{io::Write as _, path::Path};

use git2::{ErrorCode, ObjectType, Oid, Repository};

use super::{Error, mirror, remote::Wanted, session::Session};

/// Transfers what the reference names and the mirror lacks. Returns what the remote's reference points at: a commit or a tag.
pub(super) fn fetch(repository: &Repository, session: &Session, path: &Path) -> Result<Oid, Error> {
    // Opened exactly there, without a search in the directories above.
    let remote = Repository::open(path).map_err(|error| match error.code() {
        ErrorCode::NotFound => Error::RepositoryNotFound { url: session.url() },
        _ => session.unusable(&error),
    })?;
    if remote.is_shallow() {
        return Err(session.unusable(&git2::Error::from_str("it is a shallow clone, and history is needed")));
    }
    let tip = match session.wanted()? {
        Wanted::Name(name) => named(&remote, session, &name)?,
        Wanted::Highest(range) => {
            let tags = tags(&remote).map_err(|error| session.unusable(&error))?;
            named(&remote, session, &session.choose_tag(&range, tags.iter().map(String::as_str))?)?
        }
        Wanted::Commit(oid) => oid,
    };
    if !repository.odb().is_ok_and(|odb| odb.exists(tip)) {
        copy(repository, &remote, session, tip)?;
    }
    Ok(tip)
}

fn named(remote: &Repository, session: &Session, name: &str) -> Result<Oid, Error> {
    let target = remote.find_reference(name).and_then(|reference| reference.resolve());
    let target = target.ok().and_then(|reference| reference.target());
    target.ok_or_else(|| session.reference_not_found())
}

/// The names of all tags. Names that are not UTF-8 are no versions, and are passed over.
fn tags(remote: &Repository) -> Result<Vec<String>, git2::Error> {
    let mut tags = Vec::new();
    for reference in remote.references_glob("refs/tags/*")? {
        let name = String::from_utf8(reference?.name_bytes().to_vec()).unwrap_or_default();
        tags.extend(name.strip_prefix("refs/tags/").map(str::to_owned));
    }
    Ok(tags)
}

fn copy(repository: &Repository, remote: &Repository, session: &Session, tip: Oid) -> Result<(), Error> {
    let unusable = |error: git2::Error| session.unusable(&error);
    let object = remote.find_object(tip, None).map_err(|_| session.reference_not_found())?;
    let mut pack = remote.packbuilder().map_err(unusable)?;
    pack.set_threads(1);
    pack.set_progress_callback(|_, _, _| session.go_on(|| Ok(()))).map_err(unusable)?;

    // A tag of a tag of a commit: each is an object of its own.
    let mut target = object;
    while target.kind() == Some(ObjectType::Tag) {
        pack.insert_object(target.id(), None).map_err(unusable)?;
        let tag = target.peel_to_tag().map_err(unusable)?;
        target = tag.target().map_err(unusable)?;
    }
    let mut walk = remote.revwalk().map_err(unusable)?;
    walk.push(target.id()).map_err(|_| session.no_commit())?;
    for known in mirror::heads(repository)? {
        // The remote may never have had it, or no longer.
        if remote.find_commit(known).is_ok() {
            walk.hide(known).map_err(unusable)?;
        }
    }
    pack.insert_walk(&mut walk).map_err(|error| session.unusable(&error))?;

    let broken = |error| session.explain(error, repository.path());
    let odb = repository.odb().map_err(broken)?;
    let mut writer = odb.packwriter().map_err(broken)?;
    writer.progress(|progress| session.progress(&progress));
    let mut written = Ok(());
    let packed = pack.foreach(|bytes| {
        session.go_on(|| session.count(bytes.len())) && {
            // The writer tells libgit2's reason only through libgit2.
            written = writer.write_all(bytes).map_err(|_| git2::Error::last_error(-1));
            written.is_ok()
        }
    });
    written.map_err(broken)?;
    packed.map_err(|error| session.unusable(&error))?;
    writer.commit().map_err(broken)?;
    Ok(())
}
