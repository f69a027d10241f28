//! What refers to an image ([distribution API], and the tag where a registry does not have it).
//!
//! [distribution API]: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers

use std::collections::BTreeSet;

use url::Url;

use super::{Error, answer::Answer, site::Site};
use crate::domain::{
    image::Digest,
    registry::{Descriptor, Index, MANIFEST_TYPES, Manifest, next_page},
};

const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// How registries answer that do not know the referrers API.
const NOT_OFFERED: [u16; 5] = [400, 404, 405, 406, 501];

/// What was found so far.
struct Found<'t> {
    artifact_type: Option<&'t str>,
    listed: usize,
    seen: BTreeSet<Digest>,
    referrers: Vec<Descriptor>,
}

impl Site<'_> {
    pub async fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, Error> {
        let what = format!("what refers to {}@{digest}", self.route.own);
        let bounds = &self.registry.bounds;
        let resource = format!("referrers/{digest}");
        let mut query = artifact_type.map(artifact_type_query);
        let mut asked = BTreeSet::new();
        let mut found = Found { artifact_type, listed: 0, seen: BTreeSet::new(), referrers: Vec::new() };
        for page in 0..bounds.pages {
            let answer =
                self.get(&resource, query.as_deref(), INDEX_TYPE, bounds.document_bytes, &what).await?;
            if page == 0 && NOT_OFFERED.contains(&answer.status.as_u16()) {
                return self.by_tag(digest, found, &what).await;
            }
            let answer = answer.found(&what)?;
            self.take(&mut found, index(&answer, &what)?, &what)?;
            asked.insert(query);
            let Some(next) = answer.link.as_deref().and_then(next_page) else { return Ok(found.referrers) };
            query = Some(answer.next_query(next, &what)?);
            if asked.contains(&query) {
                return Err(Error::invalid(&what, "its pages lead in a circle"));
            }
        }
        Err(Error::invalid(&what, format!("it has more than {} pages", bounds.pages)))
    }

    /// The older way: an index under a tag that is made from the digest.
    async fn by_tag(
        &self,
        digest: &Digest,
        mut found: Found<'_>,
        what: &str,
    ) -> Result<Vec<Descriptor>, Error> {
        let tag = fallback_tag(digest);
        let most = self.registry.bounds.document_bytes;
        let answer =
            self.get(&format!("manifests/{tag}"), None, MANIFEST_TYPES, most, what).await?.found(what);
        match answer {
            Err(Error::Absent { .. }) => return Ok(found.referrers),
            answer => self.take(&mut found, index(&answer?, what)?, what)?,
        }
        Ok(found.referrers)
    }

    /// Filters by ourselves: whether a registry does, and by what, is its own affair.
    fn take(&self, found: &mut Found<'_>, index: Index, what: &str) -> Result<(), Error> {
        let bounds = &self.registry.bounds;
        found.listed += index.manifests.len();
        if found.listed > bounds.listed {
            return Err(Error::invalid(what, format!("there are more than {}", bounds.listed)));
        }
        for descriptor in index.manifests {
            let wanted =
                found.artifact_type.is_none() || found.artifact_type == descriptor.artifact_type.as_deref();
            if !wanted || !found.seen.insert(descriptor.digest.clone()) {
                continue;
            }
            if found.referrers.len() == bounds.referrers {
                return Err(Error::invalid(
                    what,
                    format!("there are more than {} of this type", bounds.referrers),
                ));
            }
            found.referrers.push(descriptor);
        }
        Ok(())
    }
}

impl Answer {
    /// The query of the next page. It is asked for where this one was: another place is none of the registry's pages.
    fn next_query(&self, next: &str, what: &str) -> Result<String, Error> {
        let to = self.url.join(next).ok();
        // Behind a proxy that ends TLS, some take themselves for unencrypted.
        let place = |url: &Url| (url.host_str().map(str::to_owned), url.port(), url.path().to_owned());
        let same = |to: &Url| place(to) == place(&self.url);
        let query = to.filter(same).and_then(|to| to.query().map(str::to_owned));
        query.ok_or_else(|| Error::invalid(what, "its next page is somewhere else"))
    }
}

fn index(answer: &Answer, what: &str) -> Result<Index, Error> {
    match Manifest::read(&answer.body, answer.content_type.as_deref()) {
        Ok(Manifest::Index(index)) => Ok(index),
        Ok(Manifest::Image(_)) => {
            Err(Error::invalid(what, "the registry answers with an image, not with a list"))
        }
        Err(why) => Err(Error::unreadable(what, &why)),
    }
}

fn artifact_type_query(artifact_type: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair("artifactType", artifact_type).finish()
}

/// The algorithm and the hash, cut to what a tag can hold.
fn fallback_tag(digest: &Digest) -> String {
    let (algorithm, hash) = digest.as_str().split_once(':').unwrap_or_default();
    format!("{algorithm}-{}", hash.get(..64).unwrap_or(hash))
}
