//! Fetching over the smart protocol of git, which libgit2 speaks.

use std::sync::Arc;

use git2::{
    AutotagOption, Direction, ErrorCode, FetchOptions, Oid, RemoteCallbacks, RemoteUpdateFlags, Repository,
};

use super::{
    Error,
    location::Location,
    remote::Wanted,
    session::{Depth, Session},
    transport,
};

/// Where libgit2 notes what the remote's reference points at. git2's list of the remote's references is of no use:
/// it panics if anybody pushed a name that is not UTF-8.
const INCOMING: &str = "refs/countersign/incoming";

/// Transfers what the reference names and the mirror lacks, with history to a depth where the server can. Returns what the
/// remote's reference points at: a commit or a tag.
pub(super) fn fetch(repository: &Repository, session: &Arc<Session>, depth: Depth) -> Result<Oid, Error> {
    let transfer = Transfer { repository, session, depth };
    match session.wanted()? {
        Wanted::Name(name) => transfer.reference(|| Ok(name.clone())),
        Wanted::Highest(range) => transfer.reference(|| session.choose_listed_tag(&range)),
        Wanted::Commit(oid) => transfer.commit(oid),
    }
}

struct Transfer<'a> {
    repository: &'a Repository,
    session: &'a Arc<Session>,
    depth: Depth,
}

impl Transfer<'_> {
    /// `name` is asked once the remote's list of references is there.
    fn reference(&self, name: impl Fn() -> Result<String, Error>) -> Result<Oid, Error> {
        match self.repository.find_reference(INCOMING).and_then(|mut old| old.delete()) {
            Err(error) if error.code() != ErrorCode::NotFound => return Err(self.explain(error)),
            _ => {}
        }
        self.connected(|remote| {
            self.download(remote, &[&format!("+{}:{INCOMING}", name()?)], self.depth)?;
            remote
                .update_tips(None, RemoteUpdateFlags::empty(), AutotagOption::None, None)
                .map_err(|error| self.explain(error))
        })?;
        self.repository.refname_to_id(INCOMING).map_err(|error| match error.code() {
            ErrorCode::NotFound => self.session.reference_not_found(),
            _ => self.explain(error),
        })
    }

    /// A commit can be asked for directly only where the server allows it; elsewhere it must be on a branch or tag.
    fn commit(&self, oid: Oid) -> Result<Oid, Error> {
        // Its name can mean nothing else than what is here already.
        if self.depth == Depth::Missing && self.repository.find_commit(oid).is_ok() {
            return Ok(oid);
        }
        self.connected(|remote| {
            if ["allow-reachable-sha1-in-want", "allow-any-sha1-in-want"]
                .iter()
                .any(|can| self.session.can(can))
            {
                return match self.download(remote, &[&oid.to_string()], self.depth) {
                    Err(Error::Protocol { .. }) => Err(self.session.reference_not_found()),
                    other => other,
                };
            }
            // How deep it lies is not known. A pattern needs a destination to be valid; nothing is written there.
            let depth = if self.repository.is_shallow() { Depth::Whole } else { Depth::Missing };
            self.download(remote, &["refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*"], depth)
        })?;
        self.repository.find_commit(oid).map_err(|_| self.session.reference_not_found())?;
        Ok(oid)
    }

    fn connected<T>(&self, work: impl FnOnce(&mut git2::Remote<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let _entered = transport::enter(self.session);
        let url = match &self.session.location {
            // Our transport knows the address; to libgit2 only the scheme matters.
            Location::Ssh(_) => "ssh://remote/".to_owned(),
            Location::Http(_) | Location::Local(_) => self.session.url(),
        };
        let remote = self.repository.remote_anonymous(&url);
        let mut remote = remote.map_err(|error| self.explain(error))?;
        let connection = remote.connect_auth(Direction::Fetch, Some(self.callbacks()), None);
        work(connection.map_err(|error| self.explain(error))?.remote())
    }

    /// Without effect if the mirror has it all.
    fn download(&self, remote: &mut git2::Remote<'_>, refspecs: &[&str], depth: Depth) -> Result<(), Error> {
        let mut options = FetchOptions::new();
        if self.session.can("shallow") {
            options.depth(depth.commits());
        }
        options.remote_callbacks(self.callbacks()).download_tags(AutotagOption::None).update_fetchhead(false);
        remote.download(refspecs, Some(&mut options)).map_err(|error| self.explain(error))
    }

    fn callbacks(&self) -> RemoteCallbacks<'_> {
        let mut callbacks = RemoteCallbacks::new();
        callbacks.transfer_progress(|progress| self.session.progress(&progress));
        callbacks.sideband_progress(|_| self.session.go_on(|| Ok(())));
        callbacks
    }

    fn explain(&self, error: git2::Error) -> Error {
        self.session.explain(error, self.repository.path())
    }
}
