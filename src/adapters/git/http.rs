//! The transport below libgit2's smart protocol: HTTP and HTTPS with reqwest and rustls.
//!
//! libgit2 knows transports per scheme, for the whole process; which fetch one belongs to is noted in the thread that
//! runs it, for as long as it runs ([`enter`]).

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use reqwest::{Client, redirect};
use url::Url;

use super::{Error, exchange::Exchange, remote::Location, session::Session};

const CONNECT: Duration = Duration::from_secs(10);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Session>>> = const { RefCell::new(None) };
}

/// Makes `session` the one that a transport made on this thread belongs to, until the guard is dropped.
pub(super) fn enter(session: &Arc<Session>) -> Entered {
    CURRENT.set(Some(Arc::clone(session)));
    Entered
}

pub(super) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// Whether the server gives out any commit that is on a branch or tag, and not only their tips.
pub(super) fn allows_any_reachable(session: &Session) -> bool {
    let capabilities = session.capabilities.lock().unwrap_or_else(PoisonError::into_inner);
    capabilities
        .split(' ')
        .any(|capability| matches!(capability, "allow-reachable-sha1-in-want" | "allow-any-sha1-in-want"))
}

/// What libgit2 calls for a remote with one of our schemes.
pub(super) fn transport(remote: &git2::Remote<'_>) -> Result<Transport, git2::Error> {
    let session = CURRENT.with_borrow(Clone::clone);
    let session = session.ok_or_else(|| git2::Error::from_str("no fetch is running on this thread"))?;
    let made = Http::new(session.clone());
    let http = made.map_err(|error| give_up(&session, error))?;
    Transport::smart(remote, true, http)
}

/// Notes the reason, and returns what ends libgit2's work.
pub(super) fn give_up(session: &Session, error: Error) -> git2::Error {
    session.fail(error);
    git2::Error::new(git2::ErrorCode::User, git2::ErrorClass::Http, "the transport gave up")
}

struct Http {
    session: Arc<Session>,
    client: Client,
    /// The repository, perhaps after redirects.
    base: Arc<Mutex<Url>>,
}

impl Http {
    fn new(session: Arc<Session>) -> Result<Self, Error> {
        let Location::Http(url) = &session.location else {
            return Err(Error::Protocol { url: session.url(), what: "not an HTTP URL".to_owned() });
        };
        let base = Arc::new(Mutex::new(url.clone()));
        let client = client(&session)?;
        Ok(Self { session, client, base })
    }
}

/// Redirects are ours to judge. Credentials, once there are any, go into the requests, never into the client.
fn client(session: &Session) -> Result<Client, Error> {
    let mut builder = Client::builder()
        .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT);
    if let Some(ca) = &session.ca {
        // Text without any certificate is no error to the parser, but would trust nobody.
        let trusted = reqwest::Certificate::from_pem_bundle(ca).unwrap_or_default();
        if trusted.is_empty() {
            return Err(Error::InvalidCa { url: session.url() });
        }
        builder = builder.tls_certs_only(trusted);
    }
    builder.build().map_err(|source| Error::Unreachable { url: session.url(), source })
}

impl SmartSubtransport for Http {
    fn action(&self, _url: &str, service: Service) -> Result<Box<dyn SmartSubtransportStream>, git2::Error> {
        let mut exchange =
            Exchange::new(Arc::clone(&self.session), self.client.clone(), Arc::clone(&self.base));
        match service {
            Service::UploadPackLs => {
                exchange.list().map_err(|error| give_up(&self.session, error))?;
                Ok(Box::new(exchange))
            }
            Service::UploadPack => Ok(Box::new(exchange)),
            Service::ReceivePackLs | Service::ReceivePack => {
                Err(git2::Error::from_str("this program never pushes"))
            }
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}
