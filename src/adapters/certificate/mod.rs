//! Certificates of the webhook: made by this process, or mounted by somebody else.
//!
//! A private key is read into values that cannot be printed, and no error quotes what was read.

mod directory;
mod make;
mod store;

use std::{fmt, sync::Arc};

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};
use secrecy::{ExposeSecret as _, SecretString};
use x509_parser::time::ASN1Time;

pub use self::{
    directory::{Directory, Mounted, Unusable},
    make::make,
    store::{Former, SECRET, Shelf, Store, Stored},
};
use crate::domain::certificate::Life;

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("{0} holds no certificate in PEM form")]
    NoCertificate(&'static str),
    #[error("{0} holds no private key in PEM form")]
    NoKey(&'static str),
    #[error("the certificate in {0} is not one of X.509")]
    Malformed(&'static str),
    #[error(
        "the private key in {key} does not belong to the certificate in {certificate}, or is of a kind that is not supported"
    )]
    Mismatch { certificate: &'static str, key: &'static str },
    #[error("a certificate for {names} cannot be made: {why}")]
    Making { names: String, why: String },
}

/// The names of the three parts where they were read, for errors.
#[derive(Clone, Copy, Debug)]
struct Parts {
    certificate: &'static str,
    key: &'static str,
    authority: &'static str,
}

const CURRENT: Parts = Parts { certificate: "tls.crt", key: "tls.key", authority: "ca.crt" };
const NEXT: Parts = Parts { certificate: "next-tls.crt", key: "next-tls.key", authority: "next-ca.crt" };

/// A certificate, with its issuers and its private key.
#[derive(Clone)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    life: Life,
}

impl Certificate {
    fn read(certificate: &[u8], key: &SecretString, parts: Parts) -> Result<Self, Error> {
        let chain = read_all(certificate, parts.certificate)?;
        let life = chain.first().and_then(|first| life_of(first));
        let life = life.ok_or(Error::Malformed(parts.certificate))?;
        // The reason might quote the key.
        let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
            .map_err(|_| Error::NoKey(parts.key))?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(|_| Error::Mismatch { certificate: parts.certificate, key: parts.key })?;
        Ok(Self { certified: Arc::new(certified), life })
    }

    /// When it is valid.
    pub fn life(&self) -> Life {
        self.life
    }

    /// What a server shows.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }
}

/// Without the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("life", &self.life).finish_non_exhaustive()
    }
}

/// A certificate, and the authority that signed it and nothing else. The texts are PEM: what is stored is what was made.
#[derive(Clone, Debug)]
pub struct Pair {
    certificate: Certificate,
    authority: String,
    chain: String,
    key: SecretString,
}

impl Pair {
    fn read(authority: String, chain: String, key: SecretString, parts: Parts) -> Result<Self, Error> {
        read_all(authority.as_bytes(), parts.authority)?;
        let certificate = Certificate::read(chain.as_bytes(), &key, parts)?;
        Ok(Self { certificate, authority, chain, key })
    }

    /// What is served.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What clients must trust, as PEM.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Whether who trusts the authority accepts the certificate for each of these names, as long as it is valid.
    pub fn fits(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.accepted(name).is_some())
    }

    fn accepted(&self, name: &str) -> Option<()> {
        let mut roots = RootCertStore::empty();
        for root in read_all(self.authority.as_bytes(), CURRENT.authority).ok()? {
            roots.add(root).ok()?;
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().ok()?;
        let (leaf, issuers) = self.certificate.certified.cert.split_first()?;
        let name = ServerName::try_from(name).ok()?;
        verifier.verify_server_cert(leaf, issuers, &name, &[], instant(self.certificate.life.begins)).ok()?;
        Some(())
    }
}

fn read_all(pem: &[u8], part: &'static str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(Error::NoCertificate(part))
}

/// When a certificate (DER) is valid, if it can be read.
fn life_of(der: &[u8]) -> Option<Life> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    // The end of the year 9999 says "never", and is past the last moment of jiff.
    let moment = |time: ASN1Time| Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX);
    let validity = certificate.validity();
    Some(Life { begins: moment(validity.not_before), ends: moment(validity.not_after) })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn instant(timestamp: Timestamp) -> UnixTime {
    let seconds = u64::try_from(timestamp.as_second()).unwrap_or_default();
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
