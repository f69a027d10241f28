//! What a source says of itself.

use kube::{Resource, ResourceExt};
use kube_runtime::events::EventType;

use super::{Error, Failure, apply::Outcome, content::Problem, hold::annotated};
use crate::{
    adapters::{
        chain, cluster,
        git::{CommitId, Head},
    },
    api::{
        GitSource, GitSourceStatus,
        annotation::{ACCEPT_COMMIT, RECONCILE_REQUESTED_AT},
        condition::{from_api, to_api},
        fit_status,
        git_source::{HeldBack as WireHeldBack, SourceProblem},
    },
    controllers::{
        Ctx,
        memory::Key,
        now,
        receive::{self, Listening},
    },
    domain::{
        condition::{Condition, READY, STALLED, Status, merge},
        dependency::Wait,
        guard::HeldBack,
        reach::Refusal,
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
    /// The tag by which it was chosen.
    tag: Option<String>,
    /// What was applied; absent: nothing new.
    applied: Option<Applied>,
    held: Held,
    /// The acceptance that was acted on.
    accepted: Option<CommitId>,
    problems: Vec<Problem>,
}

/// Whether the head is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Nothing new is known of it.
    AsBefore,
    /// It is not.
    Free,
    /// It is.
    Back(WireHeldBack),
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

    pub fn refused(refusal: Refusal) -> Self {
        let Refusal { reason, message } = refusal;
        Self::silent(vec![
            Condition::new(READY, Status::False, reason, message.clone()),
            Condition::new(STALLED, Status::True, reason, message),
        ])
    }

    /// Other sources come first. Its revocations were applied.
    pub fn waiting(wait: &Wait, outcome: Outcome) -> Self {
        let message = format!("{wait}; its revocations count");
        let mut conditions =
            vec![Condition::new(READY, Status::False, "DependencyNotReady", message.clone())];
        if matches!(wait, Wait::Cycle(_)) {
            conditions.push(Condition::new(STALLED, Status::True, "DependencyCycle", message));
        }
        Self {
            outcome: SyncOutcome::Unchanged,
            retry: outcome.retry,
            problems: outcome.problems,
            ..Self::silent(conditions)
        }
    }

    fn silent(conditions: Vec<Condition>) -> Self {
        Self {
            outcome: SyncOutcome::Unchanged,
            retry: false,
            conditions,
            attempted: None,
            tag: None,
            applied: None,
            held: Held::AsBefore,
            accepted: None,
            problems: Vec::new(),
        }
    }

    pub fn failed(failure: Failure) -> Self {
        let (reason, message) = match &failure.error {
            Error::Git(error) => (error.reason(), chain(error)),
            Error::Cluster(error) => ("ApplyFailed", error.explain()),
            Error::Secret(error) => (error.reason(), chain(error)),
            Error::NotYet(message) => ("NotYet", message.clone()),
        };
        Self {
            outcome: SyncOutcome::Failed,
            retry: true,
            held: failure.held,
            ..Self::silent(vec![Condition::new(READY, Status::False, reason, message)])
        }
    }

    pub fn held(head: &Head, held: HeldBack, outcome: Outcome) -> Self {
        let commit = head.commit.to_string();
        Self {
            outcome: SyncOutcome::HeldBack,
            retry: outcome.retry,
            attempted: Some(commit.clone()),
            tag: head.tag.clone(),
            held: Held::Back(WireHeldBack {
                commit,
                reason: held.reason.to_owned(),
                message: held.message,
                withdrawals: u32::try_from(held.withdrawals).unwrap_or(u32::MAX),
                prunes: u32::try_from(held.prunes).unwrap_or(u32::MAX),
            }),
            problems: outcome.problems,
            ..Self::silent(Vec::new())
        }
    }

    pub fn applied(head: &Head, objects: usize, workloads: usize, skipped: usize, outcome: Outcome) -> Self {
        let (commit, problems) = (head.commit.to_string(), outcome.problems);
        let what = match &head.tag {
            Some(tag) => format!("{tag} ({})", short(&commit)),
            None => short(&commit).to_owned(),
        };
        let ready = if let Some(first) = problems.first() {
            let message = format!("commit {what}: {} problems; the first: {first}", problems.len());
            Condition::new(READY, Status::False, "ProblemsFound", message)
        } else {
            let message = format!("applied {what}: {objects} objects, {workloads} workloads");
            Condition::new(READY, Status::True, "Applied", message)
        };
        Self {
            outcome: if outcome.written > 0 { SyncOutcome::Applied } else { SyncOutcome::Unchanged },
            retry: outcome.retry,
            attempted: Some(commit.clone()),
            tag: head.tag.clone(),
            applied: Some(Applied { commit, objects, workloads, skipped }),
            held: Held::Free,
            problems,
            ..Self::silent(vec![ready])
        }
    }

    /// The same, where so many objects were written before.
    pub fn after_writing(mut self, objects: usize) -> Self {
        if objects > 0 && matches!(self.outcome, SyncOutcome::Unchanged) {
            self.outcome = SyncOutcome::Applied;
        }
        self
    }

    /// The same, by the word of a person.
    pub fn acting_on(self, accepted: Option<CommitId>) -> Self {
        Self { accepted, ..self }
    }

    /// What stands of the head, given what stood before.
    fn held_back(&self, before: &GitSourceStatus) -> Option<WireHeldBack> {
        match &self.held {
            Held::AsBefore => before.held_back.clone(),
            Held::Free => None,
            Held::Back(held) => Some(held.clone()),
        }
    }

    fn conditions(&self, source: &GitSource, held: Option<&WireHeldBack>) -> Vec<Condition> {
        let Some(held) = held else { return self.conditions.clone() };
        let message = held_message(source, held);
        let mut conditions =
            vec![Condition::new("HeldBack", Status::True, held.reason.as_str(), message.clone())];
        if matches!(self.held, Held::Back(_)) {
            conditions.push(Condition::new(READY, Status::False, held.reason.as_str(), message));
        }
        conditions.extend(self.conditions.iter().cloned());
        conditions
    }
}

fn held_message(source: &GitSource, held: &WireHeldBack) -> String {
    let commit = &held.commit;
    let spent = annotated(source).is_some_and(|said| said.to_string() == *commit);
    let anew = if spent {
        "remove the annotation, which was acted on before, and set it again:"
    } else {
        "set the annotation"
    };
    format!(
        "commit {} is held back: {}. Its revocations count. To apply it: {anew} {ACCEPT_COMMIT}: {commit}",
        short(commit),
        held.message
    )
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
    let held = verdict.held_back(&old);
    let mut said = verdict.conditions(source, held.as_ref());
    said.extend(receiver(ctx, source, &key));
    let merged = merge(&recorded, &said, generation, now());
    let accepted = verdict.accepted.map(|commit| commit.to_string()).or_else(|| old.accepted_commit.clone());
    let mut status = GitSourceStatus {
        observed_generation: Some(generation),
        conditions: merged.conditions.iter().map(to_api).collect(),
        last_handled_reconcile_at: source.annotations().get(RECONCILE_REQUESTED_AT).cloned(),
        accepted_commit: accepted.filter(|_| source.annotations().contains_key(ACCEPT_COMMIT)),
        held_back: held,
        ..old.clone()
    };
    if let Some(attempted) = &verdict.attempted {
        status.last_attempted_commit = Some(attempted.clone());
        status.last_attempted_tag.clone_from(&verdict.tag);
        status.problem_count = Some(u32::try_from(verdict.problems.len()).unwrap_or(u32::MAX));
        status.problems = verdict.problems.iter().take(LISTED).map(wire).collect();
    }
    if let Some(applied) = &verdict.applied {
        let count = |count: usize| Some(u32::try_from(count).unwrap_or(u32::MAX));
        status.last_applied_commit = Some(applied.commit.clone());
        status.last_applied_tag.clone_from(&verdict.tag);
        status.objects = count(applied.objects);
        status.workloads = count(applied.workloads);
        status.skipped_documents = count(applied.skipped);
    }
    let status = fit_status::<GitSource>(status);
    if status == old {
        return Ok(());
    }
    ctx.cluster.report::<GitSource>(&key.0, &key.1, &status).await?;
    let ready = |status: &GitSourceStatus| {
        let ready = status.conditions.iter().find(|condition| condition.type_ == READY);
        ready.map(|ready| (ready.status.clone(), ready.reason.clone(), ready.message.clone()))
    };
    if let (Some((state, reason, message)), true) = (ready(&status), ready(&status) != ready(&old)) {
        let type_ = if state == "True" { EventType::Normal } else { EventType::Warning };
        tracing::info!(source = key.1, reason, message, "source");
        ctx.trail.event(source.object_ref(&()), type_, &reason, "Sync", &message);
    }
    let is_ready = |status: &GitSourceStatus| ready(status).is_some_and(|(state, ..)| state == "True");
    if is_ready(&status) && !is_ready(&old) {
        wake_dependents(ctx, &key);
    }
    // The watch may be late; the next sync must not take the old status for the present one.
    if let Some(known) = ctx.memory.write().sources.get_mut(&key) {
        std::sync::Arc::make_mut(known).status = Some(status);
    }
    Ok(())
}

/// Sources that wait for this one are looked at.
fn wake_dependents(ctx: &Ctx, key: &Key) {
    let memory = ctx.memory.read();
    let waits = |source: &GitSource| source.spec.depends_on.iter().any(|other| other.name == key.1);
    for (other, _) in memory.sources.iter().filter(|(other, source)| other.0 == key.0 && waits(source)) {
        ctx.sources.after(other.clone(), std::time::Duration::from_millis(50));
    }
}

/// Whether pushes to the source are received, and where; said only of one that is to receive them.
fn receiver(ctx: &Ctx, source: &GitSource, key: &Key) -> Option<Condition> {
    source.spec.receiver.as_ref()?;
    Some(match ctx.receivers.state(key) {
        Listening::Ready => {
            let message = format!("pushes are received at {}", receive::path(key));
            Condition::new("Receiver", Status::True, "Listening", message)
        }
        Listening::Wrong(why) => Condition::new("Receiver", Status::False, "TokenUnusable", why),
        Listening::Off => {
            let message = "the operator receives no pushes: start it with --receiver-addr";
            Condition::new("Receiver", Status::False, "NotServed", message)
        }
    })
}

/// Notes, before workloads are handed over, of which commit they are: what is begun is gone on with after a restart.
pub(super) async fn note_published(
    ctx: &Ctx,
    source: &GitSource,
    commit: CommitId,
) -> Result<(), cluster::Error> {
    let key = (source.namespace().unwrap_or_default(), source.name_any());
    let known = ctx.memory.read().sources.get(&key).and_then(|known| known.status.clone());
    let commit = commit.to_string();
    let mut status = known.or_else(|| source.status.clone()).unwrap_or_default();
    if status.published_commit.as_ref() == Some(&commit) {
        return Ok(());
    }
    status.published_commit = Some(commit);
    ctx.cluster.report::<GitSource>(&key.0, &key.1, &status).await?;
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
