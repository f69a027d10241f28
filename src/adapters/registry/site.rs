//! One repository: asking with credentials, and reading by digest.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use sha2::{Digest as _, Sha256, Sha512};

use super::{
    Error, Keychain, Registry,
    answer::Answer,
    grant::Claim,
    keychain::Login,
    manifest_of,
    reach::{Get, place},
};
use crate::domain::{
    image::{Digest, Repository},
    registry::{Config, Descriptor, MANIFEST_TYPES, Manifest, Route},
};

/// A repository that is read with some credentials.
pub(super) struct Site<'a> {
    pub registry: &'a Registry,
    pub route: Route,
    keychain: &'a Keychain,
    /// A mirror took its time: in this call none is asked any more.
    without_mirrors: AtomicBool,
}

/// Bytes that have the digest they were asked for by.
struct Content {
    bytes: Vec<u8>,
    content_type: Option<String>,
}

impl<'a> Site<'a> {
    pub fn new(registry: &'a Registry, route: Route, keychain: &'a Keychain) -> Self {
        Self { registry, route, keychain, without_mirrors: AtomicBool::new(false) }
    }

    /// Asks the repository itself for something below it; any answer but a refusal to whoever asks.
    pub async fn get(
        &self,
        resource: &str,
        query: Option<&str>,
        accept: &str,
        most: u64,
        what: &str,
    ) -> Result<Answer, Error> {
        self.get_at(&self.route.own, resource, query, accept, most, what).await
    }

    async fn get_at(
        &self,
        place: &Repository,
        resource: &str,
        query: Option<&str>,
        accept: &str,
        most: u64,
        what: &str,
    ) -> Result<Answer, Error> {
        let no_url = || Error::invalid(what, "its registry has no URL");
        let (host, path) = place.as_str().split_once('/').ok_or_else(no_url)?;
        let registry = self.registry.reach.registry(host).ok_or_else(no_url)?;
        let mut url = registry.clone();
        url.set_path(&format!("/v2/{path}/{resource}"));
        url.set_query(query);
        let logins = self.keychain.logins(place);
        let mut logins: Vec<Option<&Login>> = logins.iter().map(Arc::as_ref).map(Some).collect();
        if logins.is_empty() {
            logins.push(None);
        }
        let mut refused = None;
        for login in logins {
            let claim = Claim { host, registry: &registry, path, login, what };
            let get = Get { url: &url, accept, authorization: None, what };
            match self.ask(claim, get, most).await {
                // The next one may be let in.
                Err(error @ Error::Forbidden { .. }) => refused = refused.or(Some(error)),
                answer => return answer,
            }
        }
        Err(refused.unwrap_or_else(no_url))
    }

    /// Asks as somebody, who says who it is when asked.
    async fn ask(&self, claim: Claim<'_>, get: Get<'_>, most: u64) -> Result<Answer, Error> {
        let Registry { reach, grants, .. } = self.registry;
        let mut grant = grants.known(&claim);
        for last in [false, true] {
            let authorization = grant.as_ref().map(|grant| &grant.authorization);
            let response = reach.get(Get { authorization, ..get }).await?;
            let elsewhere = response.url().origin() != get.url.origin();
            match response.status() {
                StatusCode::UNAUTHORIZED if !last && !elsewhere => {
                    grant = Some(grants.obtain(reach, &claim, response.headers()).await?);
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let refused = Answer::read(response, most, claim.what).await?.found(claim.what);
                    let withheld = grant.and_then(|grant| grant.withheld);
                    return refused.map_err(|error| advise(error, claim, withheld.as_deref()));
                }
                _ => return Answer::read(response, most, claim.what).await,
            }
        }
        Err(Error::forbidden(claim.what, format!("{} asks again and again who asks", place(get.url))))
    }

    /// The bytes that a digest names, from a mirror or from the repository itself.
    async fn content(
        &self,
        kind: &str,
        digest: &Digest,
        accept: &str,
        most: u64,
        what: &str,
    ) -> Result<Content, Error> {
        let resource = format!("{kind}/{digest}");
        for mirror in &self.route.mirrors {
            if self.without_mirrors.load(Ordering::Relaxed) {
                break;
            }
            let asked = self.content_at(mirror, &resource, digest, accept, most, what);
            match tokio::time::timeout(self.for_a_mirror(), asked).await {
                Ok(Ok(content)) => return Ok(content),
                Ok(Err(error)) => tracing::debug!(%mirror, %error, "a mirror does not have it"),
                Err(_) => {
                    tracing::debug!(%mirror, "a mirror does not answer in time");
                    self.without_mirrors.store(true, Ordering::Relaxed);
                }
            }
        }
        self.content_at(&self.route.own, &resource, digest, accept, most, what).await
    }

    /// How long one mirror may take, so that most of the time is left for the repository itself.
    fn for_a_mirror(&self) -> Duration {
        self.registry.bounds.total / 4
    }

    async fn content_at(
        &self,
        place: &Repository,
        resource: &str,
        digest: &Digest,
        accept: &str,
        most: u64,
        what: &str,
    ) -> Result<Content, Error> {
        let answer = self.get_at(place, resource, None, accept, most, what).await?;
        // A blob may be a web page, and has its digest then.
        if answer.status == StatusCode::OK && has_digest(&answer.body, digest) {
            return Ok(Content { bytes: answer.body, content_type: answer.content_type });
        }
        answer.found(what)?;
        Err(Error::invalid(
            what,
            "what is served for it has another digest: the registry is broken, or somebody is on the way",
        ))
    }

    /// The manifest with this digest, and with so many bytes, if that is known.
    pub async fn manifest(&self, digest: &Digest, size: Option<u64>) -> Result<Manifest, Error> {
        let what = manifest_of(&self.route.own, digest);
        let most = self.registry.bounds.document_bytes;
        let content = self.content("manifests", digest, MANIFEST_TYPES, most, &what).await?;
        check_size(&content.bytes, size, &what)?;
        let manifest = Manifest::read(&content.bytes, content.content_type.as_deref());
        manifest.map_err(|why| Error::unreadable(&what, &why))
    }

    pub async fn config(&self, config: &Descriptor) -> Result<Config, Error> {
        let what = format!("the config {} of {}", config.digest, self.route.own);
        let bytes = self.blob(&config.digest, self.registry.bounds.document_bytes, &what).await?;
        check_size(&bytes, Some(config.size), &what)?;
        Config::read(&bytes).map_err(|why| Error::unreadable(&what, &why))
    }

    pub async fn blob(&self, digest: &Digest, most: u64, what: &str) -> Result<Vec<u8>, Error> {
        self.content("blobs", digest, "*/*", most, what).await.map(|content| content.bytes)
    }
}

fn check_size(bytes: &[u8], size: Option<u64>, what: &str) -> Result<(), Error> {
    let found = bytes.len() as u64;
    match size {
        Some(size) if size != found => {
            Err(Error::invalid(what, format!("it has {found} bytes, and {size} where it is referred to")))
        }
        _ => Ok(()),
    }
}

fn has_digest(bytes: &[u8], digest: &Digest) -> bool {
    let found = match digest.as_str().split_once(':') {
        Some(("sha256", _)) => format!("sha256:{}", hex::encode(Sha256::digest(bytes))),
        Some(("sha512", _)) => format!("sha512:{}", hex::encode(Sha512::digest(bytes))),
        _ => return false,
    };
    found == digest.as_str()
}

/// What to do about a refusal.
fn advise(error: Error, claim: Claim<'_>, withheld: Option<&str>) -> Error {
    let Error::Forbidden { what, why } = error else { return error };
    let advice = match (claim.login, withheld) {
        (Some(login), Some(realm)) => format!(
            "the credentials in the Secret {} were not sent to {realm}, which is not known to hand out the tokens of {}: list it among \
             its realms, if it is",
            login.secret, claim.host
        ),
        (Some(login), None) => format!("with the credentials in the Secret {}", login.secret),
        (None, _) => "it is private or does not exist; no pull secret is for it".to_owned(),
    };
    Error::Forbidden { what, why: format!("{why}: {advice}") }
}
