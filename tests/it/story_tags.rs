//! Tags move forward only.

use serde_json::json;

use crate::support::scene::Scene;

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
