//! `spec.base`: what an image may be built on. Layers decide; labels and provenance are only hints.

use jiff::Timestamp;

use super::{Seen, Verdict, known};
use crate::domain::{
    evidence::{Evidence, Fact, Platform},
    ledger::Record,
    pattern::Pattern,
};

/// The first layers of every platform are those of an `ApprovedImage` with role Base that is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseGate {
    /// Which repositories such a base may be of.
    pub allow: Vec<Pattern>,
}

impl BaseGate {
    pub(super) fn check(&self, evidence: &Evidence, seen: &Seen<'_>) -> Verdict {
        let platforms = match known(&evidence.platforms, "the image", "there is no image of this digest") {
            Ok(platforms) => platforms,
            Err(verdict) => return verdict,
        };
        if platforms.is_empty() {
            return Verdict::Fail("the image has no platform whose layers could be compared".to_owned());
        }
        let bases: Vec<(&Record, Option<&Fact<Vec<Platform>>>)> = seen
            .ledger
            .bases_in_force(&seen.acceptance, seen.now)
            .filter(|base| self.allow.iter().any(|pattern| pattern.matches(&base.repository)))
            .map(|base| (base, seen.all.of(&base.repository, &base.digest).map(|known| &known.platforms)))
            .collect();
        if bases.is_empty() {
            return Verdict::Fail(format!(
                "no ApprovedImage with role Base in force is of {}; approve the base",
                list(&self.allow)
            ));
        }
        let unlike = platforms.iter().find(|platform| {
            !bases.iter().any(|(_, layers)| match layers {
                Some(Fact::Known(of_base)) => {
                    of_base.iter().any(|base| base.name == platform.name && is_on(platform, base))
                        && !of_base.iter().any(|of| is_revoked(seen, of))
                }
                Some(Fact::Absent | Fact::Unavailable(_)) | None => false,
            })
        });
        let Some(unlike) = unlike else { return Verdict::Pass };
        let unseen = bases.iter().find(|(_, layers)| matches!(layers, None | Some(Fact::Unavailable(_))));
        match unseen {
            Some((base, _)) => Verdict::Unknown(format!(
                "the layers of the base {}@{} could not be looked at yet",
                base.repository,
                base.digest.short()
            )),
            None => Verdict::Fail(format!(
                "the first layers of {} are those of no ApprovedImage with role Base in force of {}; build it on one, or approve its base",
                unlike.name,
                list(&self.allow)
            )),
        }
    }

    pub(super) fn moments(&self, seen: &Seen<'_>) -> Vec<Timestamp> {
        seen.ledger
            .bases()
            .filter(|base| self.allow.iter().any(|pattern| pattern.matches(&base.repository)))
            .flat_map(|base| [Some(base.approved_at), seen.acceptance.end(base)])
            .flatten()
            .collect()
    }
}

fn is_revoked(seen: &Seen<'_>, platform: &Platform) -> bool {
    seen.ledger.revocation(&platform.manifest, seen.acceptance.namespace).is_some()
}

/// Whether the layers of a base are the first ones of an image. A base without layers is under everything, and says nothing.
fn is_on(image: &Platform, base: &Platform) -> bool {
    !base.diff_ids.is_empty() && image.diff_ids.starts_with(&base.diff_ids)
}

fn list(patterns: &[Pattern]) -> String {
    let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
