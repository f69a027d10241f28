//! The closed loop, on a real control plane: approve in git, run pinned, revoke, roll back, hold, forward again.

use crate::support::scene::Scene;

/// If this fails the product does not do its one job.
#[tokio::test(flavor = "multi_thread")]
async fn approve_run_pinned_revoke_roll_back_hold_and_forward_again() {
    let scene = Scene::new("loop").await;
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    scene.write("approvals/1.yaml", &scene.approval(1, None));
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    scene.push("approve 1.0 and run it, in one commit").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;

    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(1)));
    scene.push("run 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.proven("Deployment", "cart").await;

    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    let message = scene.says("Deployment", "cart", "Held").await;
    assert!(message.contains("CVE-2026-0001"), "{message}");

    scene.write("approvals/2.yaml", &scene.approval(2, None));
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(2)));
    scene.push("approve and run 1.2").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.says("Deployment", "cart", "Permitted").await;
}
