//! One fetch: its deadline, its caps, and why it failed.
//!
//! libgit2 calls back into this program from inside a fetch (progress, transport) and can only be told "stop". So the
//! callbacks note the reason here, and whoever called libgit2 finds it when the call returns.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use url::Url;

use super::{
    Bounds, Credentials, Error, Reference, Remote, advertised,
    credentials::{HttpsKeys, Keys, Login},
    location::Location,
    remote::Wanted,
    text::printable,
};
use crate::domain::{destination::Destinations, version::Range};

/// The list of references, and what the server says before it sends the pack: libgit2 keeps these in memory.
const BEFORE_THE_PACK: u64 = 64 << 20;

/// How much history a fetch asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// What the mirror lacks, down to what it has.
    Missing,
    /// So many commits, counted from what is wanted.
    Commits(i32),
    /// All, also behind where the mirror ends.
    Whole,
}

impl Depth {
    /// As libgit2 says it.
    pub fn commits(self) -> i32 {
        match self {
            Self::Missing => 0,
            Self::Commits(commits) => commits,
            Self::Whole => i32::MAX,
        }
    }
}

pub(super) struct Session {
    pub location: Location,
    pub reference: Reference,
    pub credentials: Option<Arc<Credentials>>,
    destinations: Destinations,
    /// Where files may be written that only this fetch reads.
    pub private: PathBuf,
    pub bounds: Bounds,
    /// What awaits for the blocking thread.
    pub runtime: Handle,
    pub deadline: Instant,
    pub cancel: CancellationToken,
    /// What the remote said it can do, once known.
    capabilities: Mutex<String>,
    /// The list of references, if it is looked at here.
    advertised: Mutex<Vec<u8>>,
    /// The tag that was chosen from a range of versions.
    tag: Mutex<Option<String>>,
    timeout: Duration,
    failure: Mutex<Option<Error>>,
    received: AtomicU64,
    before_the_pack: AtomicU64,
    pack_begun: AtomicBool,
}

impl Session {
    pub fn new(
        location: Location,
        remote: &Remote,
        private: PathBuf,
        bounds: Bounds,
        timeout: Duration,
        deadline: Instant,
        cancel: CancellationToken,
    ) -> Self {
        let Remote { url: _, reference, credentials, destinations } = remote;
        Self {
            location,
            reference: reference.clone(),
            credentials: credentials.clone(),
            destinations: destinations.clone(),
            private,
            bounds,
            runtime: Handle::current(),
            deadline,
            cancel,
            capabilities: Mutex::default(),
            advertised: Mutex::default(),
            tag: Mutex::default(),
            timeout,
            failure: Mutex::default(),
            received: AtomicU64::new(0),
            before_the_pack: AtomicU64::new(0),
            pack_begun: AtomicBool::new(false),
        }
    }

    pub fn url(&self) -> String {
        self.location.to_string()
    }

    /// The host that is connected to, as it stands in the URL.
    pub fn host(&self) -> Option<&str> {
        match &self.location {
            Location::Http(url) => url.host_str(),
            Location::Ssh(address) => Some(&address.host),
            Location::Local(_) => None,
        }
    }

    /// Whether to connect to an address of the host.
    pub fn allow(&self, address: IpAddr) -> Result<(), Error> {
        let allowed = self.destinations.allow(self.host().unwrap_or_default(), address);
        allowed.map_err(|denied| Error::AddressNotAllowed { url: self.url(), address, denied })
    }

    pub fn wanted(&self) -> Result<Wanted, Error> {
        self.reference.check()
    }

    /// The keys for HTTPS, if there are any.
    pub fn https_keys(&self) -> Option<&HttpsKeys> {
        match &self.credentials.as_ref()?.keys {
            Keys::Https(keys) => Some(keys),
            Keys::Ssh(_) => None,
        }
    }

    /// What a request to this URL says of who asks: nothing, unless it goes to the scheme, host and port that were named.
    pub fn login(&self, url: &Url) -> Option<&Login> {
        match &self.location {
            Location::Http(named) if named.origin() == url.origin() => self.https_keys()?.login.as_ref(),
            Location::Http(_) | Location::Ssh(_) | Location::Local(_) => None,
        }
    }

    /// The Secret of the credentials, for messages.
    pub fn secret(&self) -> String {
        self.credentials.as_ref().map(|credentials| credentials.secret.clone()).unwrap_or_default()
    }

    /// The credentials are not what they should be.
    pub fn invalid_credentials(&self, why: &str) -> Error {
        Error::InvalidCredentials { url: self.url(), secret: self.secret(), why: why.to_owned() }
    }

    /// Whether the server said that it can do something.
    pub fn can(&self, capability: &str) -> bool {
        let capabilities = self.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
        capabilities.split(' ').any(|one| one == capability)
    }

    /// Notes what the server can do, from the beginning of its list of references.
    pub fn note_capabilities(&self, start: &[u8]) -> Result<(), Error> {
        let capabilities = advertised::capabilities(start);
        let format = capabilities.split(' ').find_map(|word| word.strip_prefix("object-format="));
        if let Some(format) = format.filter(|format| *format != "sha1") {
            let what = format!("its object format {} is not supported yet", printable(format));
            return Err(Error::Protocol { url: self.url(), what });
        }
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = capabilities;
        Ok(())
    }

    /// Keeps a piece of the list of references, if a tag is to be chosen from it.
    pub fn note_list(&self, bytes: &[u8]) {
        if matches!(self.reference, Reference::Semver(_)) {
            self.advertised.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        }
    }

    /// The reference of the tag of the highest version in a range, from all that the remote lists.
    pub fn choose_listed_tag(&self, range: &Range) -> Result<String, Error> {
        let list = self.advertised.lock().unwrap_or_else(PoisonError::into_inner);
        self.choose_tag(range, advertised::tags(&list))
    }

    /// The same from these, and notes the tag.
    pub fn choose_tag<'a>(
        &self,
        range: &Range,
        tags: impl IntoIterator<Item = &'a str>,
    ) -> Result<String, Error> {
        let tag = range.highest(tags).ok_or_else(|| self.reference_not_found())?;
        *self.tag.lock().unwrap_or_else(PoisonError::into_inner) = Some(tag.to_owned());
        Ok(format!("refs/tags/{tag}"))
    }

    /// The tag that was chosen.
    pub fn tag(&self) -> Option<String> {
        self.tag.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn reference_not_found(&self) -> Error {
        Error::ReferenceNotFound { url: self.url(), reference: self.reference.to_string() }
    }

    pub fn timed_out(&self) -> Error {
        Error::TimedOut { url: self.url(), after: self.timeout }
    }

    /// The error to end with if there is no time left or nobody waits any more.
    pub fn check_time(&self) -> Result<(), Error> {
        if self.cancel.is_cancelled() || Instant::now() >= self.deadline {
            Err(self.timed_out())
        } else {
            Ok(())
        }
    }

    /// Waits on this (blocking) thread, as long as the session lasts.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        self.runtime.block_on(async {
            tokio::select! {
                done = work => Ok(done),
                () = tokio::time::sleep_until(self.deadline.into()) => Err(self.timed_out()),
                () = self.cancel.cancelled() => Err(self.timed_out()),
            }
        })
    }

    /// Counts what came over the wire or out of a local repository.
    pub fn count(&self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes as u64;
        let total = self.received.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let bound = self.bounds.pack_bytes;
        if total > bound { Err(Error::TooLarge { what: "bytes of the transfer", bound }) } else { Ok(()) }
    }

    /// The same for what came over the wire, with a bound of its own on what is kept in memory.
    pub fn count_wire(&self, bytes: usize) -> Result<(), Error> {
        self.count(bytes)?;
        if self.pack_begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let total = self.before_the_pack.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if total > BEFORE_THE_PACK {
            return Err(Error::TooLarge { what: "bytes before the pack", bound: BEFORE_THE_PACK });
        }
        Ok(())
    }

    /// For libgit2's callbacks: false means stop.
    pub fn go_on(&self, step: impl FnOnce() -> Result<(), Error>) -> bool {
        match self.check_time().and_then(|()| step()) {
            Ok(()) => true,
            Err(error) => {
                self.fail(error);
                false
            }
        }
    }

    pub fn progress(&self, progress: &git2::Progress<'_>) -> bool {
        self.go_on(|| {
            let objects = progress.total_objects();
            if objects > 0 {
                self.pack_begun.store(true, Ordering::Relaxed);
            }
            if objects > self.bounds.objects {
                return Err(Error::TooLarge {
                    what: "objects of the transfer",
                    bound: self.bounds.objects as u64,
                });
            }
            Ok(())
        })
    }

    /// Notes why the fetch ends; the first reason is the cause of the others.
    pub fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn no_commit(&self) -> Error {
        Error::InvalidReference {
            reference: self.reference.to_string(),
            why: "it does not point at a commit".to_owned(),
        }
    }

    /// What an error of libgit2 about the remote's side means.
    pub fn unusable(&self, error: &git2::Error) -> Error {
        self.take_failure()
            .unwrap_or_else(|| Error::Protocol { url: self.url(), what: printable(error.message()) })
    }

    /// What an error of libgit2 during a transfer means: our own reason if there is one.
    pub fn explain(&self, error: git2::Error, mirror: &std::path::Path) -> Error {
        use git2::ErrorClass as Class;
        if let Some(failure) = self.take_failure() {
            return failure;
        }
        match error.class() {
            Class::Os | Class::Filesystem => Error::mirror("the transfer", mirror, error),
            Class::Odb | Class::Indexer | Class::Object | Class::Zlib | Class::Tree | Class::Reference => {
                Error::Corrupt { what: "the transfer", source: error }
            }
            _ => self.unusable(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(url: &str) -> Session {
        let keys = HttpsKeys { login: Some(Login::Bearer("hunter2".into())), ..HttpsKeys::default() };
        let remote = Remote {
            url: url.to_owned(),
            reference: Reference::Branch("main".to_owned()),
            credentials: Some(Arc::new(Credentials {
                secret: "apps/git".to_owned(),
                keys: Keys::Https(keys),
            })),
            destinations: Destinations::new(true, Arc::default()),
        };
        let location = Location::parse(url).unwrap();
        let timeout = Duration::from_mins(1);
        let (private, bounds) = (PathBuf::new(), Bounds::default());
        let deadline = Instant::now() + timeout;
        Session::new(location, &remote, private, bounds, timeout, deadline, CancellationToken::new())
    }

    /// The last fence: whatever leads a request elsewhere, it says nothing there.
    #[tokio::test]
    async fn a_login_is_for_one_scheme_host_and_port() {
        let session = session("https://git.example/shop/a.git");
        for (url, known) in [
            ("https://git.example/shop/a.git/info/refs?service=git-upload-pack", true),
            ("https://git.example:443/moved", true),
            ("https://git.example:8443/shop/a.git", false),
            ("http://git.example/shop/a.git", false),
            ("http://git.example:443/shop/a.git", false),
            ("https://git.example.evil/shop/a.git", false),
            ("https://git.example@evil.example/shop/a.git", false),
            ("https://www.git.example/shop/a.git", false),
            ("ssh://git.example/shop/a.git", false),
            ("file:///shop/a.git", false),
        ] {
            assert_eq!(session.login(&Url::parse(url).unwrap()).is_some(), known, "{url}");
        }
    }
}
