//! The transport below libgit2's smart protocol: HTTP and HTTPS with reqwest and rustls.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use git2::transport::{Service, SmartSubtransport, SmartSubtransportStream, Transport};
use reqwest::{Certificate, Client, Identity, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::{
    Error,
    credentials::{Channel, ClientCertificate},
    exchange::Exchange,
    location::Location,
    resolve::Resolver,
    session::Session,
    transport::{current, give_up, never_pushes},
};

const CONNECT: Duration = Duration::from_secs(10);

/// What libgit2 calls for a remote with one of our schemes.
pub(super) fn transport(remote: &git2::Remote<'_>) -> Result<Transport, git2::Error> {
    let session = current()?;
    let made = Http::new(session.clone());
    let http = made.map_err(|error| give_up(&session, error))?;
    Transport::smart(remote, true, http)
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

/// Redirects are ours to judge. A login goes into the requests, never into the client.
fn client(session: &Arc<Session>) -> Result<Client, Error> {
    let mut builder = Client::builder()
        .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .dns_resolver(Arc::new(Resolver(Arc::clone(session))))
        .connect_timeout(CONNECT);
    let Some(keys) = session.https_keys() else {
        return builder.build().map_err(|source| Error::Unreachable { url: session.url(), source });
    };
    if let Some(ca) = &keys.ca {
        // Text without any certificate is no error to the parser, but would trust nobody.
        let trusted = Certificate::from_pem_bundle(ca.as_bytes()).unwrap_or_default();
        if trusted.is_empty() {
            return Err(session.invalid_credentials("ca.crt must hold certificates in PEM form"));
        }
        builder = builder.tls_certs_only(trusted);
    }
    if let Some(certificate) = &keys.certificate {
        builder = builder.identity(identity(session, certificate)?);
    }
    if Channel::to(&session.location) == Channel::Loopback {
        // What is not encrypted stays on this machine.
        builder = builder.no_proxy();
    }
    builder.build().map_err(|source| match keys.certificate {
        Some(_) => session.invalid_credentials("tls.key is not the key of the certificate in tls.crt"),
        None => Error::Unreachable { url: session.url(), source },
    })
}

fn identity(session: &Session, certificate: &ClientCertificate) -> Result<Identity, Error> {
    let ClientCertificate { chain, key } = certificate;
    let pem = SecretString::from(format!("{}\n{chain}", key.expose_secret()));
    // The parser's reason could quote what it read.
    Identity::from_pem(pem.expose_secret().as_bytes()).map_err(|_| {
        session.invalid_credentials(
            "tls.crt must hold a certificate, and tls.key its private key, not encrypted, both in PEM form",
        )
    })
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
            Service::ReceivePackLs | Service::ReceivePack => Err(never_pushes()),
        }
    }

    fn close(&self) -> Result<(), git2::Error> {
        Ok(())
    }
}
