//! Globs over normalised repositories: anchored at both ends, `*` stays within a path segment, `**` crosses them.
#![allow(clippy::match_same_arms, reason = "in the order of the question")]

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

use super::image::{Repository, is_host, normal_host};

/// A glob over normalised repositories. The pattern is normalised as a repository would be, so `nginx` means
/// `docker.io/library/nginx`.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    shape: Shape,
}

/// Every review matches all patterns: what as good as every pattern looks like is matched without an automaton.
#[derive(Clone)]
enum Shape {
    /// `**`
    Any,
    /// Without wildcards.
    One,
    /// `registry/path/**`: what everything begins with that matches.
    Below(String),
    Glob(GlobMatcher),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a pattern for image repositories: {why}")]
pub struct PatternError {
    text: String,
    why: String,
}

impl Pattern {
    /// Reads a pattern.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let error = |why: String| PatternError { text: text.to_owned(), why };
        if text.is_empty() || text.contains(['@', ' ']) {
            return Err(error("expected registry/path with *, ** or ?, without tag or digest".to_owned()));
        }
        let normal = normalise(text);
        let glob = GlobBuilder::new(&normal)
            .literal_separator(true)
            .build()
            .map_err(|e| error(e.kind().to_string()))?
            .compile_matcher();
        let literal = |text: &str| !text.contains(['*', '?', '[', ']', '{', '}', '\\', ',']);
        let shape = match normal.strip_suffix("**") {
            Some("") => Shape::Any,
            Some(begin) if begin.ends_with('/') && literal(begin) => Shape::Below(begin.to_owned()),
            Some(_) => Shape::Glob(glob),
            None if literal(&normal) => Shape::One,
            None => Shape::Glob(glob),
        };
        Ok(Self { text: normal, shape })
    }

    /// Whether the whole repository matches.
    pub fn matches(&self, repository: &Repository) -> bool {
        let name = repository.as_str();
        match &self.shape {
            Shape::Any => true,
            Shape::One => name == self.text,
            Shape::Below(begin) => name.len() > begin.len() && name.starts_with(begin.as_str()),
            Shape::Glob(glob) => glob.is_match(name),
        }
    }
}

fn normalise(text: &str) -> String {
    let wild = |part: &str| part.contains(['*', '?', '[', '{']);
    match text.split_once('/') {
        Some((host, path)) if is_host(host) || wild(host) => {
            if wild(host) {
                return format!("{}/{path}", host.to_ascii_lowercase());
            }
            let host = normal_host(host);
            let official = host == "docker.io" && !path.contains('/') && !path.starts_with("**");
            let library = if official { "library/" } else { "" };
            format!("{host}/{library}{path}")
        }
        Some(_) => format!("docker.io/{text}"),
        None if text.starts_with("**") => text.to_owned(),
        None => format!("docker.io/library/{text}"),
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A pattern that matches more than it says lets a look-alike registry or a sibling repository in.
    #[test]
    fn patterns_are_anchored_and_match_whole_segments() {
        for (pattern, repository, expected) in [
            ("**", "registry.example/a/b", true),
            ("registry.example/**", "registry.example/a/b", true),
            ("registry.example/**", "registry.example.evil/a/b", false),
            ("registry.example/**", "evil/registry.example/a", false),
            ("Registry.Example:443/shop/*", "registry.example/shop/cart", true),
            ("registry.example/shop/*", "registry.example/shop/cart/x", false),
            ("registry.example/shop*", "registry.example/shop/cart", false),
            ("registry.example/shop", "registry.example/shopping", false),
            ("*.example/shop/**", "eu.example/shop/cart", true),
            ("*.example/shop/**", "eu.evil.example/shop/cart", true),
            ("nginx", "nginx", true),
            ("nginx", "registry.example/library/nginx", false),
            ("docker.io/nginx", "nginx", true),
            ("index.docker.io/nginx", "nginx", true),
            ("docker.io/*", "nginx", true),
            ("docker.io/*", "bitnami/redis", false),
            ("docker.io/**", "nginx", true),
            ("docker.io/**", "bitnami/redis", true),
            ("bitnami/*", "docker.io/bitnami/redis", true),
            ("registry.example/{a,b}/*", "registry.example/b/x", true),
        ] {
            let repository = repository.parse().unwrap();
            assert_eq!(
                Pattern::new(pattern).unwrap().matches(&repository),
                expected,
                "{pattern} on {repository}"
            );
        }
        assert!(Pattern::new("").is_err());
        assert!(Pattern::new("registry.example/[").is_err());
        assert!(Pattern::new("registry.example/a@sha256:x").is_err());
    }

    proptest! {
        /// If this fails, what a pattern matches depends on how it happens to look.
        #[test]
        fn every_shape_matches_as_its_glob_does(
            pattern in r"(a|b|a\*|\*|\*\*|a\?|\{a,b\})(\.example)?(/(a|b|ab|\*|\*\*|[ab]\*\*)){0,3}",
            repository in r"(a|b|ab)\.example(/(a|b|ab)){1,3}",
        ) {
            let pattern = Pattern::new(&pattern).unwrap();
            let repository: Repository = repository.parse().unwrap();
            let glob = GlobBuilder::new(&pattern.text).literal_separator(true).build().unwrap().compile_matcher();
            prop_assert_eq!(pattern.matches(&repository), glob.is_match(repository.as_str()));
        }
    }
}
