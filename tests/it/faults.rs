//! What breaks around the operator, and the operator itself: every story ends as if nothing had broken.

use std::fs;

use anyhow::ensure;
use countersign::api::ReleaseHistory;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    controlplane::eventually,
    support::{
        operator::ROOT,
        scene::{SOON, Scene},
        story::{image_writes, rough},
    },
};

/// Workloads of the revocations that are interrupted.
const FLEET: usize = 10;

fn name(n: usize) -> String {
    format!("cart-{n}")
}

fn fleet_runs(scene: &Scene, version: u8) {
    for n in 0..FLEET {
        scene.write(
            &format!("{}.yaml", name(n)),
            &scene.workload("Deployment", &name(n), &scene.tag(version)),
        );
    }
}

async fn fleet_is_proven(scene: &Scene, version: u8) {
    for n in 0..FLEET {
        scene.proven_at("Deployment", &name(n), &scene.pin(version)).await;
    }
}

async fn fleet_is_held(scene: &Scene, version: u8) {
    for n in 0..FLEET {
        scene.held_at("Deployment", &name(n), &scene.pin(version)).await;
    }
}

/// Waits until at least so many of the fleet are set to an image.
async fn moved(scene: &Scene, version: u8, at_least: usize) {
    let pin = scene.pin(version);
    eventually(&format!("{at_least} workloads are set to {pin}"), SOON, async || {
        let all = scene.deployments().list(&kube::api::ListParams::default()).await?;
        let moved = all.iter().filter(|found| serde_json::to_string(&found.spec).unwrap().contains(&pin));
        let moved = moved.count();
        ensure!(moved >= at_least, "{moved}");
        Ok(())
    })
    .await;
}

/// How often the spec of each of the fleet changed. Of a write whose sender is killed, or whose API server is, the audit may be
/// lost; this is not.
async fn generations(scene: &Scene) -> Vec<i64> {
    let mut found = Vec::new();
    for n in 0..FLEET {
        found.push(scene.deployments().get(&name(n)).await.unwrap().metadata.generation.unwrap());
    }
    found
}

/// If this fails, an operator that dies in the middle of a revocation leaves some workloads behind, moves some twice, or
/// forgets why they are held.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_a_revocation_ends_in_the_same_state() {
    /// What is waited for before the kill.
    #[derive(Debug)]
    enum Moment {
        BeforePush,
        Moved(usize),
        Recorded,
    }
    use Moment::{BeforePush, Moved, Recorded};
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "killed").await;
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    fleet_runs(&scene, 0);
    scene.push("run 1.0").await;
    fleet_is_proven(&scene, 0).await;
    let moments = [BeforePush, Moved(0), Moved(1), Moved(FLEET / 2), Moved(FLEET), Recorded];
    for (bad, moment) in (1u8..).zip(moments) {
        let approval = format!("approvals/{bad}.yaml");
        scene.write(&approval, &scene.approval(bad, None));
        fleet_runs(&scene, bad);
        scene.push(&format!("run 1.{bad}, to be revoked: {moment:?}")).await;
        fleet_is_proven(&scene, bad).await;
        let before = generations(&scene).await;
        if matches!(moment, BeforePush) {
            rough.operator.kill();
        }
        scene.write(&approval, &scene.approval(bad, Some("CVE-2026-0001")));
        scene.repo.commit("revoke");
        scene.ask().await;
        match &moment {
            BeforePush => {}
            Moved(enough) => {
                moved(&scene, 0, *enough).await;
                rough.operator.kill();
            }
            Recorded => {
                fleet_is_held(&scene, 0).await;
                rough.operator.kill();
            }
        }
        rough.operator.restart().await;
        fleet_is_held(&scene, 0).await;
        fleet_is_proven(&scene, 0).await;
        scene.poke().await;
        let once: Vec<i64> = before.iter().map(|before| before + 1).collect();
        assert_eq!(generations(&scene).await, once, "{moment:?}: each is written once");
    }
    // The holds outlive the process that made them.
    rough.operator.kill();
    scene.sets("flux", &name(0), &scene.pin(6)).await;
    rough.operator.restart().await;
    scene.held_at("Deployment", &name(0), &scene.pin(0)).await;
}

/// If this fails, an operator that dies forgets holds of workloads that git does not own, and Flux brings the image back.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_of_an_unowned_workload_outlives_a_kill_before_it_was_recorded() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "unrecorded").await;
    scene.approve(&[0, 1]).await;
    scene.ran_unowned("flux", "cart", &[0, 1]).await;
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.repo.commit("revoke 1.1");
    scene.ask().await;
    moved(&scene, 0, 1).await;
    rough.operator.kill();
    rough.operator.restart().await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.sets("flux", "cart", &scene.pin(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let writes = image_writes(rough.plane, "deployments", &scene.namespace, "cart");
    assert_eq!(writes.iter().filter(|write| write.by_operator).count(), 2, "{writes:#?}");
}

/// If this fails, an outage of the git server moves workloads, ends holds, or keeps a revocation from counting.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_remote_is_away_nothing_moves_but_what_is_revoked_by_hand() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "away").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("held", &[0, 1]).await;
    scene.ran("kept", &[0, 2]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "held", &scene.pin(0)).await;
    let away = scene.repo.path().with_extension("away");
    fs::rename(scene.repo.path(), &away).unwrap();
    for restart in [false, true] {
        if restart {
            rough.operator.kill();
            rough.operator.restart().await;
        }
        scene.poke().await;
        let reason = scene.source_is_not_ready().await;
        assert!(reason.0 == "RepositoryNotFound" && !reason.1.is_empty(), "{reason:?}");
        // Both stay as git last said, whoever says otherwise.
        scene.sets("somebody", "held", &scene.pin(1)).await;
        scene.held_at("Deployment", "held", &scene.pin(0)).await;
        scene.sets("somebody", "kept", &scene.pin(9)).await;
        scene.runs("Deployment", "kept", &scene.pin(2)).await;
    }
    scene.revoke_by_hand(2).await;
    scene.held_at("Deployment", "kept", &scene.pin(0)).await;
    fs::rename(&away, scene.repo.path()).unwrap();
    scene.poke().await;
    scene.synced().await;
    scene.held_at("Deployment", "kept", &scene.pin(0)).await;
}

/// If this fails, an API server that is restarted in the middle of a revocation leaves the operator blind or acting twice.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_stops_in_the_middle_of_a_revocation_changes_nothing_about_its_end() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "apiserver").await;
    scene.approve(&[0, 1]).await;
    fleet_runs(&scene, 0);
    scene.push("run 1.0").await;
    fleet_is_proven(&scene, 0).await;
    fleet_runs(&scene, 1);
    scene.push("run 1.1").await;
    fleet_is_proven(&scene, 1).await;
    let before = generations(&scene).await;
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.repo.commit("revoke 1.1");
    scene.ask().await;
    moved(&scene, 0, 1).await;
    rough.plane.stop_apiserver().unwrap();
    rough.plane.start_apiserver().await.unwrap();
    fleet_is_held(&scene, 0).await;
    fleet_is_proven(&scene, 0).await;
    scene.poke().await;
    let once: Vec<i64> = before.iter().map(|before| before + 1).collect();
    assert_eq!(generations(&scene).await, once);
}

/// If this fails, an operator that dies after a rollout began takes it back to the commit before, and then does it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_began_goes_on_after_a_kill_also_where_its_commit_is_not_noted_as_applied() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "began").await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0]).await;
    let before = scene.sources().get(&scene.source).await.unwrap().status.unwrap().last_applied_commit;
    scene.ran("cart", &[1]).await;
    let writes = image_writes(rough.plane, "deployments", &scene.namespace, "cart").len();
    rough.operator.kill();
    // As a kill leaves it between the two writes.
    let status = json!({"status": {"lastAppliedCommit": before}});
    scene
        .sources()
        .patch_status(&scene.source, &PatchParams::default(), &Patch::Merge(&status))
        .await
        .unwrap();
    let away = scene.repo.path().with_extension("away");
    fs::rename(scene.repo.path(), &away).unwrap();
    rough.operator.restart().await;
    scene.poke().await;
    assert_eq!(scene.source_is_not_ready().await.0, "RepositoryNotFound");
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    fs::rename(&away, scene.repo.path()).unwrap();
    scene.poke().await;
    scene.synced().await;
    scene.proven_at("Deployment", "cart", &scene.pin(1)).await;
    assert_eq!(image_writes(rough.plane, "deployments", &scene.namespace, "cart").len(), writes);
}

/// If this fails, a lost volume stops the operator, or makes it forget.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_cache_is_filled_again() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "lost").await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    let cache = rough.plane.directory().join("cache");
    fs::remove_dir_all(&cache).unwrap();
    scene.write("a.yaml", &scene.config("a"));
    scene.push("while it runs").await;
    scene.synced().await;
    rough.operator.kill();
    fs::remove_dir_all(&cache).unwrap();
    rough.operator.restart().await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    assert!(scene.has_config("a").await);
}

/// If this fails, a full or broken volume takes the rollbacks down with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_cache_is_said_and_rollbacks_go_on() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "unusable").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.ran("other", &[0, 2]).await;
    let cache = rough.plane.directory().join("cache");
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "in its place").unwrap();
    scene.poke().await;
    let (reason, message) = scene.source_is_not_ready().await;
    assert!(reason == "StorageFailed" && message.contains("cache"), "{reason}: {message}");
    scene.revoke_by_hand(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;

    rough.operator.kill();
    rough.operator.restart().await;
    scene.poke().await;
    assert_eq!(scene.source_is_not_ready().await.0, "StorageFailed");
    scene.revoke_by_hand(2).await;
    scene.held_at("Deployment", "other", &scene.pin(0)).await;

    fs::remove_file(&cache).unwrap();
    scene.poke().await;
    scene.synced().await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, one source that fills the volume takes the operator, the other sources or the rollbacks down with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_volume_is_said_and_everything_else_goes_on() {
    let rough = rough().await;
    let (large, small) = (Scene::on(rough.plane, "large").await, Scene::on(rough.plane, "small").await);
    large.approve(&[0, 1]).await;
    large.ran("cart", &[0, 1]).await;
    rough.operator.kill();
    let cache = rough.plane.directory().join("cache");
    fs::remove_dir_all(&cache).unwrap();
    rough.operator.spawn_on_small_volume();
    rough.operator.ready().await;

    // Nothing that could be compressed.
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    })
    .flatten()
    .take(12 << 20)
    .collect();
    large.repo.write_bytes("picture.bin", &noise);
    large.repo.commit("a large file");
    large.poke().await;
    let (reason, message) = large.source_is_not_ready().await;
    assert_eq!(reason, "StorageFailed", "{message}");
    assert!(message.contains("No space left") || message.contains("File too large"), "{message}");

    small.write("a.yaml", &small.config("a"));
    small.push("beside it").await;
    small.synced().await;
    assert!(small.has_config("a").await, "the space that was tried is free again");
    large.revoke_by_hand(1).await;
    large.held_at("Deployment", "cart", &large.pin(0)).await;

    rough.operator.kill();
    rough.operator.restart().await;
    large.poke().await;
    large.synced().await;
    large.held_at("Deployment", "cart", &large.pin(0)).await;
}

/// If this fails, whoever may delete histories may end holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_history_is_written_again_with_its_hold() {
    let scene = Scene::new("deleted").await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.proven_at("Deployment", "cart", &scene.pin(0)).await;
    let before = scene.history("Deployment", "cart").await.unwrap();
    let api: Api<ReleaseHistory> = Api::namespaced(scene.client.clone(), ROOT);
    api.delete(&before.name_any(), &DeleteParams::default()).await.unwrap();
    eventually("the history is written again", SOON, async || {
        let now = scene.history("Deployment", "cart").await?;
        ensure!(now.uid() != before.uid());
        let told = |history: &ReleaseHistory| {
            let status = history.status.clone().unwrap_or_default();
            (status.present, status.hold, status.releases, status.rollbacks)
        };
        ensure!(told(&now) == told(&before), "{now:?}");
        Ok(())
    })
    .await;
    scene.sets("somebody", "cart", &scene.pin(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, a crash while an inventory is stored, or anybody's ConfigMap with its label, keeps the operator from starting;
/// or git may write inventories.
#[tokio::test(flavor = "multi_thread")]
async fn half_an_inventory_is_passed_over_and_git_writes_none() {
    const LABEL: &str = "countersign.dev/inventory";
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "half").await;
    scene.write("a.yaml", &scene.config("a"));
    scene.push("one more").await;
    scene.synced().await;
    let api = scene.of("v1", "ConfigMap", "configmaps", ROOT);
    let source = json!(format!("{ROOT}/{}", scene.source));
    let parts = async || {
        let all = api.list(&ListParams::default().labels(LABEL)).await.unwrap().items;
        let all = all.into_iter().map(|part| serde_json::to_value(part).unwrap());
        all.filter(|part| part["metadata"]["annotations"]["countersign.dev/source"] == source)
            .collect::<Vec<_>>()
    };
    let now = parts().await;
    assert_eq!(now.len(), 1, "older generations are gone: {now:?}");
    let generation: u64 = now[0]["data"]["generation"].as_str().unwrap().parse().unwrap();
    let name = now[0]["metadata"]["name"].as_str().unwrap();
    let next = name.replace(&format!("-{generation}-0"), &format!("-{}-0", generation + 1));
    assert_ne!(name, next);
    let labels = now[0]["metadata"]["labels"].clone();
    let mut half = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": next, "namespace": ROOT, "labels": labels, "annotations": {"countersign.dev/source": source}},
        "data": {"generation": (generation + 1).to_string(), "part": "0", "parts": "2"},
        "binaryData": now[0]["binaryData"],
    });
    scene.apply(&half).await;
    half["metadata"] = json!({"name": "foreign", "namespace": ROOT, "labels": labels});
    scene.apply(&half).await;
    rough.operator.kill();
    rough.operator.restart().await;

    scene.repo.git(&["rm", "-q", "a.yaml"]);
    let ours = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: made-up\n";
    scene.write("own.yaml", &format!("# ours\n{ours}  namespace: {ROOT}\n  labels: {{{LABEL}: x}}\n"));
    scene.push("say an inventory").await;
    let said = scene.source_says("ProblemsFound").await;
    assert!(said.contains("own.yaml:2") && said.contains("the operator alone"), "{said}");
    scene.gone(&scene.any("ConfigMap"), "a").await;
    assert!(
        api.get_opt("made-up").await.unwrap().is_none() && api.get_opt("foreign").await.unwrap().is_some()
    );
    let now = parts().await;
    assert!(now.len() == 1 && now[0]["metadata"]["name"] != json!(next), "{now:?}");
    api.delete("foreign", &DeleteParams::default()).await.unwrap();
}
