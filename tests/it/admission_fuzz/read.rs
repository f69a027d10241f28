//! How a kubelet reads an image reference: by the grammar of distribution's `reference`, in its own words, written here anew.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;

/// What is approved: repositories with digests, and with tags.
pub struct Approvals {
    pub images: BTreeSet<(String, String)>,
    pub tags: BTreeSet<(String, String)>,
}

impl Approvals {
    /// Whether an image may be named. Whatever runs must be named by its digest.
    pub fn permit(&self, image: &str, runs: bool) -> bool {
        match read(image) {
            Some((repository, _, Some(digest))) => self.images.contains(&(repository, digest)),
            Some((repository, tag, None)) => {
                !runs && self.tags.contains(&(repository, tag.unwrap_or_else(|| "latest".to_owned())))
            }
            None => false,
        }
    }
}

/// Repository, tag and digest; `None`: a kubelet runs nothing by it.
fn read(image: &str) -> Option<(String, Option<String>, Option<String>)> {
    const DOMAIN: &str = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*(?::[0-9]+)?";
    const PATH: &str = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*";
    static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
        let text = format!(
            r"\A((?:{DOMAIN}/)?{PATH}(?:/{PATH})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(sha256:[a-f0-9]{{64}}))?\z"
        );
        Regex::new(&text).unwrap()
    });
    let parts = REFERENCE.captures(image)?;
    let part = |n| parts.get(n).map(|part| part.as_str().to_owned());
    let name = part(1)?;
    let is_domain =
        |first: &str| first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first;
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain(first) => (first.to_lowercase(), path.to_owned()),
        _ => ("docker.io".to_owned(), name.clone()),
    };
    let domain = domain.trim_end_matches(":443").replace("index.docker.io", "docker.io");
    let library = if domain == "docker.io" && !path.contains('/') { "library/" } else { "" };
    Some((format!("{domain}/{library}{path}"), part(2), part(3)))
}

/// If this fails, the fuzzer takes for approved what is not, or the other way round.
#[test]
fn references_are_read() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let of = |text: &str| read(text).map(|(repository, ..)| repository);
    assert_eq!(of("nginx").unwrap(), "docker.io/library/nginx");
    assert_eq!(of("index.docker.io/nginx").unwrap(), "docker.io/library/nginx");
    assert_eq!(of("a.b:5000/c:1").unwrap(), "a.b:5000/c");
    assert_eq!(of("A.B:443/c").unwrap(), "a.b/c");
    for text in
        ["", "a/", "/a", "a b", "a\n", "A", "a:", "a@", "a//b", "a@sha256:00", "http://a/b", "a@md5:0"]
    {
        assert_eq!(of(text), None, "{text:?}");
    }
    assert_eq!(of(&format!("a/b@{}", digest.to_uppercase())), None);
    let approvals = Approvals {
        images: BTreeSet::from([("a.b/c".to_owned(), digest.clone())]),
        tags: BTreeSet::from([("a.b/c".to_owned(), "1".to_owned())]),
    };
    assert!(approvals.permit(&format!("a.b/c:x@{digest}"), true) && approvals.permit("a.b/c:1", false));
    assert!(!approvals.permit("a.b/c:1", true) && !approvals.permit("a.b/c", false));
    assert!(!approvals.permit(&format!("a.b/d@{digest}"), true));
}
