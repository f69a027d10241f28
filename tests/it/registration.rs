//! The webhook configurations are kept as they should be, with the rights of the base, and go with the installation.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, ensure};
use countersign::{
    api::{ImagePolicy, ReleaseHistory},
    domain::policy::Policy,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    install::client_of,
    installed::{apply_base, command, run},
    support::{
        operator::ROOT,
        registrar::{Registering, configurations, registered_names, webhooks},
        scene::SOON,
    },
};

/// A control plane with the base, and a client with the rights of the operator's own account.
async fn installed() -> (ControlPlane, Client) {
    let plane = ControlPlane::start(Options::default()).unwrap();
    apply_base(&plane).await;
    let client = client_of(&plane, "countersign").await;
    (plane, client)
}

const KINDS: [&str; 2] = ["Validating", "Mutating"];

/// Waits until the webhooks of a configuration are these.
async fn are(plane: &ControlPlane, kind: &str, wanted: &Value) {
    eventually(&format!("the {kind} configuration is as it was"), SOON, async || {
        let found = webhooks(plane, kind).await.context("it is not there")?;
        ensure!(found == *wanted, "{found:#}");
        Ok(())
    })
    .await;
}

/// How often the configurations were written by the operator.
fn writes(plane: &ControlPlane) -> usize {
    let user = format!("system:serviceaccount:{ROOT}:countersign");
    let written = |resource: &str| {
        let all = plane.writes(resource, "").unwrap();
        all.into_iter().filter(|event| event.user.username == user).count()
    };
    written("validatingwebhookconfigurations") + written("mutatingwebhookconfigurations")
}

/// If this fails, whoever deletes or weakens a configuration has switched admission off, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_or_delete_is_put_right_once_and_counted() {
    let (plane, client) = installed().await;
    let registering = Registering::start(&plane, client, Vec::new());
    registering.registered().await;
    let mut wanted = Vec::new();
    for kind in KINDS {
        wanted.push(webhooks(&plane, kind).await.unwrap());
    }
    every_entry_holds(&registering, &plane.ca_pem()).await;
    let merge = async |kind: &str, patch: Value| {
        let params = PatchParams { field_manager: Some("mallory".to_owned()), ..PatchParams::default() };
        configurations(&plane, kind).patch("countersign", &params, &Patch::Merge(patch)).await.unwrap();
    };
    let add = async |kind: &str, webhooks: Value| {
        let applied = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
            "metadata": {"name": "countersign"}, "webhooks": webhooks,
        });
        let params = PatchParams::apply("mallory").force();
        configurations(&plane, kind).patch("countersign", &params, &Patch::Apply(&applied)).await.unwrap();
    };
    for (kind, wanted) in KINDS.into_iter().zip(&wanted) {
        configurations(&plane, kind).delete("countersign", &DeleteParams::default()).await.unwrap();
        are(&plane, kind, wanted).await;
        merge(kind, json!({"webhooks": []})).await;
        are(&plane, kind, wanted).await;
    }
    // What a server-side apply of the operator would leave in: a condition that is never met, and a webhook of somebody else's.
    let never = json!([{"name": "images.countersign.dev", "matchConditions": [{"name": "never", "expression": "false"}]}]);
    add("Validating", never).await;
    are(&plane, "Validating", &wanted[0]).await;
    let mut stranger = wanted[1][0].clone();
    stranger["name"] = "stranger.example.com".into();
    add("Mutating", json!([stranger])).await;
    are(&plane, "Mutating", &wanted[1]).await;
    eventually("the repairs are counted", SOON, async || {
        let of = |cause: &str| {
            registering.metric(&format!("countersign_webhook_repairs_total{{cause=\"{cause}\"}}"))
        };
        ensure!(of("deleted") == 2 && of("changed") == 4, "{}", registering.metrics.encode());
        Ok(())
    })
    .await;
    registering.registered().await;

    // Other authorities, and a namespace that every policy excludes.
    registering.ca.send_replace(Some("other".to_owned()));
    every_entry_holds(&registering, "other").await;
    exclude(&registering, "cni");
    for kind in KINDS {
        eventually("it holds them, and leaves the namespace out", SOON, async || {
            let found = webhooks(&plane, kind).await.context("it is not there")?;
            ensure!(found[0]["clientConfig"]["caBundle"] == "b3RoZXI=", "{found:#}");
            let left_out = &found[0]["namespaceSelector"]["matchExpressions"][0]["values"];
            ensure!(*left_out == json!(["cni", ROOT, "kube-system"]), "{left_out}");
            Ok(())
        })
        .await;
    }
    registering.registered().await;
    // Two at first, six repairs, two changes of its own of each.
    assert_eq!(writes(&plane), 2 + 6 + 2 + 2);
    let refused: Vec<_> = plane
        .audit_events()
        .unwrap()
        .into_iter()
        .filter(|event| event.user.username.ends_with(":countersign"))
        .filter(|event| event.response_status.as_ref().is_some_and(|status| status.code == 403))
        .map(|event| format!("{} {}", event.verb, event.request_uri))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

/// If what is told of the bundles is not what is stored, a certificate is served that API servers do not trust.
async fn every_entry_holds(registering: &Registering, authorities: &str) {
    eventually("every entry holds the authorities", SOON, async || {
        let stored = registering.stored.borrow();
        ensure!(!stored.is_empty() && stored.iter().all(|held| held == authorities), "{stored:?}");
        Ok(())
    })
    .await;
}

/// A policy of the root namespace that excludes a namespace, as the watch shows one.
fn exclude(registering: &Registering, namespace: &str) {
    let object: ImagePolicy = serde_json::from_value(json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
        "metadata": {"name": "all", "namespace": ROOT},
        "spec": {"mode": "Enforce", "match": {"exclude": {"namespaces": [namespace]}}},
    }))
    .unwrap();
    let policy: Policy = object.policy(ROOT).unwrap();
    assert_eq!(policy.exclude_namespaces, BTreeSet::from([namespace.to_owned()]));
    registering.memory.write().policies.insert(policy);
    Arc::clone(&registering.memory.news()).notify_waiters();
}

/// If this fails, an installation cannot be restored once admission is registered, or anybody may write what holds are made from.
#[tokio::test(flavor = "multi_thread")]
async fn histories_are_restored_in_the_operators_name_and_written_by_nobody_else() {
    let (plane, client) = installed().await;
    let registering = Registering::start(&plane, client.clone(), Vec::new());
    registering.registered().await;
    let history: ReleaseHistory = serde_json::from_value(json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ReleaseHistory",
        "metadata": {"name": "cart", "namespace": ROOT},
        "spec": {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "cart"}},
    }))
    .unwrap();
    let people: Api<ReleaseHistory> = Api::namespaced(plane.client(), ROOT);
    eventually("a person's history is refused", SOON, async || {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let error = people.create(&dry, &history).await.err().context("it passed")?.to_string();
        ensure!(error.contains("histories.countersign.dev"), "{error}");
        Ok(())
    })
    .await;
    let operator: Api<ReleaseHistory> = Api::namespaced(client, ROOT);
    operator.create(&PostParams::default(), &history).await.unwrap();
    let backup = run(command(&plane, &["backup"])).await;
    let file = plane.directory().join("backup.json");
    std::fs::write(&file, backup).unwrap();
    people.delete("cart", &DeleteParams::default()).await.unwrap();
    let said = run(command(&plane, &["restore", file.to_str().unwrap()])).await;
    assert!(said.starts_with("restored 1 histories"), "{said}");
    assert_eq!(people.get("cart").await.unwrap().spec.workload_ref.name, "cart");
}

/// If this fails, the rights that are shipped do not suffice, or nobody hears that admission is not asked.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_register_says_so_and_goes_on_once_it_may() {
    let (plane, client) = installed().await;
    let bindings: Api<k8s_openapi::api::rbac::v1::ClusterRoleBinding> = Api::all(plane.client());
    let binding = bindings.get("countersign").await.unwrap();
    bindings.delete("countersign", &DeleteParams::default()).await.unwrap();
    eventually("it has no rights", SOON, async || {
        let role =
            Api::<k8s_openapi::api::rbac::v1::ClusterRole>::all(client.clone()).get("countersign").await;
        ensure!(role.is_err());
        Ok(())
    })
    .await;
    let registering = Registering::start(&plane, client, Vec::new());
    let back = k8s_openapi::api::rbac::v1::ClusterRoleBinding {
        metadata: kube::api::ObjectMeta { name: Some("countersign".to_owned()), ..Default::default() },
        ..binding
    };
    eventually("it says so", SOON, async || {
        let why = registering.memory.read().unguarded.clone().unwrap_or_default();
        ensure!(why.contains("cannot be listed"), "{why:?}");
        Ok(())
    })
    .await;
    assert_eq!(registering.metric("countersign_webhook_registered "), 0);
    bindings.create(&Default::default(), &back).await.unwrap();
    registering.registered().await;
    // Without a certificate nothing would be answered; what is registered stays as it is.
    let before = webhooks(&plane, "Validating").await.unwrap();
    registering.ca.send_replace(None);
    eventually("the authorities are those of the machine", SOON, async || {
        let found = webhooks(&plane, "Validating").await.context("it is not there")?;
        ensure!(found[0]["clientConfig"].get("caBundle").is_none() && found != before, "{found:#}");
        Ok(())
    })
    .await;
}

/// If this fails, an operator that was removed leaves a cluster in which no Pod can be created.
#[tokio::test(flavor = "multi_thread")]
async fn both_go_with_the_installation_and_are_not_put_back() {
    let (plane, client) = installed().await;
    let registering = Registering::start(&plane, client, Vec::new());
    registering.registered().await;
    // As `countersign uninstall` does while the operator still runs.
    let uninstalled = run(command(&plane, &["uninstall"])).await;
    let lines: Vec<&str> = uninstalled.lines().collect();
    assert!(lines[0].contains("ValidatingWebhookConfiguration countersign"), "{uninstalled}");
    assert!(lines[1].contains("MutatingWebhookConfiguration countersign"), "{uninstalled}");
    eventually("it is said", SOON, async || {
        let why = registering.memory.read().unguarded.clone().unwrap_or_default();
        ensure!(why.contains("uninstall"), "{why:?}");
        Ok(())
    })
    .await;
    assert_eq!(registered_names(&plane).await, Vec::<String>::new());
    assert_eq!(registering.metric("countersign_webhook_repairs_total{cause=\"deleted\"}"), 0);
    drop(registering);

    // As `helm uninstall` and `kubectl delete -k` do: the garbage collector takes both along.
    apply_base(&plane).await;
    let registering = Registering::start(&plane, plane.client(), Vec::new());
    registering.registered().await;
    assert_eq!(registered_names(&plane).await.len(), 2);
    let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(plane.client());
    roles.delete("countersign", &DeleteParams::default()).await.unwrap();
    eventually("both are gone for good", SOON, async || {
        let names = registered_names(&plane).await;
        let why = registering.memory.read().unguarded.clone().unwrap_or_default();
        ensure!(names.is_empty() && why.contains("is being uninstalled"), "{names:?}: {why}");
        Ok(())
    })
    .await;
}
