//! Nothing that a request says of itself lets an image in: labels, annotations, owners, managers, names of users, labels of the
//! namespace.

use countersign::api::annotation;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::Request,
};
use serde_json::{Value, json};

use crate::{
    controlplane::{self, eventually},
    support::{
        guarded::dry_run,
        manifests::{at, with},
        operator::ROOT,
        scene::{SOON, Scene},
    },
};

/// A Deployment runs 1.0, and is held there: 1.1 was revoked. Nobody runs 1.2, which is approved, too; nobody approved 1.5.
async fn held(name: &str) -> Scene {
    let scene = Scene::guarded(name).await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran_unowned("kubectl", "cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene
}

/// What is not permitted, and why.
fn kept_out(scene: &Scene) -> [(String, &'static str); 2] {
    [(scene.pin(1), "Revoked"), (scene.pin(5), "Unlisted")]
}

/// Refused for its image, by the policy of the story.
#[track_caller]
fn is_refused(scene: &Scene, what: &str, image: &str, reason: &str, answer: Result<Value, String>) {
    let why = answer.err().unwrap_or_else(|| panic!("{what} with {image} is let in"));
    let policy = format!("by policy {ROOT}/{}", scene.namespace);
    for part in [image, "is not permitted", &policy, reason] {
        assert!(why.contains(part), "{what}: {part} is missing in: {why}");
    }
}

/// Everything that somebody could write into an object's metadata to be taken for something else.
async fn forgeries(scene: &Scene) -> Vec<(String, Value)> {
    let sets = scene.any("ReplicaSet").list(&ListParams::default()).await.unwrap();
    let runs = sets.iter().find(|set| set.data.to_string().contains(&scene.pin(0))).unwrap();
    let hash = json!({"app": "cart", "pod-template-hash": runs.labels()["pod-template-hash"]});
    let cart = scene.any("Deployment").get("cart").await.unwrap();
    let history = scene.history("Deployment", "cart").await.unwrap();
    let owned = |api_version: &str, kind: &str, name: &str, uid: Option<String>| {
        json!({"ownerReferences": [{
            "apiVersion": api_version, "kind": kind, "name": name, "uid": uid.unwrap(),
            "controller": true, "blockOwnerDeletion": true,
        }]})
    };
    let set = owned("apps/v1", "ReplicaSet", &runs.name_any(), runs.uid());
    let mut all = vec![
        ("labels of what runs".to_owned(), json!({"labels": hash})),
        ("owned by a ReplicaSet".to_owned(), with(set, json!({"labels": hash}))),
        ("owned by a Deployment".to_owned(), owned("apps/v1", "Deployment", "cart", cart.uid())),
        ("owned by a DaemonSet of the system".to_owned(), owned("apps/v1", "DaemonSet", "cni", cart.uid())),
        ("owned by a node".to_owned(), owned("v1", "Node", "node-0", cart.uid())),
        (
            "owned by a history".to_owned(),
            owned("countersign.dev/v1alpha1", "ReleaseHistory", &history.name_any(), history.uid()),
        ),
        (
            "with fields of the operator".to_owned(),
            json!({"managedFields": [{
                "manager": "countersign", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": {"f:containers": {}}},
            }]}),
        ),
    ];
    let own = [
        annotation::RECONCILE_REQUESTED_AT,
        annotation::ACCEPT_COMMIT,
        annotation::FORGET_REVOCATION,
        annotation::RELEASE_HOLD,
        annotation::RETRY,
        annotation::PAUSED,
        annotation::UNINSTALLING,
        "app.kubernetes.io/name",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/managed-by",
        "kubernetes.io/metadata.name",
        "control-plane",
        "k8s-app",
    ];
    for value in ["true", "countersign", "kube-system", ROOT] {
        let said: Value = own.iter().map(|key| ((*key).to_owned(), json!(value))).collect();
        all.push((format!("all keys with {value}"), json!({"labels": said, "annotations": said})));
    }
    for n in [1, 5] {
        let digest = json!({annotation::FORGET_REVOCATION: scene.digest(n)});
        all.push((format!("forgetting {n}"), json!({"annotations": digest})));
    }
    all
}

/// If this fails, whoever may create a Pod runs what he likes by giving it the right name tag.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_object_says_of_itself_lets_no_image_in() {
    let scene = held("forged").await;
    let object = |kind: &str, image: &str, metadata: &Value| {
        let name = format!("forged-{}", kind.to_lowercase());
        if kind == "Pod" {
            let pod = serde_json::to_value(scene.pod(&name, image)).unwrap();
            return with(pod, json!({"metadata": metadata}));
        }
        let mut template = metadata.clone();
        for field in ["ownerReferences", "managedFields"] {
            template.as_object_mut().unwrap().remove(field);
        }
        template["labels"]["app"] = json!(name);
        with(
            scene.object(kind, &name, image, json!({})),
            json!({"metadata": metadata, "spec": {"template": {"metadata": template}}}),
        )
    };
    for (what, metadata) in forgeries(&scene).await {
        for kind in ["Pod", "Deployment", "ReplicaSet"] {
            for (image, reason) in kept_out(&scene) {
                let answer = scene.asks_for(&object(kind, &image, &metadata)).await;
                is_refused(&scene, &format!("a {kind}, {what},"), &image, reason, answer);
            }
            // Nothing else is wrong with it.
            let approved = serde_json::from_value(object(kind, &scene.pin(0), &metadata)).unwrap();
            let answer = scene.any(kind).create(&dry_run(), &approved).await;
            assert!(answer.is_ok(), "a {kind}, {what}: {answer:?}");
        }
    }
    // What a kubelet reports of a Pod that it started from a file.
    let mirror = json!({"metadata": {"annotations": {
        "kubernetes.io/config.mirror": "a", "kubernetes.io/config.hash": "a", "kubernetes.io/config.source": "file",
    }}, "spec": {"nodeName": "node-0"}});
    for (image, reason) in kept_out(&scene) {
        let pod = serde_json::to_value(scene.pod("mirror", &image)).unwrap();
        is_refused(&scene, "a mirror Pod", &image, reason, scene.asks_for(&with(pod, mirror.clone())).await);
    }
}

/// If this fails, the name of a manager or of a controller opens the door.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_somebody_claims_to_be_no_image_is_let_in() {
    let scene = held("claimed").await;
    let running = scene.has_pods("cart", 1, &scene.pin(0), &[]).await[0].name_any();
    for manager in ["countersign", "countersign-revocation", "kube-controller-manager", "kubelet"] {
        for (image, reason) in kept_out(&scene) {
            let what = format!("a Pod by the manager {manager}");
            let pod = serde_json::to_vec(&scene.pod("claimed", &image)).unwrap();
            let params = PostParams { field_manager: Some(manager.to_owned()), ..PostParams::default() };
            let pods = Request::new(scene.any("Pod").resource_url());
            let create = pods.create(&params, pod.clone()).unwrap();
            is_refused(&scene, &what, &image, reason, scene.hears(create).await.0);
            let apply = PatchParams::apply(manager).force();
            let applied = Patch::Apply(scene.pod("claimed", &image));
            let apply = pods.patch("claimed", &apply, &applied).unwrap();
            is_refused(&scene, &what, &image, reason, scene.hears(apply).await.0);
            let params = PatchParams { field_manager: Some(manager.to_owned()), ..PatchParams::default() };
            let set: Patch<Value> =
                Patch::Strategic(json!({"spec": {"containers": [{"name": "app", "image": image}]}}));
            let update = pods.patch(&running, &params, &set).unwrap();
            is_refused(&scene, &what, &image, reason, scene.hears(update).await.0);
        }
    }
    let controllers = [
        "replicaset",
        "deployment",
        "statefulset",
        "daemon-set",
        "job",
        "cronjob",
        "generic-garbage-collector",
    ];
    let users = controllers.map(|name| format!("system:serviceaccount:kube-system:{name}-controller"));
    let more = [
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "system:apiserver",
        "system:node:node-0",
        "kubernetes-admin",
    ];
    let operator = format!("system:serviceaccount:{ROOT}:countersign");
    for user in users.iter().map(String::as_str).chain(more).chain([operator.as_str()]) {
        let client = impersonating(user);
        let pods: Api<_> = Api::namespaced(client, &scene.namespace);
        for (image, reason) in kept_out(&scene) {
            let pod: k8s_openapi::api::core::v1::Pod =
                serde_json::from_value(serde_json::to_value(scene.pod("claimed", &image)).unwrap()).unwrap();
            let answer = match pods.create(&PostParams::default(), &pod).await {
                Ok(stored) => Ok(serde_json::to_value(stored).unwrap()),
                Err(kube::Error::Api(status)) => Err(status.message),
                Err(error) => panic!("{error}"),
            };
            is_refused(&scene, &format!("a Pod by {user}"), &image, reason, answer);
        }
        let pod = serde_json::from_value(serde_json::to_value(scene.pod("claimed", &scene.pin(0))).unwrap());
        let answer = pods.create(&dry_run(), &pod.unwrap()).await;
        assert!(answer.is_ok(), "{user}: {answer:?}");
    }
}

/// A client in the name of a user, with all rights.
fn impersonating(user: &str) -> Client {
    let mut config = controlplane::shared_guarded().config();
    config.auth_info.impersonate = Some(user.to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    Client::try_from(config).unwrap()
}

/// If this fails, whoever may label his namespace switches everything off in it.
#[tokio::test(flavor = "multi_thread")]
async fn no_label_of_a_namespace_lets_an_image_in() {
    let scene = held("relabelled").await;
    // That the operator has seen the labels is seen by a policy which matches one of them.
    let seen = scene
        .policy("Enforce")
        .replace(&format!("kubernetes.io/metadata.name: {}", scene.namespace), "seen: \"true\"")
        .replace(&format!("name: {},", scene.namespace), &format!("name: {}-seen,", scene.namespace))
        .replace("requireDigest: true", &format!("sources: {{deny: [\"{}\"]}}", scene.image()));
    scene.write("seen.yaml", &seen);
    scene.push("a policy for who is seen").await;
    assert_eq!(scene.asks_for_pod("before", &scene.pin(2)).await, Ok(scene.pin(2)));
    scene.delete("Pod", "before").await;
    scene.gone(&scene.any("Pod"), "before").await;
    let labels = json!({
        "seen": "true",
        "kubernetes.io/metadata.name": "kube-system",
        "name": "kube-system",
        "control-plane": "true",
        "countersign.dev/ignore": "true",
        "countersign.dev/paused": "true",
        "countersign.dev/uninstalling": "true",
        "admission.countersign.dev/ignore": "true",
        "app.kubernetes.io/part-of": "countersign",
        "pod-security.kubernetes.io/enforce": "privileged",
    });
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(scene.client.clone());
    let relabel = async |labels: &Value| {
        let patch = Patch::Merge(
            json!({"metadata": {"labels": labels, "annotations": {annotation::PAUSED: "forged"}}}),
        );
        let stored = namespaces.patch(&scene.namespace, &PatchParams::default(), &patch).await.unwrap();
        assert_eq!(stored.labels()["kubernetes.io/metadata.name"], scene.namespace, "nobody can change it");
    };
    relabel(&labels).await;
    eventually("the operator sees the labels", SOON, async || {
        let approved = scene.pod("seen", &scene.pin(2));
        let answer = scene.any("Pod").create(&dry_run(), &approved).await;
        anyhow::ensure!(answer.is_err_and(|error| error.to_string().contains("-seen")), "not yet");
        Ok(())
    })
    .await;
    for (image, reason) in kept_out(&scene) {
        let pod = serde_json::to_value(scene.pod("relabelled", &image)).unwrap();
        is_refused(&scene, "a Pod", &image, reason, scene.asks_for(&pod).await);
    }
    relabel(&json!({"kubernetes.io/metadata.name": null, "seen": null})).await;
    eventually("the operator sees that it went", SOON, async || {
        let answer = scene.any("Pod").create(&dry_run(), &scene.pod("seen", &scene.pin(2))).await;
        anyhow::ensure!(answer.is_ok(), "{answer:?}");
        Ok(())
    })
    .await;
    for (image, reason) in kept_out(&scene) {
        let pod = serde_json::to_value(scene.pod("relabelled", &image)).unwrap();
        is_refused(&scene, "a Pod", &image, reason, scene.asks_for(&pod).await);
    }
    let cart = scene.live("Deployment", "cart").await.unwrap();
    assert_eq!(at(&cart, "/spec/template/spec/containers/0/image"), &json!(scene.pin(0)));
}
