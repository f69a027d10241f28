//! Pods, Jobs and `ReplicaSet`s that belong to no workload: judged and reported, never moved.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    policy::{Judge, Reason},
    workload::{ContainerId, Images, Kind, images},
};

/// What is looked at: `apiVersion`, `kind`, and where its pod template stands.
pub const BARE: [(&str, &str, &str); 3] =
    [("v1", "Pod", ""), ("batch/v1", "Job", "/spec/template"), ("apps/v1", "ReplicaSet", "/spec/template")];
/// How many that are not permitted are named for each policy.
pub const NAMED: usize = 20;

/// What policies say of what belongs to no workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Those whose images every Enforce policy that covers them permits.
    pub permitted: usize,
    /// Those with an image that is not permitted, but none that is revoked.
    pub not_permitted: usize,
    /// Those with a revoked image.
    pub revoked: usize,
    /// The same by policy, of any mode.
    pub by_policy: BTreeMap<(String, String), OfPolicy>,
}

/// What one policy says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfPolicy {
    /// How many it covers.
    pub governed: u32,
    /// How many have an image that it does not permit.
    pub not_permitted: u32,
    /// The first of these images.
    pub named: Vec<Stray>,
}

/// One image that is not permitted, of what belongs to no workload.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in the status")]
pub struct Stray {
    pub namespace: String,
    pub kind: &'static str,
    pub name: String,
    pub container: ContainerId,
    pub image: String,
    pub reason: Reason,
}

/// The images of an object that belongs to no workload and runs, or may run, pods; `None`: it does not count.
///
/// # Caveats
/// Owner references are what whoever made the object wrote: this is for a report, and decides nothing.
pub fn bare_images(object: &Value, template: &str) -> Option<Images> {
    let is = |pointer: &str, value: &str| object.pointer(pointer).is_some_and(|found| found == value);
    let over = is("/status/phase", "Succeeded")
        || is("/status/phase", "Failed")
        || object.pointer("/status/completionTime").is_some()
        || object.pointer("/spec/replicas").is_some_and(|replicas| *replicas == 0);
    (!over && !belongs(object)).then(|| object.pointer(template).map(images)).flatten()
}

/// Whether a workload, or something that is looked at by itself, controls an object.
fn belongs(object: &Value) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| {
        let (Some(api_version), Some(kind)) = (owner["apiVersion"].as_str(), owner["kind"].as_str()) else {
            return false;
        };
        // A Job that somebody made from a CronJob is owned by it, but not controlled.
        Kind::find(api_version, kind).is_some()
            || BARE.iter().any(|row| (row.0, row.1) == (api_version, kind))
    })
}

impl Report {
    /// Adds an object, with what the policies of its namespace say.
    pub fn add(
        &mut self,
        kind: &'static str,
        namespace: &str,
        name: &str,
        images: &Images,
        judge: &Judge<'_>,
    ) {
        let all: Vec<_> =
            images.values().map(|image| judge.enforced(image)).filter(|judged| judged.governed).collect();
        if all.iter().any(super::policy::Judgement::revoked) {
            self.revoked += 1;
        } else if all.iter().any(|judged| !judged.permitted()) {
            self.not_permitted += 1;
        } else if !all.is_empty() {
            self.permitted += 1;
        }
        for policy in judge.policies {
            let one = Judge { policies: std::slice::from_ref(policy), ..*judge };
            if !one.governs(images.values().map(String::as_str)) {
                continue;
            }
            let of = self.by_policy.entry(policy.key.clone()).or_default();
            of.governed += 1;
            let strays: Vec<Stray> = images
                .iter()
                .flat_map(|(container, image)| {
                    judge.reported(image, &policy.key).against.into_iter().map(|(_, reason)| Stray {
                        namespace: namespace.to_owned(),
                        kind,
                        name: name.to_owned(),
                        container: container.clone(),
                        image: image.clone(),
                        reason,
                    })
                })
                .collect();
            of.not_permitted += u32::from(!strays.is_empty());
            let room = NAMED.saturating_sub(of.named.len());
            of.named.extend(strays.into_iter().take(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::{
        ledger::{
            Ledger,
            tests::{at, record},
        },
        policy::{Policy, tests::policy},
    };

    fn pod(image: &str) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "app", "image": image}]}})
    }

    #[test]
    fn what_belongs_to_a_workload_or_is_over_is_not_bare() {
        let owned = |api_version: &str, kind: &str| {
            let mut pod = pod("a:1");
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": api_version, "kind": kind, "uid": "u"}]);
            bare_images(&pod, "").is_none()
        };
        assert!(
            owned("apps/v1", "ReplicaSet") && owned("apps/v1", "StatefulSet") && owned("batch/v1", "CronJob")
        );
        assert!(!owned("v1", "Node"), "static pods are nobody's");
        assert!(!owned("other.example/v1", "Thing"), "of a kind that is not known");
        assert_eq!(bare_images(&pod("a:1"), "").unwrap().len(), 1);
        for (pointer, value) in
            [("status", json!({"phase": "Succeeded"})), ("status", json!({"completionTime": "x"}))]
        {
            let mut over = pod("a:1");
            over[pointer] = value;
            assert_eq!(bare_images(&over, ""), None);
        }
    }

    /// An ephemeral container is a shell in production: its image counts like any other.
    #[test]
    fn ephemeral_containers_count_and_names_are_bounded() {
        let mut revoked = record("bad", 1, "1.0");
        revoked.revocation = Some("CVE-2026-0001".into());
        let ledger: Ledger = [revoked, record("good", 2, "2.0")].into_iter().collect();
        let own = policy();
        let policies: [&Policy; 1] = [&own];
        let judge = Judge {
            policies: &policies,
            ledger: &ledger,
            evidence: crate::domain::evidence::EvidenceOf::nothing(),
            namespace: "shop",
            now: at(100),
        };
        let mut report = Report::default();
        let mut add = |object: &Value| {
            report.add("Pod", "shop", "x", &bare_images(object, "").unwrap(), &judge);
        };
        let mut debugged = pod("registry.example/shop/cart:2.0");
        add(&debugged);
        debugged["spec"]["ephemeralContainers"] =
            json!([{"name": "debug", "image": "registry.example/shop/cart:1.0"}]);
        add(&debugged);
        for _ in 0..30 {
            add(&pod("registry.example/shop/other:1"));
        }
        assert_eq!((report.permitted, report.revoked, report.not_permitted), (1, 1, 30));
        let of = &report.by_policy[&own.key];
        assert_eq!((of.governed, of.not_permitted, of.named.len()), (32, 31, NAMED));
        assert_eq!(of.named[0].container.to_string(), "ephemeralContainers/debug");
    }
}
