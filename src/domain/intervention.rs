//! A person's way out: what somebody asks for on a history, taken up once for each value and kept on record.

use jiff::Timestamp;

use super::release::{Cause, History, Outcome, RollbackOutcome};

/// What a person can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// The hold on a release whose rollout failed ends, and that release is not taken back again.
    ReleaseHold,
    /// What failed is tried once more.
    Retry,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It was done.
    Done,
    /// There was nothing to do.
    NothingToDo,
    /// What is held back is revoked, and stays so: only who lets the revocation go ends such a hold.
    StillRevoked,
}

/// One thing that was asked for and taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intervention {
    /// What.
    pub way: Way,
    /// The value of the annotation: why, for people.
    pub value: String,
    /// When it was taken up.
    pub at: Timestamp,
    /// What came of it.
    pub effect: Effect,
    /// The release that it was about.
    pub release: Option<String>,
}

/// What stands in the annotations of a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Why the hold is to be released.
    pub release_hold: Option<String>,
    /// Any value that was not there before.
    pub retry: Option<String>,
}

/// How many are remembered of each kind. What stands in the annotation is the last one, and so never forgotten.
const REMEMBERED: usize = 5;
/// How much of a value counts.
const VALUE: usize = 255;

impl Asked {
    /// From the values of the annotations; an empty one asks for nothing.
    pub fn new(release_hold: Option<&String>, retry: Option<&String>) -> Self {
        let value = |said: Option<&String>| {
            said.map(|text| text.chars().take(VALUE).collect::<String>()).filter(|text| !text.is_empty())
        };
        Self { release_hold: value(release_hold), retry: value(retry) }
    }
}

impl Intervention {
    /// For people.
    pub fn note(&self) -> String {
        let Self { way, value, effect, .. } = self;
        let done = match (way, effect) {
            (Way::ReleaseHold, Effect::Done) => "the hold on the release whose rollout failed ends",
            (Way::ReleaseHold, Effect::NothingToDo) => "no hold stands",
            (Way::Retry, Effect::Done) => "what failed is tried once more",
            (Way::Retry, Effect::NothingToDo) => "nothing failed that could be tried again",
            (Way::ReleaseHold | Way::Retry, Effect::StillRevoked) => {
                "the hold stands: what it keeps out is revoked (to end it, let the revocation go)"
            }
        };
        format!("asked for by a person ({value}): {done}")
    }
}

/// Takes up what is asked for and was not taken up before.
pub fn take_up(history: &mut History, asked: &Asked, now: Timestamp) {
    for (way, value) in [(Way::ReleaseHold, &asked.release_hold), (Way::Retry, &asked.retry)] {
        let Some(value) = value else { continue };
        let known = |taken: &Intervention| taken.way == way && taken.value == *value;
        if history.interventions.iter().any(known) {
            continue;
        }
        let (effect, release) = match way {
            Way::ReleaseHold => release_hold(history),
            Way::Retry => retry(history, now),
        };
        history.interventions.push(Intervention { way, value: value.clone(), at: now, effect, release });
        forget_old(history, way);
    }
}

/// Whether a person released a hold on this release.
pub fn was_released(history: &History, release: &str) -> bool {
    history.interventions.iter().any(|taken| {
        taken.way == Way::ReleaseHold
            && taken.effect == Effect::Done
            && taken.release.as_deref() == Some(release)
    })
}

fn release_hold(history: &mut History) -> (Effect, Option<String>) {
    match (history.hold.is_some(), let_in_again(history)) {
        (_, Some(failed)) => (Effect::Done, Some(failed)),
        (true, None) => (Effect::StillRevoked, None),
        (false, None) => (Effect::NothingToDo, None),
    }
}

fn retry(history: &mut History, now: Timestamp) -> (Effect, Option<String>) {
    let failed = let_in_again(history);
    let present = history.present.clone();
    if let Some(last) =
        history.rollbacks.last_mut().filter(|last| failed.is_none() && Some(&last.to) == present.as_ref())
        && last.outcome == RollbackOutcome::Failed
    {
        last.outcome = RollbackOutcome::InProgress;
        set_unproven(history, present.as_deref(), now);
        return (Effect::Done, present);
    }
    let again = failed.or_else(|| {
        history
            .present()
            .filter(|present| present.outcome == Outcome::Failed)
            .map(|present| present.id.clone())
    });
    set_unproven(history, again.as_deref(), now);
    let revoked = again.is_none() && history.hold.is_some();
    match again {
        Some(again) => (Effect::Done, Some(again)),
        None if revoked => (Effect::StillRevoked, None),
        None => (Effect::NothingToDo, None),
    }
}

/// Ends what a hold says of a failed rollout, and the hold if nothing else is kept out; answers with the failed release.
fn let_in_again(history: &mut History) -> Option<String> {
    let hold = history.hold.as_mut()?;
    let failed = hold.failed.take()?;
    hold.rejected.retain(|rejected| rejected.cause != Cause::FailedRollout);
    if hold.rejected.is_empty() {
        history.hold = None;
    }
    Some(failed)
}

/// What failed may prove itself (again); its time counts anew. What proved itself once did so.
fn set_unproven(history: &mut History, id: Option<&str>, now: Timestamp) {
    let is_present = id.is_some() && id == history.present.as_deref();
    for release in history.releases.iter_mut().filter(|release| Some(release.id.as_str()) == id) {
        if release.outcome == Outcome::Failed {
            release.outcome = Outcome::Unproven;
        }
        if is_present {
            release.since = now;
        }
    }
}

fn forget_old(history: &mut History, way: Way) {
    let all = history.interventions.iter().filter(|taken| taken.way == way).count();
    let mut excess = all.saturating_sub(REMEMBERED);
    history.interventions.retain(|taken| {
        let goes = taken.way == way && excess > 0;
        excess -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn asked(release_hold: Option<&str>, retry: Option<&str>) -> Asked {
        Asked::new(release_hold.map(str::to_owned).as_ref(), retry.map(str::to_owned).as_ref())
    }

    /// If this fails, an annotation that was forgotten on a history ends the next hold as well.
    #[test]
    fn a_value_is_taken_up_once_however_much_else_is_asked_for() {
        let mut history = History::default();
        for n in 0..20 {
            take_up(&mut history, &asked(Some("mine"), Some(&n.to_string())), at(n));
        }
        let of = |way| history.interventions.iter().filter(move |taken| taken.way == way).collect::<Vec<_>>();
        assert_eq!(of(Way::ReleaseHold).len(), 1);
        assert_eq!(of(Way::ReleaseHold)[0].at, at(0));
        assert_eq!(of(Way::Retry).len(), REMEMBERED);
        assert!(history.interventions.iter().all(|taken| taken.effect == Effect::NothingToDo));
    }

    #[test]
    fn an_empty_value_asks_for_nothing_and_a_long_one_is_cut() {
        assert_eq!(asked(Some(""), None), Asked::default());
        assert_eq!(asked(None, Some(&"ä".repeat(1000))).retry.unwrap().chars().count(), VALUE);
    }
}
