//! The end of an installation, and its return: nothing gets stuck, and what only the cluster knew is not lost.

use anyhow::ensure;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    deploy::base,
    installed::{api_of, apply_base, command, name_of, operator_as_installed, run},
    support::{
        operator::{Operator, ROOT},
        registrar::registered_names,
        scene::{SOON, Scene},
    },
};

/// An installation whose operator has taken 1.1 back in a Deployment.
async fn held<'a>(plane: &'a ControlPlane, name: &str) -> (Operator<'a>, Scene) {
    apply_base(plane).await;
    let operator = operator_as_installed(plane, "countersign").await;
    operator.restart().await;
    let scene = Scene::on(plane, name).await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.proven_at("Deployment", "cart", &scene.pin(0)).await;
    (operator, scene)
}

/// What a person sees of a workload, its status apart.
async fn asked(scene: &Scene) -> Value {
    let cart = scene.live("Deployment", "cart").await.unwrap();
    json!({"metadata": {"generation": cart["metadata"]["generation"], "labels": cart["metadata"]["labels"]}, "spec": cart["spec"]})
}

async fn ends(operator: &Operator<'_>) {
    let ended = |log: &str| log.matches("the lease is let go").count();
    let before = ended(&operator.log());
    operator.signal("TERM");
    eventually("the operator ended", SOON, async || {
        ensure!(ended(&operator.log()) == before + 1);
        Ok(())
    })
    .await;
    operator.kill();
}

/// The objects of the base that are there.
async fn left(plane: &ControlPlane) -> Vec<String> {
    let mut left = Vec::new();
    for object in base() {
        let found = api_of(plane, &object).get_opt(name_of(&object)).await.unwrap();
        left.extend(found.map(|_| format!("{} {}", object["kind"].as_str().unwrap(), name_of(&object))));
    }
    left.sort();
    left
}

/// If this fails, an uninstall leaves namespaces that cannot be deleted, restarts what runs, or forgets every history.
#[tokio::test(flavor = "multi_thread")]
async fn uninstalling_touches_no_workload_and_keeps_what_is_known() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    let (operator, scene) = held(&plane, "uninstall").await;
    let before = asked(&scene).await;
    let secrets: Api<Secret> = Api::namespaced(plane.client(), ROOT);
    assert!(secrets.get_opt("countersign-webhook").await.unwrap().is_some(), "nothing was served");
    assert_eq!(registered_names(&plane).await.len(), 2);
    let uninstall = tokio::spawn(run(command(&plane, &["uninstall"])));
    let deployment = base().into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    eventually("the Deployment is deleted first", SOON, async || {
        ensure!(api_of(&plane, &deployment).get_opt("countersign").await?.is_none());
        Ok(())
    })
    .await;
    // Before that: whatever is created from here on waits for nobody's answer.
    assert_eq!(registered_names(&plane).await, Vec::<String>::new());
    // While it acts it would set its finalizers again: they are taken off after it ended.
    assert!(!uninstall.is_finished());
    let approval = scene.approvals().get(&scene.approval_name(1)).await.unwrap();
    assert_eq!(approval.finalizers(), ["countersign.dev/revocation"]);
    ends(&operator).await;
    let said = uninstall.await.unwrap();
    assert!(secrets.get_opt("countersign-webhook").await.unwrap().is_none(), "a private key is left");
    assert!(said.contains("1 revocations let go of their finalizer") && said.contains("kept:"), "{said}");
    assert_eq!(
        left(&plane).await,
        [
            "CustomResourceDefinition approvedimages.countersign.dev",
            "CustomResourceDefinition gitsources.countersign.dev",
            "CustomResourceDefinition imagepolicies.countersign.dev",
            "CustomResourceDefinition releasehistories.countersign.dev",
            "Namespace countersign-system",
        ]
    );
    assert_eq!(asked(&scene).await, before);
    let approval = scene.approvals().get(&scene.approval_name(1)).await.unwrap();
    assert!(approval.finalizers().is_empty() && approval.spec.revocation.is_some());
    assert!(scene.history("Deployment", "cart").await.unwrap().status.unwrap().hold.is_some());

    // It comes back as if it had been away.
    apply_base(&plane).await;
    let operator = operator_as_installed(&plane, "countersign").await;
    operator.restart().await;
    scene.poke().await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    assert_eq!(asked(&scene).await, before);
    eventually("the revocation is kept again", SOON, async || {
        let approval = scene.approvals().get(&scene.approval_name(1)).await?;
        ensure!(!approval.finalizers().is_empty());
        Ok(())
    })
    .await;

    ends(&operator).await;
    run(command(&plane, &["uninstall", "--all"])).await;
    assert_eq!(left(&plane).await, Vec::<String>::new());
    assert_eq!(asked(&scene).await, before);
    // Once more, where nothing is left.
    run(command(&plane, &["uninstall"])).await;
}

/// If this fails, whoever loses the namespace loses every hold, every last good release, and revocations that git forgot.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_brings_holds_releases_and_revocations_back() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    let (operator, scene) = held(&plane, "backup").await;
    // The revocation is in the cluster only from here on.
    scene.file_approvals([1]);
    scene.put("config.yaml", &scene.config_map("kept", "1"));
    scene.push("1.1 as if it had never been revoked").await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let releases = scene.history("Deployment", "cart").await.unwrap().status.unwrap().releases;
    let before = asked(&scene).await;
    let backup = run(command(&plane, &["backup"])).await;
    let file = plane.directory().join("backup.json");
    std::fs::write(&file, &backup).unwrap();

    ends(&operator).await;
    run(command(&plane, &["uninstall", "--all"])).await;
    assert_eq!(asked(&scene).await, before);

    apply_base(&plane).await;
    let said = run(command(&plane, &["restore", file.to_str().unwrap()])).await;
    assert_eq!(said, "restored 1 histories, 1 revocations and 1 parts of inventories\n");
    let operator = operator_as_installed(&plane, "countersign").await;
    operator.restart().await;
    scene.follow(json!({})).await;
    scene.synced().await;
    // Git asks for 1.1, and approves it.
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    assert_eq!(asked(&scene).await["metadata"]["generation"], before["metadata"]["generation"]);
    let approval = scene.approvals().get(&scene.approval_name(1)).await.unwrap();
    assert!(approval.spec.revocation.is_some() && approval.spec.tag.is_some());
    let status = scene.history("Deployment", "cart").await.unwrap().status.unwrap();
    let ids = |releases: &[countersign::api::release_history::Release]| {
        releases.iter().map(|release| (release.id.clone(), release.outcome)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&status.releases), ids(&releases));

    // The last good release is still the one to go back to, and what the source applied before is still pruned.
    scene.file_approvals([2]);
    scene.remove("config.yaml");
    scene.ship("Deployment", "cart", 2).await;
    scene.gone(&scene.any("ConfigMap"), "kept").await;
    scene.revoke(2).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;

    // Not beside an operator that acts, and not what is no backup.
    let broken = plane.directory().join("broken.json");
    std::fs::write(&broken, backup.replace("ReleaseHistory", "Secret")).unwrap();
    let refused = command(&plane, &["restore", broken.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("is not restored"), "{said}");
    let known = async || ids(&scene.history("Deployment", "cart").await.unwrap().status.unwrap().releases);
    let newer = known().await;
    assert_ne!(newer, ids(&releases));
    let refused = tokio::task::spawn_blocking({
        let mut command = command(&plane, &["restore", "--wait-seconds", "3", file.to_str().unwrap()]);
        move || command.output().unwrap()
    });
    let refused = refused.await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("an operator still leads"), "{said}");
    assert_eq!(known().await, newer);
}
