//! What our transports below libgit2's smart protocol share.
//!
//! libgit2 knows transports per scheme, for the whole process; which fetch one belongs to is noted in the thread that
//! runs it, for as long as it runs ([`enter`]).

use std::{cell::RefCell, sync::Arc};

use super::{Error, session::Session};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Session>>> = const { RefCell::new(None) };
}

/// Makes `session` the one that a transport made on this thread belongs to, until the guard is dropped.
pub(super) fn enter(session: &Arc<Session>) -> Entered {
    CURRENT.set(Some(Arc::clone(session)));
    Entered
}

pub(super) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// The session of this thread.
pub(super) fn current() -> Result<Arc<Session>, git2::Error> {
    let session = CURRENT.with_borrow(Clone::clone);
    session.ok_or_else(|| git2::Error::from_str("no fetch is running on this thread"))
}

/// Notes the reason, and returns what ends libgit2's work.
pub(super) fn give_up(session: &Session, error: Error) -> git2::Error {
    session.fail(error);
    git2::Error::new(git2::ErrorCode::User, git2::ErrorClass::Http, "the transport gave up")
}

/// What is asked of a transport that only ever fetches.
pub(super) fn never_pushes() -> git2::Error {
    git2::Error::from_str("this program never pushes")
}
