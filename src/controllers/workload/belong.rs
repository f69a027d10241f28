//! Whether a pod belongs to a workload of a configured kind: its controllers are followed up to it.
//!
//! Relied on is what is relied on for the kinds of Kubernetes: a kubelet wrote the pod's status, and the workload's own
//! controller its status, which says that the rollout is not complete after its deadline. Labels and owner references
//! prove nothing against whoever may create pods in the namespace, as whoever creates a pod writes them. What he gains by forged
//! ones: a new release of a workload of his namespace that is not complete after its deadline anyway goes back, once, to its
//! own last good release, which is approved, and stays out until something else is asked for. So following them keeps mistakes
//! out, such as pods that others made with the same labels; it is no defence.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    adapters::cluster::Error,
    controllers::Ctx,
    domain::{
        inventory::ObjectId,
        plan::Live,
        pods::{controller_of, may_stand_between},
        workload::WorkloadId,
    },
};

/// How many steps it may be from a pod to its workload. Knative has the longest way: ReplicaSet, Deployment, Revision, Configuration.
const STEPS: usize = 5;
/// How many objects are looked up for the pods of one workload: names in pods of strangers must not cost more.
const OBJECTS: usize = 32;

/// What controls the pods of a workload, each looked up once.
pub(super) struct Owners<'a> {
    ctx: &'a Ctx,
    id: &'a WorkloadId,
    uid: &'a str,
    known: BTreeMap<ObjectId, Option<Value>>,
}

impl<'a> Owners<'a> {
    pub(super) fn of(ctx: &'a Ctx, id: &'a WorkloadId, live: &'a Live) -> Self {
        Self { ctx, id, uid: &live.uid, known: BTreeMap::new() }
    }

    /// Whether the controllers of a pod lead to the workload.
    pub(super) async fn lead_to_it(&mut self, pod: &Value) -> Result<bool, Error> {
        let mut object = pod.clone();
        for _ in 0..STEPS {
            let Some((owner, uid)) = controller_of(&object, &self.id.namespace) else { return Ok(false) };
            if uid == self.uid {
                return Ok(true);
            }
            let found = self.look_up(&owner).await?.filter(|found| found["metadata"]["uid"] == uid.as_str());
            let Some(found) = found else { return Ok(false) };
            object = found;
        }
        Ok(false)
    }

    /// The objects that stand between.
    pub(super) fn between(&self) -> Vec<&Value> {
        self.known.values().flatten().collect()
    }

    /// What may not be read leads nowhere, and is said; what cannot be read now is an error.
    async fn look_up(&mut self, id: &ObjectId) -> Result<Option<Value>, Error> {
        if let Some(known) = self.known.get(id) {
            return Ok(known.clone());
        }
        if self.known.len() >= OBJECTS || !may_stand_between(self.id.kind, id) {
            return Ok(None);
        }
        let found = match self.ctx.cluster.get(id).await {
            Err(error) if error.is_answer() && !error.passes() => {
                let error = error.explain();
                tracing::warn!(workload = %self.id, owner = %id, error, "whose a pod is cannot be looked up; it does not count");
                None
            }
            found => found?,
        };
        self.known.insert(id.clone(), found.clone());
        Ok(found)
    }
}
