//! Revocations count, whatever else of their commit goes wrong.

use kube::{
    Api,
    api::{DeleteParams, DynamicObject},
};
use serde_json::{Value, json};

use crate::support::{operator::ROOT, repo::Repo, scene::Scene};

/// Makes the API server refuse some writes with 500, as where a webhook is down. `about` says which, in CEL.
async fn broken(scene: &Scene, resources: &str, group: &str, about: &str) {
    scene
        .apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": scene.namespace},
            "webhooks": [{
                "name": "down.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://127.0.0.1:9/down"}, "timeoutSeconds": 1, "failurePolicy": "Fail",
                "matchConditions": [{"name": "these", "expression": about}],
                "rules": [{"apiGroups": [group], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"], "resources": [resources]}],
            }],
        }))
        .await;
}

async fn mended(scene: &Scene) {
    let api: Api<DynamicObject> = scene.of(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "",
    );
    api.delete(&scene.namespace, &DeleteParams::default()).await.unwrap();
}

/// A story in which 1.1 runs, after 1.0.
async fn running(name: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene
}

/// If this fails, what keeps a source from working keeps its revocations from counting.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_although_the_inventory_cannot_be_stored() {
    let scene = running("counts").await;
    let ours = format!("{ROOT}/{}", scene.source);
    let about = format!(
        "has(object.metadata.annotations) && 'countersign.dev/source' in object.metadata.annotations && object.metadata.annotations['countersign.dev/source'] == '{ours}'"
    );
    broken(&scene, "configmaps", "", &about).await;
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.write("new.yaml", &scene.config("new"));
    scene.repo.commit("revoke 1.1, and something new");
    scene.ask().await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let said = scene.source_says("ApplyFailed").await;
    assert!(said.contains("failed calling webhook"), "{said}");
    assert!(!scene.has_config("new").await);
    mended(&scene).await;
    scene.poke().await;
    scene.synced().await;
    assert!(scene.has_config("new").await);
}

/// If this fails, a moment's trouble with one write waits for a whole interval, here an hour; also where it is a revocation in
/// a commit that is held back.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_failed_for_a_moment_is_tried_again_soon() {
    let scene = running("soon").await;
    let ns = scene.namespace.clone();
    broken(&scene, "configmaps", "", &format!("object.metadata.namespace == '{ns}'")).await;
    scene.write("new.yaml", &scene.config("new"));
    scene.push("something new").await;
    let said = scene.source_says("ProblemsFound").await;
    assert!(said.contains("failed calling webhook"), "{said}");
    mended(&scene).await;
    scene.synced().await;
    assert!(scene.has_config("new").await);

    broken(&scene, "approvedimages", "countersign.dev", &format!("object.metadata.name.startsWith('{ns}')"))
        .await;
    scene.repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.push("revoke 1.1 in a rewritten history").await;
    scene.source_says("HistoryRewritten").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    mended(&scene).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, a revocation that somebody wrote into the wrong file or repository is taken for a mere mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_on_an_object_that_stands_twice_or_is_another_sources() {
    let scene = running("twice").await;
    scene.approve(&[2]).await;
    scene.ran("other", &[0, 2]).await;
    scene.write("zz/again.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.push("revoke 1.1 in another file").await;
    let said = scene.source_says("ProblemsFound").await;
    assert!(said.contains("zz/again.yaml") && said.contains("the same object stands in"), "{said}");
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;

    let repo = Repo::new();
    repo.commit_file("revoke.yaml", &scene.approval(2, Some("CVE-2026-0002")));
    let second: Value = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
        "metadata": {"name": format!("{}-second", scene.source), "namespace": ROOT},
        "spec": {"url": repo.path(), "ref": {"branch": "main"}, "interval": "1h"},
    });
    scene.apply(&second).await;
    scene.held_at("Deployment", "other", &scene.pin(0)).await;
}
