//! A new release that does not come up, where policy takes such ones back.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    support::{
        manifests::{image_writes, with, writes},
        operator::{Operator, install},
        scene::{SOON, Scene, shared_plane},
    },
};

/// A policy that takes failed rollouts back.
fn policy(scene: &Scene) -> String {
    scene.policy("Enforce").replace("healthyFor: 1s", "healthyFor: 1s, onFailedRollout: LastGood")
}

/// A Deployment with a short deadline whose pods with an image have a fault, if any.
fn cart(scene: &Scene, n: u8, fault: &str, broken: u8) -> Value {
    let cart = scene.object("Deployment", "cart", &scene.tag(n), json!({}));
    let annotations = json!({format!("countersign.dev/test-{fault}-images"): scene.digest(broken)});
    let over = json!({"spec": {"progressDeadlineSeconds": 3, "template": {"metadata": {"annotations": annotations}}}});
    with(cart, over)
}

/// If this fails a release that crashes stays until somebody looks, or is tried again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_containers_keep_crashing_goes_back_once_and_is_held() {
    let scene = Scene::new("backonce").await;
    scene.write("policy.yaml", &policy(&scene));
    scene.file_approvals(0..3);
    scene.put("cart.yaml", &cart(&scene, 0, "crash", 1));
    scene.push("1.0 runs").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    scene.put("cart.yaml", &cart(&scene, 1, "crash", 1));
    scene.push("1.1 crashes").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    let history = scene.explains("Deployment", "cart", "Held", "containers/app of pod cart-").await;
    let hold = &history["status"]["hold"];
    assert_eq!(hold["rejected"][0]["cause"], "FailedRollout", "{hold}");
    assert_eq!(hold["rejected"][0]["reference"], scene.tag(1), "{hold}");
    assert!(hold["reason"].as_str().unwrap().contains("kept crashing"), "{hold}");
    assert_eq!(scene.outcomes("Deployment", "cart", &scene.digest(1)).await.unwrap(), ["Failed"]);
    eventually("an event says so", SOON, async || {
        let events = scene.events("cart").await?;
        let said =
            events.iter().any(|(reason, note)| reason == "RolledBack" && note.contains("kept crashing"));
        ensure!(said, "{events:?}");
        Ok(())
    })
    .await;
    eventually("the rollback is complete", SOON, async || {
        let status = scene.history("Deployment", "cart").await?.status.unwrap();
        let last = status.rollbacks.last().cloned();
        ensure!(last.as_ref().is_some_and(|last| format!("{:?}", last.outcome) == "Completed"), "{last:?}");
        Ok(())
    })
    .await;

    // The same manifest by force, and other files of the same source: it stays.
    scene.apply(&cart(&scene, 1, "crash", 1)).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.ship("Deployment", "clock", 0).await;
    assert_eq!(scene.images("Deployment", "cart").await.unwrap(), [scene.pin(0)]);

    scene.put("cart.yaml", &cart(&scene, 2, "crash", 1));
    scene.push("1.2 runs").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.says("Deployment", "cart", "Permitted").await;
    scene.proven("Deployment", "cart").await;
    let ours = image_writes(&writes(shared_plane().await, "deployments", &scene.namespace), "cart");
    assert_eq!(ours.iter().filter(|images| **images == [scene.pin(1)]).count(), 1, "tried once: {ours:?}");
}

/// If this fails a registry that is away sends every new release back.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_image_cannot_be_pulled_stays() {
    let scene = Scene::new("unpulled").await;
    scene.write("policy.yaml", &policy(&scene));
    scene.file_approvals(0..2);
    scene.put("cart.yaml", &cart(&scene, 0, "unpullable", 1));
    scene.push("1.0 runs").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    scene.put("cart.yaml", &cart(&scene, 1, "unpullable", 1));
    scene.push("1.1 cannot be pulled").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    eventually("1.1 is failed", SOON, async || {
        let outcomes = scene.outcomes("Deployment", "cart", &scene.digest(1)).await?;
        ensure!(outcomes == ["Failed"], "{outcomes:?}");
        Ok(())
    })
    .await;
    // More looks, after the deadline: what is awaited is another workload's proof.
    scene.edit("Deployment", "cart", &json!({"metadata": {"annotations": {"look": "1"}}})).await;
    scene.ship("Deployment", "clock", 0).await;
    assert_eq!(scene.images("Deployment", "cart").await.unwrap(), [scene.pin(1)]);
    let status = scene.history("Deployment", "cart").await.unwrap().status.unwrap();
    assert_eq!((status.hold, status.rollbacks.len()), (None, 0));
}

/// If this fails a person has no way out of a hold but to change git, or one that nobody finds on record.
#[tokio::test(flavor = "multi_thread")]
async fn a_person_retries_what_failed_and_releases_its_hold() {
    let scene = Scene::new("wayout").await;
    scene.write("policy.yaml", &policy(&scene));
    scene.file_approvals(0..2);
    scene.put("cart.yaml", &cart(&scene, 0, "crash", 1));
    scene.push("1.0 runs").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    scene.put("cart.yaml", &cart(&scene, 1, "crash", 1));
    scene.push("1.1 crashes").await;
    let rollbacks = async |count: usize| {
        eventually(&format!("{count} rollbacks"), SOON, async || {
            let status = scene.history("Deployment", "cart").await?.status.unwrap();
            ensure!(status.hold.is_some() && status.rollbacks.len() == count, "{status:?}");
            Ok(())
        })
        .await;
    };
    rollbacks(1).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;

    scene.intervene("Deployment", "cart", "retry", "once more, please").await;
    rollbacks(2).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;

    scene.intervene("Deployment", "cart", "release-hold", "CHG-17: it comes up in the end").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.says("Deployment", "cart", "Permitted").await;
    // The deadline passes, and it is looked at again: what is awaited is another workload's proof.
    scene.stands("Deployment", "cart", "/status/unavailableReplicas", &json!(1)).await;
    scene.ship("Deployment", "clock", 0).await;
    scene.edit("Deployment", "cart", &json!({"metadata": {"annotations": {"look": "1"}}})).await;
    assert_eq!(scene.images("Deployment", "cart").await.unwrap(), [scene.pin(1)]);

    let status = serde_json::to_value(scene.history("Deployment", "cart").await.unwrap().status).unwrap();
    assert_eq!(status.get("hold"), None);
    let taken = |n: usize| {
        [
            &status["interventions"][n]["way"],
            &status["interventions"][n]["value"],
            &status["interventions"][n]["effect"],
        ]
    };
    assert_eq!(taken(0), ["Retry", "once more, please", "Done"]);
    assert_eq!(taken(1), ["ReleaseHold", "CHG-17: it comes up in the end", "Done"]);
    eventually("events say so", SOON, async || {
        let events = scene.events("cart").await?;
        for (reason, value) in [("Retried", "once more, please"), ("HoldReleased", "CHG-17")] {
            ensure!(events.iter().any(|(own, note)| own == reason && note.contains(value)), "{events:?}");
        }
        Ok(())
    })
    .await;
}

/// If this fails a StatefulSet, which has no deadline and waits for its broken pod for ever, is not taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_has_ten_minutes_and_then_loses_what_the_failed_release_left() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    let operator = Operator::start(&plane).await;
    let scene = Scene::on(&plane, "tenminutes").await;
    scene.write("policy.yaml", &policy(&scene));
    scene.file_approvals(0..2);
    let store = |n: u8| {
        let crash = json!({"countersign.dev/test-crash-images": scene.digest(1)});
        let over = json!({"spec": {"replicas": 2, "template": {"metadata": {"annotations": crash}}}});
        scene.put("store.yaml", &with(scene.object("StatefulSet", "store", &scene.tag(n), json!({})), over));
    };
    store(0);
    scene.push("1.0 runs").await;
    scene.runs("StatefulSet", "store", &scene.pin(0)).await;
    scene.proven("StatefulSet", "store").await;
    store(1);
    scene.push("1.1 crashes").await;
    scene.runs("StatefulSet", "store", &scene.pin(1)).await;
    scene.stands("StatefulSet", "store", "/status/readyReplicas", &json!(1)).await;
    scene.explains("StatefulSet", "store", "Permitted", "not yet proven").await;

    // Nobody waits for ten minutes: the operator comes back to a record that is eleven minutes old.
    operator.kill();
    scene.let_in_earlier("StatefulSet", "store", 660).await;
    operator.restart().await;

    scene.runs("StatefulSet", "store", &scene.pin(0)).await;
    scene.explains("StatefulSet", "store", "Held", "containers/app of pod store-1").await;
    scene.stands("StatefulSet", "store", "/status/readyReplicas", &json!(2)).await;
    eventually("the pod that was left goes, and the rollback is complete", SOON, async || {
        let events = scene.events("store").await?;
        ensure!(
            events.iter().any(|(reason, note)| reason == "PodEvicted" && note.contains("failed rollout")),
            "{events:?}"
        );
        let status = scene.history("StatefulSet", "store").await?.status.unwrap();
        let last = status.rollbacks.last().cloned();
        ensure!(last.as_ref().is_some_and(|last| format!("{:?}", last.outcome) == "Completed"), "{last:?}");
        Ok(())
    })
    .await;
}
