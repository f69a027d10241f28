//! The order of a sync: one commit may bring everything that it needs itself.

use anyhow::ensure;
use serde_json::json;

use crate::{
    controlplane::{AuditEvent, ControlPlane, eventually},
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
    // Changed in place; then along with a file that was not there.
    for (name, value) in [("one", "2"), ("added", "3")] {
        let before = plane.audit_events().unwrap().len();
        scene.put(&format!("{name}.yaml"), &scene.config_map(name, value));
        // Drift elsewhere is found all the same.
        scene.edit("ConfigMap", "other", &json!({"data": {"value": "hand"}})).await;
        scene.push(&format!("{name} is {value}")).await;
        scene.stands("ConfigMap", name, "/data/value", &json!(value)).await;
        scene.stands("ConfigMap", "other", "/data/value", &json!("1")).await;
        let order = eventually("the audit log has the whole look", SOON, async || {
            let order = asked(plane, &scene, before)?;
            ensure!(order.len() >= 3, "{order:?}");
            Ok(order)
        })
        .await;
        assert_eq!(order[..3], [format!("patch {name}"), "list".to_owned(), "patch other".to_owned()]);
    }
}

/// If this fails, what is in a hurry slips past what a person must see first, or past another file that counts.
#[tokio::test(flavor = "multi_thread")]
async fn what_changed_in_place_is_not_applied_where_it_does_not_count() {
    let plane = shared_plane().await;
    let scene = Scene::new("inplace").await;
    scene.put("a.yaml", &scene.config_map("one", "1"));
    scene.put("b.yaml", &scene.config_map("one", "second"));
    scene.push("one object twice").await;
    let message = scene.source_says("ProblemsFound").await;
    assert!(message.contains("the same object stands in a.yaml"), "{message}");
    let mut before = plane.audit_events().unwrap().len();
    scene.put("b.yaml", &scene.config_map("one", "third"));
    scene.push("the file that does not count").await;
    only_listed(plane, &scene, before).await;
    scene.put("a.yaml", &scene.config_map("one", "2"));
    scene.push("the file that counts").await;
    scene.stands("ConfigMap", "one", "/data/value", &json!("2")).await;
    before = plane.audit_events().unwrap().len();
    scene.repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    scene.put("a.yaml", &scene.config_map("one", "rewritten"));
    scene.push("another instead").await;
    scene.source_says("HistoryRewritten").await;
    only_listed(plane, &scene, before).await;
    scene.stands("ConfigMap", "one", "/data/value", &json!("2")).await;
}

async fn only_listed(plane: &ControlPlane, scene: &Scene, before: usize) {
    let asked = eventually("the audit log has the look", SOON, async || {
        let asked = asked(plane, scene, before)?;
        ensure!(asked.iter().any(|asked| asked == "list"), "{asked:?}");
        Ok(asked)
    })
    .await;
    assert!(asked.iter().all(|asked| asked == "list"), "{asked:?}");
}

/// What the operator asked of the source's ConfigMaps, in order.
fn asked(plane: &ControlPlane, scene: &Scene, before: usize) -> anyhow::Result<Vec<String>> {
    let (ns, label) = (&scene.namespace, format!("source-name%3D{}%2C", scene.source));
    let events = plane.audit_events()?.into_iter().skip(before);
    let ours = events.filter(|event| event.user_agent.starts_with("countersign/"));
    let of = |event: AuditEvent| {
        let of = event.object_ref.as_ref()?;
        let patch = event.verb == "patch" && of.resource == "configmaps" && of.namespace == *ns;
        let list = event.verb == "list" && of.resource == "configmaps" && event.request_uri.contains(&label);
        (patch || list).then(|| format!("{} {}", event.verb, of.name).trim().to_owned())
    };
    Ok(ours.filter_map(of).collect())
}
