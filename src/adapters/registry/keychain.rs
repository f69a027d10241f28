//! The credentials of pull secrets.
//!
//! Values are [`secrecy`]'s: they cannot be printed, not even by mistake, and are overwritten when they go.
#![allow(clippy::assigning_clones, reason = "plain to read")]

use std::{fmt, sync::Arc};

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::domain::{
    image::Repository,
    registry::{Scope, read_json},
};

/// With or without padding, as Kubernetes reads it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// What a Secret of Kubernetes can hold.
const SECRET_BYTES: usize = 1 << 20;
const ENTRIES: usize = 1_000;
/// How many of the credentials for one repository are tried.
const TRIED: usize = 4;

/// How a pull secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Type `kubernetes.io/dockerconfigjson`, key `.dockerconfigjson`.
    DockerConfigJson,
    /// Type `kubernetes.io/dockercfg`, key `.dockercfg`.
    DockerCfg,
}

/// Who somebody says to be.
pub(super) struct Login {
    pub username: String,
    pub password: SecretString,
    /// Where it was read, for messages.
    pub secret: String,
    /// Tells logins apart where tokens are kept.
    pub fingerprint: [u8; 32],
}

/// The fingerprint stays out of it, too: from the hash of a short password the password can be found.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.username, self.secret)
    }
}

/// The credentials of some pull secrets, each for what its entry names and for nothing else.
#[derive(Clone, Debug, Default)]
pub struct Keychain {
    /// Whatever is tried first comes first.
    entries: Vec<(Scope, Arc<Login>)>,
}

/// Why a pull secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pull secret {secret} cannot be used: {why}")]
pub struct InvalidSecret {
    secret: String,
    why: &'static str,
}

impl Keychain {
    /// Adds what a pull secret holds. `secret` is its name, for messages. Where two entries are for the same, the one that was added
    /// first is tried first.
    ///
    /// *Errors*: what is no pull secret. No text of it is in the error.
    pub fn add(&mut self, secret: &str, format: Format, bytes: &[u8]) -> Result<(), InvalidSecret> {
        let invalid = |why| InvalidSecret { secret: secret.to_owned(), why };
        if bytes.len() > SECRET_BYTES {
            return Err(invalid("it is larger than 1 MiB"));
        }
        // The parser's reason could quote what it read.
        let value = read_json(bytes).map_err(|_| invalid("it is no JSON, or names something twice"))?;
        let entries = match format {
            Format::DockerCfg => Some(&value),
            Format::DockerConfigJson => value.get("auths"),
        };
        let entries = match entries {
            None | Some(Value::Null) if value.is_object() => return Ok(()),
            Some(Value::Object(entries)) => entries,
            _ => return Err(invalid("it has no object with an entry for each registry (\"auths\")")),
        };
        if self.entries.len() + entries.len() > ENTRIES {
            return Err(invalid("together with the others it has more than 1000 entries"));
        }
        for (key, entry) in entries {
            let Some(scope) = Scope::parse(key) else { continue };
            // None is left behind where a helper of docker's keeps the credentials.
            let Some((username, password)) = login(entry).map_err(invalid)? else { continue };
            let fingerprint = fingerprint(&username, &password);
            let login = Login { username, password, secret: secret.to_owned(), fingerprint };
            self.entries.push((scope, Arc::new(login)));
        }
        self.entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(())
    }

    /// What may open a repository, the closest first.
    pub(super) fn logins(&self, repository: &Repository) -> Vec<Arc<Login>> {
        let fits = self.entries.iter().filter(|(scope, _)| scope.covers(repository));
        fits.take(TRIED).map(|(_, login)| Arc::clone(login)).collect()
    }
}

fn login(entry: &Value) -> Result<Option<(String, SecretString)>, &'static str> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
    let (mut username, mut password) = (text("username").to_owned(), SecretString::from(text("password")));
    let auth = text("auth").trim();
    if !auth.is_empty() {
        let wrong = "an \"auth\" must be the base64 of name:password";
        let decoded = BASE64.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let decoded = SecretString::from(decoded.ok_or(wrong)?);
        let (name, word) = decoded.expose_secret().split_once(':').ok_or(wrong)?;
        username = name.to_owned();
        // Some writers end it with NULs.
        password = word.trim_matches('\0').into();
    }
    if username.contains(':') {
        return Err("a username must be without a colon");
    }
    Ok((!username.is_empty() || !password.expose_secret().is_empty()).then_some((username, password)))
}

fn fingerprint(username: &str, password: &SecretString) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(username.as_bytes());
    // No username has a colon.
    hash.update(b":");
    hash.update(password.expose_secret().as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(keychain: &Keychain, repository: &str) -> Vec<String> {
        let logins = keychain.logins(&repository.parse().unwrap());
        logins.iter().map(|login| format!("{}:{}", login.username, login.password.expose_secret())).collect()
    }

    /// If this fails, a private registry is read without the credentials that the kubelet has, or with somebody else's.
    #[test]
    fn both_kinds_of_secret_are_read_and_the_closest_entry_is_tried_first() {
        let mut keychain = Keychain::default();
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "registry.example": {"username": "wide", "password": "a:b", "email": "x"},
            "registry.example/shop": {"auth": "bmFycm93OmE6Yg", "username": "ignored"},
            "*.registry.example": {"username": "glob", "password": "pw"},
            "empty.example": {},
        }, "credsStore": "desktop"});
        keychain.add("apps/one", Format::DockerConfigJson, config.to_string().as_bytes()).unwrap();
        let cfg = json!({"registry.example": {"username": "second", "password": "pw"}});
        keychain.add("apps/two", Format::DockerCfg, cfg.to_string().as_bytes()).unwrap();
        for (repository, expected) in [
            ("nginx", vec!["hub:pw"]),
            ("registry.example/shop/cart", vec!["narrow:a:b", "wide:a:b", "second:pw"]),
            ("registry.example/other", vec!["wide:a:b", "second:pw"]),
            ("a.registry.example/other", vec!["glob:pw"]),
            ("empty.example/x", vec![]),
            ("registry.example.evil/shop/cart", vec![]),
        ] {
            assert_eq!(names(&keychain, repository), expected, "{repository}");
        }
        let many: Vec<String> = (0..9).map(|n| format!("many.example/{}", "a".repeat(n))).collect();
        let many: serde_json::Map<String, Value> =
            many.into_iter().map(|key| (key, json!({"username": "u", "password": "p"}))).collect();
        keychain.add("apps/many", Format::DockerCfg, Value::Object(many).to_string().as_bytes()).unwrap();
        assert_eq!(names(&keychain, "many.example/aaaaaaaaaaaa").len(), TRIED);
    }

    #[test]
    fn what_is_no_pull_secret_is_refused_without_a_word_of_it() {
        for text in [
            "hunter2",
            r#"{"auths": "hunter2"}"#,
            r#"["hunter2"]"#,
            r#"{"auths": {"a.example": {"auth": "hunter2"}}}"#,
            r#"{"auths": {"a.example": {"auth": "aHVudGVyMg=="}}}"#,
            r#"{"auths": {"a.example": {"username": "a:b", "password": "hunter2"}}}"#,
            r#"{"auths": {"a.example": {"username": "x", "username": "hunter2"}}}"#,
            &format!(r#"{{"auths": {{}}, "x": "{}"}}"#, "hunter2".repeat(200_000)),
        ] {
            let refused = Keychain::default().add("apps/pull", Format::DockerConfigJson, text.as_bytes());
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("apps/pull") && !refused.contains("hunter2"), "{refused}");
        }
        assert!(Keychain::default().add("apps/pull", Format::DockerConfigJson, b"{}").is_ok());
    }

    /// A `{:?}` in a log line is how passwords get out.
    #[test]
    fn no_password_is_printed() {
        let mut keychain = Keychain::default();
        let config = json!({"auths": {"a.example": {"username": "ada", "password": "hunter2"}}});
        keychain.add("apps/pull", Format::DockerConfigJson, config.to_string().as_bytes()).unwrap();
        let printed = format!("{keychain:?}");
        assert!(printed.contains("ada") && !printed.contains("hunter2"), "{printed}");
    }
}
