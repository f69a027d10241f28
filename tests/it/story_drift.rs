//! Drift: what differs from git is put right; what does not is not written.

use serde_json::json;

use crate::{
    controlplane,
    support::{
        manifests::{with, writes},
        scene::{Scene, shared_plane},
    },
};

/// If this fails what runs is not what git says, and nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_scales_edits_or_deletes_is_put_right() {
    let scene = Scene::new("drift").await;
    scene.file_approvals([0]);
    let cart = scene.object("Deployment", "cart", &scene.tag(0), json!({"args": ["--git"]}));
    scene.put("cart.yaml", &with(cart, json!({"spec": {"replicas": 2}})));
    scene.put("config.yaml", &scene.config_map("settings", "git"));
    scene.push("run 1.0 with settings").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;

    scene.edit("Deployment", "cart", &json!({"spec": {"replicas": 5}})).await;
    scene.poke().await;
    scene.stands("Deployment", "cart", "/spec/replicas", &json!(2)).await;

    let env = json!([{"name": "app", "image": scene.pin(0), "args": ["--hand"], "env": [{"name": "BY", "value": "hand"}]}]);
    scene.edit("Deployment", "cart", &json!({"spec": {"template": {"spec": {"containers": env}}}})).await;
    scene.poke().await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/args", &json!(["--git"])).await;
    scene.stands("Deployment", "cart", "/spec/template/spec/containers/0/env", &json!(null)).await;

    scene.edit("ConfigMap", "settings", &json!({"data": {"value": "hand"}})).await;
    scene.poke().await;
    scene.stands("ConfigMap", "settings", "/data/value", &json!("git")).await;

    let uid = scene.deployments().get("cart").await.unwrap().metadata.uid;
    scene.delete("Deployment", "cart").await;
    scene.delete("ConfigMap", "settings").await;
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("ConfigMap", "settings", "/data/value", &json!("git")).await;
    assert_ne!(scene.deployments().get("cart").await.unwrap().metadata.uid, uid);
    scene.proven("Deployment", "cart").await;
}

/// If this fails the operator writes the same objects for ever: load on the API server, and rollouts nobody asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_as_git_says_is_not_written_even_where_the_api_server_writes_it_differently() {
    let plane = shared_plane().await;
    let scene = Scene::new("unchanged").await;
    scene.file_approvals([0]);
    let ns = &scene.namespace;
    let odd = json!({
        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": {"cpu": "2000m", "memory": "2048Mi"}},
        "env": [{"name": "EMPTY", "value": ""}], "command": [], "securityContext": {},
        "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "TCP"}],
    });
    for (kind, name) in
        [("Deployment", "cart"), ("StatefulSet", "db"), ("DaemonSet", "agent"), ("CronJob", "report")]
    {
        scene.put(&format!("{name}.yaml"), &scene.object(kind, name, &scene.tag(0), odd.clone()));
    }
    scene.put("config.yaml", &scene.config_map("settings", "git"));
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "most", "namespace": ns, "creationTimestamp": null},
        "spec": {"hard": {"limits.cpu": "100000m", "limits.memory": "1024Gi"}},
    });
    scene.put("quota.yaml", &quota);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token", "namespace": ns}, "stringData": {"a": "b"},
    });
    scene.put("secret.yaml", &secret);
    scene.push("odd values").await;
    scene.synced().await;
    for (kind, name) in
        [("Deployment", "cart"), ("StatefulSet", "db"), ("DaemonSet", "agent"), ("CronJob", "report")]
    {
        scene.runs(kind, name, &scene.pin(0)).await;
    }
    for (kind, name) in [("Deployment", "cart"), ("StatefulSet", "db"), ("DaemonSet", "agent")] {
        scene.proven(kind, name).await;
    }
    let counts = || {
        let resources = [
            "deployments",
            "statefulsets",
            "daemonsets",
            "cronjobs",
            "configmaps",
            "resourcequotas",
            "secrets",
        ];
        resources.map(|resource| (resource, writes(plane, resource, ns).len()))
    };
    scene.poke().await;
    let before = counts();
    assert!(before.iter().all(|(_, count)| *count == 1), "each was written once: {before:?}");
    // Nothing else of it is written either, its status included; but the source's own, which was asked for.
    let others = || {
        let events = plane.audit_events().unwrap().into_iter().filter(|event| {
            let of = event.object_ref.as_ref();
            let ours = event.user_agent.starts_with("countersign/") && event.is_successful_write();
            ours && of.is_some_and(|of| {
                (of.namespace == *ns || of.name.starts_with(ns)) && of.resource != "gitsources"
            })
        });
        events.map(|event| format!("{} {}", event.verb, event.request_uri)).collect::<Vec<_>>()
    };
    let (before_all, sources) = (others(), writes_of_source(&scene));
    scene.poke().await;
    scene.poke().await;
    assert_eq!(counts(), before);
    assert_eq!(others()[before_all.len()..], [] as [String; 0]);
    assert_eq!(writes_of_source(&scene), sources + 2, "one status for each time it was asked");
}

fn writes_of_source(scene: &Scene) -> usize {
    let events = controlplane::shared().audit_events().unwrap();
    let of = |event: &&controlplane::AuditEvent| {
        let ours = event.user_agent.starts_with("countersign/") && event.is_successful_write();
        ours && event
            .object_ref
            .as_ref()
            .is_some_and(|of| of.resource == "gitsources" && of.name == scene.source)
    };
    events.iter().filter(of).count()
}
