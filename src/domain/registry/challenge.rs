//! How a registry asks who comes: `WWW-Authenticate`.

/// One way to say who comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A name and a password with every request.
    Basic,
    /// A token, which somebody else hands out.
    Bearer {
        /// Who: a URL.
        realm: String,
        /// What the registry is called there.
        service: Option<String>,
    },
}

const HEADER_BYTES: usize = 8 << 10;

/// The challenges of a header's value, in their order, without those of other kinds and those that say something twice. What scope is
/// asked for is left out: we know what we want.
pub fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Raw> = Vec::new();
    let mut rest = header.get(..HEADER_BYTES.min(header.len())).unwrap_or_default();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = token(rest);
        if name.is_empty() {
            break;
        }
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(after), Some(challenge)) => {
                let Some((value, after)) = value(after.trim_start_matches([' ', '\t'])) else { break };
                challenge.set(name, value);
                rest = after;
            }
            (Some(_), None) => break,
            (None, _) => {
                found.push(Raw::new(name));
                rest = after;
            }
        }
    }
    found.into_iter().filter_map(Raw::challenge).collect()
}

struct Raw {
    scheme: String,
    realm: Option<String>,
    service: Option<String>,
    twice: bool,
}

impl Raw {
    fn new(scheme: &str) -> Self {
        Self { scheme: scheme.to_ascii_lowercase(), realm: None, service: None, twice: false }
    }

    fn set(&mut self, name: &str, value: String) {
        let field = match name.to_ascii_lowercase().as_str() {
            "realm" => &mut self.realm,
            "service" => &mut self.service,
            _ => return,
        };
        self.twice |= field.replace(value).is_some();
    }

    fn challenge(self) -> Option<Challenge> {
        match (self.scheme.as_str(), self.realm) {
            _ if self.twice => None,
            ("basic", _) => Some(Challenge::Basic),
            ("bearer", Some(realm)) => Some(Challenge::Bearer { realm, service: self.service }),
            _ => None,
        }
    }
}

fn token(text: &str) -> (&str, &str) {
    let part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !part(c)).unwrap_or(text.len()))
}

/// A token or a quoted text, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (token, rest) = token(text);
        return Some((token.to_owned(), rest.trim_start_matches('=')));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            char => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_of_registries_are_read() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.docker.io/token", Some("registry.docker.io"))],
            ),
            (r#"Basic realm="Registry Realm""#, vec![Challenge::Basic]),
            ("basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="a, b=c", bearer Realm = "https://x/\"y" "#,
                vec![Challenge::Basic, bearer("https://x/\"y", None)],
            ),
            ("Negotiate abc==, Basic realm=x", vec![Challenge::Basic]),
            (r#"Bearer realm="https://a",realm="https://b""#, vec![]),
            (r#"Bearer service="x""#, vec![]),
            (r#"Bearer realm="https://a"#, vec![]),
            (r#"realm="https://a""#, vec![]),
            ("", vec![]),
        ] {
            assert_eq!(challenges(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn headers_never_panic(text in "\\PC{0,80}", shaped in "(Bearer|Basic|realm|=|\"|,| |\\\\|x){0,30}") {
            for text in [&text, &shaped] {
                prop_assert!(challenges(text).len() <= text.len());
            }
        }
    }
}
