//! The images that a digest stands for.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Error, manifest_of, site::Site};
use crate::domain::{
    evidence::Platform,
    image::Digest,
    registry::{Descriptor, Image, Index, Manifest},
};

/// How many are read at the same time.
const AT_ONCE: usize = 4;
/// An index may list indexes; runtimes follow no deeper ones in practice.
const DEPTH: usize = 3;

/// The images that a digest stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platforms {
    /// What can run, in the order of the index.
    pub images: Vec<Platform>,
    /// What the index lists besides: what `BuildKit` says of the images, and artifacts that no runtime takes for an image.
    pub apart: Vec<Descriptor>,
}

/// What one entry of an index turned out to be.
enum Child {
    Image(Platform),
    Index(Index),
    Apart(Descriptor),
}

impl Site<'_> {
    pub async fn platforms(&self, digest: &Digest) -> Result<Platforms, Error> {
        let mut platforms = Platforms { images: Vec::new(), apart: Vec::new() };
        let mut level = match self.manifest(digest, None).await? {
            Manifest::Image(image) if image.is_container() => {
                platforms.images.push(self.image(digest, &image).await?);
                return Ok(platforms);
            }
            Manifest::Image(image) => {
                let why = format!("it is no container image, its config is {:?}", image.config.media_type);
                return Err(Error::invalid(&manifest_of(&self.route.own, digest), why));
            }
            Manifest::Index(index) => index.manifests,
        };
        let what = format!("the index {}@{digest}", self.route.own);
        let bound = self.registry.bounds.children;
        let mut seen = BTreeSet::new();
        for _ in 0..DEPTH {
            level.retain(|child| seen.insert(child.digest.clone()));
            if seen.len() > bound {
                return Err(Error::invalid(&what, format!("it lists more than {bound} manifests")));
            }
            let children = stream::iter(level).map(|child| self.child(child)).buffered(AT_ONCE);
            let children: Vec<Child> = children.try_collect().await?;
            level = Vec::new();
            for child in children {
                match child {
                    Child::Image(platform) => platforms.images.push(platform),
                    Child::Apart(descriptor) => platforms.apart.push(descriptor),
                    Child::Index(index) => level.extend(index.manifests),
                }
            }
            if level.is_empty() {
                return Ok(platforms);
            }
        }
        Err(Error::invalid(&what, format!("it lists indexes of indexes, more than {DEPTH} deep")))
    }

    async fn child(&self, child: Descriptor) -> Result<Child, Error> {
        if child.is_build_attestation() || !(child.is_image() || child.is_index()) {
            return Ok(Child::Apart(child));
        }
        match self.manifest(&child.digest, Some(child.size)).await? {
            Manifest::Image(image) if child.is_image() && image.is_container() => {
                self.image(&child.digest, &image).await.map(Child::Image)
            }
            Manifest::Image(_) if child.is_image() => Ok(Child::Apart(child)),
            Manifest::Index(index) if child.is_index() => Ok(Child::Index(index)),
            Manifest::Image(_) | Manifest::Index(_) => {
                let why = format!("it is not what the index calls it, {:?}", child.media_type);
                Err(Error::invalid(&manifest_of(&self.route.own, &child.digest), why))
            }
        }
    }

    /// What an image and its config say. Its platform is the config's: an index may leave parts of it out.
    async fn image(&self, digest: &Digest, image: &Image) -> Result<Platform, Error> {
        let config = self.config(&image.config).await?;
        if config.diff_ids.len() != image.layers.len() {
            let why =
                format!("it has {} layers, and its config {}", image.layers.len(), config.diff_ids.len());
            return Err(Error::invalid(&manifest_of(&self.route.own, digest), why));
        }
        Ok(Platform {
            name: config.platform(),
            manifest: digest.clone(),
            config: image.config.digest.clone(),
            diff_ids: config.diff_ids,
            created: config.created,
        })
    }
}
