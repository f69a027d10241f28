//! What digests are made of: which manifests an index holds, and whose layers come first. A digest names its content for ever, in
//! every repository, so what was seen once stays true.
#![allow(clippy::from_iter_instead_of_collect, reason = "of a test")]

use std::collections::{BTreeMap, BTreeSet};

use super::{evidence::Platform, image::Digest};

/// What is known of what digests are made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lineage {
    /// The layers of each platform, uncompressed, by the digest of an index or of a manifest.
    layers: BTreeMap<Digest, Vec<(Digest, Vec<Digest>)>>,
    /// The indexes that hold a manifest.
    indexes: BTreeMap<Digest, BTreeSet<Digest>>,
}

impl Lineage {
    /// What a digest is made of; answers whether that is news.
    pub fn see(&mut self, digest: &Digest, platforms: &[Platform]) -> bool {
        if self.layers.contains_key(digest) {
            return false;
        }
        for platform in platforms.iter().filter(|platform| platform.manifest != *digest) {
            self.indexes.entry(platform.manifest.clone()).or_default().insert(digest.clone());
        }
        let layers = platforms.iter().map(|platform| (platform.manifest.clone(), platform.diff_ids.clone()));
        self.layers.insert(digest.clone(), layers.collect());
        true
    }

    /// What is revoked together with a digest: the manifests that it holds, and the indexes that hold it.
    pub fn kin<'a>(&'a self, digest: &'a Digest) -> impl Iterator<Item = &'a Digest> {
        let held = self.layers.get(digest).into_iter().flatten().map(|(manifest, _)| manifest);
        held.filter(move |held| *held != digest).chain(self.indexes(digest))
    }

    /// The indexes that hold a manifest.
    pub fn indexes<'a>(&'a self, digest: &Digest) -> impl Iterator<Item = &'a Digest> {
        self.indexes.get(digest).into_iter().flatten()
    }

    /// Whether an image of a digest begins with all layers of one of a base. A base without layers is under everything, and says
    /// nothing.
    pub fn is_built_on(&self, digest: &Digest, base: &Digest) -> bool {
        let is_on = |layers: &[Digest], base: &[Digest]| !base.is_empty() && layers.starts_with(base);
        self.images(digest).any(|layers| self.images(base).any(|base| is_on(layers, base)))
    }

    /// The layers of everything that may run of a digest: of one manifest of an index its own only.
    fn images<'a>(&'a self, digest: &'a Digest) -> impl Iterator<Item = &'a [Digest]> {
        let of_itself = self.layers.get(digest).into_iter().flatten();
        let of_indexes = self.indexes(digest).filter_map(|index| self.layers.get(index)).flatten();
        let of_indexes = of_indexes.filter(move |(manifest, _)| manifest == digest);
        of_itself.chain(of_indexes).map(|(_, layers)| layers.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::tests::digest;

    fn platform(manifest: u8, layers: &[u8]) -> Platform {
        Platform {
            name: format!("linux/{manifest}"),
            manifest: digest(manifest),
            config: digest(manifest),
            diff_ids: layers.iter().map(|layer| digest(*layer)).collect(),
            created: None,
        }
    }

    /// If this fails, what is built on a revoked base goes on, or what is not goes back.
    #[test]
    fn the_first_layers_say_what_an_image_is_built_on() {
        let mut lineage = Lineage::default();
        let base = digest(100);
        assert!(lineage.see(&base, &[platform(101, &[1, 2]), platform(102, &[7])]));
        assert!(!lineage.see(&base, &[]), "what a digest names never changes");
        lineage.see(&digest(103), &[platform(103, &[])]);
        for (n, layers, built) in [
            (1, vec![1, 2, 3], true),
            (2, vec![1, 2], true),
            (3, vec![7, 9], true),
            (4, vec![1, 3, 2], false),
            (5, vec![2, 1], false),
            (6, vec![1], false),
            (7, vec![], false),
        ] {
            lineage.see(&digest(n), &[platform(n, &layers)]);
            assert_eq!(lineage.is_built_on(&digest(n), &base), built, "{layers:?}");
            assert!(!lineage.is_built_on(&digest(n), &digest(103)), "a base without layers says nothing");
        }
        lineage.see(&digest(50), &[platform(51, &[1, 2, 5]), platform(52, &[4])]);
        let on = [50, 51, 52, 53].map(|n| lineage.is_built_on(&digest(n), &base));
        assert_eq!(on, [true, true, false, false], "of an index one is, of its manifests that one");
    }

    /// If this fails, the manifest of a revoked index is run by its own digest, or the index of a revoked manifest.
    #[test]
    fn an_index_and_its_manifests_are_revoked_together_and_siblings_are_not() {
        let mut lineage = Lineage::default();
        lineage.see(&digest(50), &[platform(51, &[1]), platform(52, &[2])]);
        lineage.see(&digest(51), &[platform(51, &[1])]);
        let kin = |n| Vec::from_iter(lineage.kin(&digest(n)).cloned());
        assert_eq!(kin(50), [digest(51), digest(52)]);
        assert_eq!(kin(51), [digest(50)]);
        assert_eq!(kin(52), [digest(50)]);
    }
}
