//! Approvals that end: nothing moves, and the status says why it would not be let in today.

use anyhow::ensure;
use serde_json::{json, to_value};

use crate::{
    controlplane::eventually,
    support::{
        manifests::{at, writes},
        scene::{SOON, Scene, shared_plane},
    },
};

/// If this fails a file that is removed from git restarts or stops what runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_approval_moves_nothing_and_is_said() {
    let scene = Scene::new("withdrawn").await;
    scene.file_approvals(0..3);
    scene.ship("Deployment", "cart", 0).await;
    scene.ship("Deployment", "cart", 1).await;
    scene.remove("approvals/1.yaml");
    scene.push("withdraw 1.1").await;
    scene
        .gone(
            &scene.of("countersign.dev/v1alpha1", "ApprovedImage", "approvedimages", "countersign-system"),
            &scene.approval_name(1),
        )
        .await;
    scene.explains("Deployment", "cart", "NotPermitted", "Unlisted").await;
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    let generation = scene.deployments().get("cart").await.unwrap().metadata.generation;
    assert_eq!(generation, Some(2), "one for each release");

    scene.file_approvals([1]);
    scene.push("approve 1.1 again").await;
    scene.says("Deployment", "cart", "Permitted").await;
    let generation = scene.deployments().get("cart").await.unwrap().metadata.generation;
    assert_eq!(generation, Some(2), "nothing moved");

    // What stays is put back, too.
    scene.remove("approvals/1.yaml");
    scene.push("withdraw 1.1 once more").await;
    scene.says("Deployment", "cart", "NotPermitted").await;
    let containers = json!([{"name": "app", "image": scene.pin(2), "args": ["--hand"]}]);
    let change = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    scene.edit("Deployment", "cart", &change).await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/args", &json!(null)).await;
}

/// If this fails every approval with an end is an outage at that moment.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_approval_moves_nothing_and_is_said() {
    let plane = shared_plane().await;
    let scene = Scene::new("expired").await;
    let end = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 8).unwrap();
    scene.file_approvals([0]);
    scene.put("approvals/1.yaml", &scene.approval_with(1, json!({"expiresAt": end.to_string()})));
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(1)));
    scene.push("approve 1.1 for a moment, and run it").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.explains("Deployment", "cart", "NotPermitted", "Expired").await;
    eventually("the approval says that it expired", SOON, async || {
        let approval = to_value(scene.approvals().get(&scene.approval_name(1)).await?)?;
        ensure!(at(&approval, "/status/standing") == "Expired", "{approval}");
        Ok(())
    })
    .await;
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    let writes = writes(plane, "deployments", &scene.namespace);
    assert_eq!(writes.len(), 1, "it was created, and nothing else: {writes:?}");
}
