//! Workloads that git does not own: kubectl, Flux, Argo CD or Helm write them, and nothing of them is written but images that
//! must move.

use anyhow::ensure;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    controlplane::{self, ControlPlane, eventually},
    support::{
        operator::ROOT,
        repo::Repo,
        scene::{SOON, Scene},
        story::{ImageWrite, image_writes, rough},
    },
};

fn ours(plane: &ControlPlane, scene: &Scene, name: &str) -> Vec<ImageWrite> {
    let all = image_writes(plane, "deployments", &scene.namespace, name);
    all.into_iter().filter(|write| write.by_operator).collect()
}

async fn no_entry_is_left(scene: &Scene, name: &str) {
    eventually("no managed fields of countersign are left", SOON, async || {
        let found = scene.any("Deployment").get(name).await?;
        let fields = found.managed_fields();
        let ours = fields.iter().any(|entry| entry.manager.as_deref() == Some("countersign"));
        ensure!(!ours, "{fields:?}");
        Ok(())
    })
    .await;
}

/// If this fails, a revocation restarts or changes more than what is dangerous, or fights with whoever owns the rest.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_revoked_container_moves_by_one_json_patch_and_nothing_is_written_before() {
    let scene = Scene::new("unowned").await;
    let plane = controlplane::shared();
    scene.approve(&[0, 1, 5, 6]).await;
    for (app, side) in [(0, 5), (1, 6)] {
        let containers = [("app", scene.pin(app)), ("side", scene.pin(side))];
        let containers = containers.each_ref().map(|(name, image)| (*name, image.as_str()));
        scene.apply_as("kubectl", &scene.deployment("cart", &containers)).await.unwrap();
        scene.proven_at("Deployment", "cart", &scene.pin(app)).await;
        scene.says("Deployment", "cart", "Permitted").await;
    }
    let writes = plane.writes("deployments", &scene.namespace).unwrap();
    let ours_before = writes.iter().filter(|event| event.user_agent.starts_with("countersign/")).count();
    assert_eq!(ours_before, 0, "{writes:#?}");

    scene.revoke(1).await;
    scene.says("Deployment", "cart", "Held").await;
    scene.proven_at("Deployment", "cart", &scene.pin(0)).await;
    scene.poke().await;
    let images = vec![scene.pin(0), scene.pin(6)];
    assert_eq!(scene.images("Deployment", "cart").await.unwrap(), images);
    let expected = ImageWrite { by_operator: true, json_patch: true, images };
    assert_eq!(ours(plane, &scene, "cart"), [expected]);
}

/// If this fails, Flux or Argo CD bring a revoked image back, or our traces block their applies for ever after.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlasts_a_manager_that_forces_the_revoked_image_and_ends_without_a_trace() {
    let scene = Scene::new("forced").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran_unowned("flux", "cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    for image in [scene.pin(1), scene.tag(1), scene.pin(1)] {
        scene.sets("flux", "cart", &image).await;
        scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    }
    // Another image that is not permitted does not end the hold either.
    scene.sets("flux", "cart", "registry.example/elsewhere/other:1").await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;

    scene.sets("flux", "cart", &scene.pin(2)).await;
    scene.says("Deployment", "cart", "Permitted").await;
    no_entry_is_left(&scene, "cart").await;
    scene.proven_at("Deployment", "cart", &scene.pin(2)).await;
    assert!(scene.history("Deployment", "cart").await.unwrap().status.unwrap().hold.is_none());
}

/// The same with a client that patches instead of applying. If this fails, `kubectl set image` cannot end a hold cleanly.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_patches_the_image_ends_the_hold_too() {
    let scene = Scene::new("patched").await;
    scene.approve(&[0, 1, 2]).await;
    let create = scene.deployment("cart", &[("app", &scene.pin(0))]);
    let created = serde_json::from_value(create).unwrap();
    scene.deployments().create(&kube::api::PostParams::default(), &created).await.unwrap();
    scene.proven_at("Deployment", "cart", &scene.pin(0)).await;
    let set = async |image: String| {
        let containers = json!([{"name": "app", "image": image}]);
        let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": containers}}}}));
        let params = PatchParams { field_manager: Some("kubectl-set".to_owned()), ..PatchParams::default() };
        scene.deployments().patch("cart", &params, &patch).await.unwrap();
    };
    set(scene.pin(1)).await;
    scene.proven_at("Deployment", "cart", &scene.pin(1)).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    set(scene.pin(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    set(scene.pin(2)).await;
    scene.proven_at("Deployment", "cart", &scene.pin(2)).await;
    no_entry_is_left(&scene, "cart").await;
}

/// If this fails, anybody who may edit a Deployment runs what nobody approved.
#[tokio::test(flavor = "multi_thread")]
async fn an_unpermitted_image_that_somebody_sets_is_put_back_once() {
    let scene = Scene::new("putback").await;
    let plane = controlplane::shared();
    scene.approve(&[0, 1]).await;
    scene.ran_unowned("kubectl", "cart", &[0]).await;
    scene.sets("kubectl", "cart", &scene.pin(9)).await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    no_entry_is_left(&scene, "cart").await;
    scene.says("Deployment", "cart", "Permitted").await;
    let writes = ours(plane, &scene, "cart");
    assert_eq!(writes.len(), 1, "{writes:#?}");
    assert!(writes[0].json_patch, "{writes:#?}");
    let events = scene.events("cart").await.unwrap();
    assert!(events.iter().any(|(reason, _)| reason == "Kept"), "{events:?}");
    // What is permitted goes through.
    scene.ran_unowned("kubectl", "cart", &[1]).await;
    assert_eq!(ours(plane, &scene, "cart").len(), 1);
}

/// If this fails, a cluster that installs Countersign has no way back for what ran before.
#[tokio::test(flavor = "multi_thread")]
async fn what_ran_before_the_operator_is_adopted_and_can_be_gone_back_to() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "adopted").await;
    scene.approve(&[0, 1]).await;
    rough.operator.kill();
    scene.sets("kubectl", "cart", &scene.tag(0)).await;
    rough.operator.restart().await;
    scene.proven_at("Deployment", "cart", &scene.tag(0)).await;
    scene.ran_unowned("kubectl", "cart", &[1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    assert_eq!(ours(rough.plane, &scene, "cart").len(), 1);
}

/// If this fails, the first revocation after the installation finds nothing to go back to, although git's log names it.
#[tokio::test(flavor = "multi_thread")]
async fn earlier_images_in_the_log_of_a_new_source_are_the_fallback() {
    let scene = Scene::new("gitlog").await;
    let late = Repo::new();
    for name in ["live", "fresh"] {
        late.write(&format!("{name}.yaml"), &scene.workload("Deployment", name, &scene.tag(0)));
    }
    late.commit("run 1.0");
    for name in ["live", "fresh"] {
        late.write(&format!("{name}.yaml"), &scene.workload("Deployment", name, &scene.tag(1)));
    }
    late.write("0.yaml", &scene.approval(0, None)).write("1.yaml", &scene.approval(1, None));
    late.commit("run 1.1");
    scene.sets("kubectl", "live", &scene.pin(1)).await;
    scene
        .apply(&json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "GitSource",
            "metadata": {"name": format!("{}-late", scene.source), "namespace": ROOT},
            "spec": {"url": late.path(), "ref": {"branch": "main"}, "interval": "1s"},
        }))
        .await;
    for name in ["live", "fresh"] {
        scene.proven_at("Deployment", name, &scene.pin(1)).await;
    }
    late.commit_file("1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    for name in ["live", "fresh"] {
        scene.held_at("Deployment", name, &scene.pin(0)).await;
    }
}
