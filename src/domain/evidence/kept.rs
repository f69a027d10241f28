//! The evidence of all images, as every replica keeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Evidence, Fact, Fingerprint, Place};
use crate::domain::image::{Digest, PinnedImage, Repository};

/// All evidence by image, and what stands where policies point to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvidenceOf {
    images: BTreeMap<Repository, BTreeMap<Digest, Arc<Evidence>>>,
    places: BTreeMap<Place, Fact<BTreeSet<Fingerprint>>>,
}

/// For those who have none.
static NOTHING: EvidenceOf = EvidenceOf::new();

impl EvidenceOf {
    /// Without any.
    pub const fn new() -> Self {
        Self { images: BTreeMap::new(), places: BTreeMap::new() }
    }

    /// The one without any.
    pub fn nothing() -> &'static Self {
        &NOTHING
    }

    /// What is known of an image; none: nobody looked yet.
    pub fn get(&self, image: &PinnedImage) -> Option<&Evidence> {
        self.of(&image.repository, &image.digest)
    }

    /// What is known of a digest in a repository; none: nobody looked yet.
    pub fn of(&self, repository: &Repository, digest: &Digest) -> Option<&Evidence> {
        self.images.get(repository)?.get(digest).map(AsRef::as_ref)
    }

    /// Evidence as it is now; answers whether that is news.
    pub fn insert(&mut self, evidence: Arc<Evidence>) -> bool {
        let of = self.images.entry(evidence.repository.clone()).or_default();
        if of.get(&evidence.digest) == Some(&evidence) {
            return false;
        }
        of.insert(evidence.digest.clone(), evidence);
        true
    }

    /// Nobody asks for an image any more; answers whether anything was known.
    pub fn remove(&mut self, repository: &Repository, digest: &Digest) -> bool {
        let Some(of) = self.images.get_mut(repository) else { return false };
        let known = of.remove(digest).is_some();
        if of.is_empty() {
            self.images.remove(repository);
        }
        known
    }

    /// All of it, by repository and digest.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Evidence>> {
        self.images.values().flat_map(BTreeMap::values)
    }

    /// The fingerprints of what stands at a place; none: nobody looked yet.
    pub fn place(&self, place: &Place) -> Option<&Fact<BTreeSet<Fingerprint>>> {
        self.places.get(place)
    }

    /// What stands at a place now; answers whether that is news.
    pub fn see_place(&mut self, place: Place, found: Fact<BTreeSet<Fingerprint>>) -> bool {
        self.places.get(&place) != Some(&found) && {
            self.places.insert(place, found);
            true
        }
    }

    /// Keeps only the places that somebody still points to.
    pub fn keep_places(&mut self, named: &BTreeSet<&Place>) {
        self.places.retain(|place, _| named.contains(place));
    }
}
