use proptest::prelude::*;

use super::*;

const TERMS: Terms = Terms {
    life: SignedDuration::from_hours(180 * 24),
    settle: SignedDuration::from_mins(10),
    overlap: SignedDuration::from_mins(60),
};

fn day(day: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + day * 86_400).unwrap()
}

fn made(at: i64) -> Pair {
    Pair { life: TERMS.life_from(day(at)), fits: true }
}

fn stock(current: Pair) -> Stock {
    Stock { current: Some(current), stored: true, ..Stock::default() }
}

const NOT_TRUSTED: Role = Role::Registers(None);

fn trusted(minutes: i64) -> Role {
    Role::Registers(Some(SignedDuration::from_mins(minutes)))
}

#[test]
fn where_nothing_can_be_served_a_pair_is_made_by_whoever_sees_it() {
    for role in [Role::Looks, NOT_TRUSTED, trusted(20)] {
        assert_eq!(step(&Stock::default(), role, &TERMS, day(0)), Step::Begin);
        assert_eq!(step(&stock(made(0)), role, &TERMS, day(180)), Step::Begin, "expired");
        let early = Life { begins: day(1), ends: day(90) };
        let early = Pair { life: early, fits: true };
        assert_eq!(step(&stock(early), role, &TERMS, day(0)), Step::Begin, "not valid yet");
        let with_next = Stock { next: Some(made(150)), ..stock(made(0)) };
        assert_eq!(step(&with_next, role, &TERMS, day(180)), Step::Switch, "the next is at hand");
        let with_wrong = Stock { next: Some(Pair { fits: false, ..made(150) }), ..with_next };
        assert_eq!(step(&with_wrong, role, &TERMS, day(180)), Step::Begin);
    }
}

#[test]
fn a_certificate_is_replaced_in_its_last_third_and_by_whoever_registers() {
    let stock = stock(made(0));
    assert_eq!(step(&stock, NOT_TRUSTED, &TERMS, day(119)), Step::Keep);
    assert_eq!(step(&stock, NOT_TRUSTED, &TERMS, day(121)), Step::Prepare);
    assert_eq!(step(&stock, Role::Looks, &TERMS, day(121)), Step::Keep);
}

/// Otherwise an API server that has not heard of the new authority refuses every request.
#[test]
fn the_next_is_served_once_every_bundle_has_held_it_for_a_while() {
    let both = Stock { next: Some(made(121)), ..stock(made(0)) };
    for (role, expected) in [
        (NOT_TRUSTED, Step::Keep),
        (trusted(0), Step::Keep),
        (trusted(9), Step::Keep),
        (trusted(10), Step::Switch),
        (Role::Looks, Step::Keep),
    ] {
        assert_eq!(step(&both, role, &TERMS, day(121)), expected, "{role:?}");
    }
}

/// The bundles could not be written for a long time.
#[test]
fn a_next_that_is_worn_itself_is_replaced_before_it_is_served() {
    let both = Stock { next: Some(made(0)), ..stock(made(100)) };
    assert_eq!(step(&both, trusted(10), &TERMS, day(121)), Step::Prepare);
    let both = Stock { next: Some(Pair { fits: false, ..made(120) }), ..stock(made(100)) };
    assert_eq!(step(&both, trusted(10), &TERMS, day(121)), Step::Prepare);
}

/// Another service or URL: what is served is refused by everybody who asks for the new name.
#[test]
fn one_that_does_not_fit_is_replaced_as_soon_as_the_other_is_trusted() {
    let unfit = Pair { fits: false, ..made(0) };
    assert_eq!(step(&stock(unfit), NOT_TRUSTED, &TERMS, day(1)), Step::Prepare);
    assert_eq!(
        step(&stock(unfit), Role::Looks, &TERMS, day(1)),
        Step::Keep,
        "others have those names, perhaps"
    );
    let both = Stock { next: Some(made(1)), ..stock(unfit) };
    assert_eq!(step(&both, NOT_TRUSTED, &TERMS, day(1)), Step::Keep);
    assert_eq!(step(&both, trusted(0), &TERMS, day(1)), Step::Switch);
}

#[test]
fn the_former_authority_is_forgotten_after_the_overlap() {
    let since = |at| Stock { former_since: Some(at), ..stock(made(0)) };
    let later = |minutes| day(1) + SignedDuration::from_mins(minutes);
    assert_eq!(step(&since(day(1)), NOT_TRUSTED, &TERMS, later(59)), Step::Keep);
    assert_eq!(step(&since(day(1)), NOT_TRUSTED, &TERMS, later(60)), Step::Forget);
    assert_eq!(step(&since(day(1)), Role::Looks, &TERMS, later(60)), Step::Keep);
    let waits = Stock { next: Some(made(1)), ..since(day(1)) };
    assert_eq!(step(&waits, NOT_TRUSTED, &TERMS, later(60)), Step::Forget, "also while another one waits");
}

/// `kubectl delete secret` is how a person asks for another certificate; the cluster must not pay for it.
#[test]
fn what_was_removed_is_replaced_without_a_gap() {
    let remembered = Stock { stored: false, ..stock(made(0)) };
    for role in [Role::Looks, NOT_TRUSTED] {
        assert_eq!(step(&remembered, role, &TERMS, day(1)), Step::Prepare);
    }
}

#[test]
fn bundles_are_compared_by_the_certificates_in_them() {
    let pem = |content: &str| format!("-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n");
    let (a, b) = (pem("AAAA\nBBBB"), pem("CCCC"));
    let rewritten = "# a\r\n-----BEGIN CERTIFICATE-----\r\nAA\r\nAABBBB\r\n-----END CERTIFICATE-----";
    assert!(all_hold(&[format!("{b}{a}"), rewritten.to_owned()], &a));
    assert!(!all_hold(&[format!("{b}{a}"), b.clone()], &a));
    assert!(!all_hold(&[String::new()], &a), "an entry without a bundle trusts the system's authorities");
    assert!(!all_hold(&[pem("AAAABBBBCCCC")], &a));
    assert!(all_hold(&[], &a));
}

/// A pair in the simulation, by number.
type Id = usize;

/// A cluster over months, looked at once a minute: one operator that registers, its replicas, API servers.
struct Cluster {
    now: Timestamp,
    made: Vec<Pair>,
    current: Option<Id>,
    next: Option<Id>,
    former: Option<(Id, Timestamp)>,
    stored: bool,
    /// Since when the stored bundle has held the next authority.
    trusted_since: Option<Timestamp>,
    /// What was stored in the webhook configurations, and served, of late: (until when it may still be in use, which).
    bundles: Vec<(Timestamp, Vec<Id>)>,
    served: Vec<(Timestamp, Id)>,
    bundle: Vec<Id>,
}

impl Cluster {
    fn new() -> Self {
        Self {
            now: day(0),
            made: Vec::new(),
            current: None,
            next: None,
            former: None,
            stored: true,
            trusted_since: None,
            bundles: Vec::new(),
            served: Vec::new(),
            bundle: Vec::new(),
        }
    }

    fn make(&mut self) -> Id {
        self.made.push(Pair { life: TERMS.life_from(self.now), fits: true });
        self.made.len() - 1
    }

    fn act(&mut self) {
        loop {
            let stock = Stock {
                current: self.current.map(|id| self.made[id]),
                stored: self.stored,
                next: self.next.map(|id| self.made[id]),
                former_since: self.former.map(|(_, since)| since),
            };
            let trusted = self.trusted_since.map(|since| self.now.duration_since(since));
            match step(&stock, Role::Registers(trusted), &TERMS, self.now) {
                Step::Keep => return,
                Step::Begin => self.current = Some(self.make()),
                Step::Prepare => {
                    self.next = Some(self.make());
                    self.trusted_since = None;
                }
                Step::Switch => {
                    let old = std::mem::replace(&mut self.current, self.next.take());
                    self.former = old.map(|old| (old, self.now));
                    self.trusted_since = None;
                    // Replicas that have not heard of it go on with the old one for almost the whole overlap.
                    self.served.push((self.now + SignedDuration::from_mins(59), old.unwrap()));
                }
                Step::Forget => self.former = None,
            }
            self.stored = true;
        }
    }

    fn register(&mut self) {
        let wanted = [self.former.map(|(id, _)| id), self.current, self.next].into_iter().flatten().collect();
        let before = std::mem::replace(&mut self.bundle, wanted);
        // API servers that have not heard of it go on with the one before, for almost the whole time to settle.
        self.bundles.push((self.now + SignedDuration::from_mins(9), before));
        if self.next.is_some() {
            self.trusted_since.get_or_insert(self.now);
        }
    }

    /// Every bundle that may be in use trusts every certificate that may be served.
    fn check(&mut self) {
        let now = self.now;
        self.bundles.retain(|(until, _)| *until > now);
        self.served.retain(|(until, _)| *until > now);
        let old = self.bundles.iter().map(|(_, bundle)| bundle);
        for bundle in old.chain([&self.bundle]) {
            for id in self.served.iter().map(|(_, id)| *id).chain(self.current) {
                assert!(bundle.contains(&id), "{id} is served and {bundle:?} is trusted");
                assert!(self.made[id].life.includes(now), "{id} is served and not valid");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However late the bundles are written, and whatever a person deletes: nobody is ever served what they do not trust.
    #[test]
    fn at_every_moment_what_is_served_is_trusted(
        events in proptest::collection::vec((1i64..30 * 24 * 60, 0u8..3, 0u32..300), 1..40)
    ) {
        let mut cluster = Cluster::new();
        cluster.act();
        cluster.register();
        cluster.bundles.clear();
        for (minutes, event, lag) in events {
            // Most of the time nothing happens; what does is looked at minute by minute.
            cluster.now += SignedDuration::from_mins(minutes);
            cluster.stored = event != 0;
            for minute in 0..400 {
                cluster.act();
                if minute >= lag {
                    cluster.register();
                }
                cluster.check();
                cluster.now += SignedDuration::from_mins(1);
            }
        }
        prop_assert!(cluster.made.len() < 200, "it settles");
    }
}
