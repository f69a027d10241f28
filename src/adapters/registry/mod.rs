//! OCI registries: manifests, configs, blobs, and what refers to an image.
//!
//! [`Registry`] reads by digest whatever a digest can name, and hashes every byte itself; a tag is resolved once. What comes from a
//! registry is treated as hostile: every size, count and wait has a bound, and "it could not be read" is never "it is not there".
//!
//! Our own client over reqwest, not the crate oci-client: that one reads bodies of manifests and referrers without a bound, follows no
//! pages of referrers, sends credentials to whatever realm an answer names, falls back to other settings when a client cannot be made,
//! and panics on a machine without certificates. Around all of it one would write what stands here.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the entry points |
//! | `settings.rs`, `error.rs` | what it is told once; what can go wrong |
//! | `keychain.rs` | the credentials of pull secrets |
//! | `site.rs` | one repository: asking with credentials, reading by digest |
//! | `referrers.rs` | what refers to an image |
//! | `platforms.rs` | the images of an index |
//! | `grant.rs` | who we say to be, and to whom |
//! | `reach.rs`, `answer.rs` | one request to where it may go; what came back |

mod answer;
mod error;
mod grant;
mod keychain;
mod platforms;
mod reach;
mod referrers;
mod settings;
mod site;

use std::{future::Future, time::Duration};

use sha2::{Digest as _, Sha256};

pub use self::{
    error::Error,
    keychain::{Format, InvalidSecret, Keychain},
    platforms::Platforms,
    settings::{Bounds, InvalidSettings, Settings},
};
use self::{grant::Grants, reach::Reach, site::Site};
use crate::domain::{
    image::{Digest, ImageRef, Repository, Tag},
    registry::{Config, Descriptor, Image, MANIFEST_TYPES, Manifest, Places},
};

/// Reads from registries.
///
/// # Guarantees
/// Every call ends within [`Bounds::total`]; what is called by its digest has that digest; credentials of a keychain go to where their
/// entries say, and what they open is never read without them.
pub struct Registry {
    reach: Reach,
    grants: Grants,
    places: Places,
    bounds: Bounds,
}

impl Registry {
    /// One for the whole process: it keeps connections and tokens.
    pub fn new(settings: Settings) -> Result<Self, InvalidSettings> {
        let reach = Reach::new(&settings)?;
        let Settings { places, realms, bounds, .. } = settings;
        Ok(Self { reach, grants: Grants::new(realms), places, bounds })
    }

    /// The digest that a reference stands for: the one written, else the sha256 of the manifest that its tag names now.
    ///
    /// *Errors*: [`Error::Absent`] where the registry says that there is no such tag.
    pub async fn resolve(&self, reference: &ImageRef, keychain: &Keychain) -> Result<Digest, Error> {
        if let Some(digest) = &reference.digest {
            return Ok(digest.clone());
        }
        let Some(tag) = reference.effective_tag() else {
            return Err(Error::invalid(&reference.to_string(), "it names neither a tag nor a digest"));
        };
        self.tagged(&reference.repository, &tag, keychain).await.map(|(digest, _)| digest)
    }

    /// The manifest that a tag names now, and its sha256. What is found so is to be asked for by digest ever after; only what stands
    /// under a tag by agreement (cosign's `sha256-….sig`) is read like this.
    pub async fn tagged(
        &self,
        repository: &Repository,
        tag: &Tag,
        keychain: &Keychain,
    ) -> Result<(Digest, Manifest), Error> {
        let what = format!("the tag {tag} of {repository}");
        let site = self.site(repository, keychain)?;
        self.within(&what, async {
            let resource = format!("manifests/{tag}");
            let most = self.bounds.document_bytes;
            let answer = site.get(&resource, None, MANIFEST_TYPES, most, &what).await?.found(&what)?;
            let manifest = Manifest::read(&answer.body, answer.content_type.as_deref());
            let manifest = manifest.map_err(|why| Error::unreadable(&what, &why))?;
            let digest = format!("sha256:{}", hex::encode(Sha256::digest(&answer.body)));
            let digest = digest.parse().map_err(|_| Error::invalid(&what, "it has no digest"))?;
            Ok((digest, manifest))
        })
        .await
    }

    /// The manifest with this digest.
    pub async fn manifest(
        &self,
        repository: &Repository,
        digest: &Digest,
        keychain: &Keychain,
    ) -> Result<Manifest, Error> {
        let what = manifest_of(repository, digest);
        self.within(&what, self.site(repository, keychain)?.manifest(digest, None)).await
    }

    /// The config of an image, by the descriptor in its manifest.
    pub async fn config(
        &self,
        repository: &Repository,
        config: &Descriptor,
        keychain: &Keychain,
    ) -> Result<Config, Error> {
        let what = format!("the config {} of {repository}", config.digest);
        self.within(&what, self.site(repository, keychain)?.config(config)).await
    }

    /// The images that a digest stands for: all of an index, with what each manifest and config says, or the one of a manifest.
    ///
    /// *Errors*: where any of them cannot be read; [`Error::Invalid`] for what is no container image.
    pub async fn platforms(
        &self,
        repository: &Repository,
        digest: &Digest,
        keychain: &Keychain,
    ) -> Result<Platforms, Error> {
        let what = format!("the platforms of {repository}@{digest}");
        self.within(&what, self.site(repository, keychain)?.platforms(digest)).await
    }

    /// What refers to a digest, of one type or of all: by the referrers API, or by the tag that stands for it where a registry does not
    /// have that. Empty only where the registry says that there is nothing.
    ///
    /// *Caveats*: it is the registry's word; [`Registry::referrer`] looks at what each really is about.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
        keychain: &Keychain,
    ) -> Result<Vec<Descriptor>, Error> {
        let what = format!("what refers to {repository}@{digest}");
        self.within(&what, self.site(repository, keychain)?.referrers(digest, artifact_type)).await
    }

    /// The manifest of something that refers to `subject`, as [`Registry::referrers`] found it.
    ///
    /// *Errors*: [`Error::Invalid`] where it is about something else.
    pub async fn referrer(
        &self,
        repository: &Repository,
        subject: &Digest,
        found: &Descriptor,
        keychain: &Keychain,
    ) -> Result<Image, Error> {
        let what = manifest_of(repository, &found.digest);
        let site = self.site(repository, keychain)?;
        self.within(&what, async {
            match site.manifest(&found.digest, Some(found.size)).await? {
                Manifest::Image(image)
                    if image.subject.as_ref().is_some_and(|about| about.digest == *subject) =>
                {
                    Ok(image)
                }
                Manifest::Image(_) => Err(Error::invalid(&what, format!("it is not about {subject}"))),
                Manifest::Index(_) => Err(Error::invalid(&what, "it is an index")),
            }
        })
        .await
    }

    /// The bytes with this digest, at most `most` of them.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        most: u64,
        keychain: &Keychain,
    ) -> Result<Vec<u8>, Error> {
        let what = format!("the blob {digest} of {repository}");
        self.within(&what, self.site(repository, keychain)?.blob(digest, most, &what)).await
    }

    fn site<'a>(&'a self, repository: &Repository, keychain: &'a Keychain) -> Result<Site<'a>, Error> {
        let route = self.places.route(repository);
        let no_place = || Error::invalid(repository.as_str(), "its remap leads to what is no repository");
        Ok(Site::new(self, route.ok_or_else(no_place)?, keychain))
    }

    async fn within<T>(&self, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let Bounds { total, .. } = self.bounds;
        let timed_out =
            |_| Error::unavailable(what, format!("it did not come in full within {}", seconds(total)));
        tokio::time::timeout(total, work).await.map_err(timed_out)?
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f32())
}

fn manifest_of(repository: &Repository, digest: &Digest) -> String {
    format!("the manifest {repository}@{digest}")
}
