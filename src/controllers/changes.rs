//! Who is to be looked at when something changes that many workloads may depend on.
#![allow(clippy::needless_for_each, reason = "one line")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Shared, memory::Key};
use crate::domain::{
    image::{Digest, Repository},
    workload::WorkloadId,
};

/// What changed since workloads were last told.
#[derive(Clone, Default)]
pub(super) struct Changes(Arc<(Mutex<Changed>, Notify)>);

#[derive(Default)]
pub(super) struct Changed {
    pub repositories: BTreeSet<Repository>,
    pub digests: BTreeSet<Digest>,
    pub namespaces: BTreeSet<String>,
    pub everything: bool,
}

impl Changes {
    pub fn note(&self, change: impl FnOnce(&mut Changed)) {
        change(&mut self.0.0.lock());
        self.0.1.notify_one();
    }

    pub fn everything(&self) {
        self.note(|changed| changed.everything = true);
    }
}

/// Sends workloads to be looked at when something changes that matters to them. Many changes at once (a sync that applies a
/// thousand approvals) are taken together.
pub(super) async fn spread(ctx: Shared, changes: Changes, stop: CancellationToken) {
    const TOGETHER: Duration = Duration::from_millis(20);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = changes.0.1.notified() => {}
        }
        let changed = std::mem::take(&mut *changes.0.0.lock());
        let ids: Vec<WorkloadId> = {
            let memory = ctx.memory.read();
            if changed.everything {
                memory.workloads().into_iter().collect()
            } else {
                let mut ids = memory.touched(&changed.repositories, &changed.digests);
                if !changed.namespaces.is_empty() {
                    ids.extend(
                        memory
                            .workloads()
                            .into_iter()
                            .filter(|id| changed.namespaces.contains(&id.namespace)),
                    );
                }
                ids
            }
        };
        for id in ids {
            ctx.workloads.now(id);
        }
        if changed.everything {
            // Policies may ask for other evidence now.
            let approvals: Vec<Key> = ctx.memory.read().approvals.keys().cloned().collect();
            approvals.into_iter().for_each(|key| ctx.evidence.now(key));
        }
        tokio::time::sleep(TOGETHER).await;
    }
}
