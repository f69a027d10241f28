//! What the pods of a workload show of its newest revision.
//!
//! Of what a pod says only what a kubelet writes into its status counts, and only of containers that the release names: what
//! somebody else injected proves nothing about the release.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    image::{Digest, same_reference},
    inventory::ObjectId,
    rollout::is_behind,
    workload::{ContainerId, Images, Kind, List, NewestPods, Progress, images, text_at},
};

/// Why the newest revision of a workload does not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Containers of it started and kept crashing; which, for people.
    Crashing(String),
    /// Something keeps containers from starting: an image that cannot be pulled, no room, no quota, a missing ConfigMap.
    NotStarted(String),
}

/// How often a container must have been restarted to have kept crashing, where the kubelet does not say so itself.
const RESTARTS: i64 = 3;
/// What a kubelet says of a container that it could not even start.
const NEVER_RAN: &[&str] = &["StartError", "ContainerCannotRun", "ContainerStatusUnknown"];

/// Why a revision does not come up: from the workload and what stands between it and its pods, its pods of that revision, and
/// the images of the release and since when they are wanted.
///
/// # Guarantees
/// Anything that keeps a container from starting, in any pod, is the reason that is given: a release is not to blame for a
/// registry that is away, for a full cluster or for a quota.
pub fn trouble(objects: &[&Value], pods: &[&Value], images: &Images, since: Timestamp) -> Option<Trouble> {
    if let Some(why) = objects.iter().copied().find_map(not_created) {
        return Some(Trouble::NotStarted(why));
    }
    let alive = || pods.iter().copied().filter(|pod| !is_ending(pod));
    if let Some(why) = alive().find_map(not_started) {
        return Some(Trouble::NotStarted(why));
    }
    alive().find_map(|pod| crashing(pod, images, since)).map(Trouble::Crashing)
}

/// A quota, a limit or an admission webhook keeps pods from being created.
fn not_created(object: &Value) -> Option<String> {
    let refused = conditions(object)
        .any(|condition| condition["type"] == "ReplicaFailure" && condition["status"] == "True");
    refused.then(|| "pods of it cannot be created (ReplicaFailure)".to_owned())
}

fn not_started(pod: &Value) -> Option<String> {
    let unscheduled = conditions(pod)
        .any(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False");
    if unscheduled {
        return Some(format!("pod {} finds no node", name_of(pod)));
    }
    statuses(pod).find_map(|(_, status)| {
        let waits = status.pointer("/state/waiting/reason").and_then(Value::as_str);
        let ended = status.pointer("/lastState/terminated/reason").and_then(Value::as_str);
        let why = match (waits, ended) {
            (Some("CrashLoopBackOff"), Some(ended)) if NEVER_RAN.contains(&ended) => ended,
            // It starts, or waits for another container to end.
            (Some("CrashLoopBackOff" | "ContainerCreating" | "PodInitializing") | None, _) => return None,
            // ErrImagePull, ImagePullBackOff, InvalidImageName, CreateContainerConfigError and their like.
            (Some(why), _) => why,
        };
        Some(format!("a container of pod {} does not start ({})", name_of(pod), word(why)))
    })
}

fn crashing(pod: &Value, images: &Images, since: Timestamp) -> Option<String> {
    let (place, status) = statuses(pod).find(|(place, status)| {
        let runs = image_of(pod, place);
        let own = images.get(place).is_some_and(|own| runs.is_some_and(|runs| same_reference(own, runs)));
        own && kept_crashing(status, since)
    })?;
    let ended = status.pointer("/lastState/terminated");
    let code = ended.and_then(|ended| ended["exitCode"].as_i64());
    let code = code.map_or_else(String::new, |code| format!(", last with exit code {code}"));
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    Some(format!("{place} of pod {} started and kept crashing ({restarts} restarts{code})", name_of(pod)))
}

fn kept_crashing(status: &Value, since: Timestamp) -> bool {
    let restarts = status["restartCount"].as_i64().unwrap_or(0);
    let backs_off =
        status.pointer("/state/waiting/reason").is_some_and(|reason| reason == "CrashLoopBackOff");
    let code = status.pointer("/lastState/terminated/exitCode").and_then(Value::as_i64);
    let ready = status["ready"] == true;
    // A container that is given another image (OpenKruise) goes on counting; its end then is none of the release's. A kubelet
    // that backs off has forgotten the image before.
    let began = status.pointer("/lastState/terminated/startedAt").and_then(Value::as_str);
    let before = began.and_then(|began| began.parse().ok()).is_some_and(|began: Timestamp| began < since);
    let crashed = restarts >= RESTARTS && code.is_some_and(|code| code != 0) && !before;
    (backs_off && restarts > 0) || (!ready && crashed)
}

/// The container statuses of a pod, by place.
fn statuses(pod: &Value) -> impl Iterator<Item = (ContainerId, &Value)> {
    const FIELDS: [(List, &str); 3] = [
        (List::InitContainers, "initContainerStatuses"),
        (List::Containers, "containerStatuses"),
        (List::EphemeralContainers, "ephemeralContainerStatuses"),
    ];
    FIELDS.into_iter().flat_map(move |(list, field)| {
        let all = pod.pointer("/status").and_then(|status| status.get(field)).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(move |status| {
            let name = status["name"].as_str()?.to_owned();
            Some((ContainerId { list, name }, status))
        })
    })
}

/// The image that a pod's spec says at a place.
fn image_of<'a>(pod: &'a Value, place: &ContainerId) -> Option<&'a str> {
    let all = pod.pointer("/spec").and_then(|spec| spec.get(place.list.field())).and_then(Value::as_array);
    all?.iter().find(|entry| entry["name"] == place.name.as_str())?["image"].as_str()
}

/// The objects that are of the newest revision of a workload: of a Deployment its ReplicaSet, of the others the value of
/// the label that its pods carry.
pub fn newest_revision(progress: Progress, object: &Value, owned: &[Value]) -> Option<String> {
    match progress {
        Progress::Deployment => {
            const REVISION: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";
            let newest = object.pointer(REVISION)?;
            let set = owned.iter().find(|set| set.pointer(REVISION) == Some(newest))?;
            Some(set.pointer("/metadata/uid")?.as_str()?.to_owned())
        }
        Progress::StatefulSet => Some(object.pointer("/status/updateRevision")?.as_str()?.to_owned()),
        Progress::DaemonSet => {
            let newest = owned.iter().max_by_key(|revision| revision["revision"].as_i64())?;
            Some(newest.pointer("/metadata/labels/controller-revision-hash")?.as_str()?.to_owned())
        }
        Progress::CronJob | Progress::Configured(_) => None,
    }
}

impl NewestPods {
    /// The label selector of the pods, as lists take it; `None`: the object does not say it of its present spec.
    pub fn selector(&self, object: &Value) -> Option<String> {
        let said = text_at(object, &self.value).filter(|_| !is_behind(object))?;
        let value = if self.suffix { said.rsplit('-').next()? } else { &said };
        // Whoever may write the object wrote it: it must not become another selector.
        is_label_word(value).then(|| format!("{}={value}", self.label))
    }

    /// Whether the object says that pods of it cannot be created.
    pub fn refused(&self, object: &Value) -> Option<Trouble> {
        let refused = !self.refused.is_empty() && self.refused.iter().all(|check| check.holds(object));
        refused.then(|| Trouble::NotStarted("pods of it cannot be created".to_owned()))
    }
}

/// Whether a text can be the value of a label, or the name of one after its prefix.
pub fn is_label_word(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let bytes = text.as_bytes();
    text.len() <= 63 && end(bytes.first()) && end(bytes.last()) && text.bytes().all(plain)
}

/// What controls an object of a namespace, as its owner reference says it, and the UID.
pub fn controller_of(object: &Value, namespace: &str) -> Option<(ObjectId, String)> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owner = owners.into_iter().flatten().find(|owner| owner["controller"] == true)?;
    let text = |field: &str| owner[field].as_str().map(str::to_owned);
    let id = ObjectId {
        api_version: text("apiVersion")?,
        kind: text("kind")?,
        namespace: namespace.to_owned(),
        name: text("name")?,
    };
    Some((id, text("uid")?))
}

/// Whether an object may stand between a workload of a kind and its pods: what Kubernetes itself makes pods by, or another kind of
/// the workload's own group. Others are not even looked up, since whoever made a pod wrote whom it belongs to.
pub fn may_stand_between(kind: &Kind, object: &ObjectId) -> bool {
    let makes_pods = matches!((object.group(), object.kind.as_str()), ("apps", "ReplicaSet" | "Deployment"));
    makes_pods || object.group() == kind.group
}

/// Whether a pod of a StatefulSet or DaemonSet is of a revision.
pub fn is_of_revision(pod: &Value, revision: &str) -> bool {
    pod.pointer("/metadata/labels/controller-revision-hash").is_some_and(|label| label == revision)
}

/// Whether an object is controlled by the one with this UID.
pub fn is_controlled_by(object: &Value, uid: &str) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| owner["uid"] == uid && owner["controller"] == true)
}

/// The label selector of a workload, as lists take it.
pub fn selector(object: &Value) -> String {
    let Some(selector) = object.pointer("/spec/selector") else { return String::new() };
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let exact = labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten().filter_map(|wanted| {
        let key = wanted["key"].as_str()?;
        let values: Vec<&str> =
            wanted["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let values = values.join(",");
        match wanted["operator"].as_str()? {
            "In" => Some(format!("{key} in ({values})")),
            "NotIn" => Some(format!("{key} notin ({values})")),
            "Exists" => Some(key.to_owned()),
            "DoesNotExist" => Some(format!("!{key}")),
            _ => None,
        }
    });
    exact.chain(expressions).collect::<Vec<_>>().join(",")
}

/// The images that a pod's spec says, by place; those of ephemeral containers, which no template has, not among them.
pub fn images_of(pod: &Value) -> Images {
    let mut found = images(pod);
    found.retain(|place, _| place.list != List::EphemeralContainers);
    found
}

/// The digests that a pod really runs, by place, as its kubelet says them.
pub fn digests(pod: &Value) -> Vec<(ContainerId, Digest)> {
    statuses(pod)
        .filter_map(|(place, status)| {
            let (_, digest) = status["imageID"].as_str()?.rsplit_once('@')?;
            Some((place, digest.parse().ok()?))
        })
        .collect()
}

/// Whether a label selector selects labels.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    exact.into_iter().all(|(key, value)| labels.get(key) == Some(value))
        && expressions.into_iter().all(|wanted| {
            let own = wanted["key"].as_str().and_then(|key| labels.get(key));
            let among = || {
                wanted["values"].as_array().is_some_and(|values| own.is_some_and(|own| values.contains(own)))
            };
            match wanted["operator"].as_str() {
                Some("In") => among(),
                Some("NotIn") => !among(),
                Some("Exists") => own.is_some(),
                Some("DoesNotExist") => own.is_none(),
                Some(_) | None => false,
            }
        })
}

/// Whether a pod is Ready.
pub fn is_ready(pod: &Value) -> bool {
    conditions(pod).any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a pod is being deleted.
pub fn is_ending(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some()
}

/// The name of an object.
pub fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// A reason as a kubelet gives it: one word. Free text could hold anything.
fn word(reason: &str) -> String {
    reason.chars().take_while(char::is_ascii_alphanumeric).take(64).collect()
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests;
