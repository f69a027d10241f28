//! Image references, by the grammar of [distribution/reference], normalised once.
//!
//! Everything after parsing compares normalised values: the default registry and `library/` are written out, hosts are
//! in lower case, the default port is left out. Digests are strict: known algorithm, lower-case hex, exact length.
//!
//! [distribution/reference]: https://github.com/distribution/reference/blob/main/reference.go

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is no image reference (or no part of one).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: {why}")]
pub struct ParseError {
    text: String,
    what: &'static str,
    why: &'static str,
}

impl ParseError {
    fn new(text: &str, what: &'static str, why: &'static str) -> Self {
        Self { text: text.chars().take(300).collect(), what, why }
    }
}

/// A content digest, `sha256:` or `sha512:` and lower-case hex of the exact length ([OCI descriptor]).
///
/// [OCI descriptor]: https://github.com/opencontainers/image-spec/blob/main/descriptor.md#digests
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A repository with its registry: `docker.io/library/nginx`, `registry.example:5000/shop/cart`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository(String);

/// A tag: up to 128 of `[A-Za-z0-9_.-]`, not starting with `.` or `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(String);

/// What a manifest may call an image: a repository with a tag, a digest, both or neither.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageRef {
    /// Where the image is.
    pub repository: Repository,
    /// The tag as written; [`ImageRef::effective_tag`] knows the default.
    pub tag: Option<Tag>,
    /// The digest as written.
    pub digest: Option<Digest>,
}

/// What is approved and set: a repository and a digest. The tag is only kept so that it is not lost to readers:
/// two pinned images are the same image when repository and digest are ([`PinnedImage::same_image`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PinnedImage {
    /// Where the image is.
    pub repository: Repository,
    /// What the image was called when it was pinned.
    pub tag: Option<Tag>,
    /// Which image it is.
    pub digest: Digest,
}

impl Digest {
    /// The text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm and the first 12 hex digits, for people.
    pub fn short(&self) -> &str {
        let colon = self.0.find(':').map_or(0, |at| at + 1);
        self.0.get(..colon + 12).unwrap_or(&self.0)
    }
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = |why| ParseError::new(text, "a digest", why);
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| error("expected algorithm:hex"))?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(error("the algorithm must be sha256 or sha512")),
        };
        if hex.len() != length {
            return Err(error("the hex part has the wrong length"));
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error("the hex part must be lower-case hex"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl Repository {
    /// The normalised text, `registry/path`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let error = |why| ParseError::new(text, "an image repository", why);
        let (host, path) = match text.split_once('/') {
            Some((first, rest)) if is_host(first) => (normal_host(first), rest),
            _ => ("docker.io".to_owned(), text),
        };
        if !valid_host(&host) {
            return Err(error("the registry is not a host with an optional port"));
        }
        if path.is_empty() || !path.split('/').all(valid_path_component) {
            return Err(error(
                "path components are lower-case letters and digits, separated by single '.', '_', '__' or '-'",
            ));
        }
        let library = if host == "docker.io" && !path.contains('/') { "library/" } else { "" };
        let normal = format!("{host}/{library}{path}");
        if normal.len() > 255 {
            return Err(error("longer than 255 characters"));
        }
        Ok(Self(normal))
    }
}

/// Whether the first component names a registry rather than a path on Docker Hub (distribution's `splitDockerDomain`).
pub(crate) fn is_host(component: &str) -> bool {
    component.contains(['.', ':', '['])
        || component == "localhost"
        || component.bytes().any(|b| b.is_ascii_uppercase())
}

pub(crate) fn normal_host(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    match lower.strip_suffix(":443").unwrap_or(&lower) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

fn valid_host(host: &str) -> bool {
    let (name, port) = match host.rfind(']') {
        Some(end) => {
            (&host[..=end], host[end + 1..].strip_prefix(':').or((end + 1 == host.len()).then_some("0")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        },
    };
    let valid_port =
        port.is_some_and(|p| !p.is_empty() && p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    let valid_name = match name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
        None => name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        }),
    };
    valid_port && valid_name
}

fn valid_path_component(component: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    let runs = bytes.split(|b| alphanumeric(b)).filter(|run| !run.is_empty());
    runs.into_iter().all(|run| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-'))
}

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let valid = text.len() <= 128
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseError::new(
                text,
                "a tag",
                "up to 128 of letters, digits, '_', '.', '-', starting with a letter, digit or '_'",
            ))
        }
    }
}

impl FromStr for ImageRef {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        // A colon after the last slash separates the tag; before it, a port.
        let tag_at = name.rfind(':').filter(|at| !name[*at..].contains('/'));
        let (name, tag) = match tag_at {
            Some(at) => (&name[..at], Some(name[at + 1..].parse()?)),
            None => (name, None),
        };
        Ok(Self { repository: name.parse()?, tag, digest })
    }
}

impl ImageRef {
    /// The tag this reference stands for: the one written, `latest` where neither tag nor digest is, none where only a digest is.
    pub fn effective_tag(&self) -> Option<Tag> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag.clone()),
            (None, Some(_)) => None,
            (None, None) => Some(Tag("latest".to_owned())),
        }
    }

    /// This reference with a digest set.
    #[must_use]
    pub fn pin(&self, digest: Digest) -> PinnedImage {
        PinnedImage { repository: self.repository.clone(), tag: self.effective_tag(), digest }
    }

    /// The pinned image, where the reference names a digest.
    pub fn pinned(&self) -> Option<PinnedImage> {
        self.digest.clone().map(|digest| self.pin(digest))
    }
}

impl PinnedImage {
    /// Whether both are the same image, whatever they were called.
    pub fn same_image(&self, other: &Self) -> bool {
        self.repository == other.repository && self.digest == other.digest
    }
}

impl FromStr for PinnedImage {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let reference: ImageRef = text.parse()?;
        reference
            .pinned()
            .ok_or_else(|| ParseError::new(text, "a pinned image", "expected repository[:tag]@digest"))
    }
}

/// Whether two references as written mean the same. Texts that cannot be parsed are compared as they are.
pub fn same_reference(a: &str, b: &str) -> bool {
    a == b
        || match (a.parse::<ImageRef>(), b.parse::<ImageRef>()) {
            (Ok(a), Ok(b)) => a == b,
            (Ok(_), Err(_)) | (Err(_), Ok(_) | Err(_)) => false,
        }
}

/// An image for people: the last part of its repository, its tag, the beginning of its digest.
pub fn short(image: &str) -> String {
    let Ok(reference) = image.parse::<ImageRef>() else { return image.chars().take(80).collect() };
    let name = reference.repository.as_str().rsplit('/').next().unwrap_or_default();
    let tag = reference.tag.as_ref().map_or_else(String::new, |tag| format!(":{tag}"));
    let digest = reference.digest.as_ref().map_or_else(String::new, |digest| format!("@{}", digest.short()));
    format!("{name}{tag}{digest}")
}

/// Whether two references as written call an image the same, whatever their digests: the same repository and tag.
pub fn same_name(a: &str, b: &str) -> bool {
    let name = |text: &str| {
        let reference: ImageRef = text.parse().ok()?;
        let tag = reference.effective_tag();
        Some((reference.repository, tag))
    };
    a == b || name(a).is_some_and(|name_of_a| Some(name_of_a) == name(b))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for PinnedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        write!(f, "@{}", self.digest)
    }
}

/// Text in, text out: parsing on the way in, the normalised text on the way out.
macro_rules! text_type {
    ($($type:ident),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String { value.0 }
        }
        impl TryFrom<String> for $type {
            type Error = ParseError;
            fn try_from(text: String) -> Result<Self, ParseError> { text.parse() }
        }
    )*};
}
text_type!(Digest, Repository, Tag);

impl From<PinnedImage> for String {
    fn from(image: PinnedImage) -> String {
        image.to_string()
    }
}

impl TryFrom<String> for PinnedImage {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex() -> String {
        "0123456789abcdef".repeat(4)
    }

    /// A reference read differently from the kubelet would approve one image and run another.
    #[test]
    fn references_are_normalised_as_the_kubelet_reads_them() {
        let digest = format!("sha256:{}", hex());
        for (text, normal) in [
            ("nginx".to_owned(), "docker.io/library/nginx".to_owned()),
            ("nginx:1.0".into(), "docker.io/library/nginx:1.0".into()),
            ("bitnami/redis".into(), "docker.io/bitnami/redis".into()),
            ("index.docker.io/library/nginx".into(), "docker.io/library/nginx".into()),
            ("localhost/app:1".into(), "localhost/app:1".into()),
            ("localhost:5000/app".into(), "localhost:5000/app".into()),
            ("Registry.Example:443/shop/cart:1".into(), "registry.example/shop/cart:1".into()),
            ("registry.example:5000/a__b/c-d--e:x".into(), "registry.example:5000/a__b/c-d--e:x".into()),
            ("[2001:db8::1]:5000/app".into(), "[2001:db8::1]:5000/app".into()),
            (format!("nginx:1.0@{digest}"), format!("docker.io/library/nginx:1.0@{digest}")),
        ] {
            let reference: ImageRef = text.parse().unwrap();
            assert_eq!(reference.to_string(), normal, "{text}");
            assert_eq!(normal.parse::<ImageRef>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let hex = hex();
        for text in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A/b:",
            "nginx:",
            "nginx@",
            "nginx:-x",
            "ngi nx",
            "nginx\n",
            "UPPER",
            "a_-b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "registry.example:port/a",
            "registry.example:123456/a",
            "..example/a",
            "[::1/a",
            "http://registry.example/a",
            "nginx@sha256:abc",
            "nginx@md5:abc",
            &format!("nginx@sha256:{}", hex.to_uppercase()),
            &format!("nginx@sha512:{hex}"),
            &format!("nginx@sha256:{hex}@sha256:{hex}"),
            &"a".repeat(300),
            &format!("nginx:{}", "t".repeat(129)),
        ] {
            assert!(text.parse::<ImageRef>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn no_tag_and_no_digest_is_latest() {
        assert_eq!("a/b".parse::<ImageRef>().unwrap().effective_tag().unwrap().as_str(), "latest");
        assert_eq!(format!("a/b@sha256:{}", hex()).parse::<ImageRef>().unwrap().effective_tag(), None);
    }

    proptest! {
        #[test]
        fn display_is_the_inverse_of_parsing(text in "([a-z0-9.]{1,12}(:[0-9]{2,5})?/)?[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?(/[a-z]{1,5})?(:[A-Za-z0-9_.-]{1,9})?(@sha256:[0-9a-f]{64})?") {
            if let Ok(reference) = text.parse::<ImageRef>() {
                prop_assert_eq!(reference.to_string().parse::<ImageRef>().unwrap(), reference);
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<ImageRef>();
        }
    }
}
