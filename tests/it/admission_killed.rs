//! The operator that is asked is killed, and comes back: meanwhile images stand still, and nothing else.

use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::{
    controlplane::{Audit, ControlPlane, Options, eventually},
    support::{
        guarded::install_guarding,
        operator::ROOT,
        scene::{SOON, Scene},
    },
};

const ALL: [(&str, &str); 3] = [("Deployment", "web"), ("Deployment", "hand"), ("StatefulSet", "db")];

/// Refused because nobody answers.
#[track_caller]
fn is_unanswered(what: &str, answer: Result<impl std::fmt::Debug, kube::Error>) {
    let error = answer.expect_err(what).to_string();
    assert!(error.contains("failed calling webhook") && error.contains("countersign.dev"), "{what}: {error}");
}

/// If this fails, an operator that is down stops the work on what runs, or lets in what it would not; or one that comes back
/// leaves something undone.
#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_answers_images_stand_still_and_everything_else_goes_on() {
    let plane = ControlPlane::start(Options { audit: Audit::RequestBodies, ..Options::default() }).unwrap();
    let operator = install_guarding(&plane).await;
    let scene = Scene::guarded_on(&plane, "dead").await;
    scene.approve(&[0, 1]).await;
    scene.write("web.yaml", &scene.workload("Deployment", "web", &scene.tag(0)));
    scene.write("db.yaml", &scene.workload("StatefulSet", "db", &scene.tag(0)));
    scene.push("run 1.0").await;
    scene.sets("kubectl", "hand", &scene.tag(0)).await;
    for (kind, name) in ALL {
        let image = if name == "hand" { scene.tag(0) } else { scene.pin(0) };
        scene.proven_at(kind, name, &image).await;
        scene.has_pods(name, 1, &scene.pin(0), &[]).await;
    }

    operator.kill();
    let patch = async |kind: &str, name: &str, change: Value| {
        scene.any(kind).patch(name, &PatchParams::default(), &Patch::Strategic(change)).await
    };
    for (kind, name) in ALL {
        let before = scene.ready_pods(name).await.unwrap();
        let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
        scene.any(kind).patch_scale(name, &PatchParams::default(), &scale).await.unwrap();
        let app = |field: &str, value: Value| json!({"spec": {"template": {"spec": {"containers": [{"name": "app", field: value}]}}}});
        for change in [
            json!({"metadata": {"labels": {"team": "shop"}, "annotations": {"note": "down"}}}),
            json!({"spec": {"replicas": 2}}),
            json!({"spec": {"minReadySeconds": 1}}),
            app("env", json!([{"name": "LEVEL", "value": "debug"}])),
        ] {
            let what = format!("{kind} {name}: {change}");
            let answer = patch(kind, name, change).await;
            assert!(answer.is_ok(), "{what}: {answer:?}");
        }
        for image in [scene.pin(1), scene.tag(1), scene.pin(5)] {
            is_unanswered(name, patch(kind, name, app("image", json!(image))).await);
        }
        let kept = scene.ready_pods(name).await.unwrap();
        if kind == "Deployment" {
            let uids = |pods: &[k8s_openapi::api::core::v1::Pod]| {
                pods.iter().map(ResourceExt::uid).collect::<Vec<_>>()
            };
            assert_eq!(uids(&kept), uids(&before), "{name} keeps what it has until its successors start");
        }
    }
    let lost = scene.has_pods("hand", 1, &scene.pin(0), &[]).await;
    scene.pods().delete(&lost[0].name_any(), &DeleteParams::default()).await.unwrap();
    is_unanswered(
        "a Pod",
        scene.any("Pod").create(&Default::default(), &scene.pod("new", &scene.pin(0))).await,
    );
    eventually("the controllers have tried", SOON, async || {
        let refused = scene.events_like("FailedCreate").await?;
        anyhow::ensure!(refused.iter().any(|why| why.contains("failed calling webhook")), "{refused:?}");
        Ok(())
    })
    .await;

    operator.restart().await;
    for (kind, name) in ALL {
        scene.has_pods(name, 2, &scene.pin(0), &lost).await;
        scene.says(kind, name, "Permitted").await;
    }
    let why = scene.asks_for_pod("unlisted", &scene.pin(5)).await.unwrap_err();
    assert!(why.contains("Unlisted"), "{why}");
    scene.sets("kubectl", "hand", &scene.tag(1)).await;
    scene.proven_at("Deployment", "hand", &scene.tag(1)).await;

    what_runs_goes_on_while_everything_is_paused(&scene, &plane).await;
}

/// Of a revoked image whose workload was not moved yet, pods that are lost come back; each time with an alarm. Once it was
/// moved, none.
async fn what_runs_goes_on_while_everything_is_paused(scene: &Scene, plane: &ControlPlane) {
    let pause = async |why: Value| {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(scene.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"countersign.dev/paused": why}}}));
        namespaces.patch(ROOT, &PatchParams::default(), &patch).await.unwrap();
    };
    pause(json!("looking into it")).await;
    eventually("the pause is seen", SOON, async || {
        anyhow::ensure!(plane.log("countersign").contains("looking into it"), "not yet");
        Ok(())
    })
    .await;
    scene.revoke(1).await;
    scene.says("Deployment", "hand", "Paused").await;
    scene.replaces_a_pod("hand", &scene.pin(1)).await;
    let alarms = plane.log("countersign");
    let alarms = alarms.lines().filter(|line| line.contains("a revoked image was let in, as it runs"));
    assert!(alarms.count() > 0);
    pause(Value::Null).await;
    scene.held_at("Deployment", "hand", &scene.pin(0)).await;
    scene.has_pods("hand", 2, &scene.pin(0), &[]).await;
    let why = scene.asks_for_pod("revoked", &scene.pin(1)).await.unwrap_err();
    assert!(why.contains("Revoked"), "{why}");
}
