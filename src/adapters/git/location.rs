//! Where a repository is: a checked URL.

use std::{fmt, path::PathBuf};

use url::{Host, Url};

use super::{Error, text::printable};

/// Where ssh servers are, unless something else is said.
const SSH: u16 = 22;

/// A checked URL. Its text form is fit for errors and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Http(Url),
    Ssh(SshAddress),
    Local(PathBuf),
}

/// Where a repository is that the ssh program reaches. No part can be taken for an option, or leave the quotes in which the
/// path goes through the remote's shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SshAddress {
    pub user: String,
    /// A name or an address, without brackets.
    pub host: String,
    pub port: Option<u16>,
    /// As the remote is to read it: absolute, or from the user's home.
    pub path: String,
    /// As it was written.
    text: String,
}

impl SshAddress {
    /// The port that is connected to.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(SSH)
    }

    /// What the host key stands under in `known_hosts`.
    pub fn known_as(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        if self.port() == SSH { host } else { format!("[{host}]:{}", self.port()) }
    }
}

impl Location {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if text.contains('\0') {
            return unsplit("it holds a NUL");
        }
        if text.starts_with('/') {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        if !text.contains("://") {
            return match text.split_once('@') {
                Some((user, rest)) => short_ssh(text, user, rest).map(Self::Ssh),
                None => unsplit("it is neither a URL (https, http, ssh, file) nor an absolute path"),
            };
        }
        let Ok(url) = Url::parse(text) else {
            return unsplit("it is neither a URL nor an absolute path");
        };
        let invalid = |why| Err(Error::InvalidUrl { url: redacted(&url), why });
        if url.password().is_some() || (url.scheme() != "ssh" && !url.username().is_empty()) {
            return invalid("it holds a user name or password; credentials belong in a Secret");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return invalid("it has a query or fragment; give only the address of the repository");
        }
        match url.scheme() {
            "http" | "https" if url.host_str().is_some_and(|host| !host.is_empty()) => Ok(Self::Http(url)),
            "http" | "https" => invalid("it names no host"),
            "file" => match url.to_file_path() {
                Ok(path) => Ok(Self::Local(path)),
                Err(()) => invalid("a file URL names an absolute path on this machine: file:///path"),
            },
            "ssh" => ssh(&url).map(Self::Ssh),
            // What seems a scheme may be the user in `user:password@host`.
            _ => unsplit("only https, http, ssh, file and absolute paths are supported"),
        }
    }
}

/// Nothing of a text that cannot be split is repeated: it may hold a password anywhere.
fn unsplit<T>(why: &'static str) -> Result<T, Error> {
    Err(Error::InvalidUrl { url: String::new(), why })
}

/// `ssh://user@host:port/path`; `/~user/path` is from a home.
fn ssh(url: &Url) -> Result<SshAddress, Error> {
    let host = match url.host() {
        Some(Host::Ipv6(address)) => address.to_string(),
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        None => String::new(),
    };
    let path = if url.path().starts_with("/~") { &url.path()[1..] } else { url.path() };
    let address = SshAddress {
        user: url.username().to_owned(),
        host,
        port: url.port(),
        path: path.to_owned(),
        text: url.as_str().to_owned(),
    };
    checked(address).map_err(|why| Error::InvalidUrl { url: redacted(url), why })
}

/// `user@host:path`, as git and scp write it.
fn short_ssh(text: &str, user: &str, rest: &str) -> Result<SshAddress, Error> {
    let split = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => rest.split_once(':'),
    };
    let Some((host, path)) = split else { return unsplit("an ssh address is user@host:path") };
    let address = SshAddress {
        user: user.to_owned(),
        host: host.to_owned(),
        port: None,
        path: path.to_owned(),
        text: text.to_owned(),
    };
    checked(address).or_else(unsplit)
}

fn checked(address: SshAddress) -> Result<SshAddress, &'static str> {
    let SshAddress { user, host, port: _, path, text: _ } = &address;
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
    if user.is_empty() {
        return Err("it names no user; most servers want git: ssh://git@host/path");
    }
    if user.starts_with('-') || !user.chars().all(plain) {
        return Err(
            "the user of an ssh address consists of letters, digits, '.', '_' and '-'; a password belongs in a Secret",
        );
    }
    let address_of_6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    if host.is_empty() || host.starts_with('-') || !(address_of_6 || host.chars().all(plain)) {
        return Err("the host of an ssh address is a name or an IP address");
    }
    if path.trim_matches('/').is_empty() {
        return Err("it names no repository at the host");
    }
    let harmless = |char: char| char.is_alphanumeric() || "/._~+-@:,=".contains(char);
    if path.starts_with('-') || !path.chars().all(harmless) {
        return Err(
            "the path of an ssh address consists of letters, digits and any of /._~+-@:,= and does not begin with '-'",
        );
    }
    Ok(address)
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&redacted(url)),
            Self::Ssh(address) => f.write_str(&printable(&address.text)),
            Self::Local(path) => f.write_str(&printable(&path.to_string_lossy())),
        }
    }
}

/// A URL without the parts that may be secret.
pub(super) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for URLs that cannot have user info.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    printable(url.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Location::parse(text).unwrap_err().to_string()
    }

    /// A password in a URL would otherwise end up in every log line about the source.
    #[test]
    fn credentials_in_a_url_are_refused_and_never_repeated() {
        for text in [
            "https://hunter2@git.example.com/a",
            "https://me:hunter2@git.example.com/a",
            "https://git.example.com/a?token=hunter2",
            "https://git.example.com/a#hunter2",
            "me:hunter2@git.example.com:a",
            "ssh://me:hunter2@git.example.com/a",
            "ssh://git@git.example.com/a?hunter2",
            "https://me:hunter2@git.example.com:99999/a",
            "me://hunter2@git.example.com/a",
        ] {
            let message = refused(text);
            assert!(!message.contains("hunter2"), "{text}: {message}");
        }
    }

    /// Only what can be fetched is accepted; the rest says why not.
    #[test]
    fn http_ssh_files_and_absolute_paths_are_locations() {
        assert!(matches!(Location::parse("https://git.example.com/a.git"), Ok(Location::Http(_))));
        assert_eq!(Location::parse("file:///srv/a%20b").unwrap(), Location::Local("/srv/a b".into()));
        assert_eq!(Location::parse("/srv/a").unwrap(), Location::Local("/srv/a".into()));
        assert!(refused("srv/a").contains("neither"));
        assert!(refused("ext::sh -c true").contains("neither"));
        assert!(refused("git://example.com/a").contains("only https"));
        assert!(refused("file://elsewhere/a").contains("file:///"));
    }

    #[test]
    fn ssh_addresses_are_read_as_git_reads_them() {
        for (text, user, host, port, path) in [
            ("ssh://git@git.example/shop/a.git", "git", "git.example", None, "/shop/a.git"),
            ("ssh://git@git.example:2222/a", "git", "git.example", Some(2222), "/a"),
            ("ssh://a.b-c@[::1]:22/~ada/a", "a.b-c", "::1", Some(22), "~ada/a"),
            ("git@git.example:shop/a.git", "git", "git.example", None, "shop/a.git"),
            ("git@git.example:/srv/a", "git", "git.example", None, "/srv/a"),
            ("git@[::1]:a", "git", "::1", None, "a"),
        ] {
            let location = Location::parse(text).unwrap();
            assert_eq!(location.to_string(), text);
            let Location::Ssh(address) = location else { panic!("{text}") };
            let read = (&*address.user, &*address.host, address.port, &*address.path);
            assert_eq!(read, (user, host, port, path), "{text}");
        }
        // As ssh writes it.
        for (text, name) in [
            ("git@Git.Example:a", "git.example"),
            ("ssh://git@git.example:22/a", "git.example"),
            ("ssh://git@git.example:2222/a", "[git.example]:2222"),
            ("ssh://git@[::1]:2222/a", "[::1]:2222"),
            ("git@[::1]:a", "::1"),
        ] {
            let Ok(Location::Ssh(address)) = Location::parse(text) else { panic!("{text}") };
            assert_eq!(address.known_as(), name, "{text}");
        }
    }

    /// Each of these would be an option of ssh, or a command of the remote's shell.
    #[test]
    fn ssh_addresses_that_could_mean_more_are_refused() {
        for text in [
            "ssh://git.example/a",
            "ssh://-oProxyCommand=id@git.example/a",
            "ssh://git@-oProxyCommand=id/a",
            "ssh://git@git.example",
            "ssh://git@git.example/",
            "ssh://git@git.example/a'$(id)'",
            "ssh://git@git.example/a%27b",
            "ssh://git@git.example/a b",
            "-oProxyCommand=id@git.example:a",
            "git@-oProxyCommand=id:a",
            "git@git.example:-a",
            "git@git.example:a;id",
            "git@git.example:a`id`",
            "git@git.example:a\nid",
            "git@git.example:",
            "git@git.example",
            "git@user@git.example:a",
            "@git.example:a",
        ] {
            assert!(!refused(text).is_empty(), "{text}");
        }
    }
}
