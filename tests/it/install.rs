//! `deploy/base` on a real API server: what its accounts may do, that restricted Pod Security lets it in, and that the
//! operator needs nothing else.

mod tenant;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use anyhow::ensure;
use expect_test::expect_file;
use k8s_openapi::api::{
    authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec},
    core::v1::Pod,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{Audit, ControlPlane, Options, eventually},
    deploy::{base, deploy},
    installed::{api_of, apply_base, operator_as_installed},
    support::{
        operator::{Operator, ROOT},
        registrar::webhooks,
        scene::{SOON, Scene},
    },
};

async fn installed() -> ControlPlane {
    let options = Options { audit: Audit::RequestBodies, ..Options::default() };
    let plane = ControlPlane::start(options).unwrap();
    apply_base(&plane).await;
    plane
}

/// A client with the rights of an account of the base.
pub async fn client_of(plane: &ControlPlane, account: &str) -> Client {
    let path = plane.service_account_kubeconfig(ROOT, account).await.unwrap();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// What `kubectl auth can-i --list` says, without what everybody may: one line for each resource.
async fn rights(client: &Client, namespace: &str) -> String {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let api: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let status = api.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    assert!(!status.incomplete);
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for rule in status.resource_rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten().filter(|name| !name.starts_with("selfsubject")) {
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                let names = rule.resource_names.clone().unwrap_or_default().join(", ");
                found.entry((format!("{resource}{group}"), names)).or_default().extend(rule.verbs.clone());
            }
        }
    }
    let mut text = String::new();
    for ((resource, names), verbs) in found {
        let only = if names.is_empty() { String::new() } else { format!(" [{names}]") };
        writeln!(text, "  {resource}{only}: {}", Vec::from_iter(verbs).join(" ")).unwrap();
    }
    text
}

/// If this fails, an account may do more than a reviewer has seen, or less than the operator needs.
#[tokio::test(flavor = "multi_thread")]
async fn it_runs_restricted_under_exactly_the_rights_that_are_written_down() {
    let plane = installed().await;
    restricted_lets_it_in(&plane).await;
    the_rights_are_the_golden_ones(&plane).await;
    the_operator_needs_nothing_else(&plane).await;
    tenant::needs_only_what_the_guide_says(&plane).await;
}

async fn restricted_lets_it_in(plane: &ControlPlane) {
    let deployment = base().into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    let pods: Api<Pod> = Api::namespaced(plane.client(), ROOT);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let pod = |spec: Value| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "probe"}, "spec": spec})).unwrap()
    };
    let template = &deployment["spec"]["template"];
    pods.create(&dry, &pod(template["spec"].clone())).await.unwrap();
    // The namespace does ask for it: each part of the template's security context is needed.
    for without in [
        "/securityContext/runAsNonRoot",
        "/securityContext/seccompProfile",
        "/containers/0/securityContext/allowPrivilegeEscalation",
        "/containers/0/securityContext/capabilities",
    ] {
        let mut spec = template["spec"].clone();
        let (parent, field) = without.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        let refused = pods.create(&dry, &pod(spec)).await.unwrap_err().to_string();
        assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{without}: {refused}");
    }
    only_its_own_image_runs_there(plane, &pods, template).await;
    // Its own pods are made by the controllers, as in any cluster.
    eventually("both replicas are there", SOON, async || {
        let found = api_of(plane, &deployment).get("countersign").await?;
        ensure!(found.data["status"]["availableReplicas"] == 2, "{}", found.data["status"]);
        Ok(())
    })
    .await;
    // From here on the real binary is the operator; these pods are only played.
    api_of(plane, &deployment).delete("countersign", &DeleteParams::default()).await.unwrap();
}

/// The operator's own admission leaves its namespace out; the policy of the installer does not.
async fn only_its_own_image_runs_there(plane: &ControlPlane, pods: &Api<Pod>, template: &Value) {
    let pod = |operation: &str, path: &str, value: Value| -> Pod {
        let mut spec = template["spec"].clone();
        let operation = json!([{"op": operation, "path": path, "value": value}]);
        json_patch::patch(&mut spec, &serde_json::from_value::<json_patch::Patch>(operation).unwrap())
            .unwrap();
        serde_json::from_value(json!({"metadata": {"name": "probe"}, "spec": spec})).unwrap()
    };
    let own = template["spec"]["containers"][0].clone();
    let stranger = "registry.example/stranger:1";
    let mut beside = own.clone();
    beside["name"] = "beside".into();
    beside["image"] = stranger.into();
    // What neither an init container nor an ephemeral one may have.
    for field in ["ports", "startupProbe", "livenessProbe", "readinessProbe", "resources"] {
        beside.as_object_mut().unwrap().remove(field);
    }
    let volume = json!({"name": "model", "image": {"reference": stranger}});
    let refused = |what: &str, answer: kube::Result<Pod>| {
        let error = answer.map(|_| ()).expect_err(what).to_string();
        let said = error.contains(&format!("{stranger} may not run in this namespace"))
            && error.contains("ValidatingAdmissionPolicy countersign-root");
        assert!(said, "{what}: {error}");
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    eventually("the policy counts", SOON, async || {
        ensure!(pods.create(&dry, &pod("replace", "/containers/0/image", stranger.into())).await.is_err());
        Ok(())
    })
    .await;
    for (what, operation, path, value) in [
        ("container", "replace", "/containers/0/image", Value::from(stranger)),
        ("sidecar", "add", "/containers/-", beside.clone()),
        ("init container", "add", "/initContainers", json!([beside])),
        ("volume", "add", "/volumes/-", volume),
    ] {
        refused(what, pods.create(&dry, &pod(operation, path, value)).await);
    }
    let running = pod("replace", "/containers/0/name", "app".into());
    pods.create(&PostParams::default(), &running).await.unwrap();
    let params = kube::api::PatchParams::default();
    let image = json!({"spec": {"containers": [{"name": "app", "image": stranger}]}});
    refused("update", pods.patch("probe", &params, &kube::api::Patch::Strategic(image)).await);
    let mut debug = beside;
    debug["targetContainerName"] = "app".into();
    let debug = kube::api::Patch::Strategic(json!({"spec": {"ephemeralContainers": [debug]}}));
    refused("kubectl debug", pods.patch_ephemeral_containers("probe", &params, &debug).await);
    let label = kube::api::Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    pods.patch("probe", &params, &label).await.unwrap();
    // Nowhere else.
    let elsewhere: Api<Pod> = Api::namespaced(plane.client(), &plane.namespace("open").await);
    let free = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": stranger}]}});
    elsewhere.create(&dry, &serde_json::from_value(free).unwrap()).await.unwrap();
    pods.delete("probe", &DeleteParams::default()).await.unwrap();
}

async fn the_rights_are_the_golden_ones(plane: &ControlPlane) {
    let elsewhere = plane.namespace("elsewhere").await;
    let (operator, applier) =
        (client_of(plane, "countersign").await, client_of(plane, "countersign-applier").await);
    eventually("the rights have settled", SOON, async || {
        let (own, applies) = (rights(&operator, &elsewhere).await, rights(&applier, &elsewhere).await);
        ensure!(!own.contains("ingresses") && applies.contains("ingresses"), "{own}\n{applies}");
        Ok(())
    })
    .await;
    let mut text = String::from(
        "What the accounts of deploy/base may do, as kubectl auth can-i --list says it (without what every account may).\n\
         Written by tests/it/install.rs: UPDATE_EXPECT=1 cargo test.\n",
    );
    for (account, client) in [("countersign", &operator), ("countersign-applier", &applier)] {
        for (place, namespace) in [("countersign-system", ROOT), ("any other namespace", &elsewhere)] {
            write!(text, "\n{account} in {place}:\n{}", rights(client, namespace).await).unwrap();
        }
    }
    expect_file![deploy("rights.txt")].assert_eq(&text);
}

async fn admission_is_asked_through_the_service(
    plane: &ControlPlane,
    operator: &Operator<'_>,
    scene: &Scene,
) {
    for kind in ["Validating", "Mutating"] {
        for webhook in webhooks(plane, kind).await.unwrap().as_array().unwrap() {
            let client = &webhook["clientConfig"];
            let leads = json!({"namespace": ROOT, "name": "countersign-webhook", "port": 443,
                "path": client["service"]["path"]});
            assert!(client["service"] == leads && client.get("url").is_none(), "{client}");
        }
    }
    let why = scene.asks_for_pod("unlisted", &scene.pin(9)).await.unwrap_err();
    assert!(why.contains("denied the request") && why.contains(&scene.pin(9)), "{why}");
    assert_eq!(scene.asks_for_pod("pinned", &scene.pin(0)).await, Ok(scene.pin(0)));
    assert_eq!(scene.asks_for_pod("tagged", &scene.tag(0)).await, Ok(scene.pin(0)));
    let other = scene.object("Deployment", "unlisted", &scene.pin(9), json!({}));
    scene.asks_for(&other).await.unwrap_err();
    for (answer, at_least) in [("validate\",answer=\"denied", 2.0), ("mutate\",answer=\"rewritten", 1.0)] {
        let series = format!("countersign_admission_reviews_total{{webhook=\"{answer}\"}}");
        assert!(operator.metric(&series).await.unwrap() >= at_least, "{}", operator.metrics().await.unwrap());
    }
    assert_eq!(operator.metric("countersign_webhook_registered ").await.unwrap(), 1.0);
}

/// Everything the operator does, once.
async fn the_operator_needs_nothing_else(plane: &ControlPlane) {
    let operator = operator_as_installed(plane, "countersign").await;
    operator.restart().await;
    let scene = Scene::guarded_on(plane, "rights").await;
    scene.file_approvals([0, 1]);
    scene.put("config.yaml", &scene.config_map("old", "1"));
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "CronJob"] {
        scene.write(&format!("{kind}.yaml"), &scene.workload(kind, "cart", &scene.tag(0)));
    }
    scene.push("one of each kind").await;
    admission_is_asked_through_the_service(plane, &operator, &scene).await;
    // One that git does not own.
    scene.apply(&scene.object("Deployment", "other", &scene.pin(0), json!({}))).await;
    let owned = ["Deployment", "StatefulSet", "DaemonSet"];
    for kind in owned {
        scene.proven(kind, "cart").await;
    }
    scene.proven("Deployment", "other").await;
    for kind in owned {
        scene.write(&format!("{kind}.yaml"), &scene.workload(kind, "cart", &scene.tag(1)));
    }
    scene.push("1.1").await;
    scene.apply(&scene.object("Deployment", "other", &scene.pin(1), json!({}))).await;
    for kind in owned {
        scene.runs(kind, "cart", &scene.pin(1)).await;
    }
    scene.proven("Deployment", "other").await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.remove("config.yaml");
    scene.push("revoke 1.1, and prune").await;
    for kind in owned {
        scene.held_at(kind, "cart", &scene.pin(0)).await;
    }
    scene.held_at("Deployment", "other", &scene.pin(0)).await;
    scene.gone(&scene.any("ConfigMap"), "old").await;
    // The end of a hold, of a workload and of a revocation.
    scene.file_approvals([2]);
    scene.write("Deployment.yaml", &scene.workload("Deployment", "cart", &scene.tag(2)));
    scene.push("forward").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    let approval = scene.approval_name(1);
    let forget = json!({"metadata": {"annotations": {"countersign.dev/forget-revocation": scene.digest(1)}}});
    let approvals = scene.approvals();
    approvals.patch(&approval, &Default::default(), &kube::api::Patch::Merge(&forget)).await.unwrap();
    eventually("the finalizer is gone", SOON, async || {
        let found = approvals.get(&approval).await?;
        ensure!(found.metadata.finalizers.unwrap_or_default().is_empty());
        Ok(())
    })
    .await;
    eventually("the events are told", SOON, async || {
        let told = scene.events("cart").await?;
        ensure!(told.iter().any(|(reason, _)| reason == "RolledBack"), "{told:?}");
        Ok(())
    })
    .await;
    operator.signal("TERM");
    eventually("it ended", SOON, async || {
        ensure!(operator.log().contains("the lease is let go"));
        Ok(())
    })
    .await;
    let user = format!("system:serviceaccount:{ROOT}:countersign");
    let events = plane.audit_events().unwrap().into_iter().filter(|event| event.user.username == user);
    let code =
        |event: &crate::controlplane::AuditEvent| event.response_status.as_ref().map(|status| status.code);
    let (refused, allowed): (Vec<_>, Vec<_>) = events.partition(|event| code(event) == Some(403));
    assert!(allowed.len() > 100, "{}", allowed.len());
    let refused: BTreeSet<String> =
        refused.iter().map(|event| format!("{} {}", event.verb, event.request_uri)).collect();
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(!operator.log().contains("forbidden"));
}
