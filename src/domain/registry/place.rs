//! Where a repository is really read.
//!
//! What a digest names is the same everywhere, so it may come from a mirror. What a registry only says (which digest a tag has, what
//! refers to an image) is asked of the repository itself, or of where a remap explicitly says that it is: a mirror that lacks a
//! signature must not make an image one without.

use core::str::FromStr;

use crate::domain::image::{Repository, is_host, normal_host};

/// Why a text is no beginning of repositories.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no registry with an optional path: {why}")]
pub struct InvalidPlace {
    text: String,
    why: String,
}

/// A registry, perhaps with the beginning of a path: whole segments.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prefix(String);

impl FromStr for Prefix {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let invalid = |why: String| InvalidPlace { text: text.chars().take(300).collect(), why };
        let (host, path) = text.find('/').map_or((text, ""), |at| text.split_at(at));
        if !is_host(host) {
            return Err(invalid("it begins with a registry's host, as docker.io".to_owned()));
        }
        let prefix = format!("{}{path}", normal_host(host));
        // A repository below it must be one.
        format!("{prefix}/x").parse::<Repository>().map_err(|error| invalid(error.to_string()))?;
        Ok(Self(prefix))
    }
}

/// From a beginning of repositories to another one, in whose place it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    from: Prefix,
    to: Prefix,
}

impl Mapping {
    /// From one to the other: `docker.io/library` to `mirror.example/hub`.
    pub fn new(from: &str, to: &str) -> Result<Self, InvalidPlace> {
        let mapping = Self { from: from.parse()?, to: to.parse()? };
        if mapping.from.0.contains('/') && !mapping.to.0.contains('/') {
            let why = "what has a path is not replaced by a registry alone".to_owned();
            return Err(InvalidPlace { text: to.to_owned(), why });
        }
        Ok(mapping)
    }

    /// What follows the beginning.
    fn rest<'r>(&self, repository: &'r Repository) -> Option<&'r str> {
        let rest = repository.as_str().strip_prefix(&self.from.0)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }

    /// The other repository, if this one begins so. None, too, where it would be no repository.
    pub fn apply(&self, repository: &Repository) -> Option<Repository> {
        format!("{}{}", self.to.0, self.rest(repository)?).parse().ok()
    }
}

/// Where repositories are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// In whose place others are read, always. The longest beginning decides; what it leads to is not remapped again.
    pub remaps: Vec<Mapping>,
    /// Where what a digest names may be, in the order in which they are asked. The longest beginning decides.
    pub mirrors: Vec<Mapping>,
}

/// Where one repository is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it is.
    pub own: Repository,
    /// Who may have the same, in the order in which they are asked.
    pub mirrors: Vec<Repository>,
}

impl Places {
    /// Where a repository is read; none where its remap leads to what is no repository.
    pub fn route(&self, repository: &Repository) -> Option<Route> {
        let remap = closest(&self.remaps, repository).next();
        let own = remap.map_or_else(|| Some(repository.clone()), |remap| remap.apply(repository))?;
        let mirrors = closest(&self.mirrors, &own).filter_map(|mirror| mirror.apply(&own));
        let mirrors = mirrors.filter(|mirror| *mirror != own).collect();
        Some(Route { own, mirrors })
    }
}

/// The mappings with the longest beginning.
fn closest<'a>(mappings: &'a [Mapping], repository: &'a Repository) -> impl Iterator<Item = &'a Mapping> {
    let fits = move |mapping: &&Mapping| mapping.rest(repository).is_some();
    let longest = mappings.iter().filter(fits).map(|mapping| mapping.from.0.len()).max();
    mappings.iter().filter(fits).filter(move |mapping| Some(mapping.from.0.len()) == longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(pairs: &[(&str, &str)]) -> Vec<Mapping> {
        pairs.iter().map(|(from, to)| Mapping::new(from, to).unwrap()).collect()
    }

    fn route(places: &Places, repository: &str) -> (String, Vec<String>) {
        let Route { own, mirrors } = places.route(&repository.parse().unwrap()).unwrap();
        (own.to_string(), mirrors.iter().map(ToString::to_string).collect())
    }

    /// If this fails, an image is read from where nobody said that it is.
    #[test]
    fn whole_segments_and_the_longest_beginning_decide() {
        let places = Places {
            remaps: mappings(&[
                ("docker.io", "inside.example:5000/hub"),
                ("docker.io/shop", "shop.example/images"),
                ("quay.io/a/b", "docker.io/c"),
            ]),
            mirrors: mappings(&[
                ("registry.example", "one.example"),
                ("registry.example", "two.example/cache"),
                ("registry.example/shop", "three.example/x"),
                ("shop.example", "four.example"),
            ]),
        };
        for (repository, own, mirrors) in [
            ("nginx", "inside.example:5000/hub/library/nginx", vec![]),
            ("shop/cart", "shop.example/images/cart", vec!["four.example/images/cart"]),
            ("shopping/cart", "inside.example:5000/hub/shopping/cart", vec![]),
            // Not remapped again.
            ("quay.io/a/b", "docker.io/library/c", vec![]),
            ("quay.io/a/bc", "quay.io/a/bc", vec![]),
            ("registry.example/a", "registry.example/a", vec!["one.example/a", "two.example/cache/a"]),
            ("registry.example/shop/cart", "registry.example/shop/cart", vec!["three.example/x/cart"]),
            ("registry.example.evil/a", "registry.example.evil/a", vec![]),
            ("registry.example:5000/a", "registry.example:5000/a", vec![]),
        ] {
            let mirrors = mirrors.into_iter().map(str::to_owned).collect();
            assert_eq!(route(&places, repository), (own.to_owned(), mirrors), "{repository}");
        }
        let long = format!("docker.io/shop/{}", "a".repeat(238)).parse().unwrap();
        assert_eq!(places.route(&long), None, "what is remapped is never read where it was");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for (from, to) in [
            ("library", "a.example"),
            ("", "a.example"),
            ("a.example", "https://b.example"),
            ("a.example/", "b.example"),
            ("a.example/x", "b.example"),
            ("a.example/UP", "b.example/x"),
            ("a.example:x", "b.example"),
            ("*.example", "b.example"),
        ] {
            assert!(Mapping::new(from, to).is_err(), "{from} {to}");
        }
    }
}
