//! The Secret that a source names: read by its name from the source's own namespace, at every look, and kept nowhere.
//!
//! The keys are Flux's, so that its Secrets serve here too.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::ResourceExt;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::{
    adapters::git::{Channel, ClientCertificate, Credentials, HttpsKeys, Keys, Login, SshKeys},
    api::GitSource,
    controllers::Ctx,
    domain::inventory::ObjectId,
};

/// Why there are no credentials. No text holds a value of a Secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the Secret {secret}, which spec.secretRef names, does not exist")]
    NotFound { secret: String },
    #[error("the Secret {secret}, which spec.secretRef names, cannot be read: {why}")]
    Unreadable { secret: String, why: String },
    #[error("the Secret {secret}, which spec.secretRef names, cannot be used: {why}")]
    Unusable { secret: String, why: String },
}

impl Error {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "SecretNotFound",
            Self::Unreadable { .. } => "SecretUnreadable",
            Self::Unusable { .. } => "InvalidCredentials",
        }
    }
}

/// The credentials of a source, if it names any.
pub(super) async fn read(ctx: &Ctx, source: &GitSource) -> Result<Option<Arc<Credentials>>, super::Error> {
    let Some(named) = &source.spec.secret_ref else { return Ok(None) };
    let channel = Channel::of(&source.spec.url).map_err(super::Error::Git)?;
    let namespace = source.namespace().unwrap_or_default();
    let secret = format!("{namespace}/{}", named.name);
    // The schema says so too, but from this text a path of the API is made.
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    if !named.name.bytes().all(plain) || named.name.starts_with('.') {
        return Err(super::Error::Secret(Error::NotFound { secret }));
    }
    let id = ObjectId {
        api_version: "v1".to_owned(),
        kind: "Secret".to_owned(),
        namespace,
        name: named.name.clone(),
    };
    let read = match ctx.cluster.get(&id).await {
        Ok(Some(object)) => keys(&object["data"], channel)
            .map(|keys| Some(Arc::new(Credentials { secret: secret.clone(), keys })))
            .map_err(|why| Error::Unusable { secret, why }),
        Ok(None) => Err(Error::NotFound { secret }),
        Err(error) => Err(Error::Unreadable { secret, why: error.explain() }),
    };
    read.map_err(super::Error::Secret)
}

const OF_HTTPS: [&str; 6] = ["username", "password", "bearerToken", "tls.crt", "tls.key", "ca.crt"];
const OF_SSH: [&str; 3] = ["identity", "known_hosts", "password"];

/// What the data of a Secret come to for a repository that is reached in this way, or what is wrong with which key.
fn keys(data: &Value, channel: Channel) -> Result<Keys, String> {
    let foreign = |known: &[&str], others: &[&'static str]| {
        others.iter().copied().find(|key| !known.contains(key) && data.get(*key).is_some())
    };
    match channel {
        Channel::Local => {
            Err("a repository on the operator's machine needs no credentials; remove spec.secretRef"
                .to_owned())
        }
        Channel::Clear => {
            Err("spec.url is http://, where everybody on the way could read the credentials; use https://"
                .to_owned())
        }
        Channel::Tls | Channel::Loopback => match foreign(&OF_HTTPS, &OF_SSH) {
            Some(key) => Err(format!("{key} is for ssh, and spec.url is not; remove {key}, or use ssh://")),
            None => https(&Data::read(data, &OF_HTTPS)?).map(Keys::Https),
        },
        Channel::Ssh => match foreign(&OF_SSH, &OF_HTTPS) {
            Some(key) => {
                Err(format!("{key} is for https, and spec.url is for ssh; remove {key}, or use https://"))
            }
            None => ssh(&Data::read(data, &OF_SSH)?).map(Keys::Ssh),
        },
    }
}

/// The values of the keys that are known; others may be anybody's.
struct Data(BTreeMap<&'static str, SecretString>);

impl Data {
    fn read(data: &Value, known: &[&'static str]) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for key in known {
            let Some(encoded) = data.get(*key).and_then(Value::as_str) else { continue };
            let decoded = STANDARD.decode(encoded).map_err(|_| format!("{key} is not base64"))?;
            let text = String::from_utf8(decoded).map_err(|_| format!("{key} is not text (UTF-8)"))?;
            if text.trim().is_empty() {
                return Err(format!("{key} is empty"));
            }
            values.insert(*key, SecretString::from(text));
        }
        if values.is_empty() {
            return Err(format!("it holds none of the keys {}", known.join(", ")));
        }
        Ok(Self(values))
    }

    fn get(&self, key: &str) -> Option<&SecretString> {
        self.0.get(key)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(|value| value.expose_secret().to_owned())
    }

    /// A value that is one line.
    fn word(&self, key: &str) -> Result<Option<SecretString>, String> {
        match self.get(key) {
            Some(value) if value.expose_secret().chars().any(char::is_control) => Err(format!(
                "{key} holds a line break or another control character; a value made from a file often ends in one"
            )),
            value => Ok(value.cloned()),
        }
    }
}

fn https(data: &Data) -> Result<HttpsKeys, String> {
    let certificate = match (data.text("tls.crt"), data.get("tls.key").cloned()) {
        (Some(chain), Some(key)) => Some(ClientCertificate { chain, key }),
        (None, None) => None,
        (Some(_), None) => return Err("it holds tls.crt and not tls.key, its private key".to_owned()),
        (None, Some(_)) => return Err("it holds tls.key and not tls.crt, its certificate".to_owned()),
    };
    Ok(HttpsKeys { login: login(data)?, certificate, ca: data.text("ca.crt") })
}

fn login(data: &Data) -> Result<Option<Login>, String> {
    match (data.word("username")?, data.word("password")?, data.word("bearerToken")?) {
        (None, None, None) => Ok(None),
        (Some(username), Some(password), None) => {
            let username = username.expose_secret().to_owned();
            if username.contains(':') {
                return Err("username holds a colon, which HTTP does not allow".to_owned());
            }
            Ok(Some(Login::Basic { username, password }))
        }
        (None, None, Some(token)) => {
            if !token.expose_secret().chars().all(|char| char.is_ascii_graphic()) {
                return Err("bearerToken holds a space or a letter that is not ASCII".to_owned());
            }
            Ok(Some(Login::Bearer(token)))
        }
        (Some(_), None, None) => Err("it holds username and not password".to_owned()),
        (None, Some(_), None) => {
            Err("it holds password and not username; where a token is the password, most servers take any username"
                .to_owned())
        }
        (_, _, Some(_)) => Err("it holds both bearerToken and username or password; keep one of the two".to_owned()),
    }
}

fn ssh(data: &Data) -> Result<SshKeys, String> {
    let missing = |key: &str, what: &str| format!("{key} is missing: {what}");
    let identity = data.get("identity").ok_or_else(|| missing("identity", "the private key"))?;
    let known_hosts = data
        .text("known_hosts")
        .ok_or_else(|| missing("known_hosts", "the host keys to accept, as ssh-keyscan prints them"))?;
    let names_a_host =
        |line: &str| !line.trim_start().starts_with('#') && line.split_whitespace().count() >= 3;
    if !known_hosts.lines().any(names_a_host) {
        return Err("known_hosts names no host; its lines are: host, kind of key, key".to_owned());
    }
    let text = identity.expose_secret();
    if !text.contains("-----BEGIN ") || !text.contains("PRIVATE KEY-----") {
        return Err(
            "identity is no private key; it should begin with -----BEGIN OPENSSH PRIVATE KEY-----".to_owned()
        );
    }
    let passphrase = data.word("password")?;
    if passphrase.is_none() && is_encrypted(text) {
        return Err("identity is encrypted; its passphrase belongs in password".to_owned());
    }
    Ok(SshKeys { identity: identity.clone(), passphrase, known_hosts })
}

/// Whether a private key needs a passphrase: in PEM it says so, in OpenSSH's form its cipher is not "none".
fn is_encrypted(key: &str) -> bool {
    const MAGIC: &[u8] = b"openssh-key-v1\0\0\0\0";
    /// Enough base64 for the cipher's name.
    const BEGINNING: usize = 60;
    if key.contains("ENCRYPTED") {
        return true;
    }
    let body = key.split("PRIVATE KEY-----").nth(1).unwrap_or_default();
    let body: String = body.chars().filter(char::is_ascii_graphic).take(BEGINNING).collect();
    let beginning = STANDARD.decode(body).unwrap_or_default();
    let cipher = beginning.strip_prefix(MAGIC).and_then(|rest| rest.get(1..));
    cipher.is_some_and(|cipher| !cipher.starts_with(b"none"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTS: &str = "git.example ssh-ed25519 AAAA\n";
    const PLAIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
    const LOCKED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDRkkTCn1\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";

    fn read(values: &[(&str, &str)], channel: Channel) -> Result<Keys, String> {
        let data: serde_json::Map<String, Value> =
            values.iter().map(|(key, value)| ((*key).to_owned(), json!(STANDARD.encode(value)))).collect();
        keys(&Value::Object(data), channel)
    }

    /// The Secrets that Flux's users have.
    #[test]
    fn secrets_of_flux_are_read() {
        let https = |values: &[(&str, &str)]| match read(values, Channel::Tls) {
            Ok(Keys::Https(keys)) => keys,
            other => panic!("{other:?}"),
        };
        let keys = https(&[("username", "git"), ("password", "pä:ss")]);
        assert!(matches!(keys.login, Some(Login::Basic { username, password })
            if username == "git" && password.expose_secret() == "pä:ss"));
        let keys = https(&[("bearerToken", "ey.J0"), ("ca.crt", "CA"), ("note", "for the shop")]);
        assert!(matches!(keys.login, Some(Login::Bearer(token)) if token.expose_secret() == "ey.J0"));
        assert_eq!(keys.ca.as_deref(), Some("CA"));
        let keys = https(&[("tls.crt", "CERT"), ("tls.key", "KEY")]);
        assert!(keys.login.is_none() && keys.certificate.is_some_and(|c| c.key.expose_secret() == "KEY"));

        let ssh = |values: &[(&str, &str)]| match read(values, Channel::Ssh) {
            Ok(Keys::Ssh(keys)) => keys,
            other => panic!("{other:?}"),
        };
        assert!(
            ssh(&[("identity", PLAIN), ("known_hosts", HOSTS), ("identity.pub", "x")]).passphrase.is_none()
        );
        assert!(
            ssh(&[("identity", LOCKED), ("known_hosts", HOSTS), ("password", "open")]).passphrase.is_some()
        );
    }

    /// Whoever made the Secret must learn which key to mend, and nobody what stands in it.
    #[test]
    fn what_is_wrong_is_named_by_key_and_no_value_is_told() {
        let good = |more: &[(&'static str, &'static str)]| {
            [&[("identity", PLAIN), ("known_hosts", HOSTS)], more].concat()
        };
        for (values, channel, told) in [
            (vec![], Channel::Tls, "none of the keys username, password"),
            (vec![("hunter2", "hunter2")], Channel::Ssh, "none of the keys identity"),
            (vec![("username", "hunter2")], Channel::Tls, "not password"),
            (vec![("password", "hunter2")], Channel::Tls, "not username"),
            (vec![("username", "a"), ("password", " ")], Channel::Tls, "password is empty"),
            (vec![("username", "a"), ("password", "hunter2\n")], Channel::Tls, "password holds a line break"),
            (vec![("username", "a:hunter2"), ("password", "x")], Channel::Tls, "username holds a colon"),
            (vec![("bearerToken", "hunter2"), ("password", "x")], Channel::Tls, "keep one"),
            (vec![("bearerToken", "hunter2 x")], Channel::Tls, "bearerToken holds a space"),
            (vec![("tls.crt", "hunter2")], Channel::Tls, "not tls.key"),
            (vec![("tls.key", "hunter2")], Channel::Tls, "not tls.crt"),
            (vec![("username", "a"), ("password", "hunter2")], Channel::Clear, "use https://"),
            (vec![("username", "a"), ("password", "hunter2")], Channel::Local, "remove spec.secretRef"),
            (good(&[]), Channel::Tls, "identity is for ssh"),
            (good(&[("username", "hunter2")]), Channel::Tls, "identity is for ssh"),
            (good(&[("username", "hunter2")]), Channel::Ssh, "username is for https"),
            (vec![("identity", PLAIN)], Channel::Ssh, "known_hosts is missing"),
            (vec![("known_hosts", HOSTS)], Channel::Ssh, "identity is missing"),
            (
                vec![("identity", "hunter2"), ("known_hosts", HOSTS)],
                Channel::Ssh,
                "identity is no private key",
            ),
            (vec![("identity", PLAIN), ("known_hosts", "# hunter2 a b c\n")], Channel::Ssh, "names no host"),
            (vec![("identity", LOCKED), ("known_hosts", HOSTS)], Channel::Ssh, "identity is encrypted"),
            (good(&[("password", "hunter2\n")]), Channel::Ssh, "password holds a line break"),
        ] {
            let why = read(&values, channel).unwrap_err();
            assert!(why.contains(told) && !why.contains("hunter2"), "{told}: {why}");
        }
        let broken = json!({"password": "***", "username": STANDARD.encode(b"\xff")});
        assert_eq!(keys(&broken, Channel::Tls).unwrap_err(), "username is not text (UTF-8)");
    }

    #[test]
    fn encrypted_keys_are_told_apart() {
        assert!(!is_encrypted(PLAIN) && is_encrypted(LOCKED));
        assert!(is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"));
        assert!(is_encrypted("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"));
        assert!(!is_encrypted("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----"));
    }
}
