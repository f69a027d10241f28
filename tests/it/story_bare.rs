//! What belongs to no workload: Pods, Jobs and `ReplicaSet`s that somebody made by hand.

use anyhow::{Context as _, ensure};
use countersign::api::ImagePolicy;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        operator::ROOT,
        scene::{SOON, Scene},
    },
};

fn bare(scene: &Scene, kind: &str, name: &str, image: &str) -> Value {
    let labels = json!({"app": name});
    let pod = json!({"containers": [{"name": "app", "image": image}], "restartPolicy": if kind == "Job" { "Never" } else { "Always" }});
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let (api_version, spec) = match kind {
        "Pod" => ("v1", pod),
        "Job" => ("batch/v1", json!({"suspend": true, "template": template})),
        "ReplicaSet" => ("apps/v1", json!({"selector": {"matchLabels": labels}, "template": template})),
        other => panic!("{other}"),
    };
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": scene.namespace}, "spec": spec})
}

/// If this fails what somebody started by hand runs a revoked image, and nobody hears of it; or it is moved.
#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_workload_is_reported_and_never_moved() {
    let scene = Scene::new("bare").await;
    scene.file_approvals(0..2);
    scene.push("approvals").await;
    scene.ship("Deployment", "cart", 0).await;
    scene.apply(&bare(&scene, "Pod", "shell", &scene.pin(0))).await;
    scene.apply(&bare(&scene, "Job", "migrate", &scene.pin(1))).await;
    scene.apply(&bare(&scene, "ReplicaSet", "old", "registry.example/other:1")).await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let debug =
        json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "registry.example/debug:1"}]}});
    let patch = Patch::Strategic(&debug);
    pods.patch_ephemeral_containers("shell", &PatchParams::default(), &patch).await.unwrap();
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;

    let policies: Api<ImagePolicy> = Api::namespaced(scene.client.clone(), ROOT);
    eventually("the policy reports them", SOON, async || {
        let status = policies.get(&scene.namespace).await?.status.context("no status")?;
        let bare = status.bare.context("nothing of bare ones")?;
        // The pods of the Deployment and of the ReplicaSet are not among them.
        ensure!((bare.governed, bare.not_permitted) == (3, 3), "{bare:?}");
        let said: Vec<String> = status
            .not_permitted
            .iter()
            .map(|found| format!("{} {} {}: {}", found.kind, found.name, found.container, found.reason))
            .collect();
        for (of, why) in [
            ("Pod shell ephemeralContainers/debug", "registry.example/debug:1"),
            ("Job migrate containers/app", "is revoked: CVE-2026-0001"),
            ("ReplicaSet old containers/app", "registry.example/other:1"),
        ] {
            ensure!(said.iter().any(|line| line.starts_with(of) && line.contains(why)), "{of}: {said:?}");
        }
        Ok(())
    })
    .await;
    let shell = pods.get("shell").await.unwrap();
    assert_eq!(shell.spec.unwrap().containers[0].image.as_deref(), Some(scene.pin(0).as_str()));
    let all: Api<countersign::api::ReleaseHistory> = Api::namespaced(scene.client.clone(), ROOT);
    let histories = all.list(&kube::api::ListParams::default()).await.unwrap();
    let of = histories.items.iter().filter(|history| history.spec.workload_ref.namespace == scene.namespace);
    assert_eq!(of.count(), 1, "only workloads have histories");
}
