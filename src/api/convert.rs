//! From wire types to domain values and back. Controllers, the webhook and the command line all use these: one meaning
//! of valid.

mod attempts;
mod evidence;
mod gates;
mod intervention;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use kube::ResourceExt;

use super::{
    ApprovedImage, ImagePolicy,
    annotation::FORGET_REVOCATION,
    approved_image::Role as WireRole,
    image_policy::{
        ApprovedBy, ApprovedFrom, Mode as WireMode, OnFailedRollout as WireOnFailedRollout,
        OnGateFailure as WireOnGateFailure, OnRevocation as WireOnRevocation,
    },
    release_history::{
        Hold as WireHold, Outcome as WireOutcome, RecordedRollback, Rejected as WireRejected, RejectionCause,
        Release as WireRelease, ReleaseContainer, ReleaseHistoryStatus,
        RollbackOutcome as WireRollbackOutcome,
    },
};
use crate::domain::{
    ledger::{Record, RecordKey, Role, Scope},
    packed::Packed,
    pattern::Pattern,
    policy::{
        Approval, Mode, OnFailedRollout, OnGateFailure, OnRevocation, Operator, Policy, Requirement,
        Selector, Sources,
    },
    release::{Cause, History, Hold, Outcome, Rejected, Release, ReleaseImage, Rollback, RollbackOutcome},
};

pub use evidence::{evidence, evidence_to_api};

/// Why an object that the API server accepted still means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Meaningless {
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

fn meaningless(field: &str) -> impl Fn(String) -> Meaningless {
    let field = field.to_owned();
    move |why| Meaningless { field: field.clone(), why }
}

impl ApprovedImage {
    /// The record that the ledger keeps.
    pub fn record(&self, root: &str) -> Result<Record, Meaningless> {
        let namespace = self.namespace().unwrap_or_default();
        let spec = &self.spec;
        let digest = spec.digest.parse().map_err(|e| meaningless("spec.digest")(format!("{e}")))?;
        let tag = spec.tag.as_deref().map(str::parse).transpose();
        let created = self.creation_timestamp().map(|time| time.0).unwrap_or_default();
        let forgotten = self.annotations().get(FORGET_REVOCATION).is_some_and(|said| *said == spec.digest);
        Ok(Record {
            key: RecordKey { namespace: namespace.clone(), name: self.name_any() },
            scope: Scope::of(&namespace, root),
            repository: spec.image.parse().map_err(|e| meaningless("spec.image")(format!("{e}")))?,
            digest,
            tag: tag.map_err(|e| meaningless("spec.tag")(format!("{e}")))?,
            role: match spec.role {
                WireRole::Application => Role::Application,
                WireRole::Base => Role::Base,
            },
            approved_at: spec.approved_at.as_ref().map_or(created, |time| time.0),
            expires_at: spec.expires_at.as_ref().map(|time| time.0),
            revocation: spec.revocation.as_ref().map(|revocation| revocation.reason.clone()),
            forgotten: forgotten && spec.revocation.is_some(),
        })
    }
}

impl ImagePolicy {
    /// The policy that judges. What counts only in the root namespace is left out elsewhere.
    pub fn policy(&self, root: &str) -> Result<Policy, Meaningless> {
        let namespace = self.namespace().unwrap_or_default();
        let spec = &self.spec;
        let is_root = namespace == root;
        let exclude = spec.matches.exclude.as_ref().filter(|_| is_root);
        let rollback = spec.rollback.as_ref().filter(|_| is_root);
        let admission = spec.admission.as_ref().filter(|_| is_root);
        let sources = spec.sources.as_ref().map(|sources| {
            Ok(Sources {
                allow: patterns(&sources.allow, "spec.sources.allow")?,
                deny: patterns(&sources.deny, "spec.sources.deny")?,
            })
        });
        Ok(Policy {
            key: (namespace.clone(), self.name_any()),
            scope: Scope::of(&namespace, root),
            mode: match spec.mode {
                _ if spec.suspend => Mode::Audit,
                WireMode::Enforce => Mode::Enforce,
                WireMode::Warn => Mode::Warn,
                WireMode::Audit => Mode::Audit,
            },
            images: patterns(&spec.matches.images, "spec.match.images")?,
            namespaces: match spec.matches.namespace_selector.as_ref().filter(|_| is_root) {
                Some(labels) => selector(labels)?,
                None => Selector::default(),
            },
            exclude_images: patterns(
                exclude.map_or(&[], |exclude| exclude.images.as_slice()),
                "spec.match.exclude.images",
            )?,
            exclude_namespaces: exclude
                .map(|exclude| exclude.namespaces.iter().cloned().collect())
                .unwrap_or_default(),
            sources: sources.transpose()?,
            require_digest: spec.require_digest,
            approval: spec.approval.as_ref().map(|approval| Approval {
                from_root: approval.from.contains(&ApprovedFrom::Root),
                from_namespace: approval.from.contains(&ApprovedFrom::Namespace),
                max_age: approval.max_age.map(|age| std::time::Duration::from_secs(age.as_secs())),
            }),
            gates: gates::gates(spec, &namespace)?,
            approves: is_root
                && spec.approval.as_ref().is_some_and(|approval| approval.by == ApprovedBy::Gates),
            pull_secrets: spec.pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
            on_gate_failure: rollback.and_then(|rollback| rollback.on_gate_failure).map(|said| match said {
                WireOnGateFailure::LastGood => OnGateFailure::LastGood,
                WireOnGateFailure::None => OnGateFailure::None,
            }),
            on_revocation: rollback.and_then(|rollback| rollback.on_revocation).map(|said| match said {
                WireOnRevocation::LastGood => OnRevocation::LastGood,
                WireOnRevocation::None => OnRevocation::None,
            }),
            on_failed_rollout: rollback.and_then(|rollback| rollback.on_failed_rollout).map(
                |said| match said {
                    WireOnFailedRollout::LastGood => OnFailedRollout::LastGood,
                    WireOnFailedRollout::None => OnFailedRollout::None,
                },
            ),
            healthy_for: rollback
                .and_then(|rollback| rollback.healthy_for)
                .map(|time| std::time::Duration::from_secs(time.as_secs())),
            pin_pods: admission.and_then(|admission| admission.pin_pods),
        })
    }
}

fn patterns(texts: &[String], field: &str) -> Result<Vec<Pattern>, Meaningless> {
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            Pattern::new(text).map_err(|error| meaningless(&format!("{field}[{index}]"))(error.to_string()))
        })
        .collect()
}

fn selector(labels: &LabelSelector) -> Result<Selector, Meaningless> {
    let exact = labels.match_labels.iter().flatten().map(|(key, value)| {
        Ok(Requirement { key: key.clone(), operator: Operator::In, values: BTreeSet::from([value.clone()]) })
    });
    let expressions = labels.match_expressions.iter().flatten().enumerate().map(|(index, expression)| {
        let operator = match expression.operator.as_str() {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                let field = format!("spec.match.namespaceSelector.matchExpressions[{index}].operator");
                return Err(meaningless(&field)(format!(
                    "{other:?} is none of In, NotIn, Exists, DoesNotExist"
                )));
            }
        };
        let values = expression.values.iter().flatten().cloned().collect();
        Ok(Requirement { key: expression.key.clone(), operator, values })
    });
    exact.chain(expressions).collect::<Result<_, _>>().map(Selector)
}

impl ReleaseHistoryStatus {
    /// The history that the plan is made from. What cannot be read is left out, and named.
    pub fn history(&self) -> (History, Vec<String>) {
        let mut unreadable = Vec::new();
        let releases =
            self.releases.iter().filter_map(|release| read_release(release, &mut unreadable)).collect();
        let hold = self.hold.as_ref().map(|hold| Hold {
            since: hold.since.0,
            rejected: hold.rejected.iter().filter_map(|r| read_rejected(r, &mut unreadable)).collect(),
            failed: hold.failed_release.clone(),
            target: hold.target.clone(),
            why: hold.reason.clone(),
        });
        let history = History {
            uid: self.uid.clone(),
            present: self.present.clone(),
            releases,
            hold,
            rollbacks: self.rollbacks.iter().filter_map(read_rollback).collect(),
            interventions: self.interventions.iter().map(intervention::read).collect(),
            gone_since: self.workload_gone_since.as_ref().map(|time| time.0),
        };
        (history, unreadable)
    }

    /// The history as it is recorded; conditions and observed generation are left to the caller.
    pub fn of(history: &History) -> Self {
        Self {
            uid: history.uid.clone(),
            present: history.present.clone(),
            present_images: history.present().map(|release| cut(&release.summary(), 1024)),
            releases: history.releases.iter().map(write_release).collect(),
            hold: history.hold.as_ref().map(|hold| WireHold {
                since: Time(hold.since),
                rejected: hold
                    .rejected
                    .iter()
                    .map(|rejected| WireRejected {
                        container: rejected.container.to_string(),
                        reference: rejected.reference.clone(),
                        digest: rejected.digest.as_ref().map(ToString::to_string),
                        cause: match rejected.cause {
                            Cause::Revoked => RejectionCause::Revoked,
                            Cause::FailedRollout => RejectionCause::FailedRollout,
                        },
                    })
                    .collect(),
                failed_release: hold.failed.clone(),
                target: hold.target.clone(),
                reason: cut(&hold.why, 1024),
            }),
            rollbacks: history
                .rollbacks
                .iter()
                .map(|rollback| RecordedRollback {
                    at: Time(rollback.at),
                    from: rollback.from.clone(),
                    to: Some(rollback.to.clone()),
                    reason: cut(&rollback.why, 1024),
                    outcome: match rollback.outcome {
                        RollbackOutcome::InProgress => WireRollbackOutcome::InProgress,
                        RollbackOutcome::Completed => WireRollbackOutcome::Completed,
                        RollbackOutcome::Failed => WireRollbackOutcome::Failed,
                    },
                    revoked: Vec::new(),
                })
                .collect(),
            interventions: history.interventions.iter().map(intervention::write).collect(),
            workload_gone_since: history.gone_since.map(Time),
            ..Self::default()
        }
    }
}

fn read_release(wire: &WireRelease, unreadable: &mut Vec<String>) -> Option<Release> {
    let mut images = BTreeMap::new();
    for own in &wire.containers {
        match own.container.parse() {
            Ok(id) => {
                let image = ReleaseImage {
                    image: own.image.clone(),
                    wanted: own.wanted.clone(),
                    approved_at: own.approved_at.as_ref().map(|time| time.0),
                };
                images.insert(id, image);
            }
            Err(why) => {
                unreadable.push(format!("release {}: {why}", wire.id));
                return None;
            }
        }
    }
    Some(Release {
        id: wire.id.clone(),
        images,
        commit: wire.commit.clone(),
        template: wire.template.as_deref().map(Packed::new),
        since: wire.present_since.as_ref().map(|time| time.0).unwrap_or_default(),
        until: wire.last_present_at.as_ref().map(|time| time.0),
        outcome: match wire.outcome {
            WireOutcome::Unproven => Outcome::Unproven,
            WireOutcome::Good => Outcome::Good,
            WireOutcome::Failed => Outcome::Failed,
        },
        adopted: wire.adopted,
    })
}

fn write_release(release: &Release) -> WireRelease {
    WireRelease {
        id: release.id.clone(),
        containers: release
            .images
            .iter()
            .map(|(id, own)| ReleaseContainer {
                container: id.to_string(),
                image: own.image.clone(),
                wanted: own.wanted.clone(),
                approved_at: own.approved_at.map(Time),
            })
            .collect(),
        commit: release.commit.clone(),
        template: release.template.as_ref().map(|template| template.open().into()),
        present_since: Some(Time(release.since)),
        last_present_at: release.until.map(Time),
        outcome: match release.outcome {
            Outcome::Unproven => WireOutcome::Unproven,
            Outcome::Good => WireOutcome::Good,
            Outcome::Failed => WireOutcome::Failed,
        },
        adopted: release.adopted,
    }
}

fn read_rejected(wire: &WireRejected, unreadable: &mut Vec<String>) -> Option<Rejected> {
    match wire.container.parse() {
        Ok(container) => Some(Rejected {
            container,
            reference: wire.reference.clone(),
            digest: wire.digest.as_deref().and_then(|digest| digest.parse().ok()),
            cause: match wire.cause {
                RejectionCause::Revoked => Cause::Revoked,
                RejectionCause::FailedRollout => Cause::FailedRollout,
            },
        }),
        Err(why) => {
            unreadable.push(format!("hold: {why}"));
            None
        }
    }
}

fn read_rollback(wire: &RecordedRollback) -> Option<Rollback> {
    let outcome = match wire.outcome {
        WireRollbackOutcome::InProgress => RollbackOutcome::InProgress,
        WireRollbackOutcome::Completed => RollbackOutcome::Completed,
        WireRollbackOutcome::Failed => RollbackOutcome::Failed,
        WireRollbackOutcome::NoSafeRelease => return None,
    };
    let to = wire.to.clone()?;
    Some(Rollback { at: wire.at.0, from: wire.from.clone(), to, why: wire.reason.clone(), outcome })
}

/// A text within what the schema allows, cut between characters.
pub fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        text.to_owned()
    } else {
        text.chars().take(max - 1).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::intervention::{Effect, Intervention, Way};

    fn approved(value: serde_json::Value) -> ApprovedImage {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_approved_image_becomes_a_record() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let mut object = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
            "metadata": {"name": "cart", "namespace": "shop", "creationTimestamp": "2026-11-01T00:00:00Z"},
            "spec": {"image": "Registry.Example:443/shop/cart", "digest": digest, "tag": "1.4", "expiresAt": "2027-01-01T00:00:00Z"},
        });
        let record = approved(object.clone()).record("countersign-system").unwrap();
        assert_eq!(record.repository.as_str(), "registry.example/shop/cart");
        assert_eq!(record.approved_at, "2026-11-01T00:00:00Z".parse().unwrap(), "defaults to the creation");
        assert_eq!(record.scope, Scope::Namespace("shop".into()));
        assert_eq!(approved(object.clone()).record("shop").unwrap().scope, Scope::Root);
        assert!(!record.forgotten);
        object["metadata"]["annotations"] = json!({FORGET_REVOCATION: digest});
        assert!(!approved(object.clone()).record("shop").unwrap().forgotten, "nothing is revoked");
        object["spec"]["revocation"] = json!({"reason": "bad"});
        assert!(approved(object.clone()).record("shop").unwrap().forgotten);
        object["metadata"]["annotations"] = json!({FORGET_REVOCATION: "sha256:other"});
        assert!(!approved(object).record("shop").unwrap().forgotten, "another digest");
    }

    #[test]
    fn what_counts_only_in_the_root_namespace_is_left_out_elsewhere() {
        let object = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"mode": "Enforce", "match": {"namespaceSelector": {"matchLabels": {"env": "x"}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]},
                "exclude": {"images": ["a/*"], "namespaces": ["b"]}}, "rollback": {"onRevocation": "None", "onGateFailure": "LastGood", "onFailedRollout": "LastGood", "healthyFor": "5s"},
                "approval": {"by": "Gates"}, "maxImageAge": "90d", "pullSecrets": [{"name": "registry"}],
                "admission": {"pinPods": false}},
        });
        let read =
            |root| serde_json::from_value::<ImagePolicy>(object.clone()).unwrap().policy(root).unwrap();
        let root = read("shop");
        assert_eq!(
            (root.namespaces.0.len(), root.exclude_images.len(), root.exclude_namespaces.len()),
            (2, 1, 1)
        );
        assert_eq!((root.on_revocation, root.healthy_for.unwrap().as_secs()), (Some(OnRevocation::None), 5));
        assert_eq!((root.on_failed_rollout, root.pin_pods), (Some(OnFailedRollout::LastGood), Some(false)));
        assert_eq!((root.on_gate_failure, root.approves), (Some(OnGateFailure::LastGood), true));
        let tenant = read("countersign-system");
        assert_eq!((tenant.on_gate_failure, tenant.approves), (None, false));
        assert_eq!(
            (tenant.gates.len(), tenant.pull_secrets),
            (1, ["registry".to_owned()].into()),
            "its own to say"
        );
        assert_eq!(
            (tenant.namespaces.0.len(), tenant.exclude_images.len(), tenant.exclude_namespaces.len()),
            (0, 0, 0)
        );
        assert_eq!((tenant.on_revocation, tenant.on_failed_rollout, tenant.healthy_for), (None, None, None));
        assert_eq!(tenant.pin_pods, None);
    }

    /// A history that reads back differently would be written again and again, or lose a hold.
    #[test]
    fn a_history_survives_the_way_to_the_api_server_and_back() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let images = [(
            "initContainers/x".parse().unwrap(),
            ReleaseImage { image: "a@b".into(), wanted: "a".into(), approved_at: Some(at(5)) },
        )];
        let mut good = Release::new(images.into(), Some(&json!({"spec": {}})), at(1));
        good.outcome = Outcome::Good;
        good.until = Some(at(2));
        good.commit = Some("c0ffee".into());
        let mut history = History::default();
        history.set_present(good.clone(), at(1));
        history.uid = Some("u".into());
        history.hold = Some(Hold {
            since: at(3),
            rejected: vec![Rejected {
                container: "containers/app".parse().unwrap(),
                reference: "r".into(),
                digest: Some(format!("sha256:{}", "ab".repeat(32)).parse().unwrap()),
                cause: Cause::FailedRollout,
            }],
            failed: Some("f".into()),
            target: good.id.clone(),
            why: "because".into(),
        });
        history.add_rollback(Rollback {
            at: at(4),
            from: "f".into(),
            to: good.id.clone(),
            why: "because".into(),
            outcome: RollbackOutcome::InProgress,
        });
        history.interventions = vec![Intervention {
            way: Way::Retry,
            value: "now".into(),
            at: at(5),
            effect: Effect::NothingToDo,
            release: Some(good.id.clone()),
        }];
        history.gone_since = Some(at(9));
        let text = serde_json::to_string(&ReleaseHistoryStatus::of(&history)).unwrap();
        let (back, unreadable) = serde_json::from_str::<ReleaseHistoryStatus>(&text).unwrap().history();
        assert_eq!(unreadable, Vec::<String>::new());
        assert_eq!(back, history);
    }
}
