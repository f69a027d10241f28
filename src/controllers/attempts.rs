//! Denied attempts, on every replica: reviews leave them here, and now and then they are added to the status of the policy that denied
//! them, and told of in events.
//!
//! Whoever denied something adds it to what is stored, on the version that was seen. So there is one summary, nobody needs to
//! know the others, and what a replica that was frozen knows adds to what came in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource as _, ResourceExt as _};
use kube_runtime::events::{Event, EventType};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Shared, memory::Key, now, trail};
use crate::{
    adapters::cluster::{Cluster, Error},
    api::{ImagePolicy, ImagePolicyStatus, image_policy::PolicyDenied, status_patch},
    domain::admission::{Attempt, Attempts, Pace},
};

/// Attempts that come together are written together.
const TOGETHER: Duration = Duration::from_secs(1);
/// Between two writes of one policy.
const GAP: Duration = Duration::from_secs(10);
/// For each policy that was written, however many there are.
const EACH: Duration = Duration::from_millis(500);
/// After somebody else was faster.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the last writes may take when the process ends.
const LAST: Duration = Duration::from_secs(3);

/// Where reviews leave what was denied. It is bounded: what each policy denied is.
#[derive(Clone, Debug, Default)]
pub struct Denied(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<BTreeMap<Key, Attempts>>,
    wake: Notify,
}

impl Denied {
    /// An attempt that a policy denied.
    pub fn note(&self, policy: Key, attempt: Attempt) {
        self.0.waiting.lock().entry(policy).or_default().add(attempt);
        self.0.wake.notify_one();
    }

    fn put_back(&self, policy: Key, attempts: Attempts) {
        self.0.waiting.lock().entry(policy).or_default().merge(attempts);
        self.0.wake.notify_one();
    }
}

/// The field of a policy's status that is written here, by every replica; the others are the leader's.
const FIELD: &str = "denied";

/// The leader's part of a policy's status, as a patch.
pub fn all_but_denied(status: &ImagePolicyStatus) -> Value {
    let mut patch = status_patch::<ImagePolicy>(status);
    if let Value::Object(fields) = &mut patch {
        fields.remove(FIELD);
    }
    patch
}

/// The other part.
fn only_denied(attempts: &Attempts) -> Value {
    let denied = Some(PolicyDenied::of(attempts));
    let mut patch = status_patch::<ImagePolicy>(&ImagePolicyStatus { denied, ..Default::default() });
    if let Value::Object(fields) = &mut patch {
        fields.retain(|name, _| name == FIELD);
    }
    patch
}

/// Writes what was denied until the token is cancelled, and then what is left. The client is one that writes whoever leads.
pub async fn run(ctx: Shared, client: Client, stop: CancellationToken) {
    let mut teller = Teller { cluster: Cluster::new(client), ctx, pace: Pace::default() };
    while stop.run_until_cancelled(teller.ctx.denied.0.wake.notified()).await.is_some() {
        stop.run_until_cancelled(sleep(TOGETHER)).await;
        let rest = teller.round().await;
        stop.run_until_cancelled(sleep(rest)).await;
    }
    let _ = timeout(LAST, teller.round()).await;
}

struct Teller {
    ctx: Shared,
    cluster: Cluster,
    pace: Pace,
}

impl Teller {
    /// Writes everything that waits; answers with how long to rest before the next round.
    async fn round(&mut self) -> Duration {
        let waiting = std::mem::take(&mut *self.ctx.denied.0.waiting.lock());
        let mut rest = GAP.max(EACH * u32::try_from(waiting.len()).unwrap_or(u32::MAX));
        for (key, new) in waiting {
            let policy = self.ctx.memory.read().policy_objects.get(&key).cloned();
            let Some(policy) = policy else { continue };
            match self.add(&policy, &new).await {
                Ok(all) => self.tell(&policy, &new, &all).await,
                Err(error) if error.code() == Some(404) => {}
                Err(error) => {
                    if error.code() == Some(409) {
                        rest = rest.min(AGAIN);
                    } else {
                        tracing::warn!(namespace = key.0, name = key.1, error = %error.explain(), "what was denied cannot be written and is tried again");
                    }
                    self.ctx.denied.put_back(key, new);
                }
            }
        }
        rest
    }

    /// Adds attempts to what is stored; answers with all of it.
    ///
    /// # Caveats
    /// Where the answer is lost they count twice.
    async fn add(&self, policy: &ImagePolicy, new: &Attempts) -> Result<Attempts, Error> {
        let stored = policy.status.as_ref().and_then(|status| status.denied.as_ref());
        let mut all = stored.map(PolicyDenied::attempts).unwrap_or_default();
        all.merge(new.clone());
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        let version = policy.resource_version();
        let patch = only_denied(&all);
        self.cluster.report_on::<ImagePolicy>(&namespace, &name, &patch, version.as_deref()).await?;
        Ok(all)
    }

    /// Tells of what is new, on the policy: where the object would stand, whoever asked was told, and a controller whose Pods are
    /// refused says so itself.
    async fn tell(&mut self, policy: &ImagePolicy, new: &Attempts, all: &Attempts) {
        let key = (policy.namespace().unwrap_or_default(), policy.name_any());
        let news: BTreeSet<_> = new.listed().iter().map(|attempt| &attempt.tried).collect();
        for attempt in all.listed().iter().filter(|attempt| news.contains(&attempt.tried)) {
            if !self.pace.turn(&key, &attempt.tried, now()) {
                continue;
            }
            let refused = ObjectReference {
                kind: Some(attempt.tried.kind.clone()),
                namespace: Some(attempt.tried.namespace.clone()),
                name: Some(attempt.name.clone()).filter(|name| !name.is_empty()),
                ..ObjectReference::default()
            };
            let event = Event {
                type_: EventType::Warning,
                reason: "Denied".to_owned(),
                action: "Admit".to_owned(),
                note: Some(attempt.to_string()),
                secondary: Some(refused),
            };
            trail::publish(self.cluster.client(), &policy.object_ref(&()), &event).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// If this fails, the leader's next report takes away what was denied, or a replica that does not lead writes more than that.
    #[test]
    fn the_two_parts_of_a_status_are_apart_and_together_all_of_it() {
        let fields = |patch: Value| patch.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
        let status = ImagePolicyStatus { denied: Some(PolicyDenied::default()), ..Default::default() };
        let leaders = fields(all_but_denied(&status));
        let ours = fields(only_denied(&Attempts::default()));
        assert_eq!(ours, BTreeSet::from(["denied".to_owned()]));
        assert!(leaders.is_disjoint(&ours));
        assert_eq!(&leaders | &ours, fields(status_patch::<ImagePolicy>(&status)));
    }
}
