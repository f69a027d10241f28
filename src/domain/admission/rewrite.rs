//! The two things that are changed on the way in: tags of Pods become the digests they stand for, and what a hold keeps out
//! becomes what is held. Whoever judges afterwards does not rely on it.

use std::{cell::LazyCell, collections::BTreeMap};

use serde_json::{Value, json};

use super::{
    Asked, Known, Subject,
    denial::fitted,
    running::{Image, Name},
};
use crate::domain::{
    image::{ImageRef, PinnedImage, same_reference, short},
    policy::Judgement,
    release::{Cause, Hold, Rejected, Release, ReleaseImage},
    workload::{ContainerId, Place, places},
};

/// One image that is changed on the way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Its JSON pointer from the object.
    pub pointer: String,
    /// What stands there.
    pub from: String,
    /// What is to stand there.
    pub to: String,
    /// What the client is told.
    pub warning: Option<String>,
}

/// What is to be changed in a request.
pub fn rewrites(asked: &Asked<'_>, known: &Known<'_>) -> Vec<Rewrite> {
    match asked.subject {
        Subject::Pod => pins(asked, known),
        Subject::Workload(_) => held(asked, known),
        Subject::Part(_) => Vec::new(),
    }
}

/// The same as a JSON patch.
pub fn patch(rewrites: &[Rewrite]) -> Value {
    let operations = rewrites.iter().flat_map(|rewrite| {
        [
            json!({"op": "test", "path": rewrite.pointer, "value": rewrite.from}),
            json!({"op": "replace", "path": rewrite.pointer, "value": rewrite.to}),
        ]
    });
    operations.collect()
}

fn pins(asked: &Asked<'_>, known: &Known<'_>) -> Vec<Rewrite> {
    let release = LazyCell::new(|| {
        let names: BTreeMap<ContainerId, Name> = places(asked.object)
            .filter_map(|place| Some((place.id, Name::of(&place.image.parse().ok()?))))
            .collect();
        known.running.release_of(known.judge.namespace, &names)
    });
    let pin = |text: &str, id: &ContainerId| {
        let reference = text.parse::<ImageRef>().ok()?;
        let judged = known.judge.enforced(text);
        let rewritable = reference.digest.is_none() && judged.governed && known.judge.pin_pods([text]);
        rewritable.then(|| pinned(known, &judged, release.and_then(|images| images.get(id)))).flatten()
    };
    asked
        .changed()
        .filter_map(|place| {
            let to = pin(place.image, &place.id)?.to_string();
            Some(Rewrite { pointer: place.pointer, from: place.image.to_owned(), to, warning: None })
        })
        .collect()
}

/// What a tag in a Pod is pinned to: what it stands for, if that is permitted and not older than what runs under that tag;
/// else what runs.
fn pinned(known: &Known<'_>, judged: &Judgement, runs: Option<&Image>) -> Option<PinnedImage> {
    let recorded = runs.and_then(|image| image.pinned.clone());
    if !judged.permitted() {
        return recorded;
    }
    let stands_for = judged.pinned.clone()?;
    let newer = |image: &PinnedImage| {
        let approved_at = runs.and_then(|image| image.approved_at);
        let revoked = known.judge.ledger.revocation(&image.digest, known.judge.namespace);
        image.digest != stands_for.digest
            && approved_at.is_some()
            && judged.approved_at <= approved_at
            && revoked.is_none()
    };
    Some(recorded.filter(newer).unwrap_or(stands_for))
}

fn held(asked: &Asked<'_>, known: &Known<'_>) -> Vec<Rewrite> {
    let history = asked.history.filter(|_| asked.before.is_some());
    let standing = history.and_then(|history| Some((history.hold.as_ref()?, history.held()?)));
    let Some((hold, held)) = standing.filter(|(_, held)| is_clean(known, held)) else { return Vec::new() };
    let template: String = asked.subject.template().iter().flat_map(|part| ["/", part]).collect();
    let rewrite = |place: Place<'_>| {
        let own = held.images.get(&place.id)?;
        let digest = known.judge.enforced(place.image).pinned.map(|image| image.digest);
        let is_kept_out = |rejected: &&Rejected| {
            rejected.container == place.id
                && stands(known, held, rejected)
                && rejected.is(&place.id, place.image, digest.as_ref())
        };
        hold.rejected.iter().find(is_kept_out)?;
        (!same_reference(place.image, &own.image)).then(|| Rewrite {
            pointer: format!("{template}{}", place.pointer),
            from: place.image.to_owned(),
            to: own.image.clone(),
            warning: Some(warning(asked, &place, own, hold)),
        })
    };
    asked.changed().filter_map(rewrite).collect()
}

/// Whether nothing that is held is revoked itself: else it is about to be moved on.
fn is_clean(known: &Known<'_>, held: &Release) -> bool {
    held.images.values().all(|own| known.judge.revocation(&own.image).is_none())
}

/// Whether something is kept out for the reason it was: as long as it is revoked; after a failed rollout where git does not
/// own the workload, until something else is asked for.
fn stands(known: &Known<'_>, held: &Release, rejected: &Rejected) -> bool {
    let revoked = |digest| known.judge.ledger.revocation(digest, known.judge.namespace).is_some();
    match rejected.cause {
        Cause::Revoked => known.unreadable_records || rejected.digest.as_ref().is_none_or(revoked),
        Cause::FailedRollout => held.template.is_none(),
    }
}

fn warning(asked: &Asked<'_>, place: &Place<'_>, own: &ReleaseImage, hold: &Hold) -> String {
    let path = asked.subject.path(&place.id);
    let (from, to) = (short(place.image), short(&own.image));
    fitted(&format!(
        "countersign: {path} stays {to}: {from} is kept out until another permitted image is asked for ({})",
        hold.why
    ))
}
