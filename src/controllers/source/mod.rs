//! One git source: fetch, hold back what a person must see first, apply in order, prune.

mod apply;
mod claim;
pub mod content;
mod credentials;
mod earlier;
mod effect;
mod hold;
mod in_place;
pub mod inventory;
mod overlay;
mod place;
mod prune;
mod publish;
pub mod revocation;
mod status;
mod successor;
mod sync;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::ResourceExt;
use parking_lot::Mutex;

use super::{
    Ctx, Shared,
    memory::Key,
    queue::{Next, backoff},
};
use crate::{
    adapters::{
        chain, cluster,
        git::{self, CommitId, Reference, Remote},
    },
    api::GitSource,
    domain::{
        destination::Destinations,
        inventory::Inventory,
        reach::{Asked, Reach, Refusal, reach},
        workload::WorkloadId,
    },
    telemetry::metrics::{Controller, Stage as StageLabel},
};
use apply::Memo;
pub use apply::labelled;
use content::{Content, Files};
use earlier::{Earlier, Wanted};
pub use publish::recover;
use publish::unpublish;
use status::{Held, Verdict};
use sync::sync;

/// How long one look at a repository takes at most, also where an older schema let more through.
const LONGEST: Duration = Duration::from_mins(10);

/// What is kept of each source between syncs.
#[derive(Default)]
pub struct Sources {
    kept: Mutex<BTreeMap<Key, Kept>>,
    /// Held by whoever builds overlays of earlier commits: one source after the other.
    looking_back: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Kept {
    files: Files,
    memo: Memo,
    /// What is stored as its inventory.
    stored: Option<Arc<Inventory>>,
    /// The commit that its workloads stand for.
    published: Option<CommitId>,
    /// How often in a row it was to be tried again soon.
    tries: u32,
}

impl Sources {
    /// Takes over an inventory as it was stored before this process.
    pub fn loaded(&self, key: &Key, inventory: &Arc<Inventory>) {
        self.kept.lock().entry(key.clone()).or_default().stored = Some(Arc::clone(inventory));
    }
}

/// What went wrong with a sync as a whole.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Git(git::Error),
    #[error(transparent)]
    Cluster(cluster::Error),
    #[error(transparent)]
    Secret(credentials::Error),
    #[error("{0}")]
    NotYet(String),
}

/// A sync that failed, and what became of its head before.
#[derive(Debug)]
struct Failure {
    error: Error,
    held: Held,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, held: Held::AsBefore }
    }
}

/// Looks at one source.
pub async fn look(ctx: Shared, key: Key) -> Next {
    let _timer = ctx.metrics.time_reconcile(Controller::Source);
    let Some(source) = ctx.memory.read().sources.get(&key).cloned() else {
        return gone(&ctx, &key).await;
    };
    if source.spec.suspend {
        unpublish(&ctx, &key);
        return report(&ctx, &source, &Verdict::suspended()).await;
    }
    let reach = match reach_of(&ctx, &source) {
        Ok(reach) => reach,
        Err(refusal) => {
            unpublish(&ctx, &key);
            return report(&ctx, &source, &Verdict::refused(refusal)).await;
        }
    };
    let _sync = ctx.metrics.time_source_sync();
    let interval = Duration::from_secs(source.spec.interval.as_secs());
    let (verdict, next) = match sync(&ctx, &key, &source, &reach).await {
        Ok(verdict) => {
            let next = Next::After(pause(&ctx, &key, &verdict, interval));
            (verdict, next)
        }
        Err(failure) => {
            let stage = match &failure.error {
                Error::Git(_) | Error::Secret(_) => StageLabel::Observe,
                Error::Cluster(_) | Error::NotYet(_) => StageLabel::Act,
            };
            ctx.metrics.reconcile_error(Controller::Source, stage);
            // What was read before goes on to hold; after a restart it is read from the mirror.
            recover(&ctx, &source).await;
            let next = match &failure.error {
                Error::Git(error) if !error.retry() => Next::After(interval),
                Error::Git(_) | Error::Cluster(_) | Error::Secret(_) | Error::NotYet(_) => Next::Retry,
            };
            (Verdict::failed(failure), next)
        }
    };
    ctx.metrics.source_sync(verdict.outcome);
    match report(&ctx, &source, &verdict).await {
        Next::Retry => Next::Retry,
        Next::Wait | Next::After(_) => next,
    }
}

/// How long to wait after a sync that came to a verdict: no longer than the interval, and ever less often where it does not
/// help.
fn pause(ctx: &Ctx, key: &Key, verdict: &Verdict, interval: Duration) -> Duration {
    let mut all = ctx.source_state.kept.lock();
    let kept = all.entry(key.clone()).or_default();
    if !verdict.retry {
        kept.tries = 0;
        return interval;
    }
    let soon = backoff(kept.tries, 0);
    kept.tries += 1;
    soon.min(interval)
}

async fn report(ctx: &Ctx, source: &GitSource, verdict: &Verdict) -> Next {
    match status::report(ctx, source, verdict).await {
        Ok(()) => Next::Wait,
        Err(error) => {
            tracing::warn!(source = source.name_any(), error = %error.explain(), "the status of a source cannot be written");
            Next::Retry
        }
    }
}

/// Reads what a source's mirror holds.
struct Reading<'a> {
    ctx: &'a Shared,
    name: &'a str,
    remote: &'a Remote,
    paths: &'a [String],
    files: &'a Files,
    reach: &'a Reach,
}

impl Reading<'_> {
    /// The cluster as the source reaches it.
    fn cluster(&self, key: &Key) -> cluster::Cluster {
        place::cluster(self.ctx, key, self.reach)
    }

    async fn content(&self, commit: CommitId) -> Result<Arc<Content>, Error> {
        let (files, paths) = (self.files.clone(), self.paths.to_vec());
        let kustomize = self.ctx.kustomize.clone();
        let read = move |mirror: &git::Mirror| files.read(mirror, commit, &paths, &kustomize);
        let content = self.ctx.mirrors.read(self.name, self.remote, read).await.map_err(Error::Git)?;
        Ok(place::placed(self.ctx, self.reach, content).await)
    }

    async fn descends(
        &self,
        head: CommitId,
        ancestor: CommitId,
        timeout: Duration,
    ) -> Result<bool, git::Error> {
        self.ctx.mirrors.descends(self.name, self.remote, head, ancestor, timeout).await
    }

    async fn earlier(&self, head: CommitId, wanted: Wanted) -> Result<Earlier, git::Error> {
        let paths = self.paths.to_vec();
        let read = move |mirror: &git::Mirror| earlier::of_manifests(mirror, head, &paths, &wanted);
        self.ctx.mirrors.read(self.name, self.remote, read).await
    }
}

/// A source that was deleted deletes nothing; its workloads belong to whoever changes them next.
async fn gone(ctx: &Ctx, key: &Key) -> Next {
    let freed: Vec<WorkloadId> = {
        let mut memory = ctx.memory.write();
        memory.inventories.remove(key);
        let freed: Vec<WorkloadId> = memory
            .desired
            .iter()
            .filter(|(_, desired)| desired.source == *key)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &freed {
            memory.desired.remove(id);
        }
        freed
    };
    for id in freed {
        ctx.workloads.now(id);
    }
    ctx.source_state.kept.lock().remove(key);
    if let Err(error) = inventory::remove(&ctx.cluster, &ctx.root, key).await {
        tracing::warn!(source = key.1, error = %error.explain(), "the inventory of a deleted source cannot be removed");
        return Next::Retry;
    }
    if let Err(error) = ctx.mirrors.remove(&mirror_key(key)).await {
        tracing::warn!(
            source = key.1,
            error = chain(&error),
            "the mirror of a deleted source cannot be removed"
        );
    }
    Next::Wait
}

fn kept(ctx: &Ctx, key: &Key) -> Kept {
    ctx.source_state.kept.lock().entry(key.clone()).or_default().clone()
}

fn mirror_key(key: &Key) -> String {
    format!("{}/{}", key.0, key.1)
}

/// How long one request to its repository may take.
fn time_for(source: &GitSource) -> Duration {
    Duration::from_secs(source.spec.timeout.as_secs()).min(LONGEST)
}

/// How far a source reaches, or why it may not apply anything.
fn reach_of(ctx: &Ctx, source: &GitSource) -> Result<Reach, Refusal> {
    let namespace = source.namespace().unwrap_or_default();
    let asked = Asked {
        namespace: &namespace,
        url: &source.spec.url,
        account: source.spec.service_account_name.as_deref(),
        target: source.spec.target_namespace.as_deref(),
    };
    reach(&asked, &ctx.root, ctx.applier.as_deref())
}

/// Without credentials: enough to read what was fetched before.
fn remote(ctx: &Ctx, source: &GitSource) -> Remote {
    let named = &source.spec.reference;
    let reference = match (&named.branch, &named.tag, &named.semver, &named.commit) {
        (Some(branch), _, _, _) => Reference::Branch(branch.clone()),
        (None, Some(tag), _, _) => Reference::Tag(tag.clone()),
        (None, None, Some(range), _) => Reference::Semver(range.clone()),
        (None, None, None, commit) => Reference::Commit(commit.clone().unwrap_or_default()),
    };
    let of_root = source.namespace().as_ref() == Some(&ctx.root);
    let destinations = Destinations::new(of_root, Arc::clone(&ctx.private_git_hosts));
    Remote { url: source.spec.url.clone(), reference, credentials: None, destinations }
}
