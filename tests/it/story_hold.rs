//! The hold: whoever sets the revoked image, the held release comes back; it ends when git names something permitted.

use serde_json::json;

use crate::support::{
    manifests::{at, with},
    scene::Scene,
};

/// A Deployment that was rolled back from 1.1 to 1.0, while git still says 1.1.
async fn held(name: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene.file_approvals(0..2);
    scene.ship("Deployment", "cart", 0).await;
    scene.ship("Deployment", "cart", 1).await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.says("Deployment", "cart", "Held").await;
    scene
}

/// If this fails a person or another engine brings a revoked image back for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_held_release_comes_back_however_often_the_revoked_image_is_forced() {
    let scene = held("forced").await;
    for image in [scene.tag(1), scene.pin(1)] {
        let forced = scene.object("Deployment", "cart", &image, json!({}));
        let stored = scene.apply_as("another-engine", &forced).await.unwrap();
        assert_eq!(stored.data.pointer("/spec/template/spec/containers/0/image"), Some(&json!(image)));
        scene.runs("Deployment", "cart", &scene.pin(0)).await;
    }
    for image in [scene.pin(1), scene.tag(1), scene.pin(1)] {
        let containers = json!([{"name": "app", "image": image, "args": ["--edited"]}]);
        let change = json!({"spec": {"template": {"spec": {"containers": containers}}}});
        let stored = scene.edit("Deployment", "cart", &change).await;
        assert_eq!(at(&stored, "/spec/template/spec/containers/0/image"), &json!(image));
        scene
            .stands("Deployment", "cart", "/spec/template/spec/containers/0/image", &json!(scene.pin(0)))
            .await;
        scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/args", &json!(null)).await;
    }
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.explains("Deployment", "cart", "Held", "CVE-2026-0001").await;
}

/// If this fails a container that nobody approved in git runs on in a held workload, or a hold never ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_another_manager_adds_goes_and_the_hold_ends_with_a_permitted_image() {
    let scene = held("ghost").await;
    let ghost = |name: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "cart", "namespace": scene.namespace},
            "spec": {"template": {"spec": {"containers": [{"name": name, "image": scene.pin(0)}]}}},
        })
    };
    let stored = scene.apply_as("injector", &ghost("ghost")).await.unwrap();
    assert_eq!(stored.data.pointer("/spec/template/spec/containers").unwrap().as_array().unwrap().len(), 2);
    scene.runs("Deployment", "cart", &scene.pin(0)).await;

    scene.file_approvals([2]);
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(2)));
    scene.push("approve and run 1.2").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    let history = scene.explains("Deployment", "cart", "Permitted", "1.2").await;
    assert_eq!(at(&history, "/status/hold"), &json!(null), "{history}");

    scene.apply_as("injector", &ghost("second-ghost")).await.unwrap();
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.file_revocation(0, "CVE-2026-0002");
    scene.push("revoke what is only history").await;
    scene.explains("Deployment", "cart", "Permitted", "good").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
}

/// If this fails a hold stops scaling, ends by a deletion, or ends on what nobody approved.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_hold_stands_the_rest_of_the_object_goes_on_and_a_deletion_or_an_unlisted_image_ends_nothing()
{
    let scene = held("goes-on").await;
    let says = |n: u8, replicas: u8| {
        let over = json!({"args": ["--with-it"]});
        let object = scene.object("Deployment", "cart", &scene.tag(n), over);
        scene.put("cart.yaml", &with(object, json!({"spec": {"replicas": replicas}})));
    };
    let args = "/spec/template/spec/containers/0/args";
    says(1, 2);
    scene.push("more of 1.1").await;
    scene.stands("Deployment", "cart", "/spec/replicas", &json!(2)).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", args, &json!(null)).await;

    scene.delete("Deployment", "cart").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", args, &json!(null)).await;
    scene.stands("Deployment", "cart", "/spec/replicas", &json!(2)).await;
    scene.explains("Deployment", "cart", "Held", "CVE-2026-0001").await;

    says(3, 3);
    scene.push("1.3, which nobody approved").await;
    scene.stands("Deployment", "cart", "/spec/replicas", &json!(3)).await;
    scene.explains("Deployment", "cart", "Held", "kind: ApprovedImage").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.file_approvals([3]);
    scene.push("approve 1.3").await;
    scene.runs("Deployment", "cart", &scene.pin(3)).await;
    scene.stands("Deployment", "cart", args, &json!(["--with-it"])).await;
    scene.explains("Deployment", "cart", "Permitted", "1.3").await;

    says(1, 3);
    scene.push("1.1 once more").await;
    scene.explains("Deployment", "cart", "NotPermitted", "CVE-2026-0001").await;
    scene.runs("Deployment", "cart", &scene.pin(3)).await;
}
