//! Rollbacks that do not reach every pod by themselves: what is left is seen to, or respected and said.

use anyhow::{Context as _, ensure};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        manifests::with,
        scene::{SOON, Scene},
    },
};

impl Scene {
    /// Waits until the pods of a workload run these images, the first ordinal first, and are ready.
    async fn pods_run(&self, app: &str, images: &[String]) {
        eventually(&format!("the pods of {app} run {images:?}"), SOON, async || {
            let mut pods =
                self.pods().list(&ListParams::default().labels(&format!("app={app}"))).await?.items;
            pods.sort_by_key(|pod| pod.metadata.name.clone());
            let run: Vec<String> = pods
                .iter()
                .filter(|pod| {
                    let conditions =
                        pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
                    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
                    ready && pod.metadata.deletion_timestamp.is_none()
                })
                .filter_map(|pod| pod.spec.as_ref()?.containers[0].image.clone())
                .collect();
            ensure!(run == images, "{run:?}; {:?}", self.log_of_history(app).await);
            Ok(())
        })
        .await;
    }

    async fn log_of_history(&self, app: &str) -> Option<Value> {
        let kinds = ["StatefulSet", "DaemonSet", "Deployment"];
        for kind in kinds {
            if let Ok(history) = self.history(kind, app).await {
                return Some(json!(history.status?.conditions));
            }
        }
        None
    }

    /// Deletes the pods of a workload, as a person does under `OnDelete`.
    async fn delete_pods(&self, app: &str) {
        let these = ListParams::default().labels(&format!("app={app}"));
        self.pods().delete_collection(&DeleteParams::default(), &these).await.unwrap();
    }

    /// Waits until the history says what keeps a rollback from taking its full effect; answers with its message.
    async fn is_blocked(&self, kind: &str, name: &str, reason: &str, text: &str) {
        eventually(&format!("{kind} {name} is blocked: {reason}, {text}"), SOON, async || {
            let status = self.history(kind, name).await?.status.context("no status")?;
            let blocked = status.conditions.iter().find(|found| found.type_ == "Blocked");
            let blocked = blocked.with_context(|| format!("{:?}", status.conditions))?;
            ensure!(blocked.reason == reason && blocked.message.contains(text), "{blocked:?}");
            Ok(())
        })
        .await;
    }

    /// Waits until the last rollback is complete, and nothing blocks it.
    async fn is_completed(&self, kind: &str, name: &str) {
        eventually(&format!("the rollback of {kind} {name} is complete"), SOON, async || {
            let status = self.history(kind, name).await?.status.context("no status")?;
            let last = status.rollbacks.last().context("no rollback")?;
            ensure!(format!("{:?}", last.outcome) == "Completed", "{last:?}");
            Ok(())
        })
        .await;
    }

    async fn told(&self, name: &str, reason: &str, text: &str) {
        eventually(&format!("an event {reason} about {name}: {text}"), SOON, async || {
            let events = self.events(name).await?;
            let said = events.iter().any(|(own, note)| own == reason && note.contains(text));
            ensure!(said, "{events:?}");
            Ok(())
        })
        .await;
    }

    fn file_workload(&self, kind: &str, name: &str, n: u8, over: &Value) {
        let object = self.object(kind, name, &self.tag(n), json!({}));
        self.put(&format!("{name}.yaml"), &with(object, over.clone()));
    }

    /// Runs 1.0, then 1.1, each proven.
    async fn ship_two(&self, kind: &str, name: &str, over: &Value) {
        self.file_approvals(0..2);
        for n in [0, 1] {
            self.file_workload(kind, name, n, over);
            self.push(&format!("1.{n}")).await;
            self.runs(kind, name, &self.pin(n)).await;
            if over.to_string().contains("OnDelete") {
                self.says(kind, name, "Permitted").await;
                let observed = &self.live(kind, name).await.unwrap()["metadata"]["generation"];
                self.stands(kind, name, "/status/observedGeneration", observed).await;
                self.delete_pods(name).await;
            }
            self.proven(kind, name).await;
        }
    }
}

/// If this fails pods go on with a revoked image until a person deletes them, or all go at once.
#[tokio::test(flavor = "multi_thread")]
async fn under_on_delete_revoked_pods_are_evicted_once_their_budget_allows_it() {
    let scene = Scene::new("ondelete").await;
    let over = json!({"spec": {"replicas": 2, "updateStrategy": {"type": "OnDelete"}}});
    scene.ship_two("StatefulSet", "store", &over).await;
    scene.pods_run("store", &[scene.pin(1), scene.pin(1)]).await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "store", "namespace": scene.namespace},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "store"}}},
    });
    scene.apply(&budget).await;
    let budgets = scene.of("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", &scene.namespace);
    eventually("the budget counts", SOON, async || {
        let budget = serde_json::to_value(budgets.get("store").await?)?;
        ensure!(budget.pointer("/status/currentHealthy") == Some(&json!(2)), "{budget}");
        Ok(())
    })
    .await;
    scene.edit("StatefulSet", "store", &json!({"metadata": {"annotations": {"look": "1"}}})).await;
    scene.is_blocked("StatefulSet", "store", "DisruptionBudget", "pods that a rollback leaves behind").await;

    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("StatefulSet", "store", &scene.pin(0)).await;
    scene.is_blocked("StatefulSet", "store", "DisruptionBudget", "pod store-1 stays for now").await;
    scene.told("store", "RollbackBlocked", "is revoked: CVE-2026-0001").await;
    scene.pods_run("store", &[scene.pin(1), scene.pin(1)]).await;

    budgets.delete("store", &DeleteParams::default()).await.unwrap();
    scene.pods_run("store", &[scene.pin(0), scene.pin(0)]).await;
    scene.is_completed("StatefulSet", "store").await;
    for pod in ["pod store-0", "pod store-1"] {
        scene.told("store", "PodEvicted", pod).await;
    }
}

/// If this fails one broken pod keeps a StatefulSet at a revoked image, whatever its template says.
#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_that_waits_for_a_broken_pod_loses_it_after_a_rollback() {
    let scene = Scene::new("stuck").await;
    scene.file_approvals(0..2);
    let crash = json!({"countersign.dev/test-crash-images": scene.digest(1)});
    let over = json!({"spec": {"replicas": 2, "template": {"metadata": {"annotations": crash}}}});
    scene.file_workload("StatefulSet", "store", 0, &over);
    scene.push("1.0 runs").await;
    scene.runs("StatefulSet", "store", &scene.pin(0)).await;
    scene.proven("StatefulSet", "store").await;
    scene.file_workload("StatefulSet", "store", 1, &over);
    scene.push("1.1 crashes").await;
    eventually("store-1 crashes", SOON, async || {
        let pod = serde_json::to_value(scene.pods().get("store-1").await?)?;
        ensure!(pod.pointer("/status/containerStatuses/0/restartCount").is_some_and(|n| *n != 0), "{pod}");
        Ok(())
    })
    .await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("StatefulSet", "store", &scene.pin(0)).await;
    scene.pods_run("store", &[scene.pin(0), scene.pin(0)]).await;
    scene.is_completed("StatefulSet", "store").await;
    scene.told("store", "PodEvicted", "pod store-1").await;
}

/// If this fails the agents of all nodes go on with a revoked image.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_under_on_delete_loses_its_revoked_pods() {
    let scene = Scene::new("agents").await;
    scene.ship_two("DaemonSet", "agent", &json!({"spec": {"updateStrategy": {"type": "OnDelete"}}})).await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("DaemonSet", "agent", &scene.pin(0)).await;
    scene.pods_run("agent", &[scene.pin(0), scene.pin(0), scene.pin(0)]).await;
    scene.is_completed("DaemonSet", "agent").await;
}

/// If this fails a rollback that reaches no pod looks like one that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_deployment_and_a_partition_are_respected_and_said() {
    let scene = Scene::new("respect").await;
    scene.ship_two("Deployment", "cart", &json!({})).await;
    let two = json!({"spec": {"replicas": 2}});
    scene.ship_two("StatefulSet", "store", &two).await;
    let partition = json!({"spec": {"replicas": 2, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}});
    scene.file_workload("Deployment", "cart", 1, &json!({"spec": {"paused": true}}));
    scene.file_workload("StatefulSet", "store", 1, &partition);
    scene.push("paused, and partitioned").await;
    scene.is_blocked("Deployment", "cart", "Paused", "spec.paused is true").await;
    scene.is_blocked("StatefulSet", "store", "Partitioned", "partition 1").await;

    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.told("cart", "RollbackBlocked", "spec.paused is true").await;
    scene.told("store", "RollbackBlocked", "partition 1").await;
    scene.pods_run("store", &[scene.pin(1), scene.pin(0)]).await;
    scene.pods_run("cart", &[scene.pin(1)]).await;

    scene.file_workload("Deployment", "cart", 1, &json!({"spec": {"paused": false}}));
    scene.file_workload("StatefulSet", "store", 1, &two);
    scene.push("resumed").await;
    scene.pods_run("store", &[scene.pin(0), scene.pin(0)]).await;
    scene.pods_run("cart", &[scene.pin(0)]).await;
    scene.is_completed("Deployment", "cart").await;
    scene.is_completed("StatefulSet", "store").await;
}
