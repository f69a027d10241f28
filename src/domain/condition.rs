//! Conditions as kstatus reads them: `Ready` always, `Reconciling` and `Stalled` only while true.

use jiff::Timestamp;

/// The condition that every object carries.
pub const READY: &str = "Ready";
/// There only while work towards the newest generation is under way.
pub const RECONCILING: &str = "Reconciling";
/// There only while no progress is possible without somebody's help.
pub const STALLED: &str = "Stalled";

/// The most that a message may hold, in characters; the API server refuses more.
pub const MESSAGE_MAX: usize = 32_768;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be found out.
    Unknown,
}

impl Status {
    /// As Kubernetes writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }

    /// Reads what Kubernetes wrote; anything unheard of is Unknown.
    pub fn read(text: &str) -> Self {
        match text {
            "True" => Self::True,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }
}

/// One thing that is said of an object now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// What is said, in `CamelCase`.
    pub type_: String,
    /// Whether it holds.
    pub status: Status,
    /// Why, as one `CamelCase` word for machines.
    pub reason: String,
    /// Why, for people.
    pub message: String,
}

impl Condition {
    /// A condition of the given type.
    pub fn new(
        type_: impl Into<String>,
        status: Status,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { type_: type_.into(), status, reason: reason.into(), message: message.into() }
    }
}

/// A condition as it stands in an object's status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recorded {
    /// What is said.
    pub condition: Condition,
    /// The generation of the object it was said of, where that is known.
    pub observed_generation: Option<i64>,
    /// When its status last changed, in whole seconds.
    pub last_transition: Timestamp,
}

/// What [`merge`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The conditions to record, all of them.
    pub conditions: Vec<Recorded>,
    /// Whether they differ from the old ones, so that a status without news is never written.
    pub changed: bool,
}

/// Puts what is said now over what was recorded before.
///
/// # Guarantees
/// - A condition whose status is the same as before keeps the time of its last transition.
/// - Conditions that are not said any more are gone; so are `Reconciling` and `Stalled` unless they are True.
/// - `Ready` is always there: Unknown, where nothing was said of it.
/// - The order is that of the types (`Ready` first), whatever the order of `new`; of two with one type the last counts.
/// - Merging the same again changes nothing.
pub fn merge(old: &[Recorded], new: &[Condition], observed_generation: i64, now: Timestamp) -> Merged {
    let mut said: Vec<&Condition> = Vec::new();
    for condition in new {
        said.retain(|earlier| earlier.type_ != condition.type_);
        let only_while_true = condition.type_ == RECONCILING || condition.type_ == STALLED;
        if !only_while_true || condition.status == Status::True {
            said.push(condition);
        }
    }
    let silent = Condition::new(READY, Status::Unknown, "NotYetKnown", "nothing is known yet");
    if !said.iter().any(|condition| condition.type_ == READY) {
        said.push(&silent);
    }
    said.sort_by_key(|condition| (condition.type_ != READY, &condition.type_));

    let conditions: Vec<Recorded> = said
        .into_iter()
        .map(|condition| Recorded {
            condition: Condition { message: bounded(&condition.message), ..condition.clone() },
            observed_generation: Some(observed_generation),
            last_transition: old
                .iter()
                .find(|before| before.condition.type_ == condition.type_)
                .filter(|before| before.condition.status == condition.status)
                .map_or_else(|| whole_seconds(now), |before| before.last_transition),
        })
        .collect();
    let changed = conditions != old;
    Merged { conditions, changed }
}

/// Cuts a message to [`MESSAGE_MAX`] characters.
fn bounded(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_MAX) {
        None => message.to_owned(),
        Some(_) => message.chars().take(MESSAGE_MAX - 1).chain(['…']).collect(),
    }
}

/// Kubernetes keeps seconds only; more would read back as a change.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ready(status: Status, message: &str) -> Condition {
        Condition::new(READY, status, "Because", message)
    }

    fn types(merged: &Merged) -> Vec<&str> {
        merged.conditions.iter().map(|recorded| recorded.condition.type_.as_str()).collect()
    }

    #[test]
    fn the_same_status_keeps_its_transition_time() {
        let first = merge(&[], &[ready(Status::True, "fine")], 1, at(100));
        let later = merge(&first.conditions, &[ready(Status::True, "still fine")], 2, at(200));
        assert_eq!(later.conditions[0].last_transition, at(100));
        assert_eq!(later.conditions[0].observed_generation, Some(2));
        assert!(later.changed);
    }

    #[test]
    fn another_status_takes_the_time_of_now_in_whole_seconds() {
        let first = merge(&[], &[ready(Status::True, "fine")], 1, at(100));
        let now = Timestamp::from_millisecond(200_900).unwrap();
        let later = merge(&first.conditions, &[ready(Status::False, "not fine")], 1, now);
        assert_eq!(later.conditions[0].last_transition, at(200));
    }

    #[test]
    fn no_news_is_no_change() {
        let said = [Condition::new(STALLED, Status::True, "Because", "stuck"), ready(Status::False, "stuck")];
        let first = merge(&[], &said, 3, at(100));
        assert!(first.changed);
        assert!(!merge(&first.conditions, &said, 3, at(200)).changed);
    }

    #[test]
    fn reconciling_and_stalled_stand_only_while_true() {
        let reconciling = |status| Condition::new(RECONCILING, status, "Because", "");
        let first = merge(&[], &[reconciling(Status::True), ready(Status::Unknown, "")], 1, at(1));
        assert_eq!(types(&first), [READY, RECONCILING]);
        for status in [Status::False, Status::Unknown] {
            let later =
                merge(&first.conditions, &[ready(Status::Unknown, ""), reconciling(status)], 1, at(2));
            assert_eq!(types(&later), [READY]);
            assert!(later.changed);
        }
    }

    #[test]
    fn ready_is_there_even_when_nobody_says_it() {
        let merged = merge(&[], &[], 1, at(1));
        assert_eq!(types(&merged), [READY]);
        assert_eq!(merged.conditions[0].condition.status, Status::Unknown);
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let merged = merge(&[], &[ready(Status::True, &"ä".repeat(MESSAGE_MAX + 5))], 1, at(1));
        assert_eq!(merged.conditions[0].condition.message.chars().count(), MESSAGE_MAX);
    }
}
