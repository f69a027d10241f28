//! Beside Helm: the real helm upgrades, forces and rolls back to a revoked image.

use std::process::{Command, Output};

use serde_json::json;

use crate::{
    controlplane::{self, ControlPlane, HELM, find_or_build},
    support::{
        beside::{Still, recipe},
        manifests::{at, writes},
        scene::Scene,
    },
};

/// How often helm sets the revoked image during a hold.
const TIMES: usize = 20;

/// Runs helm in the story's namespace; answers with all that it says, as an error if it failed.
async fn helm(plane: &ControlPlane, scene: &Scene, args: &[&str]) -> Result<String, String> {
    let program = find_or_build(&[&HELM]).unwrap().remove(HELM.name).unwrap();
    let home = plane.directory().join("helm");
    let mut command = Command::new(program);
    command.args(args).args(["--namespace", &scene.namespace]).current_dir(recipe("helm"));
    command.env("KUBECONFIG", plane.kubeconfig_path()).env("HELM_DRIVER", "secret");
    for directory in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(directory, &home);
    }
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    if status.success() { Ok(said) } else { Err(said) }
}

/// If this fails, each run of a pipeline that names a revoked image replaces all pods twice, or nobody is told why the image of
/// the chart is not what runs.
#[tokio::test(flavor = "multi_thread")]
async fn helm_sets_a_revoked_image_again_and_again_and_nothing_changes_until_it_sets_another() {
    let scene = Scene::guarded("helm").await;
    let plane = controlplane::shared_guarded();
    scene.governed_as_in_the_recipes().await;
    scene.approve(&[0, 1, 2]).await;
    let upgrade = async |n: u8, more: &[&str]| {
        let image = format!("image={}", scene.tag(n));
        let args =
            [&["upgrade", "--install", "cart", "cart", "--set", &image, "--history-max=0"], more].concat();
        helm(plane, &scene, &args).await
    };
    for n in [0, 1] {
        upgrade(n, &[]).await.unwrap();
        scene.proven_at("Deployment", "cart", &scene.tag(n)).await;
    }

    scene.revoke(1).await;
    let still = Still::held_at(plane, &scene, "cart", &scene.pin(0)).await;
    for _ in 0..TIMES {
        let said = upgrade(1, &[]).await.unwrap();
        assert!(said.contains("is kept out until another permitted image is asked for"), "{said}");
        assert!(said.contains("STATUS: deployed"), "{said}");
    }
    upgrade(1, &["--wait"]).await.unwrap();
    // The second revision is the first with the revoked image.
    helm(plane, &scene, &["rollback", "cart", "2", "--wait"]).await.unwrap();
    still.outlasts(&scene.tag(1), false, TIMES + 2).await;
    let versions = still.is_unbroken(&scene.pin(0)).await;
    // The version that stood, and one in which the image has become Helm's.
    assert!(versions <= 2, "{versions}");
    // A replacement takes the annotation of the Deployment's controller away, which counts as a generation.
    upgrade(1, &["--force"]).await.unwrap();
    still.outlasts(&scene.tag(1), false, TIMES + 3).await;
    still.has_not_moved(&scene.pin(0)).await;
    drop(still);

    upgrade(2, &["--wait"]).await.unwrap();
    scene.proven_at("Deployment", "cart", &scene.tag(2)).await;
    let history = scene.explains("Deployment", "cart", "Permitted", "1.2").await;
    assert_eq!(at(&history, "/status/hold"), &json!(null), "{history}");
    assert_eq!(writes(plane, "deployments", &scene.namespace).len(), 1, "the way back and nothing else");

    // The revoked image where no hold stands: helm says why not.
    let why = upgrade(1, &[]).await.unwrap_err();
    assert!(why.contains("revoked") && why.contains("spec.template.spec.containers[app]"), "{why}");
    scene.runs("Deployment", "cart", &scene.tag(2)).await;
}
