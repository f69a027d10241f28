//! What a source names: where its repository is, and which commit of it.

use std::{fmt, path::PathBuf};

use url::Url;

use super::{Error, text::printable};

/// A repository and what to take from it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `https://…`, `http://…`, `file:///…` or an absolute path, without user info, query and fragment.
    pub url: String,
    /// What to resolve.
    pub reference: Reference,
    /// Certificates (PEM) to trust for this remote, instead of the system's.
    pub ca: Option<Vec<u8>>,
}

/// What to resolve to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A branch, without `refs/heads/`.
    Branch(String),
    /// A tag, annotated or not, without `refs/tags/`.
    Tag(String),
    /// A commit by its full name.
    Commit(String),
}

/// What the checked reference is called at the remote.
pub(super) enum Wanted {
    Name(String),
    Commit(git2::Oid),
}

impl Reference {
    pub(super) fn check(&self) -> Result<Wanted, Error> {
        let invalid = |why| Error::InvalidReference { reference: self.to_string(), why };
        let name = match self {
            Self::Branch(name) => format!("refs/heads/{name}"),
            Self::Tag(name) => format!("refs/tags/{name}"),
            Self::Commit(commit) => {
                let oid =
                    full_oid(commit).ok_or(invalid("a commit is named by its 40 hexadecimal digits"))?;
                return Ok(Wanted::Commit(oid));
            }
        };
        // A refspec knows patterns, a reference does not.
        if !git2::Reference::is_valid_name(&name) || name.contains('*') {
            return Err(invalid("git allows no such name; give it without refs/heads/ or refs/tags/"));
        }
        Ok(Wanted::Name(name))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branch(name) => write!(f, "branch {}", printable(name)),
            Self::Tag(name) => write!(f, "tag {}", printable(name)),
            Self::Commit(commit) => write!(f, "commit {}", printable(commit)),
        }
    }
}

pub(super) fn full_oid(text: &str) -> Option<git2::Oid> {
    (text.len() == 40).then(|| git2::Oid::from_str(text).ok()).flatten()
}

/// A checked URL. Its text form is fit for errors and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    Http(Url),
    Local(PathBuf),
}

impl Location {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        // Nothing of a text that cannot be split is repeated: it may hold a password anywhere.
        let unsplit = |why| Err(Error::InvalidUrl { url: String::new(), why });
        if text.contains('\0') {
            return unsplit("it holds a NUL");
        }
        if text.starts_with('/') {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(url::ParseError::RelativeUrlWithoutBase) if text.contains('@') && text.contains(':') => {
                return unsplit("ssh is not supported yet; use https");
            }
            Err(_) => return unsplit("it is neither a URL nor an absolute path"),
        };
        let invalid = |why| Err(Error::InvalidUrl { url: redacted(&url), why });
        if !url.username().is_empty() || url.password().is_some() {
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
            "ssh" | "git+ssh" | "git" => invalid("ssh and git are not supported yet; use https"),
            // What seems a scheme may be the user in `user:password@host`.
            _ => unsplit("only https, http, file and absolute paths are supported"),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&redacted(url)),
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
            "https://me:hunter2@git.example.com:99999/a",
        ] {
            let message = refused(text);
            assert!(!message.contains("hunter2"), "{text}: {message}");
        }
    }

    /// Only what can be fetched is accepted; the rest says why not.
    #[test]
    fn only_http_files_and_absolute_paths_are_locations() {
        assert!(matches!(Location::parse("https://git.example.com/a.git"), Ok(Location::Http(_))));
        assert_eq!(Location::parse("file:///srv/a%20b").unwrap(), Location::Local("/srv/a b".into()));
        assert_eq!(Location::parse("/srv/a").unwrap(), Location::Local("/srv/a".into()));
        assert!(refused("git@example.com:a/b").contains("not supported yet"));
        assert!(refused("ssh://example.com/a").contains("not supported yet"));
        assert!(refused("srv/a").contains("neither"));
        assert!(refused("ext::sh -c true").contains("only https"));
        assert!(refused("file://elsewhere/a").contains("file:///"));
    }

    /// A name that git does not allow must not reach a refspec, where `*` and `:` have meanings.
    #[test]
    fn references_are_checked() {
        assert!(Reference::Branch("feature/x".into()).check().is_ok());
        for name in ["", "a*", "a:b", "a..b", "-/", "a b", "a\n"] {
            assert!(Reference::Branch(name.into()).check().is_err(), "{name:?}");
        }
        assert!(Reference::Commit("abc".into()).check().is_err());
        assert!(Reference::Commit("z".repeat(40)).check().is_err());
        assert!(Reference::Commit("a".repeat(40)).check().is_ok());
    }
}
