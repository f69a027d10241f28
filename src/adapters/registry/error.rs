//! What can go wrong with a registry, and what it means for the caller.

use std::time::Duration;

use crate::domain::registry::Unreadable;

/// Why something could not be read. Only [`Error::Absent`] says that it is not there. No text holds credentials, or control characters
/// of strangers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The registry says that it is not there.
    #[error("{what} is not there: {why}")]
    Absent {
        /// What was asked for, and where.
        what: String,
        /// How the registry said so.
        why: String,
    },
    /// Whoever asks may not have it, or may not go there.
    #[error("{what} may not be read: {why}")]
    Forbidden {
        /// What was asked for, and where.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// The registry asks for patience.
    #[error("{what} was not read: {host} asks for fewer requests; ask again in {}", rest(*after))]
    RateLimited {
        /// What was asked for, and where.
        what: String,
        /// Who asks for patience.
        host: String,
        /// How long, if it said so: at most a day.
        after: Option<Duration>,
    },
    /// Nobody answered, or not as a registry does, or not in time. Trying again may help.
    #[error("{what} cannot be read now: {why}")]
    Unavailable {
        /// What was asked for, and where.
        what: String,
        /// Why, and what to do.
        why: String,
    },
    /// What came cannot be used: not what the digest names, ambiguous, too large. Trying again does not help.
    #[error("{what} cannot be used: {why}")]
    Invalid {
        /// What was asked for, and where.
        what: String,
        /// Why, and what to do.
        why: String,
    },
}

fn rest(after: Option<Duration>) -> String {
    after.map_or_else(|| "a while".to_owned(), |after| format!("{} s", after.as_secs()))
}

impl Error {
    /// Whether the registry says that it is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    pub(super) fn unavailable(what: &str, why: impl Into<String>) -> Self {
        Self::Unavailable { what: what.to_owned(), why: why.into() }
    }

    pub(super) fn forbidden(what: &str, why: impl Into<String>) -> Self {
        Self::Forbidden { what: what.to_owned(), why: why.into() }
    }

    pub(super) fn invalid(what: &str, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.to_owned(), why: why.into() }
    }

    pub(super) fn unreadable(what: &str, why: &Unreadable) -> Self {
        Self::invalid(what, why.to_string())
    }
}
