//! Tags move forward only.

use anyhow::ensure;
use serde_json::json;

use crate::{
    controlplane::eventually,
    support::{
        manifests::{image_writes, writes},
        scene::{SOON, Scene, shared_plane},
    },
};

/// If this fails a floating tag does not move, or the deletion of a record downgrades a fleet.
#[tokio::test(flavor = "multi_thread")]
async fn a_floating_tag_moves_to_a_newer_record_and_not_back_when_that_record_goes() {
    let scene = Scene::new("floating").await;
    let stable = format!("{}:stable", scene.image());
    let pin = |n: u8| format!("{stable}@{}", scene.digest(n));
    for n in [3, 0] {
        scene.put(
            &format!("approvals/{n}.yaml"),
            &scene.approval_with(n, json!({"tag": if n == 0 { "stable" } else { "1.3" }})),
        );
    }
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &stable));
    scene.push("stable is 1.0").await;
    scene.runs("Deployment", "cart", &pin(0)).await;
    scene.proven("Deployment", "cart").await;

    scene.put("approvals/1.yaml", &scene.approval_with(1, json!({"tag": "stable"})));
    scene.push("stable is 1.1").await;
    scene.runs("Deployment", "cart", &pin(1)).await;
    scene.proven("Deployment", "cart").await;

    scene.remove("approvals/1.yaml");
    scene.push("the record of 1.1 goes").await;
    scene.explains("Deployment", "cart", "NotPermitted", "tags move forward only").await;
    scene.poke().await;
    scene.runs("Deployment", "cart", &pin(1)).await;

    // Another reference is another wish, an older image included.
    scene.put("approvals/0.yaml", &scene.approval_with(0, json!({"tag": "1.0"})));
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    scene.push("run 1.0 by its own name").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, a fix that only moves a floating tag restarts everything twice: back, and then forward.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_revokes_what_a_tag_stands_for_and_claims_it_anew_moves_a_workload_once() {
    let plane = shared_plane().await;
    let scene = Scene::new("reclaimed").await;
    let stable = format!("{}:stable", scene.image());
    let pin = |n: u8| format!("{stable}@{}", scene.digest(n));
    let approve = |n: u8, more: serde_json::Value| {
        let mut over = json!({"tag": "stable"});
        over.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        scene.put(&format!("approvals/{n}.yaml"), &scene.approval_with(n, over));
    };
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &stable));
    for n in [1, 2] {
        approve(n, json!({}));
        scene.push(&format!("stable is 1.{n}")).await;
        scene.proven_at("Deployment", "cart", &pin(n)).await;
    }
    let written = || image_writes(&writes(plane, "deployments", &scene.namespace), "cart");
    eventually("the audit log has both releases", SOON, async || {
        ensure!(written().len() == 2, "{:?}", written());
        Ok(())
    })
    .await;
    approve(2, json!({"revocation": {"reason": "CVE-2026-0001"}}));
    approve(3, json!({}));
    scene.push("revoke 1.2, stable is 1.3").await;
    scene.proven_at("Deployment", "cart", &pin(3)).await;
    eventually("the audit log has the last write", SOON, async || {
        ensure!(written().len() > 2);
        Ok(())
    })
    .await;
    assert_eq!(written()[2..], [[pin(3)]]);
}
