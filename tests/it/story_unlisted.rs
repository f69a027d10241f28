//! Images that nobody approved yet: what they belong to waits, everything else goes on.

use anyhow::ensure;
use serde_json::json;

use crate::{
    controlplane::eventually,
    support::{
        manifests::{with, yaml},
        scene::{SOON, Scene, ready},
    },
};

/// If this fails half a release is rolled out, scaling stops while an approval is awaited, or nobody knows what to commit.
#[tokio::test(flavor = "multi_thread")]
async fn an_unlisted_image_waits_with_its_whole_template_while_the_rest_of_the_object_goes_on() {
    let scene = Scene::new("unlisted").await;
    scene.file_approvals([0]);
    let first = scene.object("Deployment", "cart", &scene.tag(0), json!({"args": ["--old"]}));
    scene.put("apps/cart.yaml", &first);
    scene.push("run 1.0").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;

    let next = scene.object("Deployment", "cart", &scene.tag(1), json!({"args": ["--new"]}));
    let over = json!({"metadata": {"labels": {"team": "shop"}}, "spec": {"replicas": 2}});
    let next = with(next, over);
    scene.write("apps/cart.yaml", &format!("# The cart.\n{}", yaml(&next)));
    scene.push("run 1.1, which nobody approved, with two replicas").await;
    scene.stands("Deployment", "cart", "/spec/replicas", &json!(2)).await;
    scene.stands("Deployment", "cart", "/metadata/labels/team", &json!("shop")).await;
    let args = "/spec/template/spec/containers/0/args";
    for text in ["kind: ApprovedImage", "beside apps/cart.yaml:2", &scene.image(), r#"tag: \"1.1"#] {
        scene.explains("Deployment", "cart", "NotPermitted", text).await;
    }
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", args, &json!(["--old"])).await;

    scene.file_approvals([1]);
    scene.push("approve 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.stands("Deployment", "cart", args, &json!(["--new"])).await;
    scene.explains("Deployment", "cart", "Permitted", "1.1").await;
}

/// If this fails something that nobody approved starts, or it is never created.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_workload_with_an_unlisted_image_is_created_once_it_is_approved() {
    let scene = Scene::new("new").await;
    scene.file_approvals([0]);
    scene.write("apps.yaml", &scene.workload("Deployment", "cart", &scene.tag(1)));
    scene.put("config.yaml", &scene.config_map("beside", "1"));
    scene.push("run 1.1, which nobody approved").await;
    scene.explains("Deployment", "cart", "NotCreated", "beside apps.yaml:1").await;
    scene.stands("ConfigMap", "beside", "/data/value", &json!("1")).await;
    scene.poke().await;
    assert!(scene.deployments().get_opt("cart").await.unwrap().is_none());
    scene.file_approvals([1]);
    scene.push("approve 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    eventually("its history says that it is permitted", SOON, async || {
        let history = serde_json::to_value(scene.history("Deployment", "cart").await?)?;
        ensure!(ready(&history)?.0 == "Permitted", "{history}");
        Ok(())
    })
    .await;
    scene.proven("Deployment", "cart").await;
}

/// If this fails an approved image is rolled out without the one that it was to run with.
#[tokio::test(flavor = "multi_thread")]
async fn one_unlisted_image_keeps_the_others_of_its_template_waiting() {
    let scene = Scene::new("sidecar").await;
    scene.file_approvals(0..2);
    scene.ship("Deployment", "cart", 0).await;
    let mut cart = scene.object("Deployment", "cart", &scene.tag(1), json!({}));
    let sidecar = json!({"name": "sidecar", "image": scene.tag(2)});
    cart["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(sidecar);
    scene.put("cart.yaml", &cart);
    scene.push("1.1 with a sidecar that nobody approved").await;
    scene.explains("Deployment", "cart", "NotPermitted", "containers/sidecar").await;
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.file_approvals([2]);
    scene.push("approve the sidecar").await;
    let images = "/spec/template/spec/containers/1/image";
    scene.stands("Deployment", "cart", images, &json!(scene.pin(2))).await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/image", &json!(scene.pin(1))).await;
}
