//! Two versions side by side, as while a Deployment is rolled or after a way back: an older one loses nothing of what a newer
//! one recorded, takes over and hands over, and moves nothing where it does not understand.

use anyhow::{Context as _, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{AuditEvent, ControlPlane, eventually},
    leader::{Pair, account, leads, leases, pair, writes},
    support::{
        manifests::yaml,
        operator::{Operator, ROOT},
        scene::{SOON, Scene, ready},
    },
};

/// The definitions of a newer version: a field more in every spec and every status, and a word more for an outcome.
async fn install_newer(plane: &ControlPlane) {
    let definitions: Api<CustomResourceDefinition> = Api::all(plane.client());
    for crd in countersign::api::crds() {
        let name = crd.metadata.name.clone().unwrap();
        let mut newer = serde_json::to_value(crd).unwrap();
        let schema = newer.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties").unwrap();
        for part in ["spec", "status"] {
            schema[part]["properties"]["newer"] = json!({"type": "string"});
        }
        if let Some(words) = schema.pointer_mut("/status/properties/releases/items/properties/outcome/enum") {
            words.as_array_mut().unwrap().push(json!("Degraded"));
        }
        let apply = PatchParams::apply("kubectl").force();
        definitions.patch(&name, &apply, &Patch::Apply(&newer)).await.unwrap();
    }
}

fn ours(scene: &Scene, kind: &str, plural: &str) -> Api<DynamicObject> {
    scene.of("countersign.dev/v1alpha1", kind, plural, ROOT)
}

/// Writes what only a newer version knows, as that version would: all share one field manager. The apply of the whole status
/// is what an apply of an older one would undo.
async fn written_by_newer(api: &Api<DynamicObject>, name: &str) {
    let params = PatchParams { field_manager: Some("countersign".to_owned()), ..PatchParams::default() };
    let stored = eventually("the newer definition is served", SOON, async || {
        let stored = api.patch(name, &params, &Patch::Merge(json!({"spec": {"newer": "spec"}}))).await?;
        ensure!(stored.data["spec"]["newer"] == "spec");
        Ok(stored)
    })
    .await;
    let types = stored.types.unwrap();
    let mut status = stored.data["status"].clone();
    status["newer"] = json!("status");
    let object = json!({
        "apiVersion": types.api_version, "kind": types.kind, "metadata": {"name": name}, "status": status,
    });
    let apply = PatchParams::apply("countersign").force();
    let stored = api.patch_status(name, &apply, &Patch::Apply(&object)).await.unwrap();
    assert_eq!(stored.data["status"]["newer"], "status");
}

/// Waits until a value stands in a status; what the newer version wrote must be there all the same.
async fn says_and_keeps(api: &Api<DynamicObject>, name: &str, pointer: &str, expected: Value) {
    let object = eventually(&format!("{pointer} of {name} is {expected}"), SOON, async || {
        let object = api.get(name).await?;
        let found = object.data.pointer(pointer).unwrap_or(&Value::Null);
        ensure!(*found == expected, "{}", object.data["status"]);
        Ok(object)
    })
    .await;
    let newer = |part: &str| object.data[part]["newer"].clone();
    assert_eq!((newer("spec"), newer("status")), (json!("spec"), json!("status")), "{name}");
}

/// If this fails, a Deployment that is rolled, or rolled back, costs what the newer version had recorded.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_that_leads_loses_nothing_of_what_a_newer_one_wrote() {
    let Pair { plane, first, second, .. } = &pair().await;
    let scene = Scene::on(plane, "newer").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("cart", &[0, 1]).await;
    install_newer(plane).await;
    let history = scene.history("Deployment", "cart").await.unwrap().metadata.name.unwrap();
    let (source, policy, approval) = (scene.source.clone(), scene.namespace.clone(), scene.approval_name(1));
    let sources = ours(&scene, "GitSource", "gitsources");
    let approvals = ours(&scene, "ApprovedImage", "approvedimages");
    let policies = ours(&scene, "ImagePolicy", "imagepolicies");
    let histories = ours(&scene, "ReleaseHistory", "releasehistories");
    for (api, name) in
        [(&sources, &source), (&approvals, &approval), (&policies, &policy), (&histories, &history)]
    {
        written_by_newer(api, name).await;
    }

    // By hand, so that the finalizer is the operator's to set: it applies a part of the spec.
    scene.revoke_by_hand(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let finalizers = json!(["countersign.dev/revocation"]);
    eventually("the revocation is kept", SOON, async || {
        let kept = approvals.get(&approval).await?.metadata.finalizers;
        ensure!(json!(kept) == finalizers, "{kept:?}");
        Ok(())
    })
    .await;
    says_and_keeps(&approvals, &approval, "/status/standing", json!("Revoked")).await;
    says_and_keeps(&policies, &policy, "/status/workloads/notPermitted", json!(1)).await;
    says_and_keeps(&histories, &history, "/status/rollbacks/0/outcome", json!("Completed")).await;
    scene.write("config.yaml", &scene.config("a"));
    let commit = scene.push("goes on").await;
    says_and_keeps(&sources, &source, "/status/lastAppliedCommit", json!(commit)).await;

    first.signal("TERM");
    leads(second).await;
    scene.ship("Deployment", "cart", 2).await;
    let commit = json!(scene.repo.head());
    says_and_keeps(&sources, &source, "/status/lastAppliedCommit", commit).await;
    says_and_keeps(&policies, &policy, "/status/workloads/notPermitted", json!(0)).await;
    // What this version knows and does not say any more goes.
    says_and_keeps(&histories, &history, "/status/hold", Value::Null).await;

    // What git says in words of the newer version is refused, and stays as it was applied.
    let object: Value = serde_yaml::from_str(&format!("{}  newer: spec\n", scene.approval(3, None))).unwrap();
    let applied = scene.apply_as("countersign", &object).await.unwrap();
    scene.write("approvals/3.yaml", &yaml(&object));
    scene.push("a field of the newer version").await;
    let said = scene.source_says("ProblemsFound").await;
    assert!(said.contains("approvals/3.yaml") && said.contains("newer"), "{said}");
    let kept = approvals.get(&scene.approval_name(3)).await.unwrap();
    assert_eq!(
        (kept.data["spec"]["newer"].as_str(), kept.metadata.uid),
        (Some("spec"), applied.metadata.uid)
    );
}

/// If this fails, an update waits until a lease runs out, or moves workloads that nobody asked to be moved.
#[tokio::test(flavor = "multi_thread")]
async fn a_successor_of_an_older_version_goes_on_from_its_histories_and_moves_nothing() {
    let Pair { plane, first, second, .. } = &pair().await;
    for operator in [first, second] {
        operator.kill();
    }
    leases(plane).delete("countersign", &DeleteParams::default()).await.unwrap();
    let kubeconfig = account(plane, "older").await.display().to_string();
    let older = Operator::named(plane, "older")
        .calling_itself("0.0.9")
        .with("KUBECONFIG", kubeconfig)
        .with("HOSTNAME", "older-version.node-7/countersign");
    older.restart().await;
    leads(&older).await;
    second.restart().await;
    let scene = Scene::on(plane, "successor").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.ran_unowned("kubectl", "other", &[0, 1]).await;
    scene.revoke(1).await;
    for name in ["cart", "other"] {
        scene.held_at("Deployment", name, &scene.pin(0)).await;
    }
    let holder = leases(plane).get("countersign").await.unwrap().spec.unwrap().holder_identity.unwrap();
    assert!(holder.starts_with("older-version.node-7/countersign"), "{holder}");

    older.signal("TERM");
    leads(second).await;
    // What it says on a history follows a look at the workload.
    for name in ["cart", "other"] {
        let history = scene.history("Deployment", name).await.unwrap().metadata.name.unwrap();
        eventually(&format!("the successor has looked at {name}"), SOON, async || {
            let about = |event: &AuditEvent| event.object_ref.as_ref().is_some_and(|of| of.name == history);
            ensure!(writes(plane, "second").iter().any(about));
            Ok(())
        })
        .await;
    }
    scene.poke().await;
    let moved = |name: &str| {
        let about = |event: &&AuditEvent| event.is_about("deployments", &scene.namespace);
        writes(plane, name).iter().filter(about).cloned().collect::<Vec<_>>()
    };
    assert!(moved("second").is_empty(), "{:?}", moved("second"));
    let by_older = moved("older");
    assert!(!by_older.is_empty() && by_older.iter().all(|event| event.user_agent == "countersign/0.0.9"));
    assert!(older.log().contains("the lease is let go"));

    // It goes on where the older one was: what that one rejected stays out.
    scene.sets("somebody", "other", &scene.pin(1)).await;
    scene.held_at("Deployment", "other", &scene.pin(0)).await;
    scene.ship("Deployment", "cart", 2).await;
    let own = concat!("countersign/", env!("CARGO_PKG_VERSION"));
    assert!(moved("second").iter().all(|event| event.user_agent == own));
    assert_eq!(moved("older").len(), by_older.len());
}

/// Waits until Ready of a history has a reason; answers with its message.
async fn history_says(api: &Api<DynamicObject>, name: &str, reason: &str) -> String {
    eventually(&format!("{name} says {reason}"), SOON, async || {
        let said = ready(&serde_json::to_value(api.get(name).await?)?)?;
        ensure!(said.0 == reason, "{said:?}");
        Ok(said.1)
    })
    .await
}

/// Sets the outcome of the present release.
async fn set_outcome(api: &Api<DynamicObject>, name: &str, outcome: &str) {
    eventually("the newer definition is served", SOON, async || {
        let status = api.get(name).await?.data["status"].take();
        let mut releases = status["releases"].clone();
        let all = releases.as_array_mut().context("no releases")?;
        let present = all.iter_mut().find(|release| release["id"] == status["present"]);
        present.context("no present release")?["outcome"] = json!(outcome);
        let patch = Patch::Merge(json!({"status": {"releases": releases}}));
        api.patch_status(name, &PatchParams::default(), &patch).await?;
        Ok(())
    })
    .await;
}

async fn counts(operator: &Operator<'_>, state: &str, expected: f64) {
    eventually(&format!("{expected} workloads are {state}"), SOON, async || {
        let found = operator.metric(&format!("countersign_workloads{{state=\"{state}\"}}")).await?;
        ensure!(found == expected, "{found}");
        Ok(())
    })
    .await;
}

/// If this fails, a word of a newer version is read as something else, and lets in what is kept out or goes back to what failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_in_words_of_a_newer_version_stops_its_workload_with_an_alarm() {
    let Pair { plane, first, second, .. } = &pair().await;
    install_newer(plane).await;
    let scene = Scene::on(plane, "word").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("cart", &[0, 1, 2]).await;
    scene.revoke(2).await;
    scene.held_at("Deployment", "cart", &scene.pin(1)).await;
    let history = scene.history("Deployment", "cart").await.unwrap().metadata.name.unwrap();
    let histories = ours(&scene, "ReleaseHistory", "releasehistories");
    eventually("the rollback is over", SOON, async || {
        let status = histories.get(&history).await?.data["status"].take();
        ensure!(status["rollbacks"][0]["outcome"] == "Completed", "{status}");
        Ok(())
    })
    .await;
    let image_writes = || crate::support::story::image_writes(plane, "deployments", &scene.namespace, "cart");
    let before = image_writes();

    set_outcome(&histories, &history, "Degraded").await;
    let said = history_says(&histories, &history, "Unreadable").await;
    assert!(said.contains("Degraded") && said.contains("nothing of it moves"), "{said}");
    counts(first, "unreadable", 1.0).await;
    scene.revoke(1).await;
    let said = history_says(&histories, &history, "NoSafeRelease").await;
    assert!(said.contains("Degraded") && said.contains("CVE-2026-0001"), "{said}");
    counts(first, "no_safe_release", 1.0).await;
    eventually("an event says it", SOON, async || {
        let told = scene.events("cart").await?;
        ensure!(told.iter().any(|(reason, _)| reason == "NoSafeRelease"), "{told:?}");
        Ok(())
    })
    .await;

    // The next one never could read it.
    first.signal("TERM");
    leads(second).await;
    counts(second, "no_safe_release", 1.0).await;
    scene.poke().await;
    assert_eq!(image_writes(), before);
    let status = histories.get(&history).await.unwrap().data["status"].clone();
    let outcomes: Vec<&Value> =
        status["releases"].as_array().unwrap().iter().map(|r| &r["outcome"]).collect();
    assert!(outcomes.len() == 3 && outcomes.contains(&&json!("Degraded")), "{status}");
    assert_eq!(status["hold"]["target"], status["present"], "{status}");

    // Mended, it goes on from what stands there.
    set_outcome(&histories, &history, "Good").await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let mut kept_out = vec![scene.digest(1), scene.digest(2)];
    kept_out.sort();
    eventually("the earlier rejection is known still", SOON, async || {
        let status = scene.history("Deployment", "cart").await?.status.context("no status")?;
        let hold = status.hold.context("no hold")?;
        let mut rejected: Vec<_> = hold.rejected.into_iter().filter_map(|rejected| rejected.digest).collect();
        rejected.sort();
        ensure!(rejected == kept_out, "{rejected:?}");
        Ok(())
    })
    .await;
    assert_eq!(image_writes().len(), before.len() + 1);
}
