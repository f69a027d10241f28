//! What git does not say any more goes; what must not go stays.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        manifests::yaml,
        scene::{SOON, Scene},
    },
};

fn definition(group: &str, kind: &str, annotations: &Value) -> Value {
    let plural = format!("{}s", kind.to_lowercase());
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "annotations": annotations},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    })
}

fn claim(namespace: &str, name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    })
}

/// If this fails git's removal of a file leaves things running, or destroys data that no file brings back.
#[tokio::test(flavor = "multi_thread")]
async fn what_git_no_longer_says_is_pruned_but_never_data_or_what_says_otherwise() {
    let scene = Scene::new("prune").await;
    let ns = scene.namespace.clone();
    let enabled = json!({"countersign.dev/prune": "enabled"});
    let group = format!("{ns}.example");
    scene.file_approvals([0]);
    scene.put("stays.yaml", &scene.config_map("stays", "1"));
    scene.write("gone/cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    scene.put("gone/config.yaml", &scene.config_map("plain", "1"));
    let mut kept = scene.config_map("kept", "1");
    kept["metadata"]["annotations"] = json!({"countersign.dev/prune": "disabled"});
    scene.put("gone/kept.yaml", &kept);
    scene.put("gone/stripped.yaml", &scene.config_map("stripped", "1"));
    for (name, annotations) in [("precious", json!({})), ("worthless", enabled)] {
        let space = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("{ns}-{name}"), "annotations": annotations},
        });
        let kind = if name == "precious" { "Precious" } else { "Worthless" };
        let all = [space, definition(&group, kind, &annotations), claim(&ns, name, &annotations)];
        scene.write(&format!("gone/{name}.yaml"), &all.map(|object| yaml(&object)).join("---\n"));
    }
    scene.push("everything").await;
    scene.synced().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    let labels = json!({"metadata": {"labels": {"countersign.dev/source-name": null, "countersign.dev/source-namespace": null}}});
    scene.edit("ConfigMap", "stripped", &labels).await;

    std::fs::remove_dir_all(scene.repo.path().join("gone")).unwrap();
    scene.push("most of it goes").await;
    scene.synced().await;
    let namespaces = scene.of("v1", "Namespace", "namespaces", "");
    let definitions =
        scene.of("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", "");
    let claims = scene.of("v1", "PersistentVolumeClaim", "persistentvolumeclaims", &ns);
    scene.gone(&scene.any("Deployment"), "cart").await;
    scene.gone(&scene.any("ConfigMap"), "plain").await;
    scene.gone(&definitions, &format!("worthlesss.{group}")).await;
    eventually("the worthless namespace and claim go", SOON, async || {
        let space = namespaces.get_opt(&format!("{ns}-worthless")).await?;
        let claim = claims.get_opt("worthless").await?;
        let ends = |found: &Option<kube::api::DynamicObject>| {
            found.as_ref().is_none_or(|found| found.metadata.deletion_timestamp.is_some())
        };
        ensure!(ends(&space) && ends(&claim), "{space:?} {claim:?}");
        Ok(())
    })
    .await;
    for name in ["stays", "kept", "stripped"] {
        scene.stands("ConfigMap", name, "/metadata/deletionTimestamp", &Value::Null).await;
    }
    for (api, name) in [
        (&namespaces, format!("{ns}-precious")),
        (&claims, "precious".into()),
        (&definitions, format!("preciouss.{group}")),
    ] {
        assert_eq!(api.get(&name).await.unwrap().metadata.deletion_timestamp, None, "{name}");
    }
}

/// If this fails a rollback lands on a release whose settings were just deleted.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_kept_release_names_stay_and_serve_the_rollback() {
    let scene = Scene::new("hashed").await;
    scene.file_approvals(0..2);
    let release = |n: u8, settings: &str| {
        let over = json!({"envFrom": [{"configMapRef": {"name": settings}}]});
        scene.put("cart.yaml", &scene.object("Deployment", "cart", &scene.tag(n), over));
        scene.put("settings.yaml", &scene.config_map(settings, &n.to_string()));
    };
    release(0, "settings-aaaa");
    scene.put("unused.yaml", &scene.config_map("unused-bbbb", "1"));
    scene.push("1.0 and its settings").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    release(1, "settings-cccc");
    scene.remove("unused.yaml");
    scene.push("1.1 and its settings").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    scene.proven("Deployment", "cart").await;
    scene.gone(&scene.any("ConfigMap"), "unused-bbbb").await;
    scene.poke().await;
    scene.stands("ConfigMap", "settings-aaaa", "/data/value", &json!("0")).await;

    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    let named = "/spec/template/spec/containers/0/envFrom/0/configMapRef/name";
    scene.stands("Deployment", "cart", named, &json!("settings-aaaa")).await;
    scene.poke().await;
    scene.stands("ConfigMap", "settings-aaaa", "/data/value", &json!("0")).await;
}

/// If this fails a source that may not delete deletes.
#[tokio::test(flavor = "multi_thread")]
async fn without_prune_nothing_is_deleted() {
    let scene = Scene::new("unpruned").await;
    scene.follow(json!({"prune": false})).await;
    scene.file_approvals([0]);
    scene.put("config.yaml", &scene.config_map("plain", "1"));
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    scene.push("everything").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("ConfigMap", "plain", "/data/value", &json!("1")).await;
    scene.remove("config.yaml");
    scene.remove("cart.yaml");
    scene.push("both files go").await;
    scene.synced().await;
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("ConfigMap", "plain", "/data/value", &json!("1")).await;
}
