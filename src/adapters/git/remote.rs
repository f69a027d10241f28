//! What a source names: where its repository is, what opens it, and which commit of it.

use std::{fmt, sync::Arc};

use super::{Credentials, Error, text::printable};
use crate::domain::{
    destination::Destinations,
    version::{InvalidRange, Range},
};

/// A repository and what to take from it.
#[derive(Clone, Debug)]
pub struct Remote {
    /// `https://…`, `http://…`, `ssh://user@…`, `user@host:path`, `file:///…` or an absolute path, without password, query and
    /// fragment.
    pub url: String,
    /// What to resolve.
    pub reference: Reference,
    /// What opens it, if it is private or not trusted by the system's authorities.
    pub credentials: Option<Arc<Credentials>>,
    /// Which addresses may be connected to.
    pub destinations: Destinations,
}

/// What to resolve to a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A branch, without `refs/heads/`.
    Branch(String),
    /// A tag, annotated or not, without `refs/tags/`.
    Tag(String),
    /// The tag of the highest version in a range.
    Semver(String),
    /// A commit by its full name.
    Commit(String),
}

/// What the checked reference is called at the remote.
pub(super) enum Wanted {
    Name(String),
    /// The tag of the highest version.
    Highest(Range),
    Commit(git2::Oid),
}

impl Reference {
    pub(super) fn check(&self) -> Result<Wanted, Error> {
        let invalid =
            |why: &str| Error::InvalidReference { reference: self.to_string(), why: why.to_owned() };
        let name = match self {
            Self::Branch(name) => format!("refs/heads/{name}"),
            Self::Tag(name) => format!("refs/tags/{name}"),
            Self::Semver(range) => {
                let range =
                    range.parse().map_err(|error: InvalidRange| invalid(&printable(&error.to_string())))?;
                return Ok(Wanted::Highest(range));
            }
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
            Self::Semver(range) => write!(f, "tag in the range {}", printable(range)),
            Self::Commit(commit) => write!(f, "commit {}", printable(commit)),
        }
    }
}

pub(super) fn full_oid(text: &str) -> Option<git2::Oid> {
    (text.len() == 40).then(|| git2::Oid::from_str(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(Reference::Semver(">=1.0 <2.0".into()).check().is_ok());
        assert!(Reference::Semver("newest".into()).check().is_err());
    }
}
