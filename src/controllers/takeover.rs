//! The beginning of leading: what whoever led before has left is read anew, not believed from watches that may be behind.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Ctx, Shared,
    memory::Desired,
    see::note_validity,
    source::{self, content::workload_id, inventory},
    trail,
};
use crate::{
    adapters::cluster::{Error, id_of},
    api::ReleaseHistory,
};

/// Why it cannot begin.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("the inventories of the sources cannot be read, and without them ownership is unknown: {}", .0.join("; "))]
    BrokenInventories(Vec<String>),
}

/// How long it waits for another try. An API server that is away is no reason to end.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads what is stored of histories and inventories, and asks for a look at everything.
pub(super) async fn take_over(ctx: &Shared) -> Result<(), StartError> {
    // First: from now on the watches leave histories alone, and no wish is lost.
    ctx.workloads.open();
    ctx.sources.open();
    ctx.approvals.open();
    ctx.evidence.open();
    persist("the histories", async || load_histories(ctx).await).await;
    load_inventories(ctx).await?;
    // What was applied last is read from the mirrors before anything is planned: until its remote answers, a source goes on.
    let known: Vec<_> = ctx.memory.read().sources.values().cloned().collect();
    for source in known {
        source::recover(ctx, &source).await;
    }
    let memory = ctx.memory.read();
    tracing::info!(workloads = memory.live.len(), "everything is loaded");
    // With those that were deleted while nobody looked.
    for key in memory.sources.keys().chain(memory.inventories.keys()) {
        ctx.sources.now(key.clone());
    }
    for key in memory.approvals.keys() {
        ctx.approvals.now(key.clone());
    }
    Ok(())
}

async fn persist<T>(what: &str, mut load: impl AsyncFnMut() -> Result<T, Error>) -> T {
    loop {
        match load().await {
            Ok(loaded) => return loaded,
            Err(error) => {
                tracing::warn!(error = %error.explain(), "{what} cannot be loaded; nothing is done until they are");
                sleep(AGAIN).await;
            }
        }
    }
}

async fn load_histories(ctx: &Ctx) -> Result<(), Error> {
    let resource = ctx.cluster.resource("countersign.dev/v1alpha1", "ReleaseHistory").await?;
    let listed = ctx.cluster.list(&resource, &ctx.root, "").await?;
    let mut memory = ctx.memory.write();
    let before: Vec<_> = std::mem::take(&mut memory.histories).into_keys().collect();
    for object in listed {
        let id = id_of(&object);
        let read = serde_json::from_value::<ReleaseHistory>(object).map_err(|error| error.to_string());
        let key = (id.namespace, id.name);
        note_validity(&mut memory, "ReleaseHistory", &key, read.as_ref().err().cloned());
        if let Some((id, tracked)) = read.ok().as_ref().and_then(trail::stored) {
            memory.histories.insert(id, tracked);
        }
    }
    let now: Vec<_> = memory.histories.keys().cloned().collect();
    for id in before.iter().chain(&now) {
        memory.note_running(id);
    }
    Ok(())
}

/// Which source owns what; until a source is read, its workloads are known to be its own and nothing more.
async fn load_inventories(ctx: &Ctx) -> Result<(), StartError> {
    let load = async || inventory::load(&ctx.cluster, &ctx.root).await;
    let loaded = persist("the inventories of the sources", load).await;
    if !loaded.lost.is_empty() {
        return Err(StartError::BrokenInventories(loaded.lost));
    }
    let mut memory = ctx.memory.write();
    for (key, inventory) in loaded.inventories {
        let inventory = Arc::new(inventory);
        for id in inventory.iter().filter_map(workload_id) {
            let desired =
                Desired { source: key.clone(), account: None, manifest: None, earlier: Arc::default() };
            memory.desired.insert(id, desired);
        }
        ctx.source_state.loaded(&key, &inventory);
        memory.inventories.insert(key, inventory);
    }
    Ok(())
}
