//! libgit2's settings for the whole process.

use std::sync::Once;

use super::{http, ssh};

/// Settings of libgit2 that hold for the whole process, before its first use.
///
/// Configuration outside of a mirror is never read: it could rewrite URLs (`insteadOf`) or name programs. Ownership is
/// not checked: a repository on a mounted volume, like the cache itself, often belongs to another user, and the check
/// guards against configuration that makes git run programs, which libgit2 without ssh never does.
#[expect(
    unsafe_code,
    reason = "libgit2 keeps these in globals without a lock; `Once` runs this before any other use"
)]
pub(super) fn libgit2() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        use git2::ConfigLevel::{Global, ProgramData, System, XDG};
        // SAFETY: every use of libgit2 in this program goes through `Mirrors`, whose constructor waits for this.
        let outcome = unsafe {
            [System, Global, XDG, ProgramData]
                .into_iter()
                .try_for_each(|level| git2::opts::set_search_path(level, ""))
                .and_then(|()| git2::opts::set_verify_owner_validation(false))
                .and_then(|()| git2::transport::register("http", http::transport))
                .and_then(|()| git2::transport::register("https", http::transport))
                .and_then(|()| git2::transport::register("ssh", ssh::transport))
        };
        // Only memory can be short here. Fetches would then say that the transport is missing.
        if let Err(error) = outcome {
            tracing::error!(%error, "cannot set up libgit2");
        }
    });
}
