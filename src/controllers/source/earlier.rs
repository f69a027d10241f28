//! What a source's git log says of workloads that have nothing else to go back to.
//!
//! Plain manifests are read while the source is. An overlay has to be built for every commit that changed it: that goes on beside
//! the syncs, one source after the other and within a bound, so that nothing that is applied or revoked waits for it. What is
//! found comes late, which does no harm: until then a workload has nothing to go back to, as it would have without.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    Reading,
    content::{File, Item, manifest_of, read_file, workload_id},
    overlay::{self, Past},
};
use crate::{
    adapters::{
        chain,
        git::{self, CommitId, Mirror, Remote},
        kustomize::Kustomize,
    },
    controllers::{Ctx, Shared, memory::Key},
    domain::{
        packed::Packed,
        plan::Manifest,
        reach::{Place, Reach},
        workload::WorkloadId,
    },
};

/// How far back the log is read.
const COMMITS: usize = 50;
/// How many earlier versions of one workload are kept, and how often one overlay is built for them.
const VERSIONS: usize = 8;
/// How long all builds for one source may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Earlier versions, the newest first.
pub(super) type Earlier = BTreeMap<WorkloadId, Vec<Manifest<Packed>>>;

/// The workloads that are asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub of: BTreeSet<WorkloadId>,
    /// The source may put them elsewhere than their manifests say.
    pub reach: Reach,
}

impl Wanted {
    /// Takes what a file says of them, as it stood before a commit.
    fn take(&self, found: &mut Earlier, file: &File, (commit, time): (CommitId, Timestamp)) {
        for item in &file.items {
            let Some(id) = self.placed(item).filter(|id| self.of.contains(id)) else { continue };
            let versions = found.entry(id).or_default();
            if versions.len() < VERSIONS {
                versions.push(manifest_of(item, commit, time));
            }
        }
    }

    fn placed(&self, item: &Item) -> Option<WorkloadId> {
        let id = workload_id(&item.id)?;
        match self.reach.place(&id.namespace, true) {
            Place::AsSaid => Some(id),
            Place::Into(namespace) => Some(WorkloadId { namespace, ..id }),
            Place::Refused(_) => None,
        }
    }
}

/// Earlier versions of plain manifests. Blocks.
pub(super) fn of_manifests(
    mirror: &Mirror,
    head: CommitId,
    paths: &[String],
    wanted: &Wanted,
) -> Result<Earlier, git::Error> {
    let overlays = overlay::directories(&mirror.tree(head, paths)?);
    let mut found = Earlier::new();
    for entry in mirror.log(head, COMMITS, paths)? {
        for older in entry.changed.iter().filter(|older| !overlays.own(&older.path)) {
            let file = read_file(&older.path, &mirror.blob(older.blob)?);
            wanted.take(&mut found, &file, (entry.commit, entry.time));
        }
    }
    Ok(found)
}

/// Begins to look for earlier versions of workloads that overlays make. `overlays` are their directories.
pub(super) fn of_overlays(
    read: &Reading<'_>,
    key: &Key,
    head: CommitId,
    overlays: BTreeSet<String>,
    wanted: Wanted,
) {
    if overlays.is_empty() {
        return;
    }
    let (ctx, key, name) = (Arc::clone(read.ctx), key.clone(), read.name.to_owned());
    let remote = Remote { credentials: None, ..read.remote.clone() };
    let going_back = GoingBack {
        kustomize: ctx.kustomize.clone(),
        overlays: overlays.into_iter().map(|directory| (directory, Past::default())).collect(),
        wanted,
        found: Earlier::new(),
    };
    tokio::spawn(async move {
        let _turn = ctx.source_state.looking_back.lock().await;
        let found = going_back.through(&ctx, &name, &remote, head).await;
        tracing::debug!(
            source = key.1,
            workloads = found.len(),
            "earlier versions were built from the git log"
        );
        hand_over(&ctx, &key, found);
    });
}

/// A walk back through the log: from the newest commit on, so that what is found first is what was there last.
struct GoingBack {
    kustomize: Kustomize,
    overlays: BTreeMap<String, Past>,
    wanted: Wanted,
    found: Earlier,
}

impl GoingBack {
    async fn through(mut self, ctx: &Ctx, name: &str, remote: &Remote, head: CommitId) -> Earlier {
        let until = Instant::now() + PATIENCE;
        let listed = ctx.mirrors.read(name, remote, move |mirror| mirror.first_parents(head, COMMITS)).await;
        let commits = listed.unwrap_or_else(|error| {
            tracing::debug!(%head, error = chain(&error), "the git log cannot be read");
            Vec::new()
        });
        // What a commit changed is what stands in the one before it, which comes next.
        let mut changed_by = None;
        for (commit, time) in commits {
            let done = ctx.mirrors.read(name, remote, move |mirror| {
                let outcome = self.step(mirror, commit, changed_by, until);
                Ok((self, outcome))
            });
            match done.await {
                Ok((back, outcome)) => {
                    self = back;
                    if let Err(error) = outcome {
                        tracing::debug!(%commit, error = chain(&error), "an earlier commit cannot be read");
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(%commit, error = chain(&error), "an earlier commit cannot be read");
                    return Earlier::new();
                }
            }
            changed_by = Some((commit, time));
        }
        self.found
    }

    /// Builds what is different in a commit. Blocks.
    fn step(
        &mut self,
        mirror: &Mirror,
        commit: CommitId,
        changed_by: Option<(CommitId, Timestamp)>,
        until: Instant,
    ) -> Result<(), git::Error> {
        for (directory, past) in &mut self.overlays {
            if Instant::now() >= until || past.builds >= VERSIONS {
                continue;
            }
            let Some(changed_by) = changed_by else {
                past.note(mirror, commit, directory)?;
                continue;
            };
            if let Some(file) = past.build(&self.kustomize, (mirror, commit), directory)? {
                self.wanted.take(&mut self.found, &file, changed_by);
            }
        }
        Ok(())
    }
}

/// To the plans of those workloads that are still the source's.
fn hand_over(ctx: &Shared, key: &Key, found: Earlier) {
    for (id, earlier) in found {
        if let Some(desired) = ctx.memory.write().desired.get_mut(&id).filter(|known| known.source == *key) {
            desired.earlier = Arc::new(earlier);
        }
        ctx.workloads.now(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::workload::Kind;

    /// If this fails a source chooses what workloads of others ran, or has nothing to go back to where it is placed.
    #[test]
    fn earlier_versions_are_those_of_the_workloads_asked_for_where_the_source_puts_them() {
        let id = |namespace: &str| WorkloadId {
            kind: Kind::find("apps/v1", "Deployment").unwrap(),
            namespace: namespace.to_owned(),
            name: "cart".to_owned(),
        };
        let file = |place: &str| {
            let text = format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: cart{place}}}\n");
            read_file("cart.yaml", text.as_bytes())
        };
        let found = |of: &str, reach: &Reach, place: &str| {
            let wanted = Wanted { of: BTreeSet::from([id(of)]), reach: reach.clone() };
            let mut found = Earlier::new();
            for n in 0..VERSIONS + 2 {
                let commit: CommitId = format!("{n:040}").parse().unwrap();
                wanted.take(&mut found, &file(place), (commit, Timestamp::UNIX_EPOCH));
            }
            found.get(&id(of)).map_or(0, Vec::len)
        };
        let free = Reach { account: None, only: None, target: None };
        let target = Reach { target: Some("shop".to_owned()), ..free.clone() };
        let tenant = Reach { only: Some("shop".to_owned()), ..free.clone() };
        let said = ", namespace: shop";
        assert_eq!(found("shop", &free, said), VERSIONS);
        assert_eq!(found("other", &free, said), 0);
        assert_eq!(found("shop", &free, ""), 0);
        assert_eq!(found("shop", &target, ", namespace: other"), VERSIONS);
        assert_eq!(found("other", &target, ", namespace: other"), 0);
        assert_eq!(found("shop", &tenant, ""), VERSIONS);
        assert_eq!(found("other", &tenant, ", namespace: other"), 0);
    }
}
