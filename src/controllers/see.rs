//! What the watches show, kept in the memory; and who is to be looked at for it.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Pod};
use kube::{
    Api, ResourceExt,
    core::{ApiResource, DeserializeGuard},
};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Ctx, Shared,
    changes::Changes,
    memory::{Area, Key, State},
    trail,
    watch::{Seen, Unserved, watch},
    workload::{News, keep_live},
};
use crate::{
    adapters::cluster::{Raw, api_resource, id_of, live},
    api::{
        ApprovedImage, GitSource, ImagePolicy, ReleaseHistory,
        annotation::{PAUSED, RECONCILE_REQUESTED_AT},
        convert::evidence,
    },
    domain::{
        ledger::{RecordKey, Role},
        policy::Namespace,
        workload::{Kind, Progress, WorkloadId, kinds},
    },
    telemetry::http::PartHandle,
};

/// Fills the memory, until the token is cancelled.
pub(super) fn watch_everything(
    ctx: &Shared,
    changes: &Changes,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let client = ctx.cluster.client();
    for kind in kinds() {
        let unserved = match kind.progress {
            Progress::Configured(_) => Unserved::IsNone,
            Progress::Deployment | Progress::StatefulSet | Progress::DaemonSet | Progress::CronJob => {
                Unserved::Waits
            }
        };
        let api: Api<Raw> = Api::all_with(client.clone(), &api_resource(kind));
        let (at, part) = (Arc::clone(ctx), ctx.readiness.part(kind.plural));
        tasks.spawn(watch(api, unserved, part, stop.clone(), move |seen| see_workload(&at, kind, seen)));
    }
    let (at, told) = (Arc::clone(ctx), changes.clone());
    let part = ctx.readiness.part("namespaces");
    let see = move |seen| see_namespace(&at, &told, seen);
    tasks.spawn(watch(Api::<NamespaceObject>::all(client), Unserved::Waits, part, stop.clone(), see));
    let (at, told) = (Arc::clone(ctx), changes.clone());
    let see = move |seen| see_approval(&at, &told, seen);
    watch_own(ctx, Api::all(ctx.cluster.client()), "approvals", tasks, stop, see);
    let (at, told) = (Arc::clone(ctx), changes.clone());
    let see = move |seen| see_policy(&at, &told, seen);
    watch_own(ctx, Api::all(ctx.cluster.client()), "policies", tasks, stop, see);
    let at = Arc::clone(ctx);
    let see = move |seen| see_source(&at, seen);
    watch_own(ctx, Api::all(ctx.cluster.client()), "sources", tasks, stop, see);
    let at = Arc::clone(ctx);
    let see = move |seen| see_history(&at, seen);
    // What stands elsewhere may be a tenant's, and is never believed.
    watch_own(ctx, Api::namespaced(ctx.cluster.client(), &ctx.root), "histories", tasks, stop, see);
}

/// Watches one of our kinds. An object that cannot be read is a change too: it must not hide the others.
fn watch_own<K>(
    ctx: &Shared,
    api: Api<DeserializeGuard<K>>,
    name: &'static str,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
    mut see: impl FnMut(Seen<Own<K>>) + Send + 'static,
) where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let part: PartHandle = ctx.readiness.part(name);
    let memory = ctx.memory.clone();
    let see = move |seen: Seen<DeserializeGuard<K>>| {
        let seen = match seen {
            Seen::Gone(key) => Seen::Gone(key),
            Seen::There(guard) => {
                let key = (guard.namespace().unwrap_or_default(), guard.name_any());
                let mut object = guard.0.map_err(|invalid| invalid.error);
                if let Ok(object) = &mut object {
                    // Nobody asks for them, and they take more room than all the rest.
                    object.meta_mut().managed_fields = None;
                }
                Seen::There(Own { key, object })
            }
        };
        see(seen);
        memory.news().notify_waiters();
    };
    tasks.spawn(watch(api, Unserved::Waits, part, stop.clone(), see));
}

/// An object of ours, or why it cannot be read.
struct Own<K> {
    key: Key,
    object: Result<K, String>,
}

/// Keeps why an object cannot be read, or that it can.
pub(super) fn note_validity(memory: &mut State, kind: &'static str, key: &Key, invalid: Option<String>) {
    match invalid {
        Some(why) => {
            tracing::error!(
                kind,
                namespace = key.0,
                name = key.1,
                why,
                "an object cannot be read and does not count"
            );
            memory.invalid.insert((kind, key.clone()), why);
        }
        None => {
            memory.invalid.remove(&(kind, key.clone()));
        }
    }
}

/// Pods are seen for admission alone: what runs in a namespace goes on.
pub(super) fn watch_pods(ctx: &Shared, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<Raw> = Api::all_with(ctx.cluster.client(), &resource);
    let (at, part) = (Arc::clone(ctx), ctx.readiness.part("pods"));
    let see = move |seen| match seen {
        Seen::Gone((namespace, name)) => at.memory.write().running.see_pod(&namespace, &name, None),
        Seen::There(object) => {
            let pod = Raw::into_value(object);
            let id = id_of(&pod);
            at.memory.write().running.see_pod(&id.namespace, &id.name, Some(&pod));
        }
    };
    tasks.spawn(watch(api, Unserved::Waits, part, stop.clone(), see));
}

fn see_workload(ctx: &Ctx, kind: &'static Kind, seen: Seen<Raw>) {
    let id = match seen {
        Seen::Gone((namespace, name)) => {
            let id = WorkloadId { kind, namespace, name };
            let mut memory = ctx.memory.write();
            memory.live.remove(&id);
            memory.note_running(&id);
            if !memory.desired.contains_key(&id) && !memory.histories.contains_key(&id) {
                memory.findings.remove(&id);
            }
            id
        }
        Seen::There(object) => {
            let Some(seen) = live(kind, object.into_value()) else { return };
            let id = seen.id.clone();
            let news = keep_live(&mut ctx.memory.write(), &id, seen.live);
            if news == News::Status && !ctx.trail.is_calm() {
                // Actions come first: what only tells how far a rollout is can wait until they are done.
                ctx.trail.look_later(id);
                return;
            }
            id
        }
    };
    ctx.workloads.now(id);
}

fn see_namespace(ctx: &Ctx, changes: &Changes, seen: Seen<NamespaceObject>) {
    let mut memory = ctx.memory.write();
    let (name, area) = match seen {
        Seen::Gone((_, name)) => (name, None),
        Seen::There(object) => {
            let name = object.name_any();
            if name == ctx.root {
                let paused = object.annotations().get(PAUSED).cloned();
                if memory.paused != paused {
                    tracing::warn!(paused = paused.as_deref().unwrap_or("no"), "pause");
                    memory.paused = paused;
                    memory.rules += 1;
                    changes.everything();
                }
            }
            let namespace = Namespace { name: name.clone(), labels: Some(object.labels().clone()) };
            (name, Some(Area { namespace, ending: object.metadata.deletion_timestamp.is_some() }))
        }
    };
    let before = memory.namespaces.get(&name).cloned();
    if before == area {
        return;
    }
    if let Some(area) = area.clone() {
        memory.policies.see_namespace(area.namespace.clone());
        memory.namespaces.insert(name.clone(), area);
    } else {
        memory.policies.forget_namespace(&name);
        memory.namespaces.remove(&name);
    }
    if area.is_some_and(|area| area.ending) {
        for key in memory.approvals.keys().filter(|key| key.0 == name) {
            ctx.approvals.now(key.clone());
        }
    }
    memory.rules += 1;
    drop(memory);
    changes.note(|changed| {
        changed.namespaces.insert(name);
    });
}

fn see_approval(ctx: &Ctx, changes: &Changes, seen: Seen<Own<ApprovedImage>>) {
    let mut touched = Vec::new();
    let mut memory = ctx.memory.write();
    match seen {
        Seen::Gone(key) => {
            memory.approvals.remove(&key);
            note_validity(&mut memory, "ApprovedImage", &key, None);
            touched.extend(memory.ledger.remove(&record_key(&key)));
        }
        Seen::There(Own { key, object }) => {
            if object
                .as_ref()
                .is_ok_and(|object| is_older(object, memory.approvals.get(&key).map(AsRef::as_ref)))
            {
                return;
            }
            let record = match &object {
                Ok(object) => object.record(&ctx.root).map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            if let Ok(object) = object {
                note_evidence(ctx, &mut memory, &object);
                memory.approvals.insert(key.clone(), Arc::new(object));
            }
            note_validity(&mut memory, "ApprovedImage", &key, record.as_ref().err().cloned());
            // What cannot be read keeps counting as it last could: a revocation must not vanish.
            if let Ok(record) = record {
                let before = memory.ledger.get(&record_key(&key)).cloned();
                if memory.ledger.insert(record.clone()) {
                    touched.extend(before);
                    touched.push(record);
                }
            }
            ctx.approvals.now(key.clone());
            ctx.evidence.now(key);
        }
    }
    memory.rules += u64::from(!touched.is_empty());
    drop(memory);
    if touched.iter().any(|record| record.role == Role::Base) {
        // What is built on it may stand anywhere.
        changes.everything();
    } else if !touched.is_empty() {
        changes.note(|changed| {
            for record in touched {
                changed.repositories.insert(record.repository);
                changed.digests.insert(record.digest);
            }
        });
    }
}

/// What is stored of an image's evidence. Who leads knows better: it is what is stored next.
fn note_evidence(ctx: &Ctx, memory: &mut State, object: &ApprovedImage) {
    let Some(stored) = object.status.as_ref().and_then(|status| status.evidence.as_ref()) else { return };
    let (Ok(repository), Ok(digest)) = (object.spec.image.parse(), object.spec.digest.parse()) else {
        return;
    };
    if ctx.evidence.is_open() && memory.evidence.of(&repository, &digest).is_some() {
        return;
    }
    match evidence(stored, repository, digest) {
        Ok(evidence) => {
            memory.know(evidence);
        }
        Err(error) => tracing::warn!(approval = object.name_any(), %error, "its evidence is not believed"),
    }
}

fn see_policy(ctx: &Ctx, changes: &Changes, seen: Seen<Own<ImagePolicy>>) {
    let mut memory = ctx.memory.write();
    let changed = match seen {
        Seen::Gone(key) => {
            memory.policy_objects.remove(&key);
            note_validity(&mut memory, "ImagePolicy", &key, None);
            memory.policies.remove(&key)
        }
        Seen::There(Own { key, object }) => {
            let policy = match &object {
                Ok(object) => object.policy(&ctx.root).map_err(|error| error.to_string()),
                Err(why) => Err(why.clone()),
            };
            if let Ok(object) = object {
                memory.policy_objects.insert(key.clone(), Arc::new(object));
            }
            note_validity(&mut memory, "ImagePolicy", &key, policy.as_ref().err().cloned());
            match policy {
                Ok(policy) => memory.policies.insert(policy),
                Err(_) => false,
            }
        }
    };
    memory.rules += u64::from(changed);
    drop(memory);
    if changed {
        changes.everything();
    }
}

fn see_source(ctx: &Ctx, seen: Seen<Own<GitSource>>) {
    let mut memory = ctx.memory.write();
    let key = match seen {
        Seen::Gone(key) => {
            memory.sources.remove(&key);
            note_validity(&mut memory, "GitSource", &key, None);
            key
        }
        Seen::There(Own { key, object }) => {
            note_validity(&mut memory, "GitSource", &key, object.as_ref().err().cloned());
            let Ok(object) = object else { return };
            let asked = |source: &GitSource| (source.spec.clone(), source.annotations().clone());
            let known = memory.sources.get(&key).map(|known| asked(known));
            let news = known.is_none_or(|known| known != asked(&object));
            memory.sources.insert(key.clone(), Arc::new(object));
            if !news {
                return;
            }
            key
        }
    };
    drop(memory);
    ctx.sources.now(key);
}

fn see_history(ctx: &Ctx, seen: Seen<Own<ReleaseHistory>>) {
    let acting = ctx.workloads.is_open();
    let mut memory = ctx.memory.write();
    match seen {
        Seen::Gone(key) => {
            note_validity(&mut memory, "ReleaseHistory", &key, None);
            if !acting {
                let gone = memory.histories.keys().find(|id| trail::history_name(id) == key.1).cloned();
                if let Some(id) = gone {
                    memory.histories.remove(&id);
                    memory.note_running(&id);
                }
                return;
            }
            let found = memory.histories.iter_mut().find(|(id, _)| trail::history_name(id) == key.1);
            // Only the operator removes histories, after it forgot them: what is still known here was removed by somebody else.
            if let Some((_, tracked)) = found {
                tracked.exists = false;
                tracked.dirty = Some(tokio::time::Instant::now());
                ctx.trail.wake();
            }
        }
        Seen::There(Own { key, object }) => {
            let was_unreadable = memory.invalid.contains_key(&("ReleaseHistory", key.clone()));
            note_validity(&mut memory, "ReleaseHistory", &key, object.as_ref().err().cloned());
            let Ok(object) = object else {
                let mut known = memory.histories.keys();
                if let Some(id) = known.find(|id| acting && trail::history_name(id) == key.1) {
                    ctx.workloads.now(id.clone());
                }
                return;
            };
            let asked = object.annotations().get(RECONCILE_REQUESTED_AT).cloned();
            let Some((id, tracked)) = trail::stored(&object) else { return };
            if !acting {
                memory.histories.insert(id.clone(), tracked);
                memory.note_running(&id);
                return;
            }
            if was_unreadable {
                // Somebody mended it. What could not be read when leading began is known only now.
                ctx.workloads.now(id.clone());
                memory.histories.entry(id.clone()).or_insert(tracked.clone());
                memory.note_running(&id);
            }
            if let Some(known) = memory.histories.get_mut(&id) {
                known.version = tracked.version;
                if known.asked != tracked.asked {
                    known.asked = tracked.asked;
                    ctx.workloads.now(id.clone());
                }
            }
            let known =
                memory.histories.get_mut(&id).filter(|known| asked.is_some() && known.requested != asked);
            if let Some(known) = known {
                known.requested = asked;
                known.dirty.get_or_insert_with(tokio::time::Instant::now);
                ctx.trail.wake();
                ctx.workloads.now(id);
            }
        }
    }
}

/// Whether an object is an earlier version of a known one: from an API server that is behind.
fn is_older(object: &ApprovedImage, known: Option<&ApprovedImage>) -> bool {
    let version =
        |object: &ApprovedImage| object.resource_version().and_then(|version| version.parse::<u64>().ok());
    known.is_some_and(|known| known.uid() == object.uid() && version(object) < version(known))
}

fn record_key(key: &Key) -> RecordKey {
    RecordKey { namespace: key.0.clone(), name: key.1.clone() }
}
