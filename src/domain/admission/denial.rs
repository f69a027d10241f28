//! What people are told: which policy, where, which image, what is missing, and what would supply it. All of it is bounded, and
//! of what comes from outside nothing reaches a terminal as it is.

use super::{Image, Mode, Subject, running::GoesOn};
use crate::domain::{
    ledger::Scope,
    policy::{Code, Opinion, Policy, Reason},
    snippet::snippet,
};

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The text for the client: some lines.
    pub message: String,
    /// The first reasons, one by one.
    pub refused: Vec<Refused>,
}

/// One reason why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The place of the image, as kubectl writes paths.
    pub place: String,
    /// The image as written.
    pub image: String,
    /// The policy: its namespace and name.
    pub policy: (String, String),
    /// The kind of reason.
    pub code: Code,
}

/// How many images a text explains; the others are counted.
const EXPLAINED: usize = 3;
/// How many policies are named for each of them.
const POLICIES: usize = 3;
/// How many reasons are given one by one.
const REFUSED: usize = 16;
/// How long an image and a reason are at most, in bytes.
const IMAGE: usize = 300;
const REASON: usize = 400;
/// How long a text for the client is at most, in bytes.
const MESSAGE: usize = 2048;
/// API servers cut warnings that are longer, in bytes.
const WARNING: usize = 256;
/// API servers leave out what goes beyond, in bytes.
const WARNINGS: usize = 4096;

/// The denial of a request for what the Enforce policies have against its images.
pub(super) fn denial(subject: Subject, images: &[Image<'_, '_>], namespace: &str) -> Denial {
    let denied: Vec<_> = images
        .iter()
        .filter(|image| !image.is_let_be())
        .map(|image| (image, against(image)))
        .filter(|(_, against)| !against.is_empty())
        .collect();
    let refused = denied.iter().flat_map(|(image, against)| {
        against.iter().map(|(policy, reason)| Refused {
            place: subject.path(&image.id),
            image: cut(&printable(image.text), IMAGE),
            policy: policy.key.clone(),
            code: reason.code,
        })
    });
    let refused = refused.take(REFUSED).collect();
    let mut lines: Vec<String> = denied
        .iter()
        .take(EXPLAINED)
        .flat_map(|(image, against)| explained(subject, image, against, namespace))
        .collect();
    let more = denied.len().saturating_sub(EXPLAINED);
    if more > 0 {
        let is = if more == 1 { "image is" } else { "images are" };
        lines.push(format!("{more} more {is} not permitted"));
    }
    Denial { message: cut(&lines.join("\n"), MESSAGE), refused }
}

/// What the Enforce policies have against an image.
fn against<'i, 'a>(image: &'i Image<'_, 'a>) -> Vec<(&'a Policy, &'i Reason)> {
    let enforcing = image.opinions.iter().filter(|opinion| opinion.policy.mode == Mode::Enforce);
    enforcing.flat_map(reasons).collect()
}

/// What one policy has against an image. That a digest is required is only said where nothing else is in the way.
fn reasons<'i, 'a>(opinion: &'i Opinion<'a>) -> impl Iterator<Item = (&'a Policy, &'i Reason)> {
    let only = opinion.against.len() == 1;
    let said = opinion.against.iter().filter(move |reason| only || reason.code != Code::DigestRequired);
    said.map(|reason| (opinion.policy, reason))
}

fn explained(
    subject: Subject,
    image: &Image<'_, '_>,
    against: &[(&Policy, &Reason)],
    namespace: &str,
) -> Vec<String> {
    let image_text = cut(&printable(image.text), IMAGE);
    let mut lines = vec![format!("{}: {image_text} is not permitted", subject.path(&image.id))];
    let named = against.iter().take(POLICIES);
    lines.extend(named.map(|(policy, reason)| {
        format!("  by policy {policy}: {} ({})", cut(&printable(&reason.message), REASON), reason.code)
    }));
    let more = against.len().saturating_sub(POLICIES);
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    let unlisted = against.iter().find(|(_, reason)| reason.code == Code::Unlisted);
    lines.extend(unlisted.and_then(|(policy, _)| {
        let snippet = snippet(image.text, approvals_of(policy, namespace), None)?;
        Some(format!("  to approve it, {snippet}"))
    }));
    lines
}

/// A namespace whose approvals count for a policy.
fn approvals_of<'p>(policy: &'p Policy, namespace: &'p str) -> &'p str {
    let from_root = policy.approval.is_none_or(|approval| approval.from_root);
    let from_namespace = policy.approval.is_none_or(|approval| approval.from_namespace);
    match &policy.scope {
        Scope::Root if from_root => &policy.key.0,
        Scope::Namespace(own) if from_namespace => own,
        Scope::Root => namespace,
        // Those of the root namespace, which is not this policy's.
        Scope::Namespace(_) => "…",
    }
}

/// What the client is told of what a policy in mode Warn has against the images.
pub(super) fn warnings(
    subject: Subject,
    images: &[Image<'_, '_>],
    opinions: &[(usize, &Opinion<'_>)],
) -> Vec<String> {
    let of = |(index, opinion): &(usize, &Opinion<'_>)| {
        let (policy, reason) = reasons(opinion).next()?;
        let image = images.get(*index)?;
        Some(fitted(&format!(
            // What is long, and may be cut, comes last.
            "countersign: policy {policy} does not permit {} ({}): {}",
            subject.path(&image.id),
            reason.code,
            reason.message
        )))
    };
    opinions.iter().filter_map(of).collect()
}

/// What is told of revoked images that go on.
pub(super) fn alarms(subject: Subject, images: &[Image<'_, '_>], why: GoesOn) -> Vec<String> {
    let why = match why {
        GoesOn::NotRolledBackYet => "it runs, and its workload was not moved yet",
        GoesOn::Stays => "its workload stays as it is",
    };
    let revoked = images.iter().filter_map(|image| {
        let (_, reason) = against(image).into_iter().find(|(_, reason)| reason.code == Code::Revoked)?;
        Some(fitted(&format!(
            "countersign: {}: let in, as {why}: {}",
            subject.path(&image.id),
            reason.message
        )))
    });
    revoked.take(REFUSED).collect()
}

/// As many warnings as API servers pass on.
pub(super) fn bound(warnings: &mut Vec<String>) {
    let mut room = WARNINGS;
    let fits = warnings.iter().take_while(|warning| {
        let fits = warning.len() <= room;
        room = room.saturating_sub(warning.len());
        fits
    });
    let count = fits.count();
    warnings.truncate(count);
}

/// A warning as long as API servers pass it on, and fit for a terminal.
pub(super) fn fitted(text: &str) -> String {
    cut(&printable(text), WARNING)
}

/// A text without anything that a terminal would act on.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() })
        .collect()
}

/// A text within so many bytes, cut between characters.
pub(super) fn cut(text: &str, max: usize) -> String {
    const MARK: char = '…';
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max - MARK.len_utf8();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].chars().chain([MARK]).collect()
}
