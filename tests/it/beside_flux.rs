//! Beside Flux: its own kustomize-controller reconciles a source that asks for a revoked image, again and again.

use serde_json::json;

use crate::{
    controlplane,
    support::{
        beside::Still,
        flux::Flux,
        manifests::{at, writes},
        scene::Scene,
    },
};

/// How often Flux asks during a hold, at least.
const TIMES: usize = 40;

/// If this fails, Flux and Countersign write in turns for as long as git names a revoked image, and pods are replaced each time;
/// or git cannot end it.
#[tokio::test(flavor = "multi_thread")]
async fn flux_asks_for_a_revoked_image_again_and_again_and_nothing_is_written_until_git_moves_on() {
    let scene = Scene::guarded("flux").await;
    let plane = controlplane::shared_guarded();
    scene.governed_as_in_the_recipes().await;
    scene.approve(&[0, 1, 2]).await;
    let flux = Flux::beside(plane, &scene).await;
    for n in [0, 1] {
        flux.push(&scene.tag(n), json!({})).await;
        scene.proven_at("Deployment", "cart", &scene.tag(n)).await;
        flux.is_ready().await;
    }

    scene.revoke(1).await;
    let still = Still::held_at(plane, &scene, "cart", &scene.pin(0)).await;
    // Healthy is what runs: the held release.
    flux.is_ready().await;
    flux.hurries().await;
    let before = flux.made().len();
    still.outlasts(&scene.tag(1), true, TIMES).await;
    // What it is answered in a dry run is what stands already: so it writes nothing at all.
    let made = flux.made().split_off(before);
    assert!(made.len() >= TIMES / 2 && made.iter().all(|made| made == "unchanged"), "{made:?}");
    assert_eq!(still.asked(&scene.tag(1), false).len(), 0);
    still.is_unbroken(&scene.pin(0)).await;
    flux.is_ready().await;
    drop(still);

    // The rest of the manifest goes on, and Flux is content with that.
    flux.push(&scene.tag(1), json!({"env": [{"name": "COLOUR", "value": "blue"}]})).await;
    let colour = "/spec/template/spec/containers/0/env/0/value";
    scene.stands("Deployment", "cart", colour, &json!("blue")).await;
    flux.is_ready().await;
    let still = Still::held_at(plane, &scene, "cart", &scene.pin(0)).await;
    still.outlasts(&scene.tag(1), true, 3).await;
    still.is_unbroken(&scene.pin(0)).await;
    drop(still);

    flux.push(&scene.tag(2), json!({})).await;
    scene.proven_at("Deployment", "cart", &scene.tag(2)).await;
    flux.is_ready().await;
    let history = scene.explains("Deployment", "cart", "Permitted", "1.2").await;
    assert_eq!(at(&history, "/status/hold"), &json!(null), "{history}");
    // The way back was the only thing that Countersign ever said of the images.
    let ours = writes(plane, "deployments", &scene.namespace);
    let said: Vec<_> = ours.iter().map(|write| write.images()).filter(|images| !images.is_empty()).collect();
    assert_eq!(said, [[scene.tag(1), scene.pin(0)]], "{ours:#?}");
}

/// If this fails, whoever looks at Flux does not learn why a commit is not applied, or Flux has to be pushed once it is approved.
#[tokio::test(flavor = "multi_thread")]
async fn flux_says_what_is_missing_when_an_image_is_not_approved_and_goes_on_by_itself() {
    let scene = Scene::guarded("fluxwaits").await;
    let plane = controlplane::shared_guarded();
    scene.governed_as_in_the_recipes().await;
    scene.approve(&[0]).await;
    let flux = Flux::beside(plane, &scene).await;
    flux.push(&scene.tag(0), json!({})).await;
    scene.proven_at("Deployment", "cart", &scene.tag(0)).await;
    flux.is_ready().await;

    flux.push(&scene.pin(1), json!({})).await;
    let message = flux.says("False", "kind: ApprovedImage").await;
    assert!(message.contains("spec.template.spec.containers[app]"), "{message}");
    scene.runs("Deployment", "cart", &scene.tag(0)).await;
    scene.approve(&[1]).await;
    scene.proven_at("Deployment", "cart", &scene.pin(1)).await;
    flux.is_ready().await;
}
