//! Evictions: deletions of pods that `PodDisruptionBudget`s have a say in.

use kube::api::{DeleteParams, EvictParams, PostParams, Preconditions};
use serde_json::Value;

use super::{Cluster, Error, send_by};
use crate::domain::inventory::ObjectId;

/// What became of an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod goes.
    Done,
    /// A `PodDisruptionBudget` does not allow it now; what the API server says.
    NotNow(String),
    /// The pod is gone, or is another one by now.
    Stale,
}

impl Cluster {
    /// Evicts a pod if it is still the one with this UID.
    ///
    /// # Errors
    /// What the API server refuses for another reason than a budget, and what does not reach it.
    pub async fn evict(&self, namespace: &str, name: &str, uid: &str) -> Result<Evicted, Error> {
        let id = ObjectId {
            api_version: "v1".to_owned(),
            kind: "Pod".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = EvictParams {
            delete_options: Some(DeleteParams {
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            }),
            post_options: PostParams::default(),
        };
        let http = self.request_for("evict", &resource, &id)?.evict(name, &params);
        match send_by::<Value>(&self.asks_once, "evict", &id.to_string(), http).await {
            Ok(_) => Ok(Evicted::Done),
            Err(error) => match error.code() {
                Some(429) => Ok(Evicted::NotNow(error.explain())),
                Some(404 | 409) => Ok(Evicted::Stale),
                Some(_) | None => Err(error),
            },
        }
    }
}
