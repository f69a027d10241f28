//! Fetching over the smart protocol of git, which libgit2 speaks.

use std::path::Path;

use git2::{AutotagOption, Direction, FetchOptions, Oid, RemoteCallbacks, Repository};

use super::{Error, http, remote::Wanted, session::Session};

/// Transfers what the reference names and the mirror lacks. Returns what the remote's reference points at: a commit or a tag.
pub(super) fn fetch(repository: &Repository, session: &std::sync::Arc<Session>) -> Result<Oid, Error> {
    match session.wanted()? {
        Wanted::Name(name) => {
            let connection = Connection { repository, session };
            connection.open(|remote, heads| {
                let (_, oid) = heads
                    .iter()
                    .find(|(head, _)| *head == name)
                    .ok_or_else(|| session.reference_not_found())?;
                connection.download(remote, &[&name])?;
                Ok(*oid)
            })
        }
        Wanted::Commit(oid) => fetch_commit(repository, session, oid),
    }
}

/// A commit can be asked for directly only where the server allows it; elsewhere it must be on a branch or tag.
fn fetch_commit(repository: &Repository, session: &std::sync::Arc<Session>, oid: Oid) -> Result<Oid, Error> {
    // It can mean nothing else than what is here already.
    if repository.find_commit(oid).is_ok() {
        return Ok(oid);
    }
    let connection = Connection { repository, session };
    connection.open(|remote, heads| {
        if let Some((name, _)) = heads.iter().find(|(name, head)| *head == oid && !name.ends_with("^{}")) {
            return connection.download(remote, &[name]);
        }
        if http::allows_any_reachable(session) {
            return match connection.download(remote, &[&oid.to_string()]) {
                Err(Error::Protocol { .. }) => Err(session.reference_not_found()),
                other => other,
            };
        }
        // A pattern needs a destination to be valid; nothing is written there.
        connection.download(remote, &["refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*"])
    })?;
    if repository.find_commit(oid).is_err() {
        return Err(session.reference_not_found());
    }
    Ok(oid)
}

struct Connection<'a> {
    repository: &'a Repository,
    session: &'a std::sync::Arc<Session>,
}

impl Connection<'_> {
    fn open<T>(
        &self,
        work: impl FnOnce(&mut git2::Remote<'_>, &[(String, Oid)]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let _session = http::enter(self.session);
        let mut remote =
            self.repository.remote_anonymous(&self.session.url()).map_err(|e| self.explain(e))?;
        let mut connection = remote
            .connect_auth(Direction::Fetch, Some(self.callbacks()), None)
            .map_err(|error| self.explain(error))?;
        let heads = connection.list().map_err(|error| self.explain(error))?;
        let heads: Vec<_> = heads.iter().map(|head| (head.name().to_owned(), head.oid())).collect();
        work(connection.remote(), &heads)
    }

    /// Without effect if the mirror has it all.
    fn download(&self, remote: &mut git2::Remote<'_>, refspecs: &[&str]) -> Result<(), Error> {
        let mut options = FetchOptions::new();
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
        let path: &Path = self.repository.path();
        self.session.explain(error, path)
    }
}
