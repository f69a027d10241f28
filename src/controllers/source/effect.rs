//! Waits until what was applied has taken effect: what follows relies on it.

use std::time::Duration;

use serde_json::Value;

use super::Error;
use crate::{
    adapters::cluster::{Cluster, id_of},
    controllers::Ctx,
};

/// How long a sync waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until definitions are served.
pub(super) async fn established(cluster: &Cluster, stored: &[Value]) -> Result<(), Error> {
    for definition in stored.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        let id = id_of(definition);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut now = Some(definition.clone());
        while !now.as_ref().is_some_and(is_established) {
            if tokio::time::Instant::now() > deadline {
                return Err(Error::NotYet(format!("{id} is not established after {} s", PATIENCE.as_secs())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            now = cluster.get(&id).await.map_err(Error::Cluster)?;
        }
    }
    Ok(())
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// Waits until the watches show what was applied: what follows is judged by it.
pub(super) async fn catch_up(ctx: &Ctx, stored: &[Value]) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for object in stored {
        let id = id_of(object);
        let key = (id.namespace.clone(), id.name.clone());
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        loop {
            let news = ctx.memory.news();
            let notified = news.notified();
            let shown = {
                let memory = ctx.memory.read();
                match id.kind.as_str() {
                    "ApprovedImage" => memory.approvals.get(&key).map(|known| known.metadata.generation),
                    _ => memory.policy_objects.get(&key).map(|known| known.metadata.generation),
                }
            };
            if shown.is_some_and(|shown| shown >= generation) {
                break;
            }
            if tokio::time::timeout_at(deadline, notified).await.is_err() {
                return Err(Error::NotYet(format!("{id} was applied, but the watch has not shown it yet")));
            }
        }
    }
    Ok(())
}
