//! Pinning: every place that can name an image, and only what a policy matches.

use anyhow::ensure;
use serde_json::json;

use crate::{
    controlplane::eventually,
    support::scene::{SOON, Scene},
};

/// If this fails a tag can be moved under what runs, in some list of a pod template, or strangers' images are touched.
#[tokio::test(flavor = "multi_thread")]
async fn every_image_that_a_policy_matches_is_pinned_by_tag_and_by_digest_and_no_other_is_touched() {
    let scene = Scene::new("pinning").await;
    let only =
        scene.policy("Enforce").replace("match: {", &format!("match: {{images: [\"{}\"], ", scene.image()));
    scene.write("policy.yaml", &only);
    scene.file_approvals(0..4);
    let by_digest = format!("{}@{}", scene.image(), scene.digest(1));
    let mut cart = scene.object("Deployment", "cart", &scene.tag(0), json!({}));
    let spec = &mut cart["spec"]["template"]["spec"];
    spec["containers"].as_array_mut().unwrap().extend([
        json!({"name": "by-digest", "image": by_digest}),
        json!({"name": "by-both", "image": scene.pin(2)}),
        json!({"name": "stranger", "image": "registry.example/elsewhere/other:1"}),
    ]);
    spec["initContainers"] = json!([{"name": "setup", "image": scene.tag(2)}]);
    spec["volumes"] = json!([
        {"name": "model", "image": {"reference": scene.tag(3)}},
        {"name": "data", "image": {"reference": "registry.example/elsewhere/data:1"}},
    ]);
    scene.put("cart.yaml", &cart);
    scene.push("images everywhere").await;
    let expected = [
        scene.pin(0),
        scene.pin(2),
        by_digest,
        "registry.example/elsewhere/other:1".to_owned(),
        scene.pin(2),
        "registry.example/elsewhere/data:1".to_owned(),
        scene.pin(3),
    ];
    eventually("all are pinned", SOON, async || {
        let mut images = scene.images("Deployment", "cart").await?;
        let mut expected = expected.to_vec();
        images.sort();
        expected.sort();
        ensure!(images == expected, "{images:#?}");
        Ok(())
    })
    .await;
    scene.explains("Deployment", "cart", "Permitted", "cart").await;
}

/// If this fails images that nobody asked to govern are changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_without_any_matched_image_is_applied_as_it_is() {
    let scene = Scene::new("ungoverned").await;
    let only =
        scene.policy("Enforce").replace("match: {", &format!("match: {{images: [\"{}\"], ", scene.image()));
    scene.write("policy.yaml", &only);
    scene.write("other.yaml", &scene.workload("Deployment", "other", "registry.example/elsewhere/other:1"));
    scene.push("a stranger").await;
    scene.runs("Deployment", "other", "registry.example/elsewhere/other:1").await;
    scene.write("other.yaml", &scene.workload("Deployment", "other", "registry.example/elsewhere/other:2"));
    scene.push("a newer stranger").await;
    scene.runs("Deployment", "other", "registry.example/elsewhere/other:2").await;
}
