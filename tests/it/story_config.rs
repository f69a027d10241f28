//! A release without its settings is no release to go back to.

use serde_json::json;

use crate::support::scene::Scene;

/// If this fails a rollback starts pods that wait for a ConfigMap or Secret for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_settings_were_deleted_is_no_target() {
    let scene = Scene::new("settings").await;
    scene.file_approvals(0..4);
    scene.apply(&scene.config_map("settings", "1")).await;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "token", "namespace": scene.namespace}, "data": {"a": "YQ=="},
    });
    scene.apply(&secret).await;
    let from = [
        json!({}),
        json!({"envFrom": [{"configMapRef": {"name": "settings"}}]}),
        json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "token", "key": "a"}}}]}),
        json!({"args": ["--revoked-soon"]}),
    ];
    for (n, over) in (0..).zip(from) {
        scene.put("cart.yaml", &scene.object("Deployment", "cart", &scene.tag(n), over));
        scene.push(&format!("run 1.{n}")).await;
        scene.runs("Deployment", "cart", &scene.pin(n)).await;
        scene.proven("Deployment", "cart").await;
    }
    scene.delete("ConfigMap", "settings").await;
    let secrets = scene.of("v1", "Secret", "secrets", &scene.namespace);
    secrets.delete("token", &Default::default()).await.unwrap();
    scene.file_revocation(3, "CVE-2026-0003");
    scene.push("revoke 1.3").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.explains("Deployment", "cart", "Held", "CVE-2026-0003").await;
}
