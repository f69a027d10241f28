//! `spec.maxImageAge`: how old an image may be.

use std::time::Duration;

use jiff::Timestamp;

use super::{Seen, Verdict, begin_of, end_of, is_fresh, is_past, known};
use crate::domain::evidence::{Evidence, Fact};

/// How old an image may be, by the `created` of its configs. The image says that of itself, and always says the same: an image
/// that does not say it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgeGate {
    /// So old at most, each of its platforms.
    pub max_age: Duration,
}

impl AgeGate {
    pub(super) fn check(self, evidence: &Evidence, seen: &Seen<'_>) -> Verdict {
        let platforms = match known(&evidence.platforms, "the image", "there is no image of this digest") {
            Ok(platforms) => platforms,
            Err(verdict) => return verdict,
        };
        if platforms.is_empty() {
            return Verdict::Fail("the image has no platform that could say when it was built".to_owned());
        }
        for platform in platforms {
            let name = &platform.name;
            match platform.created {
                None => {
                    return Verdict::Fail(format!(
                        "{name} does not say when it was built; build it with `created`"
                    ));
                }
                Some(at) if !is_past(at, seen.now) => {
                    return Verdict::Fail(format!("{name} says that it was built in the future, at {at}"));
                }
                Some(at) if !is_fresh(at, Some(self.max_age), seen.now) => {
                    return Verdict::Fail(format!(
                        "{name} was built at {at}, which is too old; build it anew"
                    ));
                }
                Some(_) => {}
            }
        }
        Verdict::Pass
    }

    pub(super) fn moments(self, evidence: &Evidence) -> Vec<Timestamp> {
        let Fact::Known(platforms) = &evidence.platforms else { return Vec::new() };
        let built = platforms.iter().filter_map(|platform| platform.created);
        built.flat_map(|at| [begin_of(at), end_of(at, self.max_age)]).flatten().collect()
    }
}
