//! Targets that are revoked later, and the end of all targets.

use anyhow::ensure;

use crate::{
    controlplane::eventually,
    support::scene::{SOON, Scene, shared_operator},
};

/// If this fails a second revocation leaves a workload on a revoked image, or the last one takes a service down, or nobody
/// is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_revoked_later_is_rolled_back_in_turn_until_no_safe_release_is_left() {
    let scene = Scene::new("safe").await;
    scene.file_approvals(0..3);
    for n in 0..3 {
        scene.ship("Deployment", "cart", n).await;
    }
    for n in [2, 1] {
        scene.file_revocation(n, &format!("CVE-2026-000{n}"));
        scene.push(&format!("revoke 1.{n}")).await;
        scene.runs("Deployment", "cart", &scene.pin(n - 1)).await;
        scene.explains("Deployment", "cart", "Held", &format!("CVE-2026-000{n}")).await;
        scene.proven("Deployment", "cart").await;
    }
    let generation = async || scene.deployments().get("cart").await.unwrap().metadata.generation;
    let before = generation().await;
    scene.file_revocation(0, "CVE-2026-0000");
    scene.push("revoke 1.0 too").await;
    let said = scene.says("Deployment", "cart", "NoSafeRelease").await;
    assert!(said.contains("CVE-2026-0000") && said.contains("keeps running"), "{said}");
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    assert_eq!(generation().await, before, "it keeps running as it was");
    eventually("an event tells", SOON, async || {
        let events = scene.events("cart").await?;
        ensure!(events.iter().any(|(reason, _)| reason == "NoSafeRelease"), "{events:?}");
        Ok(())
    })
    .await;
    let operator = shared_operator().await;
    eventually("the metric tells", SOON, async || {
        let count = operator.metric("countersign_workloads{state=\"no_safe_release\"}").await?;
        ensure!(count >= 1.0, "{count}");
        Ok(())
    })
    .await;

    // What is safe now ends it, without a person.
    scene.file_approvals([3]);
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(3)));
    scene.push("approve and run 1.3").await;
    scene.runs("Deployment", "cart", &scene.pin(3)).await;
    scene.says("Deployment", "cart", "Permitted").await;
}
