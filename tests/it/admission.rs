//! Admission by the real operator, as the API server asks it.

use serde_json::json;

use crate::{
    controlplane::eventually,
    support::scene::{SOON, Scene},
};

/// If this fails, what nobody approved starts, or a revocation is but a wish.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_approved_is_not_let_in() {
    let scene = Scene::guarded("admission").await;
    scene.approve(&[0, 1]).await;

    let why = scene.asks_for_pod("unlisted", &scene.pin(5)).await.unwrap_err();
    for part in
        ["spec.containers[app]", &scene.pin(5), &scene.namespace, "kind: ApprovedImage", &scene.digest(5)]
    {
        assert!(why.contains(part), "{part} is missing in: {why}");
    }
    assert_eq!(scene.asks_for_pod("pinned", &scene.pin(0)).await, Ok(scene.pin(0)));
    // The kubelet would ask the registry anew what a tag stands for.
    assert_eq!(scene.asks_for_pod("tagged", &scene.tag(0)).await, Ok(scene.pin(0)));

    let cart = scene.object("Deployment", "cart", &scene.tag(0), json!({}));
    scene.asks_for(&cart).await.unwrap();
    scene.proven("Deployment", "cart").await;
    scene.sets("somebody", "cart", &scene.tag(1)).await;
    scene.proven_at("Deployment", "cart", &scene.tag(1)).await;
    let other = scene.object("Deployment", "other", &scene.tag(5), json!({}));
    let why = scene.asks_for(&other).await.unwrap_err();
    assert!(why.contains("spec.template.spec.containers[app]"), "{why}");

    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let why = eventually("a Pod of the revoked image is refused", SOON, async || {
        let answer = scene.asks_for_pod("revoked", &scene.pin(1)).await;
        if answer.is_ok() {
            scene.delete("Pod", "revoked").await;
        }
        answer.err().ok_or_else(|| anyhow::anyhow!("it was let in"))
    })
    .await;
    assert!(why.contains("revoked"), "{why}");
}
