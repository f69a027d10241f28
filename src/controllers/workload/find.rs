//! What the reports need of a plan.

use std::collections::{BTreeMap, BTreeSet};

use super::said;
use crate::{
    controllers::memory::{Finding, named},
    domain::{
        image::{Digest, ImageRef, same_reference},
        plan::{Plan, Wanted, World},
        policy::Judge,
        release::History,
        workload::{ContainerId, Images, images},
    },
};

/// What the reports need of a plan, so that they need not judge again.
pub(super) fn find(world: &World<'_>, plan: &Plan) -> Finding {
    let kind = world.id.kind;
    let live: Images =
        world.live.and_then(|live| kind.template_of(&live.object)).map(images).unwrap_or_default();
    let wanted: Images = match world.wanted {
        Wanted::Git(manifest) => kind.template_of(&manifest.object).map(images).unwrap_or_default(),
        Wanted::GitAway | Wanted::Elsewhere => live.clone(),
    };
    let history = plan.history.as_ref().unwrap_or(world.history);
    let releases = [history.present(), history.held()].into_iter().flatten();
    let known: Vec<String> = releases.flat_map(|release| release.images().into_values()).collect();
    let rejected = history.hold.iter().flat_map(|hold| &hold.rejected);
    let rejected: Vec<String> = rejected.clone().map(|rejected| rejected.reference.clone()).collect();
    let all = live.values().chain(wanted.values()).chain(&known).chain(&rejected).map(String::as_str);
    let (repositories, mut digests) = named(all);
    digests.extend(
        history.hold.iter().flat_map(|hold| &hold.rejected).filter_map(|rejected| rejected.digest.clone()),
    );
    let by_policy: BTreeMap<_, _> = world
        .judge
        .policies
        .iter()
        .filter(|policy| {
            let one = Judge { policies: std::slice::from_ref(policy), ..world.judge };
            one.governs(wanted.values().map(String::as_str))
        })
        .map(|policy| {
            let against = wanted.iter().flat_map(|(container, image)| {
                let judged = world.judge.reported(image, &policy.key);
                judged
                    .against
                    .into_iter()
                    .map(|(_, reason)| (container.clone(), image.clone(), reason))
                    .collect::<Vec<_>>()
            });
            (policy.key.clone(), against.collect::<Vec<_>>())
        })
        .collect();
    Finding {
        said: said(plan),
        runs: runs(&live, world.history),
        repositories,
        digests,
        by_policy,
        problem: None,
    }
}

/// The digests that run: of a tag what it was let in as.
fn runs(live: &Images, history: &History) -> BTreeSet<Digest> {
    let digest = |(place, text): (&ContainerId, &String)| {
        let named = text.parse::<ImageRef>().ok()?.digest;
        let own = || history.present()?.images.get(place).filter(|own| same_reference(&own.wanted, text));
        named.or_else(|| own()?.digest())
    };
    live.iter().filter_map(digest).collect()
}
