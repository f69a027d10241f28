//! What can go wrong with git, and what it means for the caller.

use std::{io, net::IpAddr, path::Path, time::Duration};

use super::{CommitId, text::printable};
use crate::domain::destination::Denied;

/// Why a fetch or a read failed. No text holds credentials, queries of URLs, or control characters of strangers.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used as it stands.
    #[error("the URL {url:?} cannot be used: {why}")]
    InvalidUrl {
        /// The URL without user info and query; empty if it cannot even be split.
        url: String,
        /// What to change.
        why: &'static str,
    },
    /// The reference cannot be used as it stands.
    #[error("the reference {reference} cannot be used: {why}")]
    InvalidReference {
        /// The reference.
        reference: String,
        /// What to change.
        why: String,
    },
    /// A path of the source cannot be used.
    #[error("the path {path:?} cannot be used: {why}")]
    InvalidPath {
        /// The path.
        path: String,
        /// What to change.
        why: &'static str,
    },
    /// An ssh remote without a key.
    #[error(
        "{url} needs an ssh key: name a Secret with identity and known_hosts (and password, if the key has a passphrase) in spec.secretRef"
    )]
    NoCredentials {
        /// The remote.
        url: String,
    },
    /// The credentials cannot be used as they stand.
    #[error("the Secret {secret} cannot be used for {url}: {why}")]
    InvalidCredentials {
        /// The remote.
        url: String,
        /// The Secret.
        secret: String,
        /// Which key, and what to change.
        why: String,
    },
    /// The server does not accept the credentials.
    #[error("{url} refuses the credentials in the Secret {secret} ({answer})")]
    CredentialsRefused {
        /// The remote.
        url: String,
        /// The Secret.
        secret: String,
        /// How it said so.
        answer: String,
    },
    /// Whoever answered at the host is not who it should be, as far as the Secret says.
    #[error("the ssh host key of {url} is not accepted: {why} in known_hosts of the Secret {secret}")]
    HostKeyRefused {
        /// The remote.
        url: String,
        /// The Secret.
        secret: String,
        /// Unknown or changed.
        why: &'static str,
    },
    /// The program that reaches ssh remotes is not there.
    #[error(
        "the program ssh is not on the PATH of the operator: install OpenSSH's client for {url}, or use https"
    )]
    SshMissing {
        /// The remote.
        url: String,
    },
    /// The ssh program failed.
    #[error("cannot reach {url} by ssh: {what}")]
    SshFailed {
        /// The remote.
        url: String,
        /// What it said, made printable.
        what: String,
    },
    /// The host is where the source may not have this program connect to.
    #[error("{url} is at {address}, {denied}")]
    AddressNotAllowed {
        /// The remote.
        url: String,
        /// What the host was resolved to, or what the URL names itself.
        address: IpAddr,
        /// Why not.
        denied: Denied,
    },
    /// The proxy on the way wants other credentials.
    #[error(
        "the proxy on the way to {url} refuses access (HTTP 407): check HTTPS_PROXY and HTTP_PROXY of the operator"
    )]
    ProxyRefused {
        /// The remote.
        url: String,
    },
    /// No connection, or it broke.
    #[error("cannot reach {url}")]
    Unreachable {
        /// The remote.
        url: String,
        /// What the network said.
        source: reqwest::Error,
    },
    /// The server wants credentials, or better ones.
    #[error(
        "{url} refuses access (HTTP {status}): the repository is private or does not exist; credentials go in a Secret that spec.secretRef names"
    )]
    Forbidden {
        /// The remote.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// There is no repository at the URL.
    #[error("there is no git repository at {url}")]
    RepositoryNotFound {
        /// The remote.
        url: String,
    },
    /// The server asks for patience.
    #[error("{url} asks for fewer requests (HTTP 429)")]
    RateLimited {
        /// The remote.
        url: String,
    },
    /// The server failed.
    #[error("the server of {url} failed (HTTP {status})")]
    ServerFailed {
        /// The remote.
        url: String,
        /// The status, mostly 5xx.
        status: u16,
    },
    /// A redirect that is not followed: credentials and trust belong to the host that was named.
    #[error("{url} redirects to {to}, which is not followed: name the final URL in the source")]
    Redirected {
        /// The remote.
        url: String,
        /// Where it points.
        to: String,
    },
    /// Something answered, but not git.
    #[error("{url} does not answer like a git server: {got}")]
    NotAGitServer {
        /// The remote.
        url: String,
        /// What came instead.
        got: String,
    },
    /// Git answered, but with something that cannot be used.
    #[error("the repository at {url} cannot be fetched: {what}")]
    Protocol {
        /// The remote.
        url: String,
        /// libgit2's or the remote's words, made printable.
        what: String,
    },
    /// The repository is there, the reference is not.
    #[error("{url} has no {reference}")]
    ReferenceNotFound {
        /// The remote.
        url: String,
        /// The reference.
        reference: String,
    },
    /// The time for the fetch was up.
    #[error("{url} did not answer in full within {after:?}")]
    TimedOut {
        /// The remote.
        url: String,
        /// The time-out.
        after: Duration,
    },
    /// A bound was passed.
    #[error("{what} pass the bound of {bound}")]
    TooLarge {
        /// What is too much, in the plural.
        what: &'static str,
        /// The bound.
        bound: u64,
    },
    /// The commit is not in the mirror.
    #[error("the mirror has no commit {commit}: fetch it first")]
    UnknownCommit {
        /// The commit.
        commit: CommitId,
    },
    /// The commit has no such path.
    #[error("commit {commit} has no path {path:?}")]
    PathNotFound {
        /// The path.
        path: String,
        /// The commit.
        commit: CommitId,
    },
    /// Nothing was fetched yet.
    #[error("nothing was fetched from {url} yet")]
    NotFetched {
        /// The remote.
        url: String,
    },
    /// The mirror is damaged. The next fetch rebuilds it.
    #[error("the mirror of the repository is damaged ({what}); the next fetch rebuilds it")]
    Corrupt {
        /// What was being read.
        what: &'static str,
        /// What libgit2 said.
        source: git2::Error,
    },
    /// The cache directory cannot be written or read: full, read-only, or not ours.
    #[error("cannot {doing} {path} in the cache directory")]
    Storage {
        /// A verb.
        doing: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        source: StorageError,
    },
    /// A bug: the task panicked.
    #[error("reading git panicked, which is a bug in the operator")]
    Internal {
        /// The panic.
        source: tokio::task::JoinError,
    },
}

/// What the system said about the cache directory, directly or through libgit2.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum StorageError {
    /// From our own file operations.
    Io(io::Error),
    /// From libgit2's.
    Git(git2::Error),
}

impl Error {
    /// The reason for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidUrl { .. } => "InvalidUrl",
            Self::InvalidReference { .. } => "InvalidReference",
            Self::InvalidPath { .. } => "InvalidPath",
            Self::NoCredentials { .. } | Self::InvalidCredentials { .. } => "InvalidCredentials",
            Self::Forbidden { .. } | Self::CredentialsRefused { .. } | Self::ProxyRefused { .. } => {
                "AccessDenied"
            }
            Self::HostKeyRefused { .. } => "HostKeyRefused",
            Self::SshMissing { .. } => "SshMissing",
            Self::AddressNotAllowed { .. } => "AddressNotAllowed",
            Self::RepositoryNotFound { .. } => "RepositoryNotFound",
            Self::RateLimited { .. } => "RateLimited",
            Self::Redirected { .. } => "Redirected",
            Self::NotAGitServer { .. } => "NotAGitServer",
            Self::ReferenceNotFound { .. } => "ReferenceNotFound",
            Self::TimedOut { .. } => "TimedOut",
            Self::TooLarge { .. } => "TooLarge",
            Self::PathNotFound { .. } => "PathNotFound",
            Self::Storage { .. } => "StorageFailed",
            Self::Unreachable { .. }
            | Self::SshFailed { .. }
            | Self::ServerFailed { .. }
            | Self::Protocol { .. }
            | Self::UnknownCommit { .. }
            | Self::NotFetched { .. }
            | Self::Corrupt { .. }
            | Self::Internal { .. } => "FetchFailed",
        }
    }

    /// Whether trying again soon may help. If not, only a change of the source or of the repository does; the usual
    /// interval is soon enough to notice the latter.
    pub fn retry(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::SshFailed { .. }
            | Self::RateLimited { .. }
            | Self::ServerFailed { .. }
            | Self::Protocol { .. }
            | Self::TimedOut { .. }
            | Self::NotFetched { .. }
            | Self::UnknownCommit { .. }
            | Self::Corrupt { .. }
            | Self::Storage { .. } => true,
            Self::InvalidUrl { .. }
            | Self::InvalidReference { .. }
            | Self::InvalidPath { .. }
            | Self::NoCredentials { .. }
            | Self::InvalidCredentials { .. }
            | Self::CredentialsRefused { .. }
            | Self::HostKeyRefused { .. }
            | Self::SshMissing { .. }
            | Self::AddressNotAllowed { .. }
            | Self::ProxyRefused { .. }
            | Self::Forbidden { .. }
            | Self::RepositoryNotFound { .. }
            | Self::Redirected { .. }
            | Self::NotAGitServer { .. }
            | Self::ReferenceNotFound { .. }
            | Self::TooLarge { .. }
            | Self::PathNotFound { .. }
            | Self::Internal { .. } => false,
        }
    }

    pub(super) fn storage(doing: &'static str, path: &Path, source: io::Error) -> Self {
        let path = printable(&path.to_string_lossy());
        Self::Storage { doing, path, source: StorageError::Io(source) }
    }

    /// An error of libgit2 about the mirror itself.
    pub(super) fn mirror(what: &'static str, path: &Path, source: git2::Error) -> Self {
        if matches!(source.class(), git2::ErrorClass::Os | git2::ErrorClass::Filesystem) {
            let path = printable(&path.to_string_lossy());
            return Self::Storage { doing: "use", path, source: StorageError::Git(source) };
        }
        Self::Corrupt { what, source }
    }
}
