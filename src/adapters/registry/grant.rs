//! Who we say to be, to whom, and for how long.
//!
//! Credentials go to the registry that they were given for, and to where its tokens are known to be handed out: itself, and what is
//! listed. To any other realm we say nothing of who asks. A token is kept for the registry, the repository and the credentials that it
//! was handed out for.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use url::Url;

use super::{
    Error,
    answer::Answer,
    keychain::Login,
    reach::{Get, Reach, is_here, place},
};
use crate::domain::registry::{Challenge, challenges, read_json};

const TOKEN_BYTES: u64 = 64 << 10;
const CHALLENGES: usize = 8;
/// How long a token is good for that does not say so: the documentation's word.
const UNSAID: u64 = 60;
/// No longer than this, so that what was taken away is noticed.
const LONGEST: u64 = 3_600;
/// A token that is over on the way is one request too many.
const MARGIN: u64 = 10;
const KEPT: usize = 1_000;

/// What is kept of who we were taken for.
pub(super) struct Grants {
    realms: BTreeMap<String, BTreeSet<String>>,
    kept: Mutex<BTreeMap<Key, (Grant, Instant)>>,
}

/// The origin of the registry, the path of the repository, the credentials.
type Key = (String, String, Option<[u8; 32]>);

/// What to say with a request.
#[derive(Clone)]
pub(super) struct Grant {
    pub authorization: HeaderValue,
    /// Where the registry sent us for a token, if nothing was said of who asks there although something is known.
    pub withheld: Option<String>,
}

/// Whom somebody asks as, and for what.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    /// The registry's host, as in names of images.
    pub host: &'a str,
    /// The same as URL.
    pub registry: &'a Url,
    /// The repository's path.
    pub path: &'a str,
    pub login: Option<&'a Login>,
    /// What is asked for, for messages.
    pub what: &'a str,
}

impl Claim<'_> {
    fn key(&self) -> Key {
        let origin = self.registry.origin().ascii_serialization();
        (origin, self.path.to_owned(), self.login.map(|login| login.fingerprint))
    }
}

impl Grants {
    pub fn new(realms: BTreeMap<String, BTreeSet<String>>) -> Self {
        Self { realms, kept: Mutex::default() }
    }

    /// What worked before and should still.
    pub fn known(&self, claim: &Claim<'_>) -> Option<Grant> {
        let kept = self.kept.lock();
        kept.get(&claim.key()).filter(|(_, until)| *until > Instant::now()).map(|(grant, _)| grant.clone())
    }

    /// Does as the registry asks in its refusal.
    pub async fn obtain(
        &self,
        reach: &Reach,
        claim: &Claim<'_>,
        refusal: &HeaderMap,
    ) -> Result<Grant, Error> {
        let values = refusal.get_all(WWW_AUTHENTICATE).iter().take(CHALLENGES);
        let asked: Vec<Challenge> =
            values.filter_map(|value| value.to_str().ok()).flat_map(challenges).collect();
        let bearer = asked.iter().find_map(|challenge| match challenge {
            Challenge::Bearer { realm, service } => Some((realm, service)),
            Challenge::Basic => None,
        });
        let (grant, seconds) = if let Some((realm, service)) = bearer {
            token(self, reach, claim, realm, service.as_deref()).await?
        } else if asked.contains(&Challenge::Basic) {
            let Some(login) = claim.login else {
                let why = format!("{} asks for a name and a password: name a pull secret for it", claim.host);
                return Err(Error::forbidden(claim.what, why));
            };
            let authorization = basic(claim, claim.registry, login)?;
            (Grant { authorization, withheld: None }, LONGEST)
        } else {
            let why = format!(
                "{} does not say, in a way that is known, how to say who asks",
                place(claim.registry)
            );
            return Err(Error::forbidden(claim.what, why));
        };
        self.keep(claim.key(), grant.clone(), seconds);
        Ok(grant)
    }

    fn keep(&self, key: Key, grant: Grant, seconds: u64) {
        let now = Instant::now();
        let until = now + Duration::from_secs(seconds.min(LONGEST).saturating_sub(MARGIN));
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.retain(|_, (_, until)| *until > now);
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, (grant, until));
    }

    /// Whether the tokens of the registry are known to be handed out there.
    fn trusts(&self, claim: &Claim<'_>, realm: &Url) -> bool {
        if realm.origin() == claim.registry.origin() {
            return true;
        }
        let Some(host) = realm.host_str().filter(|_| realm.scheme() == "https") else { return false };
        let named = realm.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        (claim.host == "docker.io" && named == "auth.docker.io")
            || self.realms.get(claim.host).is_some_and(|realms| realms.contains(&named))
    }
}

/// Asks for a token to pull, and for nothing else whatever the registry would have us ask for. With how many seconds it is good for.
async fn token(
    grants: &Grants,
    reach: &Reach,
    claim: &Claim<'_>,
    realm: &str,
    service: Option<&str>,
) -> Result<(Grant, u64), Error> {
    let what = claim.what;
    let url = Url::parse(realm).ok().filter(|url| url.username().is_empty() && url.password().is_none());
    let mut url = url.ok_or_else(|| {
        Error::unavailable(what, format!("{} sends for tokens to what is no URL", place(claim.registry)))
    })?;
    let known = claim.login.filter(|_| grants.trusts(claim, &url));
    let withheld = (claim.login.is_some() && known.is_none()).then(|| place(&url));
    let scope = format!("repository:{}:pull", claim.path);
    url.query_pairs_mut()
        .extend_pairs(service.map(|service| ("service", service)))
        .append_pair("scope", &scope);
    let authorization = known.map(|login| basic(claim, &url, login)).transpose()?;
    let get = Get { url: &url, accept: "application/json", authorization: authorization.as_ref(), what };
    let answer = Answer::read(reach.get(get).await?, TOKEN_BYTES, what).await?.found(what);
    let answer = answer.map_err(|error| match error {
        // It is the token that is not there.
        Error::Absent { what, why } => Error::Unavailable { what, why },
        error => error,
    })?;
    let unusable =
        || Error::unavailable(what, format!("{} hands out no token that can be used", place(&url)));
    let value = read_json(&answer.body).map_err(|_| unusable())?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = SecretString::from(text("token").or_else(|| text("access_token")).ok_or_else(unusable)?);
    let authorization = secret(&format!("Bearer {}", token.expose_secret())).ok_or_else(unusable)?;
    let seconds = value.get("expires_in").and_then(Value::as_u64).unwrap_or(UNSAID);
    Ok((Grant { authorization, withheld }, seconds))
}

/// What says who asks, for a URL to which that may go.
fn basic(claim: &Claim<'_>, to: &Url, login: &Login) -> Result<HeaderValue, Error> {
    if to.scheme() != "https" && !is_here(to) {
        let why = format!(
            "the credentials in the Secret {} do not go to {} without encryption: everybody on the way could read them",
            login.secret,
            place(to)
        );
        return Err(Error::forbidden(claim.what, why));
    }
    let pair = SecretString::from(format!("{}:{}", login.username, login.password.expose_secret()));
    let value = secret(&format!("Basic {}", STANDARD.encode(pair.expose_secret())));
    value.ok_or_else(|| Error::forbidden(claim.what, "the credentials are no header's value"))
}

/// A header's value that is not printed.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login {
            username: "ada".to_owned(),
            password: "hunter2".into(),
            secret: "apps/pull".to_owned(),
            fingerprint: [0; 32],
        }
    }

    fn claim<'a>(host: &'a str, registry: &'a Url, login: &'a Login) -> Claim<'a> {
        Claim { host, registry, path: "shop/cart", login: Some(login), what: "it" }
    }

    /// CVE-2026-48978: whoever answers for a registry names a realm of its own.
    #[test]
    fn only_a_registrys_own_realm_and_listed_ones_are_trusted() {
        let listed = [("registry.gitlab.com".to_owned(), ["gitlab.com".to_owned()].into())];
        let grants = Grants::new(listed.into());
        for (host, registry, realm, trusted) in [
            ("docker.io", "https://registry-1.docker.io/", "https://auth.docker.io/token", true),
            ("docker.io", "https://registry-1.docker.io/", "http://auth.docker.io/token", false),
            ("docker.io", "https://registry-1.docker.io/", "https://auth.docker.io:444/token", false),
            ("docker.io", "https://registry-1.docker.io/", "https://auth.docker.io.evil/token", false),
            ("docker.io", "https://registry-1.docker.io/", "https://registry-1.docker.io/x", true),
            ("a.example", "https://a.example/", "https://auth.docker.io/token", false),
            ("a.example", "https://a.example/", "https://a.example/token", true),
            ("a.example", "https://a.example/", "https://A.example:443/token", true),
            ("a.example", "https://a.example/", "https://a.example:444/token", false),
            ("a.example", "https://a.example/", "http://a.example/token", false),
            ("a.example", "https://a.example/", "https://auth.a.example/token", false),
            ("a.example:5000", "https://a.example:5000/", "https://a.example/token", false),
            ("registry.gitlab.com", "https://registry.gitlab.com/", "https://gitlab.com/jwt/auth", true),
            ("registry.gitlab.com", "https://registry.gitlab.com/", "http://gitlab.com/jwt/auth", false),
            ("a.example", "https://a.example/", "https://gitlab.com/jwt/auth", false),
        ] {
            let (registry, login) = (Url::parse(registry).unwrap(), login());
            let realm = Url::parse(realm).unwrap();
            assert_eq!(grants.trusts(&claim(host, &registry, &login), &realm), trusted, "{host} {realm}");
        }
    }

    /// Whoever stands on the way would have the password.
    #[test]
    fn credentials_go_over_tls_or_this_machine_only() {
        let login = login();
        for (url, goes) in [
            ("https://a.example/", true),
            ("http://a.example/", false),
            ("http://10.0.0.1:5000/", false),
            ("http://localhost.example/", false),
            ("http://localhost:5000/", true),
            ("http://127.0.0.1:5000/", true),
            ("http://[::1]:5000/", true),
        ] {
            let registry = Url::parse(url).unwrap();
            let value = basic(&claim("a.example", &registry, &login), &registry, &login);
            assert_eq!(value.is_ok(), goes, "{url}");
            match value {
                Ok(value) => {
                    assert!(value.is_sensitive() && !format!("{value:?}").contains("YWRh"), "{value:?}");
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("apps/pull") && !text.contains("hunter2"), "{text}");
                }
            }
        }
    }

    #[test]
    fn what_is_kept_ends_and_has_a_bound() {
        let (registry, login) = (Url::parse("https://a.example/").unwrap(), login());
        let grants = Grants::new(BTreeMap::new());
        let grant = || Grant { authorization: HeaderValue::from_static("x"), withheld: None };
        let ada = claim("a.example", &registry, &login);
        grants.keep(ada.key(), grant(), MARGIN);
        assert!(grants.known(&ada).is_none(), "it is over before it arrives");
        grants.keep(ada.key(), grant(), 300);
        assert!(grants.known(&ada).is_some());
        for other in [Claim { login: None, ..ada }, Claim { path: "shop", ..ada }] {
            assert!(grants.known(&other).is_none());
        }
        for n in 0..3 * KEPT {
            let path = format!("r{n}");
            grants.keep(Claim { path: &path, ..ada }.key(), grant(), 300);
            assert!(grants.kept.lock().len() <= KEPT);
        }
    }
}
