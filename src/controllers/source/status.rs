//! What a source says of itself.

use kube::{Resource, ResourceExt};
use kube_runtime::events::EventType;

use super::{Error, content::Problem};
use crate::{
    adapters::{chain, cluster, git::Head},
    api::{
        GitSource, GitSourceStatus,
        annotation::{ACCEPT_COMMIT, RECONCILE_REQUESTED_AT},
        condition::{from_api, to_api},
        fit_status,
        git_source::{HeldBack as WireHeldBack, SourceProblem},
    },
    controllers::{Ctx, now},
    domain::{
        condition::{Condition, READY, STALLED, Status, merge},
        guard::HeldBack,
    },
    telemetry::metrics::SyncOutcome,
};

/// How many problems are listed; all are counted.
const LISTED: usize = 50;

/// What a look at a source came to.
pub(super) struct Verdict {
    pub outcome: SyncOutcome,
    /// Try again soon, not only after the interval.
    pub retry: bool,
    conditions: Vec<Condition>,
    /// The commit that was looked at.
    attempted: Option<String>,
    /// What was applied; absent: nothing new.
    applied: Option<Applied>,
    held: Option<WireHeldBack>,
    problems: Vec<Problem>,
}

struct Applied {
    commit: String,
    objects: usize,
    workloads: usize,
    skipped: usize,
}

impl Verdict {
    pub fn suspended() -> Self {
        let message = "suspended: nothing is fetched or applied; rollbacks and holds go on";
        Self::silent(vec![
            Condition::new(READY, Status::False, "Suspended", message),
            Condition::new("Suspended", Status::True, "Suspended", message),
        ])
    }

    pub fn outside_root(root: &str) -> Self {
        let message = format!(
            "sources count in the namespace {root} only: in this version they apply with the operator's own rights; move it there"
        );
        Self::silent(vec![
            Condition::new(READY, Status::False, "OutsideRootNamespace", message.clone()),
            Condition::new(STALLED, Status::True, "OutsideRootNamespace", message),
        ])
    }

    fn silent(conditions: Vec<Condition>) -> Self {
        Self {
            outcome: SyncOutcome::Unchanged,
            retry: false,
            conditions,
            attempted: None,
            applied: None,
            held: None,
            problems: Vec::new(),
        }
    }

    pub fn failed(error: &Error) -> Self {
        let (reason, message) = match error {
            Error::Git(error) => (error.reason(), chain(error)),
            Error::Cluster(error) => ("ApplyFailed", error.explain()),
            Error::Secret(error) => (error.reason(), chain(error)),
            Error::NotYet(message) => ("NotYet", message.clone()),
        };
        Self {
            outcome: SyncOutcome::Failed,
            retry: true,
            ..Self::silent(vec![Condition::new(READY, Status::False, reason, message)])
        }
    }

    pub fn held(head: &Head, held: HeldBack, problems: Vec<Problem>) -> Self {
        let commit = head.commit.to_string();
        let message = format!(
            "commit {} is held back: {}. Its revocations count. To apply it: set the annotation {ACCEPT_COMMIT}: {commit}",
            short(&commit),
            held.message
        );
        Self {
            outcome: SyncOutcome::HeldBack,
            retry: false,
            conditions: vec![
                Condition::new(READY, Status::False, held.reason, message.clone()),
                Condition::new("HeldBack", Status::True, held.reason, message),
            ],
            attempted: Some(commit.clone()),
            applied: None,
            held: Some(WireHeldBack {
                commit,
                reason: held.reason.to_owned(),
                message: held.message,
                withdrawals: u32::try_from(held.withdrawals).unwrap_or(u32::MAX),
                prunes: u32::try_from(held.prunes).unwrap_or(u32::MAX),
            }),
            problems,
        }
    }

    pub fn applied(
        head: &Head,
        objects: usize,
        workloads: usize,
        skipped: usize,
        problems: Vec<Problem>,
        changed: bool,
    ) -> Self {
        let commit = head.commit.to_string();
        let ready = if let Some(first) = problems.first() {
            let message =
                format!("commit {}: {} problems; the first: {first}", short(&commit), problems.len());
            Condition::new(READY, Status::False, "ProblemsFound", message)
        } else {
            let message = format!("applied {}: {objects} objects, {workloads} workloads", short(&commit));
            Condition::new(READY, Status::True, "Applied", message)
        };
        Self {
            outcome: if changed { SyncOutcome::Applied } else { SyncOutcome::Unchanged },
            retry: false,
            conditions: vec![ready],
            attempted: Some(commit.clone()),
            applied: Some(Applied { commit, objects, workloads, skipped }),
            held: None,
            problems,
        }
    }
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Writes the status, if it says anything new; an event goes with every change of what Ready says.
pub(super) async fn report(ctx: &Ctx, source: &GitSource, verdict: &Verdict) -> Result<(), cluster::Error> {
    let key = (source.namespace().unwrap_or_default(), source.name_any());
    let now_known = ctx.memory.read().sources.get(&key).and_then(|known| known.status.clone());
    let old = now_known.or_else(|| source.status.clone()).unwrap_or_default();
    let recorded: Vec<_> = old.conditions.iter().map(from_api).collect();
    let generation = source.metadata.generation.unwrap_or(0);
    let merged = merge(&recorded, &verdict.conditions, generation, now());
    let mut status = GitSourceStatus {
        observed_generation: Some(generation),
        conditions: merged.conditions.iter().map(to_api).collect(),
        last_handled_reconcile_at: source.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        held_back: verdict.held.clone(),
        ..old.clone()
    };
    if let Some(attempted) = &verdict.attempted {
        status.last_attempted_commit = Some(attempted.clone());
        status.problem_count = Some(u32::try_from(verdict.problems.len()).unwrap_or(u32::MAX));
        status.problems = verdict.problems.iter().take(LISTED).map(wire).collect();
    }
    if let Some(applied) = &verdict.applied {
        let count = |count: usize| Some(u32::try_from(count).unwrap_or(u32::MAX));
        status.last_applied_commit = Some(applied.commit.clone());
        status.objects = count(applied.objects);
        status.workloads = count(applied.workloads);
        status.skipped_documents = count(applied.skipped);
    }
    let status = fit_status::<GitSource>(status);
    if status == old {
        return Ok(());
    }
    ctx.cluster.report::<GitSource, _>(&key.0, &key.1, &status).await?;
    let ready = |status: &GitSourceStatus| {
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        ready.map(|ready| (ready.status.clone(), ready.reason.clone(), ready.message.clone()))
    };
    if let (Some((state, reason, message)), true) = (ready(&status), ready(&status) != ready(&old)) {
        let type_ = if state == "True" { EventType::Normal } else { EventType::Warning };
        tracing::info!(source = key.1, reason, message, "source");
        ctx.trail.event(source.object_ref(&()), type_, &reason, "Sync", &message);
    }
    // The watch may be late; the next sync must not take the old status for the present one.
    if let Some(known) = ctx.memory.write().sources.get_mut(&key) {
        std::sync::Arc::make_mut(known).status = Some(status);
    }
    Ok(())
}

fn wire(problem: &Problem) -> SourceProblem {
    let number = |number: Option<usize>| number.and_then(|number| u32::try_from(number).ok());
    SourceProblem {
        path: problem.path.clone(),
        line: number(problem.line),
        document: number(problem.document),
        object: problem.object.clone(),
        message: problem.message.clone(),
    }
}
