//! What people may decide, and what they may not: revocations that stay, pauses, modes, tenants.

use anyhow::{Context as _, ensure};
use countersign::api::{ApprovedImage, ImagePolicy};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    controlplane::{self, eventually},
    support::{
        operator::ROOT,
        scene::{SOON, Scene},
        story::{image_writes, rough},
    },
};

const FINALIZER: &str = "countersign.dev/revocation";

/// Its name, and the policy of a scene.
type Lenient<'a> = (&'static str, &'a dyn Fn(&Scene) -> String);

/// A story in which 1.1 runs, after 1.0, and git does not own it.
async fn running(name: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene.approve(&[0, 1]).await;
    scene.ran_unowned("somebody", "cart", &[0, 1]).await;
    scene
}

fn policies(scene: &Scene) -> Api<ImagePolicy> {
    Api::namespaced(scene.client.clone(), ROOT)
}

/// How often the operator changed images of cart.
fn moves(scene: &Scene) -> usize {
    let writes = image_writes(controlplane::shared(), "deployments", &scene.namespace, "cart");
    writes.iter().filter(|write| write.by_operator).count()
}

async fn annotate(api: &Api<ApprovedImage>, name: &str, key: &str, value: &str) {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {key: value}}}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// If this fails, whoever may delete an approval, or revert a commit, lets a revoked image run again.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_outlives_deletion_and_reverted_commits_until_a_person_forgets_it() {
    let scene = Scene::new("forget").await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let (api, name) = (scene.approvals(), scene.approval_name(1));
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    let kept = api.get(&name).await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_some() && kept.finalizers() == [FINALIZER], "{kept:?}");
    // Away in git, and back without the revocation.
    scene.repo.git(&["rm", "-q", "approvals/1.yaml"]);
    scene.push("prune it").await;
    scene.synced().await;
    scene.approve(&[1]).await;
    scene.synced().await;
    let kept = api.get(&name).await.unwrap();
    assert_eq!(kept.spec.revocation.map(|revocation| revocation.reason).as_deref(), Some("CVE-2026-0001"));
    scene.sets("somebody", "cart", &scene.pin(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;

    annotate(&api, &name, "countersign.dev/forget-revocation", "sha256:another").await;
    scene.poke().await;
    assert!(api.get_opt(&name).await.unwrap().is_some());
    annotate(&api, &name, "countersign.dev/forget-revocation", &scene.digest(1)).await;
    eventually("the approval is let go", SOON, async || {
        ensure!(api.get_opt(&name).await?.is_none_or(|found| found.metadata.deletion_timestamp.is_none()));
        Ok(())
    })
    .await;
    scene.poke().await;
    scene.proven_at("Deployment", "cart", &scene.pin(1)).await;
    assert!(scene.history("Deployment", "cart").await.unwrap().status.unwrap().hold.is_none());
}

/// If this fails, a revocation on an object that nobody deletes can never be let go, or its hold stays for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_revocation_ends_the_hold_of_an_image_that_another_record_approves() {
    let scene = running("forgiven").await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    annotate(
        &scene.approvals(),
        &scene.approval_name(1),
        "countersign.dev/forget-revocation",
        &scene.digest(1),
    )
    .await;
    let again = scene.approval(1, None).replace(
        &format!("{{name: {}", scene.approval_name(1)),
        &format!("{{name: {}-again", scene.namespace),
    );
    scene.apply_yaml(&again).await;
    scene.says("Deployment", "cart", "Permitted").await;
    scene.ran_unowned("somebody", "cart", &[1]).await;
    assert_eq!(moves(&scene), 1);
}

/// If this fails, a tenant's namespace can never be deleted once it revoked something.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_revocation_counts_in_its_namespace_only_and_ends_with_it() {
    let (one, other) = (running("tenant").await, Scene::new("neighbour").await);
    let namespaces: Api<Namespace> = Api::all(one.client.clone());
    // The neighbour runs the same images.
    for n in [0, 1] {
        other.sets("somebody", "cart", &one.pin(n)).await;
        other.proven_at("Deployment", "cart", &one.pin(n)).await;
    }
    let revoked = one
        .approval(1, Some("not-here"))
        .replace(&format!("namespace: {ROOT}"), &format!("namespace: {}", one.namespace));
    one.apply_yaml(&revoked).await;
    one.held_at("Deployment", "cart", &one.pin(0)).await;
    other.poke().await;
    other.runs("Deployment", "cart", &one.pin(1)).await;
    other.says("Deployment", "cart", "Permitted").await;
    assert_eq!(moves(&other), 0);

    let api: Api<ApprovedImage> = Api::namespaced(one.client.clone(), &one.namespace);
    eventually("the revocation is kept", SOON, async || {
        ensure!(api.get(&one.approval_name(1)).await?.finalizers() == [FINALIZER]);
        Ok(())
    })
    .await;
    namespaces.delete(&one.namespace, &DeleteParams::default()).await.unwrap();
    eventually("the namespace is gone", SOON, async || {
        let found = namespaces.get_opt(&one.namespace).await?;
        ensure!(found.is_none(), "{found:?}");
        Ok(())
    })
    .await;
}

/// If this fails, a tenant approves its own images where people of the root namespace should.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_approval_does_not_count_where_approvals_come_from_the_root() {
    let scene = running("selfmade").await;
    let own = scene
        .approval(2, None)
        .replace(&format!("namespace: {ROOT}"), &format!("namespace: {}", scene.namespace));
    scene.apply_yaml(&own).await;
    scene.poke().await;
    scene.sets("somebody", "cart", &scene.pin(2)).await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    let policy = scene.policy("Enforce").replace("from: [Root]", "from: [Root, Namespace]");
    scene.write("policy.yaml", &policy);
    scene.push("tenants may").await;
    scene.ran_unowned("somebody", "cart", &[2]).await;
}

/// If this fails, a pause in an emergency does not stop the operator, or hides that it did.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_every_move_and_is_seen_until_it_ends() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "paused").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("git", &[0, 1]).await;
    scene.ran_unowned("somebody", "cart", &[0, 1]).await;
    let root: Api<Namespace> = Api::all(scene.client.clone());
    let pause = async |why: Option<&str>| {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"countersign.dev/paused": why}}}));
        root.patch(ROOT, &PatchParams::default(), &patch).await.unwrap();
    };
    pause(Some("an incident")).await;
    let said = scene.policy_says(&scene.namespace, "Paused").await;
    assert!(said.contains("an incident"), "{said}");
    eventually("the pause is counted", SOON, async || {
        ensure!(rough.operator.metric("countersign_paused").await? > 0.5);
        Ok(())
    })
    .await;
    // Git asks for another image, and the one that runs is revoked: neither moves, also after a restart.
    scene.revoke(1).await;
    scene.sets("somebody", "cart", &scene.pin(9)).await;
    rough.operator.kill();
    rough.operator.restart().await;
    scene.poke().await;
    for name in ["git", "cart"] {
        eventually("the plan says that it is paused", SOON, async || {
            let history = scene.history("Deployment", name).await?;
            let said = crate::support::scene::ready(&serde_json::to_value(&history)?)?;
            ensure!(said.1.contains("paused (an incident)"), "{said:?}");
            Ok(())
        })
        .await;
    }
    scene.runs("Deployment", "git", &scene.pin(1)).await;
    scene.runs("Deployment", "cart", &scene.pin(9)).await;
    pause(None).await;
    scene.held_at("Deployment", "git", &scene.pin(0)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    eventually("the pause is over everywhere", SOON, async || {
        ensure!(rough.operator.metric("countersign_paused").await? < 0.5);
        let status = policies(&scene).get(&scene.namespace).await?.status.context("no status")?;
        ensure!(status.conditions.iter().all(|condition| condition.type_ != "Paused"), "{status:?}");
        Ok(())
    })
    .await;
}

/// If this fails, trying a policy out changes what runs, or says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn policies_that_do_not_enforce_judge_and_report_and_move_nothing() {
    let suspended =
        |scene: &Scene| scene.policy("Enforce").replace("mode: Enforce", "mode: Enforce\n  suspend: true");
    let kinds: [Lenient<'_>; 3] = [
        ("warn", &|scene| scene.policy("Warn")),
        ("audit", &|scene| scene.policy("Audit")),
        ("suspend", &suspended),
    ];
    for (name, policy) in kinds {
        let scene = running(name).await;
        scene.write("policy.yaml", &policy(&scene));
        scene.push("only judge").await;
        scene.synced().await;
        scene.revoke(1).await;
        eventually("the policy reports", SOON, async || {
            let status = policies(&scene).get(&scene.namespace).await?.status.context("no status")?;
            ensure!(status.not_permitted.iter().any(|found| found.name == "cart"), "{status:?}");
            Ok(())
        })
        .await;
        scene.sets("somebody", "cart", &scene.pin(9)).await;
        scene.poke().await;
        scene.runs("Deployment", "cart", &scene.pin(9)).await;
        scene.sets("somebody", "cart", &scene.pin(1)).await;
        scene.poke().await;
        scene.runs("Deployment", "cart", &scene.pin(1)).await;
        assert_eq!(moves(&scene), 0, "{name}");
        // Once it enforces, what it reported is done.
        scene.write("policy.yaml", &scene.policy("Enforce"));
        scene.push("enforce").await;
        scene.held_at("Deployment", "cart", &scene.pin(0)).await;
        assert_eq!(moves(&scene), 1, "{name}");
    }
}

/// If this fails, deleting a policy lets every held image back in.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlasts_its_policy() {
    let scene = running("unruled").await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    policies(&scene).delete(&scene.namespace, &DeleteParams::default()).await.unwrap();
    for image in [scene.pin(1), scene.tag(1)] {
        scene.sets("somebody", "cart", &image).await;
        scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    }
}

/// If this fails, a namespace cannot be stricter than the whole, or can be laxer.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_a_namespace_tightens_and_never_loosens() {
    let scene = running("tighter").await;
    let ns = &scene.namespace;
    let own = |spec: &str| {
        format!(
            "apiVersion: countersign.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {{name: own, namespace: {ns}}}\nspec: {spec}\n"
        )
    };
    // Asking for nothing loosens nothing.
    scene.apply_yaml(&own("{mode: Enforce}")).await;
    scene.sets("somebody", "cart", &scene.pin(9)).await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    // What the root approves is refused here; what runs goes on.
    scene.approve(&[2]).await;
    scene.apply_yaml(&own("{mode: Enforce, sources: {allow: [\"registry.example/own/**\"]}}")).await;
    scene.says("Deployment", "cart", "NotPermitted").await;
    scene.sets("somebody", "cart", &scene.pin(2)).await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    let own: Api<ImagePolicy> = Api::namespaced(scene.client.clone(), ns);
    own.delete("own", &DeleteParams::default()).await.unwrap();
    scene.says("Deployment", "cart", "Permitted").await;
    scene.ran_unowned("somebody", "cart", &[2]).await;
}
