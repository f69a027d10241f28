//! Who is connected, and who goes when there are too many.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The places of all connections.
pub(super) struct Places {
    max: usize,
    abort: CancellationToken,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: BTreeMap<u64, Entry>,
    /// Counts everything that happens: who has waited longest has the lowest number.
    events: u64,
}

struct Entry {
    peer: IpAddr,
    /// Since when it waits for its client, as a number of an event; none while it is being answered.
    waits: Option<u64>,
    lost: CancellationToken,
}

/// The place of one connection, free again when it is dropped.
pub(super) struct Place {
    id: u64,
    lost: CancellationToken,
    places: Arc<Places>,
}

impl Places {
    pub(super) fn new(max: usize, abort: CancellationToken) -> Self {
        Self { max, abort, taken: Mutex::default() }
    }

    /// A place for a connection from this address. When all are taken somebody loses one; none only if all are being
    /// answered.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        if taken.all.len() >= self.max && !taken.free() {
            return None;
        }
        let lost = self.abort.child_token();
        let id = taken.event();
        taken.all.insert(id, Entry { peer, waits: Some(id), lost: lost.clone() });
        Some(Place { id, lost, places: Arc::clone(self) })
    }

    /// Somebody loses a place.
    pub(super) fn free(&self) {
        self.taken.lock().free();
    }
}

impl Taken {
    fn event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }

    /// Of those from the address with the most connections that wait, the one that has waited longest: one who opens many
    /// takes the places of their own, and what API servers keep stays. Answers whether there is one.
    fn free(&mut self) -> bool {
        // By address: how many wait, since when the first of them, which one.
        let mut waiting: BTreeMap<IpAddr, (usize, u64, u64)> = BTreeMap::new();
        for (id, entry) in &self.all {
            let Some(since) = entry.waits else { continue };
            let (count, first, which) = waiting.entry(entry.peer).or_insert((0, since, *id));
            *count += 1;
            if since < *first {
                (*first, *which) = (since, *id);
            }
        }
        let most = waiting.into_values().max_by_key(|(count, _, _)| *count);
        let Some(entry) = most.and_then(|(_, _, id)| self.all.remove(&id)) else { return false };
        entry.lost.cancel();
        true
    }
}

impl Place {
    /// The client is waited for, anew.
    pub(super) fn waits(&self) {
        let mut taken = self.places.taken.lock();
        let event = taken.event();
        if let Some(entry) = taken.all.get_mut(&self.id) {
            entry.waits = Some(event);
        }
    }

    /// What the client asked is being answered: the place is safe.
    pub(super) fn is_answered(&self) {
        if let Some(entry) = self.places.taken.lock().all.get_mut(&self.id) {
            entry.waits = None;
        }
    }

    /// Waits until the place is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().all.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(max: usize) -> Arc<Places> {
        Arc::new(Places::new(max, CancellationToken::new()))
    }

    fn lost<const N: usize>(all: [&Place; N]) -> [bool; N] {
        all.map(|place| place.lost.is_cancelled())
    }

    const MANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const FEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    /// Otherwise one Pod that opens connections and says nothing closes those of the API server, or keeps it out.
    #[test]
    fn who_has_the_most_loses_the_one_that_has_waited_longest() {
        let places = places(4);
        let few = places.take(FEW).unwrap();
        let [a, b, c] = [(); 3].map(|()| places.take(MANY).unwrap());
        a.waits();
        let fifth = places.take(FEW).unwrap();
        assert_eq!(lost([&few, &a, &b, &c, &fifth]), [false, false, true, false, false]);
        let sixth = places.take(MANY).unwrap();
        assert_eq!(lost([&few, &a, &c, &fifth, &sixth]), [true, false, false, false, false], "both have two");
    }

    #[test]
    fn nobody_who_is_being_answered_loses_a_place() {
        let places = places(2);
        let [a, b] = [(); 2].map(|()| places.take(MANY).unwrap());
        a.is_answered();
        let c = places.take(MANY).unwrap();
        assert_eq!(lost([&a, &b]), [false, true]);
        c.is_answered();
        assert!(places.take(FEW).is_none());
        a.waits();
        assert!(places.take(FEW).is_some());
        assert_eq!(lost([&a, &c]), [true, false]);
    }

    #[test]
    fn a_place_that_is_given_up_is_free() {
        let places = places(1);
        drop(places.take(MANY));
        let kept = places.take(MANY).unwrap();
        places.free();
        assert_eq!(lost([&kept]), [true]);
        let other = places.take(MANY).unwrap();
        drop(kept);
        places.free();
        assert_eq!(lost([&other]), [true], "what was lost before is not given up twice");
    }
}
