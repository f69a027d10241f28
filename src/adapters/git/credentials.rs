//! What opens a private repository.
//!
//! Values are [`secrecy`]'s: they cannot be printed, not even by mistake, and are overwritten when they go.

use secrecy::SecretString;
use url::Host;

use super::{Error, location::Location};

/// What opens a remote, and where it was read.
#[derive(Debug)]
pub struct Credentials {
    /// The Secret they come from, for messages.
    pub secret: String,
    /// What it holds.
    pub keys: Keys,
}

/// The keys for one kind of remote.
#[derive(Debug)]
pub enum Keys {
    /// For HTTPS (and HTTP on this machine).
    Https(HttpsKeys),
    /// For SSH.
    Ssh(SshKeys),
}

/// For HTTPS: each may be there or not.
#[derive(Debug, Default)]
pub struct HttpsKeys {
    /// What every request says.
    pub login: Option<Login>,
    /// What the connection proves.
    pub certificate: Option<ClientCertificate>,
    /// Certificates (PEM) to trust for this remote, instead of the system's.
    pub ca: Option<String>,
}

/// What a request says of who asks.
#[derive(Debug)]
pub enum Login {
    /// A name and a password, or a token in its place.
    Basic {
        /// The name, without a colon.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A token.
    Bearer(SecretString),
}

/// A client certificate with its chain, and its key, all PEM.
#[derive(Debug)]
pub struct ClientCertificate {
    /// The certificate first, then its issuers.
    pub chain: String,
    /// The private key, not encrypted.
    pub key: SecretString,
}

/// For SSH.
#[derive(Debug)]
pub struct SshKeys {
    /// The private key, in OpenSSH's or PEM form.
    pub identity: SecretString,
    /// What opens the private key, if it is encrypted.
    pub passphrase: Option<SecretString>,
    /// The host keys that are accepted, in the form of OpenSSH's file `known_hosts`. No other one is.
    pub known_hosts: String,
}

/// How a repository is reached, as far as it matters for what may be said on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// On this machine: nobody is asked.
    Local,
    /// HTTP on this machine: nobody stands on the way.
    Loopback,
    /// HTTP elsewhere: everybody on the way reads along.
    Clear,
    /// HTTPS.
    Tls,
    /// SSH.
    Ssh,
}

impl Channel {
    /// How the repository at a URL is reached.
    pub fn of(url: &str) -> Result<Self, Error> {
        Ok(Self::to(&Location::parse(url)?))
    }

    pub(super) fn to(location: &Location) -> Self {
        match location {
            Location::Local(_) => Self::Local,
            Location::Ssh(_) => Self::Ssh,
            Location::Http(url) if url.scheme() == "https" => Self::Tls,
            Location::Http(url) => {
                let loopback = match url.host() {
                    Some(Host::Domain(name)) => name == "localhost",
                    Some(Host::Ipv4(address)) => address.is_loopback(),
                    Some(Host::Ipv6(address)) => address.is_loopback(),
                    None => false,
                };
                if loopback { Self::Loopback } else { Self::Clear }
            }
        }
    }
}

/// The fence before the network: whoever read the Secret explains it better, key by key.
pub(super) fn check(location: &Location, credentials: Option<&Credentials>) -> Result<(), Error> {
    let url = location.to_string();
    let Some(Credentials { secret, keys }) = credentials else {
        return match Channel::to(location) {
            Channel::Ssh => Err(Error::NoCredentials { url }),
            Channel::Local | Channel::Loopback | Channel::Clear | Channel::Tls => Ok(()),
        };
    };
    let why = match (Channel::to(location), keys) {
        (Channel::Ssh, Keys::Ssh(_)) | (Channel::Tls | Channel::Loopback, Keys::Https(_)) => return Ok(()),
        (Channel::Clear, Keys::Https(_)) => "over http:// everybody on the way could read it; use https://",
        (Channel::Local, _) => "a repository on this machine needs none",
        (Channel::Ssh, Keys::Https(_)) => "it is for HTTPS, and the URL is for SSH",
        (Channel::Tls | Channel::Loopback | Channel::Clear, Keys::Ssh(_)) => {
            "it is for SSH, and the URL is for HTTP"
        }
    };
    Err(Error::InvalidCredentials { url, secret: secret.clone(), why: why.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `{:?}` in a log line is how passwords get out.
    #[test]
    fn no_value_is_printed() {
        let credentials = [
            Keys::Https(HttpsKeys {
                login: Some(Login::Basic { username: "ada".into(), password: "hunter2".into() }),
                certificate: Some(ClientCertificate { chain: "PUBLIC".into(), key: "hunter2".into() }),
                ca: None,
            }),
            Keys::Https(HttpsKeys { login: Some(Login::Bearer("hunter2".into())), ..HttpsKeys::default() }),
            Keys::Ssh(SshKeys {
                identity: "hunter2".into(),
                passphrase: Some("hunter2".into()),
                known_hosts: String::new(),
            }),
        ]
        .map(|keys| Credentials { secret: "apps/git".into(), keys });
        let printed = format!("{credentials:?}");
        assert!(!printed.contains("hunter2") && printed.contains("REDACTED"), "{printed}");
    }

    /// Whoever stands on the way would have the password.
    #[test]
    fn credentials_go_over_tls_ssh_or_this_machine_only() {
        for (url, channel) in [
            ("https://git.example/a", Channel::Tls),
            ("http://git.example/a", Channel::Clear),
            ("http://localhost.example/a", Channel::Clear),
            ("http://10.0.0.1/a", Channel::Clear),
            ("http://localhost:3000/a", Channel::Loopback),
            ("http://127.0.0.9/a", Channel::Loopback),
            ("http://[::1]:3000/a", Channel::Loopback),
            ("ssh://git@git.example/a", Channel::Ssh),
            ("git@git.example:a", Channel::Ssh),
            ("/srv/a", Channel::Local),
        ] {
            assert_eq!(Channel::of(url).unwrap(), channel, "{url}");
            let keys =
                Keys::Https(HttpsKeys { login: Some(Login::Bearer("t".into())), ..HttpsKeys::default() });
            let credentials = Credentials { secret: "apps/git".into(), keys };
            let allowed = check(&Location::parse(url).unwrap(), Some(&credentials)).is_ok();
            assert_eq!(allowed, matches!(channel, Channel::Tls | Channel::Loopback), "{url}");
        }
        let error = check(&Location::parse("git@git.example:a").unwrap(), None).unwrap_err();
        assert!(error.to_string().contains("known_hosts"), "{error}");
    }
}
