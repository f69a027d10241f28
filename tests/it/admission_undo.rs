//! `kubectl rollout undo` and its like: whoever puts a workload back to a revoked image is told so, and nothing moves.

use anyhow::{Context as _, ensure};
use kube::{
    ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::Request,
};
use serde_json::{Value, json};

use crate::{
    controlplane,
    controlplane::eventually,
    support::{
        manifests::at,
        scene::{SOON, Scene},
    },
};

/// Workloads of the kinds that can be undone: some are git's, the others somebody's own.
const GITS: [(&str, &str); 3] = [("Deployment", "web"), ("StatefulSet", "db"), ("DaemonSet", "agent")];
const OWN: [(&str, &str); 3] =
    [("Deployment", "my-web"), ("StatefulSet", "my-db"), ("DaemonSet", "my-agent")];

fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    GITS.into_iter().chain(OWN)
}

/// All of them run a release, until it proved itself.
async fn run(scene: &Scene, n: u8) {
    scene.file_approvals([n]);
    for (kind, name) in GITS {
        scene.write(&format!("{name}.yaml"), &scene.workload(kind, name, &scene.tag(n)));
    }
    scene.push(&format!("run 1.{n}")).await;
    for (kind, name) in OWN {
        scene.apply_as("kubectl", &scene.object(kind, name, &scene.pin(n), json!({}))).await.unwrap();
    }
    for (kind, name) in all() {
        scene.proven_at(kind, name, &scene.pin(n)).await;
    }
}

/// How often somebody insists.
const UNDONE: usize = 3;

/// What `kubectl rollout undo --to-revision` sends, for the revision with an image.
async fn undo(scene: &Scene, kind: &str, name: &str, image: &str) -> http::Request<Vec<u8>> {
    let old = if kind == "Deployment" { "ReplicaSet" } else { "ControllerRevision" };
    let revision = eventually(&format!("{kind} {name} has a revision of {image}"), SOON, async || {
        let all = scene.any(old).list(&ListParams::default()).await?;
        let is_own = |old: &&DynamicObject| old.owner_references().iter().any(|owner| owner.name == name);
        let found = all.iter().filter(is_own).find(|old| old.data.to_string().contains(image));
        Ok(serde_json::to_value(found.context("none")?)?)
    })
    .await;
    let params = PatchParams { field_manager: Some("kubectl-rollout".to_owned()), ..PatchParams::default() };
    let api = scene.any(kind);
    let request = Request::new(api.resource_url());
    if kind != "Deployment" {
        return request.patch(name, &params, &Patch::Strategic(&revision["data"])).unwrap();
    }
    let mut template = at(&revision, "/spec/template").clone();
    template["metadata"]["labels"].as_object_mut().unwrap().remove("pod-template-hash");
    let annotations = at(&revision, "/metadata/annotations").as_object().cloned().unwrap_or_default();
    let live = api.get(name).await.unwrap();
    let is_kept = |key: &String| key.starts_with("deployment.kubernetes.io/") || key.starts_with("kubectl.");
    let kept = live
        .annotations()
        .iter()
        .filter(|(key, _)| is_kept(key))
        .map(|(key, value)| (key.clone(), json!(value)));
    let annotations: serde_json::Map<_, _> =
        annotations.into_iter().filter(|(key, _)| !is_kept(key)).chain(kept).collect();
    let operations = json!([
        {"op": "replace", "path": "/spec/template", "value": template},
        {"op": "replace", "path": "/metadata/annotations", "value": annotations},
    ]);
    let patch: Patch<()> = Patch::Json(serde_json::from_value(operations).unwrap());
    request.patch(name, &params, &patch).unwrap()
}

async fn generation(scene: &Scene, kind: &str, name: &str) -> i64 {
    scene.any(kind).get(name).await.unwrap().metadata.generation.unwrap()
}

/// How often the operator has written a workload.
fn writes(scene: &Scene, kind: &str, name: &str) -> usize {
    let plural = format!("{}s", kind.to_lowercase());
    let all = controlplane::shared_guarded().writes(&plural, &scene.namespace).unwrap();
    let ours = all.iter().filter(|event| {
        let is_about = event.object_ref.as_ref().is_some_and(|object| object.name == name);
        is_about && event.user_agent.starts_with("countersign/")
    });
    ours.count()
}

/// Waits until the operator has looked at a workload once more, whatever it looked at before.
async fn looked_at(scene: &Scene, kind: &str, name: &str) {
    let stamp = format!("{:?}", std::time::SystemTime::now());
    scene.intervene(kind, name, "reconcile-requested-at", &stamp).await;
    eventually(&format!("{kind} {name} is looked at"), SOON, async || {
        let status = scene.history(kind, name).await?.status.context("no status")?;
        ensure!(status.last_handled_reconcile_at.as_deref() == Some(&stamp), "{status:?}");
        Ok(())
    })
    .await;
}

/// No Pod of an image is there, not even one that goes.
async fn no_pod_of(scene: &Scene, image: &str) {
    let pods = scene.pods().list(&ListParams::default()).await.unwrap();
    let of: Vec<_> = pods.iter().filter(|pod| serde_json::to_string(pod).unwrap().contains(image)).collect();
    assert!(of.is_empty(), "{of:#?}");
}

/// If this fails, an undo brings a revoked image back, or people, controllers and the operator fight over it.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_to_what_is_held_back_moves_nothing_and_warns() {
    let scene = Scene::guarded("undo").await;
    for n in 0..2 {
        run(&scene, n).await;
    }
    scene.revoke(1).await;
    for (kind, name) in all() {
        scene.held_at(kind, name, &scene.pin(0)).await;
        scene.proven(kind, name).await;
        scene.has_pods(name, if kind == "DaemonSet" { 3 } else { 1 }, &scene.pin(0), &[]).await;
    }
    no_pod_of(&scene, &scene.digest(1)).await;
    for (kind, name) in all() {
        let (before, written) = (generation(&scene, kind, name).await, writes(&scene, kind, name));
        for _ in 0..UNDONE {
            let request = undo(&scene, kind, name, &scene.pin(1)).await;
            let (stored, warnings) = scene.hears(request).await;
            let image = at(&stored.unwrap(), "/spec/template/spec/containers/0/image").clone();
            assert_eq!(image, json!(scene.pin(0)), "{kind} {name}");
            let warned =
                warnings.len() == 1 && warnings[0].contains("is kept out until another permitted image");
            assert!(warned, "{kind} {name}: {warnings:?}");
        }
        looked_at(&scene, kind, name).await;
        // What git owns is applied after each, to own again what kubectl claims now: by two writes.
        let most = written + if GITS.contains(&(kind, name)) { 2 * UNDONE } else { 0 };
        let settled = writes(&scene, kind, name);
        assert!(settled <= most, "{kind} {name} was written {settled} times instead of {most}");
        looked_at(&scene, kind, name).await;
        assert_eq!(writes(&scene, kind, name), settled, "{kind} {name} is written on and on");
        assert_eq!(generation(&scene, kind, name).await, before, "{kind} {name} never changed");
        scene.explains(kind, name, "Held", "CVE-2026-0001").await;
        scene.held_at(kind, name, &scene.pin(0)).await;
    }
    no_pod_of(&scene, &scene.digest(1)).await;
}

/// If this fails, an image that was revoked while nobody ran it comes back by an undo.
#[tokio::test(flavor = "multi_thread")]
async fn an_undo_to_what_was_revoked_meanwhile_is_refused() {
    let scene = Scene::guarded("undone").await;
    for n in 0..3 {
        run(&scene, n).await;
    }
    scene.revoke(1).await;
    for (kind, name) in all() {
        let before = generation(&scene, kind, name).await;
        eventually(&format!("the undo of {kind} {name} is refused"), SOON, async || {
            let (answer, _) = scene.hears(undo(&scene, kind, name, &scene.pin(1)).await).await;
            let why = answer.err().context("it is let in")?;
            ensure!(why.contains("spec.template.spec.containers[app]") && why.contains("Revoked"), "{why}");
            Ok(())
        })
        .await;
        looked_at(&scene, kind, name).await;
        assert_eq!(generation(&scene, kind, name).await, before, "{kind} {name}");
        scene.says(kind, name, "Permitted").await;
    }
    // To what is still approved it goes back as ever.
    let (kind, name) = OWN[0];
    let (answer, warnings) = scene.hears(undo(&scene, kind, name, &scene.pin(0)).await).await;
    assert!(answer.is_ok() && warnings.is_empty(), "{answer:?} {warnings:?}");
    scene.proven_at(kind, name, &scene.pin(0)).await;
}

/// If this fails, who may scale a ReplicaSet starts what is revoked, behind the back of its Deployment.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_replica_set_of_a_revoked_image_starts_no_pod() {
    let scene = Scene::guarded("scaled").await;
    scene.approve(&[0, 1]).await;
    scene.ran_unowned("kubectl", "cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    let old = scene.any("ReplicaSet").list(&ListParams::default()).await.unwrap();
    let old = old.iter().find(|old| old.data.to_string().contains(&scene.pin(1))).unwrap().name_any();
    scene.stands("ReplicaSet", &old, "/status/replicas", &json!(0)).await;
    let before = scene.has_pods("cart", 1, &scene.pin(0), &[]).await;
    let before_refused = scene.events_like("FailedCreate").await.unwrap().len();
    // Its Deployment takes the scale back at once; the ReplicaSet's controller may be too late to try.
    let why = eventually("its Pods are refused", SOON, async || {
        let scale = Patch::Merge(json!({"spec": {"replicas": 2}}));
        scene.any("ReplicaSet").patch_scale(&old, &PatchParams::default(), &scale).await?;
        let refused = scene.events_like("FailedCreate").await?;
        ensure!(refused.len() > before_refused, "none was tried");
        Ok(refused.last().cloned().unwrap())
    })
    .await;
    assert!(why.contains("countersign.dev") && why.contains("Revoked"), "{why}");
    scene.stands("ReplicaSet", &old, "/spec/replicas", &json!(0)).await;
    no_pod_of(&scene, &scene.digest(1)).await;
    let after = scene.has_pods("cart", 1, &scene.pin(0), &[]).await;
    assert_eq!(after[0].uid(), before[0].uid(), "what runs is not touched");

    // Nor by a ReplicaSet of one's own.
    let mut own = scene.live("ReplicaSet", &old).await.unwrap();
    own["metadata"] = json!({"name": "own", "namespace": scene.namespace, "ownerReferences": own["metadata"]["ownerReferences"],
        "labels": own["metadata"]["labels"]});
    let why = scene.asks_for(&own).await.unwrap_err();
    assert!(why.contains("spec.template.spec.containers[app]"), "{why}");
    let held: Value = serde_json::to_value(scene.history("Deployment", "cart").await.unwrap()).unwrap();
    assert!(at(&held, "/status/hold").is_object(), "{held}");
}
