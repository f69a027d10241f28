//! What an entry of a pull secret is for, by the [rules of the kubelet], so that what it can pull can be read here.
//!
//! [rules of the kubelet]: https://kubernetes.io/docs/concepts/containers/images/#config-json

use core::cmp::Ordering;

use crate::domain::image::{Repository, normal_host};

/// The registry, and perhaps the beginning of a path, that credentials are for. Labels of the host may hold `*` and `?`.
///
/// # Guarantees
/// Sorted, whatever is tried first comes first: with a longer path before a shorter one, without a pattern before with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    host: String,
    port: Option<String>,
    /// With its `/`; empty for the whole registry.
    path: String,
}

impl Scope {
    /// Reads a key of a pull secret: `registry.example`, `*.registry.example:5000/shop`, `https://index.docker.io/v1/`. None for what can
    /// be no registry.
    pub fn parse(key: &str) -> Option<Self> {
        let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let odd = |c: char| c.is_whitespace() || c.is_control() || "@#\\".contains(c);
        if host.is_empty() || key.len() > 512 || rest.contains(odd) || path.contains('?') {
            return None;
        }
        // Docker's own key for its hub, and what others took from it.
        let path = path
            .strip_prefix("/v1")
            .or_else(|| path.strip_prefix("/v2"))
            .filter(|path| path.starts_with('/'))
            .unwrap_or(path);
        let path = if path == "/" { "" } else { path };
        let (host, port) = split_port(&normal_host(host));
        Some(Self { host, port, path: path.to_owned() })
    }

    /// Whether the credentials are for this repository.
    pub fn covers(&self, repository: &Repository) -> bool {
        let Some((host, path)) = repository.as_str().split_once('/') else { return false };
        let (host, port) = split_port(host);
        let wanted: Vec<&str> = host.split('.').collect();
        let labels: Vec<&str> = self.host.split('.').collect();
        port == self.port
            && labels.len() == wanted.len()
            && labels.iter().zip(wanted).all(|(label, wanted)| glob(label.as_bytes(), wanted.as_bytes()))
            && format!("/{path}").starts_with(&self.path)
    }

    fn key(&self) -> String {
        let port = self.port.as_ref().map_or_else(String::new, |port| format!(":{port}"));
        format!("{}{port}{}", self.host, self.path)
    }
}

impl Ord for Scope {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key().cmp(&self.key())
    }
}

impl PartialOrd for Scope {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn split_port(host: &str) -> (String, Option<String>) {
    // An IPv6 address ends with a bracket.
    let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    port.map_or((host.to_owned(), None), |(host, port)| (host.to_owned(), Some(port.to_owned())))
}

/// `*` stands for any text, `?` for one character. In steps that grow with both lengths at most.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(key: &str, repository: &str) -> bool {
        Scope::parse(key).is_some_and(|scope| scope.covers(&repository.parse().unwrap()))
    }

    /// If this fails, credentials go to a registry that they are not for, or not to the one they are for.
    #[test]
    fn keys_cover_what_the_kubelet_would_use_them_for() {
        for (key, repository, expected) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("https://index.docker.io/v1/", "shop/cart", true),
            ("index.docker.io", "docker.io/shop/cart", true),
            ("docker.io", "shop/cart", true),
            ("docker.io/shop", "shop/cart", true),
            ("docker.io/shop", "nginx", false),
            ("https://index.docker.io/v1/", "registry.example/shop/cart", false),
            ("registry.example", "registry.example/shop/cart", true),
            ("Registry.Example:443", "registry.example/shop/cart", true),
            ("https://registry.example/v2/", "registry.example/shop/cart", true),
            ("http://registry.example", "registry.example/shop/cart", true),
            ("registry.example/", "registry.example/shop/cart", true),
            ("registry.example/shop", "registry.example/shop/cart", true),
            ("registry.example/shop/cart", "registry.example/shop/cart", true),
            ("registry.example/shop/cart/x", "registry.example/shop/cart", false),
            // The kubelet compares text.
            ("registry.example/shop", "registry.example/shopping/cart", true),
            ("registry.example/v1", "registry.example/v1/cart", true),
            ("registry.example/v2/shop", "registry.example/shop/cart", true),
            ("registry.example:5000", "registry.example/shop/cart", false),
            ("registry.example", "registry.example:5000/shop/cart", false),
            ("registry.example:5000", "registry.example:5000/shop/cart", true),
            ("*.registry.example", "a.registry.example/cart", true),
            ("*.registry.example", "registry.example/cart", false),
            ("*.registry.example", "a.b.registry.example/cart", false),
            ("*.*.registry.example", "a.b.registry.example/cart", true),
            ("prefix.*.example", "prefix.x.example/cart", true),
            ("*-good.registry.example", "very-good.registry.example/cart", true),
            ("*-good.registry.example", "bad.registry.example/cart", false),
            ("reg?stry.example", "registry.example/cart", true),
            ("registry.*", "registry.example.evil/cart", false),
            ("registry.example", "registry.example.evil/cart", false),
            ("*", "registry.example/cart", false),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000/app", true),
            ("[2001:db8::1]", "[2001:db8::1]:5000/app", false),
            ("", "registry.example/cart", false),
            ("user@registry.example", "registry.example/cart", false),
            ("https://", "registry.example/cart", false),
        ] {
            assert_eq!(covers(key, repository), expected, "{key} {repository}");
        }
    }

    #[test]
    fn what_fits_closer_comes_first() {
        let mut scopes: Vec<Scope> =
            ["*.example", "r.example", "r.example/shop/cart", "r.example:5000", "r.example/shop", "r.*/shop"]
                .map(|key| Scope::parse(key).unwrap())
                .into();
        scopes.sort();
        let keys: Vec<String> = scopes.iter().map(Scope::key).collect();
        assert_eq!(
            keys,
            ["r.example:5000", "r.example/shop/cart", "r.example/shop", "r.example", "r.*/shop", "*.example"]
        );
    }

    proptest! {
        /// A pattern with only stars in it is as slow as it is long, and as wide as it looks.
        #[test]
        fn globs_match_what_they_were_made_from(text in "[a-z-]{1,12}", cut in 0..12_usize, other in "[A-Z]{1,3}") {
            let cut = cut.min(text.len());
            let pattern = format!("{}*{}", &text[..cut], &text[cut..]);
            prop_assert!(glob(pattern.as_bytes(), text.as_bytes()));
            let longer = format!("{}{other}{}", &text[..cut], &text[cut..]);
            prop_assert!(glob(pattern.as_bytes(), longer.as_bytes()));
            let around = format!("{other}{text}");
            prop_assert_eq!(glob(pattern.as_bytes(), around.as_bytes()), cut == 0);
        }

        #[test]
        fn keys_never_panic(key in "\\PC{0,60}", repository in "[a-z]{1,5}(\\.[a-z]{1,5})?/[a-z]{1,5}") {
            let _ = covers(&key, &repository);
        }
    }
}
