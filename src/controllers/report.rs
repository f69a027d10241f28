//! What the plans found, put together: the status of approvals and policies, and the gauges over the fleet.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::ResourceExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Ctx, Shared,
    attempts::all_but_denied,
    memory::{Key, State},
    now,
};
use crate::{
    api::{
        ApprovedImage, ApprovedImageStatus, ImagePolicy, ImagePolicyStatus,
        annotation::RECONCILE_REQUESTED_AT,
        approved_image::{Standing as WireStanding, evidence::Evidence},
        condition::{from_api, to_api},
        convert::evidence_to_api,
        fit_status,
        image_policy::{NotPermitted, PolicyBare, PolicyWorkloads},
    },
    domain::{
        bare::Stray,
        condition::{Condition, READY, STALLED, Status, merge},
        ledger::{Record, Standing},
        plan::State as Found,
        policy::Mode,
    },
    telemetry::metrics::{
        Kind as KindLabel, Mode as ModeLabel, SourceState, Standing as StandingLabel, Suspendable,
        WorkloadState,
    },
};

/// Changes that come together are reported together.
const TOGETHER: Duration = Duration::from_millis(500);
/// Standings change with time alone, too.
const AT_LEAST: Duration = Duration::from_secs(30);
/// While workloads are being changed, reports wait; but no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is looked up for a report keeps everybody else waiting: between two of them is this many times as long, at least.
const SELDOM: u32 = 5;
/// How many workloads a policy's status names.
const NAMED: usize = 20;

/// Reports until the token is cancelled.
pub async fn run(ctx: Shared, stop: CancellationToken) {
    let mut woken = true;
    let mut took = Duration::ZERO;
    while !stop.is_cancelled() {
        if woken {
            sleep(TOGETHER.max(took * SELDOM)).await;
            let began = Instant::now();
            while !ctx.trail.is_calm() && began.elapsed() < PATIENCE {
                sleep(TOGETHER / 5).await;
            }
        }
        let news = ctx.memory.news();
        // From here on: what changes while this report is written belongs to the next.
        let notified = news.notified();
        took = report(&ctx).await;
        woken = tokio::select! {
            () = stop.cancelled() => return,
            woken = timeout(AT_LEAST, notified) => woken.is_ok(),
        };
    }
}

/// Answers with how long it looked things up.
async fn report(ctx: &Ctx) -> Duration {
    let (now, began) = (now(), Instant::now());
    let (approvals, policies) = {
        let memory = ctx.memory.read();
        gauges(ctx, &memory, now);
        (approval_statuses(ctx, &memory, now), policy_statuses(ctx, &memory, now))
    };
    let took = began.elapsed();
    stream::iter(approvals)
        .for_each_concurrent(8, |(key, status)| async move {
            written(
                ctx.cluster.report::<ApprovedImage>(&key.0, &key.1, &status).await,
                "ApprovedImage",
                &key,
            );
        })
        .await;
    stream::iter(policies)
        .for_each_concurrent(8, |(key, status)| async move {
            let patch = all_but_denied(&status);
            let answer = ctx.cluster.report_on::<ImagePolicy>(&key.0, &key.1, &patch, None).await;
            written(answer.map(drop), "ImagePolicy", &key);
        })
        .await;
    took
}

fn written(answer: Result<(), crate::adapters::cluster::Error>, kind: &str, key: &Key) {
    match answer {
        Ok(()) => {}
        Err(error) if error.code() == Some(404) => {}
        Err(error) => {
            tracing::warn!(kind, namespace = key.0, name = key.1, error = %error.explain(), "a status cannot be written");
        }
    }
}

/// The statuses of approvals that say something new.
fn approval_statuses(ctx: &Ctx, memory: &State, now: Timestamp) -> Vec<(Key, ApprovedImageStatus)> {
    let mut running: BTreeMap<&str, u32> = BTreeMap::new();
    for digest in memory.findings.values().flat_map(|finding| &finding.runs) {
        *running.entry(digest.as_str()).or_default() += 1;
    }
    memory
        .approvals
        .iter()
        .filter_map(|(key, object)| {
            let workloads = running.get(object.spec.digest.as_str()).copied().unwrap_or(0);
            let (standing, condition) = approval_says(ctx, memory, object, workloads, now);
            let old = object.status.clone().unwrap_or_default();
            let generation = object.metadata.generation.unwrap_or(0);
            let recorded: Vec<_> = old.conditions.iter().map(from_api).collect();
            let merged = merge(&recorded, &condition, generation, now);
            let status = fit_status::<ApprovedImage>(ApprovedImageStatus {
                observed_generation: Some(generation),
                conditions: merged.conditions.iter().map(to_api).collect(),
                last_handled_reconcile_at: object.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
                standing: Some(standing),
                workloads: Some(workloads),
                evidence: known(memory, object).or_else(|| old.evidence.clone()),
            });
            (status != old).then(|| (key.clone(), status))
        })
        .collect()
}

/// What is known of the image of an approval, if anybody looked.
fn known(memory: &State, object: &ApprovedImage) -> Option<Evidence> {
    let (repository, digest) = (object.spec.image.parse().ok()?, object.spec.digest.parse().ok()?);
    memory.evidence.of(&repository, &digest).map(evidence_to_api)
}

fn approval_says(
    ctx: &Ctx,
    memory: &State,
    object: &ApprovedImage,
    workloads: u32,
    now: Timestamp,
) -> (WireStanding, Vec<Condition>) {
    let record = match object.record(&ctx.root) {
        Ok(record) => record,
        Err(error) => {
            let message = error.to_string();
            return (
                WireStanding::Unlisted,
                vec![
                    Condition::new(READY, Status::False, "Invalid", message.clone()),
                    Condition::new(STALLED, Status::True, "Invalid", message),
                ],
            );
        }
    };
    let running = match workloads {
        0 => "no workload runs it".to_owned(),
        1 => "1 workload runs it".to_owned(),
        many => format!("{many} workloads run it"),
    };
    let (standing, reason, message) = match standing(memory, &record, now) {
        _ if record.forgotten => (
            WireStanding::Unlisted,
            "Forgotten",
            "its revocation was let go; it claims nothing any more".to_owned(),
        ),
        Standing::Approved => (WireStanding::Approved, "InForce", format!("in force; {running}")),
        Standing::Revoked(why) => (WireStanding::Revoked, "Revoked", format!("revoked: {why}; {running}")),
        Standing::Expired(at) => (WireStanding::Expired, "Expired", format!("ended at {at}; {running}")),
        Standing::Unlisted => {
            let message = format!("not in force before {}; {running}", record.approved_at);
            (WireStanding::Unlisted, "NotYetInForce", message)
        }
    };
    (standing, vec![Condition::new(READY, Status::True, reason, message)])
}

/// What the ledger says of a record's own image, where it counts.
fn standing(memory: &State, record: &Record, now: Timestamp) -> Standing {
    let image = crate::domain::image::PinnedImage {
        repository: record.repository.clone(),
        tag: record.tag.clone(),
        digest: record.digest.clone(),
    };
    if let Some(why) = memory.ledger.revocation(&image.digest, &record.key.namespace) {
        return Standing::Revoked(why);
    }
    match record.expires_at {
        _ if record.approved_at > now => Standing::Unlisted,
        Some(end) if end <= now => Standing::Expired(end),
        Some(_) | None => Standing::Approved,
    }
}

/// The statuses of policies that say something new.
fn policy_statuses(ctx: &Ctx, memory: &State, now: Timestamp) -> Vec<(Key, ImagePolicyStatus)> {
    let mut counts = policy_counts(memory);
    memory
        .policy_objects
        .iter()
        .filter_map(|(key, object)| {
            let Counts { workloads, mut not_permitted } = counts.remove(key).unwrap_or_default();
            let bare = memory.bare.by_policy.get(key);
            not_permitted.extend(bare.into_iter().flat_map(|of| &of.named).map(stray));
            let old = object.status.clone().unwrap_or_default();
            let generation = object.metadata.generation.unwrap_or(0);
            let recorded: Vec<_> = old.conditions.iter().map(from_api).collect();
            let said = policy_says(ctx, memory, key, object, &workloads);
            let merged = merge(&recorded, &said, generation, now);
            let status = fit_status::<ImagePolicy>(ImagePolicyStatus {
                observed_generation: Some(generation),
                conditions: merged.conditions.iter().map(to_api).collect(),
                last_handled_reconcile_at: object.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
                workloads: Some(workloads),
                bare: bare.map(|of| PolicyBare { governed: of.governed, not_permitted: of.not_permitted }),
                not_permitted,
                denied: old.denied.clone(),
            });
            (status != old).then(|| (key.clone(), status))
        })
        .collect()
}

fn stray(found: &Stray) -> NotPermitted {
    NotPermitted {
        namespace: found.namespace.clone(),
        kind: found.kind.to_owned(),
        name: found.name.clone(),
        container: found.container.to_string(),
        image: found.image.clone(),
        reason: found.reason.message.clone(),
    }
}

/// What the plans found for one policy.
#[derive(Default)]
struct Counts {
    workloads: PolicyWorkloads,
    not_permitted: Vec<NotPermitted>,
}

/// By policy; those that cover nothing are absent.
fn policy_counts(memory: &State) -> BTreeMap<&Key, Counts> {
    let mut counts: BTreeMap<&Key, Counts> = BTreeMap::new();
    for (id, finding) in &memory.findings {
        for (key, against) in &finding.by_policy {
            let Counts { workloads, not_permitted } = counts.entry(key).or_default();
            workloads.governed += 1;
            if against.is_empty() {
                workloads.permitted += 1;
                continue;
            }
            workloads.not_permitted += 1;
            let room = NAMED.saturating_sub(not_permitted.len());
            not_permitted.extend(against.iter().take(room).map(|(container, image, reason)| NotPermitted {
                namespace: id.namespace.clone(),
                kind: id.kind.kind.to_owned(),
                name: id.name.clone(),
                container: container.to_string(),
                image: image.clone(),
                reason: reason.message.clone(),
            }));
        }
    }
    counts
}

fn policy_says(
    ctx: &Ctx,
    memory: &State,
    key: &Key,
    object: &Arc<ImagePolicy>,
    workloads: &PolicyWorkloads,
) -> Vec<Condition> {
    if let Some(why) = memory.invalid.get(&("ImagePolicy", key.clone())) {
        let counts = if memory.policies.contains(key) { "; the last readable version counts" } else { "" };
        let message = format!("{why}{counts}");
        return vec![
            Condition::new(READY, Status::False, "Invalid", message.clone()),
            Condition::new(STALLED, Status::True, "Invalid", message),
        ];
    }
    let root_only = if key.0 == ctx.root { Vec::new() } else { object.root_only_fields() };
    if !root_only.is_empty() {
        let message = format!(
            "{} count only in the namespace {}; the rest of the policy counts",
            root_only.join(", "),
            ctx.root
        );
        return vec![Condition::new(READY, Status::False, "RootOnlyFields", message)];
    }
    let found =
        format!("{} workloads governed, {} not permitted", workloads.governed, workloads.not_permitted);
    let mut said = Vec::new();
    if object.spec.suspend {
        let message = format!("suspended, only reports: {found}");
        said.push(Condition::new("Suspended", Status::True, "Suspended", message.clone()));
        said.push(Condition::new(READY, Status::True, "Suspended", message));
    } else {
        said.push(Condition::new(READY, Status::True, "Judging", found));
    }
    if let Some(why) = &memory.paused {
        said.push(Condition::new("Paused", Status::True, "Paused", format!("nothing is moved: {why}")));
    }
    if let Some(why) = &memory.unguarded {
        let message = format!("what is created or changed is not judged before it is stored: {why}");
        said.push(Condition::new("Unguarded", Status::True, "NotRegistered", message));
    }
    said
}

fn gauges(ctx: &Ctx, memory: &State, now: Timestamp) {
    let metrics = &ctx.metrics;
    let count = |state: WorkloadState| {
        let of = |finding: &&super::memory::Finding| {
            let found = match finding.said.state {
                Some(Found::Permitted) if !finding.said.fallback => WorkloadState::NoFallback,
                Some(Found::Permitted) => WorkloadState::Permitted,
                Some(Found::Held | Found::Paused) => WorkloadState::Held,
                Some(Found::NotPermitted | Found::NotCreated) => WorkloadState::NotPermitted,
                Some(Found::NoSafeRelease) => WorkloadState::NoSafeRelease,
                Some(Found::Ungoverned) => WorkloadState::Ungoverned,
                Some(Found::Unreadable) => WorkloadState::Unreadable,
                Some(Found::Gone) | None => return false,
            };
            found == state
        };
        memory.findings.values().filter(of).count()
    };
    for state in WorkloadState::ALL {
        metrics.set_workloads(*state, count(*state));
    }
    for label in StandingLabel::ALL {
        let is = |record: &&Record| {
            let label_of = match standing(memory, record, now) {
                _ if record.forgotten => StandingLabel::Unlisted,
                Standing::Approved => StandingLabel::Approved,
                Standing::Revoked(_) => StandingLabel::Revoked,
                Standing::Expired(_) => StandingLabel::Expired,
                Standing::Unlisted => StandingLabel::Unlisted,
            };
            label_of == *label
        };
        metrics.set_approvals(*label, memory.ledger.records().filter(is).count());
    }
    for (mode, label) in
        [(Mode::Enforce, ModeLabel::Enforce), (Mode::Warn, ModeLabel::Warn), (Mode::Audit, ModeLabel::Audit)]
    {
        metrics.set_policies(label, memory.policies.iter().filter(|policy| policy.mode == mode).count());
    }
    let suspended_policies = memory.policy_objects.values().filter(|policy| policy.spec.suspend).count();
    metrics.set_suspended(Suspendable::ImagePolicy, suspended_policies);
    let suspended_sources = memory.sources.values().filter(|source| source.spec.suspend).count();
    metrics.set_suspended(Suspendable::GitSource, suspended_sources);
    metrics.set_paused(memory.paused.is_some());
    for (kind, label) in [
        ("ImagePolicy", KindLabel::ImagePolicy),
        ("ApprovedImage", KindLabel::ApprovedImage),
        ("GitSource", KindLabel::GitSource),
        ("ReleaseHistory", KindLabel::ReleaseHistory),
    ] {
        metrics.set_invalid_objects(label, memory.invalid.keys().filter(|(of, _)| *of == kind).count());
    }
    for label in SourceState::ALL {
        let is = |source: &&Arc<crate::api::GitSource>| {
            let says = |type_: &str, status: &str| {
                let conditions = source.status.iter().flat_map(|known| &known.conditions);
                conditions.into_iter().any(|condition| condition.type_ == type_ && condition.status == status)
            };
            let state = if source.spec.suspend {
                SourceState::Suspended
            } else if says("HeldBack", "True") {
                SourceState::HeldBack
            } else if says(READY, "True") {
                SourceState::Ready
            } else {
                SourceState::Failing
            };
            state == *label
        };
        metrics.set_sources(*label, memory.sources.values().filter(is).count());
    }
}
