//! The webhook's certificate: made, stored, served and replaced; or read from a directory, where somebody else makes it.
//!
//! Every replica serves it, and looks for a new one again and again. The one that leads replaces it; any may make what is missing
//! altogether. The Secret is written on the version that was seen, so of two who try one wins, and the other reads.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::{
        certificate::{self, Certificate, Directory, Former, Pair, Shelf, Store, Unusable, make},
        chain,
        cluster::{self, Cluster},
    },
    domain::certificate::{self as domain, Role, Step, Stock, Terms, all_hold, step},
    telemetry::{Metrics, http::PartHandle, https::Served},
};

/// How often it is looked for changes. Much shorter than the time for which an authority stays trusted after its certificate.
const LOOK: Duration = Duration::from_secs(30);
/// The same, while there is none to serve.
const WAIT: Duration = Duration::from_secs(1);
/// More steps than ever follow on each other. Others may be faster a few times.
const STEPS: usize = 8;

/// Where certificates come from.
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
pub enum Source {
    /// This process makes them.
    Own {
        /// Where they are stored. Not held by a fence: replicas that wait make the first one, too.
        cluster: Cluster,
        /// The root namespace.
        root: String,
        /// The DNS names and IP addresses by which it is called.
        names: Vec<String>,
        /// How long they are good for, and the like.
        terms: Terms,
    },
    /// Somebody else makes them, and puts them here as `tls.crt`, `tls.key` and perhaps `ca.crt`.
    Directory(PathBuf),
}

/// The certificates of this process. A clone is the same.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    served: Served,
    bundle: watch::Sender<Option<String>>,
    trust: Mutex<Trust>,
    /// The bundles were looked at anew.
    told: Notify,
    metrics: Metrics,
    ready: PartHandle,
}

/// What is known of the bundles that API servers were given.
#[derive(Default)]
struct Trust {
    /// Those that are stored, if this process sees to them.
    bundles: Option<Vec<String>>,
    /// The authority that they are to hold.
    awaited: Option<String>,
    /// Since when all do.
    since: Option<Instant>,
}

impl Trust {
    fn look(&mut self) {
        let hold = self.bundles.as_ref().zip(self.awaited.as_ref());
        if hold.is_some_and(|(bundles, authority)| all_hold(bundles, authority)) {
            self.since.get_or_insert_with(Instant::now);
        } else {
            self.since = None;
        }
    }

    fn role(&self) -> Role {
        let elapsed =
            |since: Instant| SignedDuration::try_from(since.elapsed()).unwrap_or(SignedDuration::MAX);
        match self.bundles {
            Some(_) => Role::Registers(self.since.map(elapsed)),
            None => Role::Looks,
        }
    }
}

/// Why there was no look, or no step.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{}", .0.explain())]
    Cluster(cluster::Error),
    #[error(transparent)]
    Make(certificate::Error),
    #[error(transparent)]
    Directory(Unusable),
    #[error("others change the Secret {} all the time", certificate::SECRET)]
    Unsettled,
}

impl Certificates {
    /// None so far.
    pub fn new(metrics: Metrics, ready: PartHandle) -> Self {
        Self(Arc::new(Inner {
            served: Served::default(),
            bundle: watch::channel(None).0,
            trust: Mutex::default(),
            told: Notify::new(),
            metrics,
            ready,
        }))
    }

    /// What a server serves.
    pub fn served(&self) -> Served {
        self.0.served.clone()
    }

    /// The bundle (PEM) that API servers are to be given. None while it is not known, and where others see to that.
    pub fn bundle(&self) -> watch::Receiver<Option<String>> {
        self.0.bundle.subscribe()
    }

    /// Tells the bundles (PEM) that are stored now, of every entry of the webhook configurations. Only who writes them tells;
    /// each time they may have changed.
    pub fn registered(&self, bundles: Vec<String>) {
        let bundles = Some(bundles);
        let mut trust = self.0.trust.lock();
        if trust.bundles == bundles {
            return;
        }
        trust.bundles = bundles;
        trust.look();
        drop(trust);
        self.0.told.notify_one();
    }

    /// Sees to them until the token is cancelled.
    pub async fn keep(self, source: Source, stop: CancellationToken) {
        let mut keeper = Keeper::new(source);
        let mut last = None;
        loop {
            let looked = match &mut keeper {
                Keeper::Own(own) => self.replace(own).await,
                Keeper::Directory(directory) => self.mount(directory).await,
            };
            let failed = looked.err().map(|error| chain(&error));
            if let Some(error) = failed.as_ref().filter(|_| failed != last) {
                let served = self.0.served.is_set();
                tracing::error!(
                    error,
                    served,
                    "the webhook's certificate cannot be seen to, and is tried again"
                );
            }
            last = failed;
            let pause = if self.0.served.is_set() { keeper.pause() } else { WAIT };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.0.told.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn mount(&self, directory: &mut Directory) -> Result<(), Error> {
        if let Some(mounted) = directory.look().await.map_err(Error::Directory)? {
            self.serve(&mounted.certificate);
            self.publish(mounted.authority);
        }
        Ok(())
    }

    /// Serves what is stored, and takes the steps that are due.
    async fn replace(&self, own: &mut Own) -> Result<(), Error> {
        for _ in 0..STEPS {
            let stored = own.store.read().await.map_err(Error::Cluster)?;
            let version = stored.as_ref().map(|stored| stored.version.clone());
            let mut shelf = Shelf::default();
            if let Some(stored) = stored {
                if own.unreadable != stored.unreadable {
                    for error in &stored.unreadable {
                        tracing::warn!(%error, secret = certificate::SECRET, "a certificate cannot be read, and does not count");
                    }
                    own.unreadable = stored.unreadable;
                }
                shelf = stored.shelf;
            }
            let is_stored = shelf.current.is_some();
            if is_stored {
                self.adopt(&shelf, own);
            } else if let Some(known) = &own.known {
                // Somebody removed it, or broke it.
                shelf = known.clone();
            }
            let now = Timestamp::now();
            let stock = own.stock(&shelf, is_stored);
            let role = self.0.trust.lock().role();
            let due = step(&stock, role, &own.terms, now);
            let Some(shelf) = own.take(due, shelf, now)? else { return Ok(()) };
            if own.store.write(&shelf, version.as_deref()).await.map_err(Error::Cluster)? {
                let ends = shelf.current.as_ref().map(|pair| pair.certificate().life().ends.to_string());
                tracing::info!(step = ?due, ends, "a step of replacing the webhook's certificate");
            }
        }
        Err(Error::Unsettled)
    }

    fn adopt(&self, shelf: &Shelf, own: &mut Own) {
        let Some(current) = &shelf.current else { return };
        self.serve(current.certificate());
        let mut trust = self.0.trust.lock();
        let awaited = shelf.next.as_ref().map(Pair::authority);
        if trust.awaited.as_deref() != awaited {
            trust.awaited = awaited.map(str::to_owned);
            trust.since = None;
        }
        trust.look();
        drop(trust);
        own.known = Some(shelf.clone());
        self.publish(shelf.bundle());
    }

    fn serve(&self, certificate: &Certificate) {
        self.0.served.set(certificate.certified());
        self.0.metrics.set_webhook_certificate_expiry(certificate.life().ends);
        self.0.ready.ready();
    }

    fn publish(&self, bundle: Option<String>) {
        self.0.bundle.send_if_modified(|known| {
            let changed = *known != bundle;
            *known = bundle;
            changed
        });
    }
}

enum Keeper {
    Own(Box<Own>),
    Directory(Directory),
}

impl Keeper {
    fn new(source: Source) -> Self {
        match source {
            Source::Own { cluster, root, names, terms } => {
                let store = Store::new(cluster, &root);
                Self::Own(Box::new(Own { store, names, terms, known: None, unreadable: Vec::new() }))
            }
            Source::Directory(path) => Self::Directory(Directory::new(path)),
        }
    }

    fn pause(&self) -> Duration {
        match self {
            // Shorter than whatever else has to be waited for.
            Self::Own(own) => LOOK.min(own.terms.settle.unsigned_abs() / 2),
            Self::Directory(_) => LOOK,
        }
    }
}

struct Own {
    store: Store,
    names: Vec<String>,
    terms: Terms,
    /// What was stored when it was last seen.
    known: Option<Shelf>,
    /// What of it could not be read.
    unreadable: Vec<certificate::Error>,
}

impl Own {
    fn stock(&self, shelf: &Shelf, stored: bool) -> Stock {
        let pair =
            |pair: &Pair| domain::Pair { life: pair.certificate().life(), fits: pair.fits(&self.names) };
        Stock {
            current: shelf.current.as_ref().map(pair),
            stored,
            next: shelf.next.as_ref().map(pair),
            former_since: shelf.former.as_ref().map(|former| former.since),
        }
    }

    /// What is to be stored after a step; none if nothing changes.
    fn take(&self, step: Step, shelf: Shelf, now: Timestamp) -> Result<Option<Shelf>, Error> {
        let new = || make(&self.names, self.terms.life_from(now), now).map(Some).map_err(Error::Make);
        Ok(Some(match step {
            Step::Keep => return Ok(None),
            Step::Begin => Shelf { current: new()?, next: None, former: None },
            Step::Prepare => Shelf { next: new()?, ..shelf },
            Step::Switch => Shelf {
                current: shelf.next,
                next: None,
                former: shelf.current.map(|old| Former { authority: old.authority().to_owned(), since: now }),
            },
            Step::Forget => Shelf { former: None, ..shelf },
        }))
    }
}
