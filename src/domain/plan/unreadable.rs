//! A workload whose history cannot be read: written by a newer version, or damaged.

use super::{Plan, State, World, decide::left_revoked};
use crate::domain::{release::History, workload::Images};

/// What to say of a workload whose history cannot be read, and why it cannot. Nothing of it moves: what a hold keeps out, and
/// what proved itself, may stand in what is not understood. A revoked image that keeps running for that is an alarm.
pub fn without_history(world: &World<'_>, why: &str) -> Plan {
    let nothing = History::default();
    let live = world.live_images().unwrap_or_default();
    let unread = format!("its history cannot be read ({why})");
    let (state, message) = match left_revoked(world, &nothing, &live, &Images::new()) {
        Some(revoked) => (State::NoSafeRelease, format!("{revoked}; {unread}, so it keeps running")),
        None => (State::Unreadable, format!("{unread}, so nothing of it moves")),
    };
    Plan {
        state,
        message,
        missing: Vec::new(),
        action: None,
        history: None,
        record_first: false,
        fallback: false,
        blocked: None,
        recheck: world.next_change(&nothing),
    }
}
