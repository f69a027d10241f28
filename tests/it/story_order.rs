//! The order of a sync: one commit may bring everything that it needs itself.

use anyhow::ensure;
use serde_json::json;

use crate::{
    controlplane::eventually,
    support::{
        manifests::{at, yaml},
        scene::{SOON, Scene, shared_plane},
    },
};

/// If this fails a commit that brings a namespace or a kind together with what uses it needs several tries, or never works.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_a_definition_and_objects_that_need_them_come_in_one_commit() {
    let scene = Scene::new("order").await;
    let (made, group) = (format!("{}-made", scene.namespace), format!("{}.example", scene.namespace));
    let mut cart = scene.object("Deployment", "cart", &scene.tag(0), json!({}));
    cart["metadata"]["namespace"] = json!(made);
    let widget = json!({
        "apiVersion": format!("{group}/v1"), "kind": "Widget",
        "metadata": {"name": "first", "namespace": made}, "spec": {"size": 3},
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("widgets.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}],
        },
    });
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": made}});
    let policy = scene
        .policy("Enforce")
        .replace(&format!("name: {}}}", scene.namespace), &format!("name: {made}}}"))
        .replace(&format!("name: {}, namespace", scene.namespace), &format!("name: {made}, namespace"));
    // In the wrong order on purpose.
    let all = [yaml(&widget), yaml(&cart), scene.approval(0, None), policy, yaml(&definition), yaml(&space)];
    scene.write("everything.yaml", &all.join("---\n"));
    scene.push("everything at once").await;
    let said = scene.source_says("Applied").await;
    assert!(said.contains("workloads"), "{said}");
    let widget = scene.of(&format!("{group}/v1"), "Widget", "widgets", &made).get("first").await.unwrap();
    assert_eq!(widget.data["spec"]["size"], 3);
    eventually("the workload runs pinned", SOON, async || {
        let cart = scene.of("apps/v1", "Deployment", "deployments", &made).get("cart").await?;
        let image = at(&cart.data, "/spec/template/spec/containers/0/image").clone();
        ensure!(image == json!(scene.pin(0)), "{image}");
        Ok(())
    })
    .await;
}

/// If this fails one changed file among ten thousand waits until ten thousand objects are listed and compared.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_is_applied_before_everything_else_is_looked_at() {
    let plane = shared_plane().await;
    let scene = Scene::new("news").await;
    for name in ["one", "other"] {
        scene.put(&format!("{name}.yaml"), &scene.config_map(name, "1"));
    }
    scene.push("two").await;
    scene.synced().await;
    let before = plane.audit_events().unwrap().len();
    scene.put("one.yaml", &scene.config_map("one", "2"));
    // Drift elsewhere is found all the same.
    scene.edit("ConfigMap", "other", &json!({"data": {"value": "hand"}})).await;
    scene.push("change one").await;
    scene.stands("ConfigMap", "one", "/data/value", &json!("2")).await;
    scene.stands("ConfigMap", "other", "/data/value", &json!("1")).await;
    let (ns, label) = (&scene.namespace, format!("source-name%3D{}%2C", scene.source));
    let order = eventually("the audit log has the whole look", SOON, async || {
        let events = plane.audit_events()?.into_iter().skip(before);
        let ours = events.filter(|event| event.user_agent.starts_with("countersign/"));
        let order: Vec<String> = ours
            .filter_map(|event| {
                let of = event.object_ref.as_ref()?;
                let patch = event.verb == "patch" && of.resource == "configmaps" && of.namespace == *ns;
                let list =
                    event.verb == "list" && of.resource == "configmaps" && event.request_uri.contains(&label);
                (patch || list).then(|| format!("{} {}", event.verb, of.name).trim().to_owned())
            })
            .collect();
        ensure!(order.len() >= 3, "{order:?}");
        Ok(order)
    })
    .await;
    assert_eq!(order[..3], ["patch one", "list", "patch other"], "{order:?}");
}
