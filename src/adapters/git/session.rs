//! One fetch: its deadline, its caps, and why it failed.
//!
//! libgit2 calls back into this program from inside a fetch (progress, transport) and can only be told "stop". So the
//! callbacks note the reason here, and whoever called libgit2 finds it when the call returns.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    Bounds, Error, Reference, Remote,
    remote::{Location, Wanted},
    text::printable,
};

pub(super) struct Session {
    pub location: Location,
    pub reference: Reference,
    pub ca: Option<Vec<u8>>,
    pub bounds: Bounds,
    /// What awaits for the blocking thread.
    pub runtime: Handle,
    pub deadline: Instant,
    pub cancel: CancellationToken,
    /// What the remote said it can do, once known.
    pub capabilities: Mutex<String>,
    timeout: Duration,
    failure: Mutex<Option<Error>>,
    received: AtomicU64,
    pack_begun: AtomicBool,
}

impl Session {
    pub fn new(
        location: Location,
        remote: &Remote,
        bounds: Bounds,
        timeout: Duration,
        deadline: Instant,
        cancel: CancellationToken,
    ) -> Self {
        let Remote { url: _, reference, ca } = remote;
        Self {
            location,
            reference: reference.clone(),
            ca: ca.clone(),
            bounds,
            runtime: Handle::current(),
            deadline,
            cancel,
            capabilities: Mutex::default(),
            timeout,
            failure: Mutex::default(),
            received: AtomicU64::new(0),
            pack_begun: AtomicBool::new(false),
        }
    }

    pub fn url(&self) -> String {
        self.location.to_string()
    }

    pub fn wanted(&self) -> Result<Wanted, Error> {
        self.reference.check()
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

    /// Counts what came over the wire or out of a local repository.
    pub fn count(&self, bytes: usize) -> Result<(), Error> {
        let bytes = bytes as u64;
        let total = self.received.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let bound = self.bounds.pack_bytes;
        if total > bound { Err(Error::TooLarge { what: "bytes of the transfer", bound }) } else { Ok(()) }
    }

    pub fn pack_begun(&self) -> bool {
        self.pack_begun.load(Ordering::Relaxed)
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
            why: "it does not point at a commit",
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
