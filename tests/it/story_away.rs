//! Workloads whose source came late, or is not there now.

use serde_json::json;

use crate::support::{manifests::with, scene::Scene};

/// If this fails a suspended source stops a rollback.
#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_source_stops_neither_a_rollback_nor_a_hold() {
    let scene = Scene::new("suspended").await;
    scene.file_approvals(0..2);
    for n in 0..2 {
        let over = json!({"args": [format!("--level={n}")]});
        scene.put("cart.yaml", &scene.object("Deployment", "cart", &scene.tag(n), over));
        scene.push(&format!("run 1.{n}")).await;
        scene.runs("Deployment", "cart", &scene.pin(n)).await;
        scene.proven("Deployment", "cart").await;
    }
    scene.follow(json!({"suspend": true})).await;
    scene.source_says("Suspended").await;
    scene.apply_yaml(&scene.approval(1, Some("CVE-2026-0001"))).await;
    let args = "/spec/template/spec/containers/0/args";
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", args, &json!(["--level=0"])).await;
    scene.says("Deployment", "cart", "Held").await;
    let forced =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": scene.pin(1)}]}}}});
    scene.edit("Deployment", "cart", &forced).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", args, &json!(["--level=0"])).await;

    scene.follow(json!({"suspend": false})).await;
    scene.synced().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", args, &json!(["--level=0"])).await;
    scene.says("Deployment", "cart", "Held").await;
}

/// A Deployment that somebody made at 1.1 under the policy, before git says so; git's log knows 1.0 too.
async fn seen_before_its_source(name: &str, last: impl AsyncFnOnce(&Scene)) -> Scene {
    let scene = Scene::new(name).await;
    scene.file_approvals(0..2);
    scene.push("approve").await;
    scene.apply(&scene.object("Deployment", "cart", &scene.pin(1), json!({"args": ["--level=1"]}))).await;
    scene.proven("Deployment", "cart").await;
    for n in 0..2 {
        let over = json!({"args": [format!("--level={n}")]});
        scene.put("cart.yaml", &scene.object("Deployment", "cart", &scene.tag(n), over));
        if n == 0 {
            scene.repo.commit("1.0, long ago");
        }
    }
    last(&scene).await;
    scene.push("what runs").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene
}

/// If this fails workloads that ran before they came into git have nothing to go back to.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_was_seen_before_its_source_goes_back_to_what_git_said_earlier() {
    let scene = seen_before_its_source("late", async |_| {}).await;
    scene.explains("Deployment", "cart", "Permitted", "good").await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/args", &json!(["--level=0"])).await;
    scene.explains("Deployment", "cart", "Held", "CVE-2026-0001").await;
}

/// If this fails git cannot scale a workload that it took over while an image of it waits for its approval.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_was_seen_before_its_source_keeps_its_template_while_the_rest_goes_on() {
    let scene = seen_before_its_source("late-unlisted", async |scene| {
        let object = scene.object("Deployment", "cart", &scene.tag(2), json!({"args": ["--level=2"]}));
        scene.put("cart.yaml", &with(object, json!({"spec": {"replicas": 2}})));
    })
    .await;
    scene.stands("Deployment", "cart", "/spec/replicas", &json!(2)).await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/args", &json!(["--level=1"])).await;
    scene.explains("Deployment", "cart", "NotPermitted", "kind: ApprovedImage").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.file_approvals([2]);
    scene.push("approve 1.2").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/args", &json!(["--level=2"])).await;
}
