//! Beside Argo CD. Argo CD's own engine (gitops-engine, as its agent) applies a repository again and again, whether it differs or
//! not, with `kubectl apply`'s three-way patch: what Argo CD does by default when it heals. Server-side apply, which the agent
//! cannot do, is sent here as Argo CD sends it: by force, as `argocd-controller`.

use std::process::Command;

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    controlplane::{self, ControlPlane, GITOPS_AGENT, find_or_build},
    support::{
        beside::{self, Still},
        manifests::{at, writes, yaml},
        repo::Repo,
        scene::Scene,
    },
};

/// How often the revoked image is applied during a hold, at least.
const TIMES: usize = 40;
const CART: &str = "argocd/shop/cart.yaml";

/// Argo CD's engine follows a repository; it ends with the control plane.
fn engine(plane: &ControlPlane, scene: &Scene, repo: &Repo) {
    let program = find_or_build(&[&GITOPS_AGENT]).unwrap().remove(GITOPS_AGENT.name).unwrap();
    let mut command = Command::new(program);
    command.arg(repo.path()).arg("--kubeconfig").arg(plane.kubeconfig_path());
    command.args(["--namespaced", "--default-namespace", &scene.namespace, "--resync-seconds=1", "--port=0"]);
    plane.spawn(GITOPS_AGENT.name, command).unwrap();
}

/// If this fails, an application that heals itself and Countersign write in turns for as long as git names a revoked image.
#[tokio::test(flavor = "multi_thread")]
async fn argo_cd_heals_towards_a_revoked_image_again_and_again_and_nothing_changes_until_git_moves_on() {
    let scene = Scene::guarded("argo").await;
    let plane = controlplane::shared_guarded();
    scene.governed_as_in_the_recipes().await;
    scene.approve(&[0, 1, 2]).await;
    let repo = Repo::new();
    let push = |image: &str, colour: Option<&str>| {
        let mut cart = beside::deployment(&scene, CART, image);
        if let Some(colour) = colour {
            cart["spec"]["template"]["spec"]["containers"][0]["env"] =
                json!([{"name": "COLOUR", "value": colour}]);
        }
        repo.commit_file("cart.yaml", &yaml(&cart));
    };
    push(&scene.tag(0), None);
    engine(plane, &scene, &repo);
    scene.proven_at("Deployment", "cart", &scene.tag(0)).await;
    push(&scene.tag(1), None);
    scene.proven_at("Deployment", "cart", &scene.tag(1)).await;

    scene.revoke(1).await;
    let still = Still::held_at(plane, &scene, "cart", &scene.pin(0)).await;
    still.outlasts(&scene.tag(1), false, TIMES).await;
    let versions = still.is_unbroken(&scene.pin(0)).await;
    // The version that stood, one in which the image has become Argo CD's, and the status of a rollout that was just over.
    assert!(versions <= 3, "{versions}");
    drop(still);

    push(&scene.tag(1), Some("blue"));
    let colour = "/spec/template/spec/containers/0/env/0/value";
    scene.stands("Deployment", "cart", colour, &json!("blue")).await;
    let still = Still::held_at(plane, &scene, "cart", &scene.pin(0)).await;
    still.outlasts(&scene.tag(1), false, 3).await;
    still.is_unbroken(&scene.pin(0)).await;
    drop(still);

    push(&scene.tag(2), None);
    scene.proven_at("Deployment", "cart", &scene.tag(2)).await;
    let history = scene.explains("Deployment", "cart", "Permitted", "1.2").await;
    assert_eq!(at(&history, "/status/hold"), &json!(null), "{history}");
    assert_eq!(writes(plane, "deployments", &scene.namespace).len(), 1, "the way back and nothing else");
    plane.kill(GITOPS_AGENT.name).unwrap();
}

/// If this fails, an application with `ServerSideApply=true` fights, or is never Synced during a hold.
#[tokio::test(flavor = "multi_thread")]
async fn server_side_applies_by_force_change_nothing_and_a_server_side_diff_finds_nothing() {
    let scene = Scene::guarded("argossa").await;
    let plane = controlplane::shared_guarded();
    scene.governed_as_in_the_recipes().await;
    scene.approve(&[0, 1, 2]).await;
    let send = async |image: &str, params: PatchParams| {
        let cart = beside::deployment(&scene, CART, image);
        scene.any("Deployment").patch("cart", &params, &Patch::Apply(&cart)).await
    };
    let apply = async |image: &str, dry_run: bool| {
        let params = PatchParams { dry_run, ..PatchParams::apply("argocd-controller").force() };
        serde_json::to_value(send(image, params).await.unwrap()).unwrap()
    };
    for n in [0, 1] {
        apply(&scene.tag(n), false).await;
        scene.proven_at("Deployment", "cart", &scene.tag(n)).await;
    }

    scene.revoke(1).await;
    let still = Still::held_at(plane, &scene, "cart", &scene.pin(0)).await;
    let why = send(&scene.tag(1), PatchParams::apply("argocd-controller")).await.unwrap_err().to_string();
    assert!(why.contains("conflict with \"countersign\""), "{why}");
    for _ in 0..TIMES {
        // What `ServerSideDiff=true,IncludeMutationWebhook=true` compares.
        let (predicted, live) =
            (apply(&scene.tag(1), true).await, scene.live("Deployment", "cart").await.unwrap());
        assert_eq!(compared(predicted), compared(live));
        apply(&scene.tag(1), false).await;
    }
    still.outlasts(&scene.tag(1), false, TIMES).await;
    let versions = still.is_unbroken(&scene.pin(0)).await;
    assert!(versions <= 2, "{versions}");
    drop(still);

    apply(&scene.tag(2), false).await;
    scene.proven_at("Deployment", "cart", &scene.tag(2)).await;
    scene.explains("Deployment", "cart", "Permitted", "1.2").await;
}

/// What a diff looks at.
fn compared(mut object: Value) -> Value {
    for field in ["managedFields", "resourceVersion"] {
        object["metadata"].as_object_mut().unwrap().remove(field);
    }
    object.as_object_mut().unwrap().remove("status");
    object
}
