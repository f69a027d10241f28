//! Denied attempts, summed up: who tried what, where, and how often.

use std::{collections::BTreeMap, fmt};

use jiff::{SignedDuration, Timestamp};

use super::denial::{Denial, cut, printable};

/// How many attempts that differ are listed; the others are only counted.
pub const LISTED: usize = 20;
/// How long a name, a user name and the like are at most, in bytes.
const NAME: usize = 253;
/// How long nothing is told again of what was told of.
const AGAIN: SignedDuration = SignedDuration::from_mins(5);
/// How much is told of in a minute, and how much of what one policy denied: it must not silence the others.
const IN_A_MINUTE: usize = 60;
const OF_A_POLICY: usize = 10;

/// Namespace and name of a policy.
type PolicyKey = (String, String);

/// What was tried. Attempts that are the same in all of this are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tried {
    /// The namespace of the object.
    pub namespace: String,
    /// Its kind.
    pub kind: String,
    /// The image, as written.
    pub image: String,
    /// Who asked for it.
    pub user: String,
    /// The kind of reason why it is not permitted.
    pub reason: String,
}

/// Attempts that are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried.
    pub tried: Tried,
    /// The name of the last object; empty where it had none yet.
    pub name: String,
    /// How often.
    pub count: u32,
    /// For the first time.
    pub first: Timestamp,
    /// For the last time.
    pub last: Timestamp,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried: Tried { namespace, kind, image, user, reason }, name, count, first, last: _ } =
            self;
        let times = if *count == 1 { "time" } else { "times" };
        let name = if name.is_empty() { "…" } else { name };
        write!(
            f,
            "{user} asked for {kind} {namespace}/{name} with {image}: {reason}; denied {count} {times} since {first}"
        )
    }
}

/// One request that was denied, as far as is told of it.
#[derive(Clone, Copy, Debug)]
pub struct By<'a> {
    /// The namespace of the object.
    pub namespace: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Its name, if it has one.
    pub name: &'a str,
    /// Who asked.
    pub user: &'a str,
}

/// The attempt that a denial was, for each policy that denied it: with the first image that this policy has something against.
pub fn attempts(denial: &Denial, by: By<'_>, now: Timestamp) -> BTreeMap<PolicyKey, Attempt> {
    let text = |text: &str| cut(&printable(&cut(text, NAME)), NAME);
    let mut found = BTreeMap::new();
    for refused in &denial.refused {
        found.entry(refused.policy.clone()).or_insert_with(|| Attempt {
            tried: Tried {
                namespace: text(by.namespace),
                kind: text(by.kind),
                image: refused.image.clone(),
                user: text(by.user),
                reason: refused.code.to_string(),
            },
            name: text(by.name),
            count: 1,
            first: now,
            last: now,
        });
    }
    found
}

/// All attempts that one policy denied: their number, and the newest that differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    total: u32,
    /// The newest first.
    listed: Vec<Attempt>,
}

impl Attempts {
    /// A summary as it was stored: so many, and of these the newest that differ.
    pub fn stored(total: u32, listed: Vec<Attempt>) -> Self {
        let mut all = Self::default();
        for attempt in listed.into_iter().rev() {
            all.add(attempt);
        }
        all.total = all.total.max(total);
        all
    }

    /// How many there were, those that are not listed any more included.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The newest that differ, the newest first.
    pub fn listed(&self) -> &[Attempt] {
        &self.listed
    }

    /// Adds attempts that are the same.
    pub fn add(&mut self, attempt: Attempt) {
        self.total = self.total.saturating_add(attempt.count);
        self.list(attempt);
    }

    /// Adds other attempts than these.
    pub fn merge(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        for attempt in other.listed.into_iter().rev() {
            self.list(attempt);
        }
    }

    fn list(&mut self, mut attempt: Attempt) {
        if let Some(at) = self.listed.iter().position(|known| known.tried == attempt.tried) {
            let known = self.listed.remove(at);
            attempt.count = attempt.count.saturating_add(known.count);
            attempt.first = attempt.first.min(known.first);
            if known.last > attempt.last {
                (attempt.last, attempt.name) = (known.last, known.name);
            }
        }
        let at = self.listed.partition_point(|known| known.last > attempt.last);
        self.listed.insert(at, attempt);
        self.listed.truncate(LISTED);
    }
}

/// When something is told of: not again for a while, and not too much at once.
#[derive(Debug, Default)]
pub struct Pace(BTreeMap<(PolicyKey, Tried), Timestamp>);

impl Pace {
    /// Whether it is told now that a policy denied this.
    pub fn turn(&mut self, policy: &PolicyKey, tried: &Tried, now: Timestamp) -> bool {
        // A clock that was put back must not silence it.
        self.0.retain(|_, told| *told <= now && now.duration_since(*told) < AGAIN);
        let minute = SignedDuration::from_mins(1);
        let lately = || self.0.iter().filter(|(_, told)| now.duration_since(**told) < minute);
        let of_it = lately().filter(|((of, _), _)| of == policy).count();
        let key = (policy.clone(), tried.clone());
        let turn = lately().count() < IN_A_MINUTE && of_it < OF_A_POLICY && !self.0.contains_key(&key);
        if turn {
            self.0.insert(key, now);
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{admission::Refused, ledger::tests::at, policy::Code};

    fn refused(policy: &str, image: &str) -> Refused {
        Refused {
            place: "spec.containers[app]".to_owned(),
            image: image.to_owned(),
            policy: ("root".to_owned(), policy.to_owned()),
            code: Code::Unlisted,
        }
    }

    fn attempt(user: &str, seconds: i64) -> Attempt {
        let denial = Denial { message: String::new(), refused: vec![refused("p", "a:1")] };
        let by = By { namespace: "shop", kind: "Pod", name: "cart", user };
        attempts(&denial, by, at(seconds)).into_values().next().unwrap()
    }

    fn users(all: &Attempts) -> Vec<(&str, u32)> {
        all.listed().iter().map(|attempt| (attempt.tried.user.as_str(), attempt.count)).collect()
    }

    /// If this fails, one request counts several times, or a policy that denied it does not tell.
    #[test]
    fn a_denial_is_one_attempt_for_each_policy_that_denied() {
        let all = vec![refused("p", "a:1"), refused("q", "a:1"), refused("p", "b:1")];
        let denial = Denial { message: String::new(), refused: all };
        let by = By { namespace: "shop", kind: "Pod", name: "", user: "ana" };
        let found = attempts(&denial, by, at(7));
        let of = |policy: &str| &found[&("root".to_owned(), policy.to_owned())];
        assert_eq!((found.len(), of("p").tried.image.as_str(), of("q").count), (2, "a:1", 1));
        let text = of("p").to_string();
        assert_eq!(
            text,
            "ana asked for Pod shop/… with a:1: Unlisted; denied 1 time since 2023-11-14T22:13:27Z"
        );
    }

    /// If this fails, whoever may ask writes what he likes into statuses, or as much as he likes.
    #[test]
    fn what_comes_from_outside_is_short_and_printable() {
        let long = "\u{1b}[2Jä\n".repeat(200_000);
        let denial = Denial { message: String::new(), refused: vec![refused("p", "a:1")] };
        let by = By { namespace: &long, kind: &long, name: &long, user: &long };
        let found = attempts(&denial, by, at(0)).into_values().next().unwrap();
        for text in [&found.tried.namespace, &found.tried.kind, &found.name, &found.tried.user] {
            assert!(text.len() <= NAME && !text.contains(char::is_control), "{text}");
        }
    }

    #[test]
    fn the_same_is_counted_together_and_the_newest_stands_first() {
        let mut all = Attempts::default();
        for (user, seconds) in [("ana", 1), ("bob", 2), ("ana", 3)] {
            all.add(attempt(user, seconds));
        }
        assert_eq!((all.total(), users(&all)), (3, vec![("ana", 2), ("bob", 1)]));
        assert_eq!((all.listed()[0].first, all.listed()[0].last), (at(1), at(3)));
        // What another replica counted at the same time, and wrote before.
        let mut other = Attempts::default();
        for (user, seconds, name) in [("bob", 9, "b"), ("eve", 2, "e"), ("ana", 2, "a")] {
            other.add(Attempt { name: name.to_owned(), ..attempt(user, seconds) });
        }
        all.merge(other);
        assert_eq!((all.total(), users(&all)), (6, vec![("bob", 2), ("ana", 3), ("eve", 1)]));
        let names: Vec<&str> = all.listed().iter().map(|attempt| attempt.name.as_str()).collect();
        assert_eq!(names, ["b", "cart", "e"], "of the last one");
    }

    /// If this fails, a flood of denials is a flood of Events.
    #[test]
    fn the_same_is_told_once_in_a_while_and_not_too_much_at_once() {
        let mut pace = Pace::default();
        let policy = |name: &str| ("root".to_owned(), name.to_owned());
        let mut turn =
            |of: &str, user: &str, seconds| pace.turn(&policy(of), &attempt(user, 0).tried, at(seconds));
        assert!(turn("p", "ana", 1000) && !turn("p", "ana", 1001) && !turn("p", "ana", 1299));
        assert!(turn("q", "ana", 1299) && turn("p", "ana", 1300));
        assert!(turn("p", "ana", 10), "a clock that is put back");
        let told = (0..1000).filter(|n| turn("p", &n.to_string(), 11 + n / 100)).count();
        assert_eq!(told, OF_A_POLICY - 1, "and the one before");
        let told = (0..1000).filter(|n| turn(&format!("q{}", n % 100), "ana", 21 + n / 100)).count();
        assert_eq!(told, IN_A_MINUTE - OF_A_POLICY);
        assert!(turn("p", "late", 81) && !turn("p", "ana", 81));
    }

    proptest! {
        /// Whatever comes: it is bounded, nothing is lost of the number, nothing is listed twice, the newest stands first, and what
        /// was stored reads back.
        #[test]
        fn a_summary_is_bounded_and_its_counts_add_up(
            tried in proptest::collection::vec((0u8..40, 0i64..1000, 0u8..3), 0..300)
        ) {
            let mut replicas = [Attempts::default(), Attempts::default(), Attempts::default()];
            for (user, seconds, replica) in &tried {
                let replica = &mut replicas[usize::from(*replica)];
                replica.add(attempt(&user.to_string(), *seconds));
            }
            let mut all = Attempts::default();
            for replica in replicas {
                all.merge(replica);
            }
            let count = u32::try_from(tried.len()).unwrap();
            prop_assert_eq!(all.total(), count);
            let users: std::collections::BTreeSet<u8> = tried.iter().map(|tried| tried.0).collect();
            prop_assert!(all.listed().len() <= LISTED.min(users.len()));
            if users.len() <= LISTED {
                prop_assert_eq!(all.listed().len(), users.len());
                prop_assert_eq!(all.listed().iter().map(|attempt| attempt.count).sum::<u32>(), count);
            }
            for attempt in all.listed() {
                prop_assert!(attempt.first <= attempt.last);
            }
            for pair in all.listed().windows(2) {
                prop_assert!(pair[0].last >= pair[1].last);
            }
            let listed: std::collections::BTreeSet<_> = all.listed().iter().map(|attempt| &attempt.tried).collect();
            prop_assert_eq!(listed.len(), all.listed().len());
            let again = Attempts::stored(all.total(), all.listed().to_vec());
            prop_assert_eq!(&again, &all);
        }
    }
}
