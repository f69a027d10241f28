//! Kinds that configuration adds: Argo Rollouts, `OpenKruise` and Knative. Their controllers are played by the tests, which write
//! the status that those would.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    support::{
        manifests::{at, with},
        operator::{Operator, install},
        scene::{SOON, Scene},
    },
};

pub const ROLLOUTS: &str = include_str!("../fixtures/crds/argo-rollouts.yaml");
pub const CLONE_SETS: &str = include_str!("../fixtures/crds/openkruise-clonesets.yaml");
pub const SERVICES: &str = include_str!("../fixtures/crds/knative-services.yaml");
pub const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/workload-kinds.yaml");

/// An operator that knows the kinds of the documented example.
async fn operator(plane: &ControlPlane) -> Operator<'_> {
    install(plane).await;
    Operator::new(plane).with("COUNTERSIGN_WORKLOAD_KINDS", EXAMPLE)
}

fn pod_spec(image: &str) -> Value {
    json!({"containers": [{"name": "app", "image": image}]})
}

fn object(scene: &Scene, kind: &str, n: u8) -> Value {
    let image = scene.tag(n);
    let labels = json!({"app": "cart"});
    let (api_version, spec) = match kind {
        "Rollout" | "CloneSet" => {
            let template = json!({"metadata": {"labels": labels}, "spec": pod_spec(&image)});
            let spec = json!({"replicas": 2, "selector": {"matchLabels": labels}, "template": template});
            (if kind == "Rollout" { "argoproj.io/v1alpha1" } else { "apps.kruise.io/v1alpha1" }, spec)
        }
        // Knative asks for no name of the only container.
        "Service" => {
            let template = json!({"spec": {"containers": [{"image": image}], "containerConcurrency": 5}});
            ("serving.knative.dev/v1", json!({"template": template}))
        }
        other => panic!("{other}"),
    };
    let metadata = json!({"name": "cart", "namespace": scene.namespace});
    json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec})
}

/// What its controller writes once a rollout is complete.
fn complete(kind: &str, generation: &Value) -> Value {
    match kind {
        // Argo Rollouts writes the generation as a text.
        "Rollout" => json!({"observedGeneration": generation.to_string(), "phase": "Healthy"}),
        "CloneSet" => json!({"observedGeneration": generation, "replicas": 2, "updatedReadyReplicas": 2}),
        "Service" => {
            json!({"observedGeneration": generation, "conditions": [{"type": "Ready", "status": "True"}]})
        }
        other => panic!("{other}"),
    }
}

impl Scene {
    /// Plays the controller of a kind: the rollout of the present template is complete.
    async fn rolls_out(&self, kind: &str, name: &str) {
        self.tells(kind, name, |generation| complete(kind, generation)).await;
        self.proven(kind, name).await;
    }

    /// Writes into the status of an object, as its controller would of the present generation.
    async fn tells(&self, kind: &str, name: &str, status: impl Fn(&Value) -> Value) {
        let live = self.live(kind, name).await.unwrap();
        let patch = Patch::Merge(json!({"status": status(at(&live, "/metadata/generation"))}));
        self.any(kind).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn outcome_is(&self, kind: &str, name: &str, n: u8, outcome: &str) {
        eventually(&format!("1.{n} of {kind} {name} is {outcome}"), SOON, async || {
            let outcomes = self.outcomes(kind, name, &self.digest(n)).await?;
            ensure!(outcomes.last().context("no release")? == outcome, "{outcomes:?}");
            Ok(())
        })
        .await;
    }
}

/// If this fails a fleet that runs on other kinds than Kubernetes' own goes on with a revoked image.
#[tokio::test(flavor = "multi_thread")]
async fn configured_kinds_roll_back_as_others_do() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    let operator = operator(&plane).await;
    // Two of the three definitions are not there: the operator is ready all the same.
    let client = plane.client();
    create_definition(&client, ROLLOUTS).await;
    operator.restart().await;
    create_definition(&client, CLONE_SETS).await;
    create_definition(&client, SERVICES).await;

    let scene = Scene::on(&plane, "custom").await;
    scene.file_approvals(0..2);
    // A CloneSet that git does not own.
    let owned = ["Rollout", "Service"];
    for n in [0, 1] {
        for kind in owned {
            scene.put(&format!("{kind}.yaml"), &object(&scene, kind, n));
        }
        scene.push(&format!("1.{n}")).await;
        scene.apply_as("kubectl", &object(&scene, "CloneSet", n)).await.unwrap();
        for kind in owned {
            scene.runs(kind, "cart", &scene.pin(n)).await;
            // It is not complete before its controller says so of this template.
            scene.outcome_is(kind, "cart", n, "Unproven").await;
            scene.rolls_out(kind, "cart").await;
        }
        scene.outcome_is("CloneSet", "cart", n, "Unproven").await;
        scene.rolls_out("CloneSet", "cart").await;
    }
    assert_eq!(
        scene.images("CloneSet", "cart").await.unwrap(),
        [scene.tag(1)],
        "nothing is written while all is well"
    );

    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    for kind in ["Rollout", "Service", "CloneSet"] {
        scene.held_at(kind, "cart", &scene.pin(0)).await;
        let live = scene.live(kind, "cart").await.unwrap();
        if kind == "Service" {
            assert_eq!(at(&live, "/spec/template/spec/containerConcurrency"), 5);
        }
        scene.apply_as("kubectl", &object(&scene, kind, 1)).await.unwrap();
        scene.held_at(kind, "cart", &scene.pin(0)).await;
        scene.rolls_out(kind, "cart").await;
    }
    eventually("the rollbacks are complete", SOON, async || {
        for kind in ["Rollout", "Service", "CloneSet"] {
            let status = scene.history(kind, "cart").await?.status.context("no status")?;
            let last = status.rollbacks.last().context("no rollback")?;
            ensure!(format!("{:?}", last.outcome) == "Completed", "{kind}: {last:?}");
        }
        Ok(())
    })
    .await;
}

/// The newest release as the status of an object names it: it does not come up.
fn broken(kind: &str, name: &str, generation: &Value) -> Value {
    match kind {
        "Rollout" => {
            json!({"observedGeneration": generation.to_string(), "phase": "Degraded", "currentPodHash": format!("{name}hash")})
        }
        "CloneSet" => {
            json!({"observedGeneration": generation, "updatedReadyReplicas": 0, "updateRevision": format!("{name}-hash")})
        }
        "Service" => {
            json!({"observedGeneration": generation, "latestCreatedRevisionName": format!("{name}-00002"),
            "conditions": [{"type": "Ready", "status": "False"}]})
        }
        other => panic!("{other}"),
    }
}

/// The one object that controls another.
fn controlled_by(owner: &Value) -> Value {
    json!([{"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true}])
}

impl Scene {
    /// Makes an object of this namespace; `owner` controls it.
    async fn make(&self, object: Value, owner: Option<&Value>) -> Value {
        let owners = owner.map_or_else(|| json!([]), controlled_by);
        let over = json!({"metadata": {"namespace": self.namespace, "ownerReferences": owners}});
        serde_json::to_value(self.apply_as("controller", &with(object, over)).await.unwrap()).unwrap()
    }

    /// The pods of 1.1 as the controller of a kind would make them, with whatever stands between; all have a fault. Without an
    /// owner they are somebody else's that have the same label.
    async fn release_pods(&self, kind: &str, name: &str, owner: Option<&Value>, fault: &str) {
        let app = format!("{name}-{}", kind.to_lowercase());
        let image = self.images(kind, name).await.unwrap().remove(0);
        let label = match kind {
            "Rollout" => json!({"rollouts-pod-template-hash": format!("{name}hash")}),
            // As OpenKruise writes it where CloneSetShortHash is on, and where it is not.
            "CloneSet" => {
                json!({"controller-revision-hash": format!("{name}-hash"), "pod-template-hash": "hash"})
            }
            "Service" => json!({"serving.knative.dev/revision": format!("{name}-00002")}),
            other => panic!("{other}"),
        };
        let labels = with(json!({"app": app}), label);
        let annotations = json!({format!("countersign.dev/test-{fault}"): "true"});
        let metadata = json!({"labels": labels, "annotations": annotations});
        let pod = json!({"metadata": metadata, "spec": pod_spec(&image)});
        let set = |kind: &str| {
            let spec = json!({"replicas": 1, "selector": {"matchLabels": {"app": app}}, "template": pod});
            json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app}, "spec": spec})
        };
        match kind {
            "Rollout" => {
                self.make(set("ReplicaSet"), owner).await;
            }
            "CloneSet" => {
                let over = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": app}});
                self.make(with(pod, over), owner).await;
            }
            "Service" => {
                let part = |kind: &str| json!({"apiVersion": "serving.knative.dev/v1", "kind": kind, "metadata": {"name": name}});
                let configuration = self.make(part("Configuration"), owner).await;
                let revision = self.make(part("Revision"), Some(&configuration)).await;
                self.make(set("Deployment"), Some(&revision)).await;
            }
            other => panic!("{other}"),
        }
    }

    async fn stays_at(&self, kind: &str, name: &str, image: &str) {
        self.edit(kind, name, &json!({"metadata": {"annotations": {"look": image}}})).await;
        assert_eq!(self.images(kind, name).await.unwrap(), [image], "{kind} {name}");
        let status = self.history(kind, name).await.unwrap().status.unwrap();
        assert_eq!((status.hold, status.rollbacks.len()), (None, 0), "{kind} {name}");
    }
}

/// If this fails a crashing release of such a kind stays until somebody looks, or goes back for what is not its fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_a_configured_kind_whose_pods_keep_crashing_goes_back() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    let client = plane.client();
    for definition in [ROLLOUTS, CLONE_SETS, SERVICES] {
        create_definition(&client, definition).await;
    }
    for part in ["Configuration", "Revision"] {
        let plain = part.to_lowercase();
        let definition = SERVICES.replace("Service", part).replace("services", &format!("{plain}s"));
        create_definition(&client, &definition.replace("singular: service", &format!("singular: {plain}")))
            .await;
    }
    // At first nothing says which pods are of the newest release.
    let kinds = plane.directory().join("kinds.yaml");
    let example = std::fs::read_to_string(EXAMPLE).unwrap();
    let silent: Vec<&str> = example.lines().filter(|line| !line.contains("newestPods")).collect();
    assert_eq!(silent.len() + 3, example.lines().count());
    std::fs::write(&kinds, silent.join("\n")).unwrap();
    let operator = Operator::new(&plane).with("COUNTERSIGN_WORKLOAD_KINDS", kinds.display().to_string());
    operator.restart().await;

    let scene = Scene::on(&plane, "customcrash").await;
    let policy = scene.policy("Enforce");
    scene
        .write("policy.yaml", &policy.replace("healthyFor: 1s", "healthyFor: 1s, onFailedRollout: LastGood"));
    scene.file_approvals(0..2);
    let workloads = [
        ("Rollout", "cart", "crash"),
        ("CloneSet", "cart", "crash"),
        ("Service", "cart", "crash"),
        ("Rollout", "unpulled", "unpullable"),
        ("Rollout", "strange", "crash"),
    ];
    let pin = |kind: &str, n: u8| if kind == "CloneSet" { scene.tag(n) } else { scene.pin(n) };
    for n in [0, 1] {
        for (kind, name, _) in workloads {
            let containers = json!([{"name": "app", "image": scene.tag(n)}]);
            let over = json!({"metadata": {"name": name}, "spec": {"template": {"spec": {"containers": containers}}}});
            let object = with(object(&scene, kind, n), over);
            match kind {
                "Rollout" => {
                    let object = with(object, json!({"spec": {"progressDeadlineSeconds": 3}}));
                    scene.put(&format!("{kind}-{name}.yaml"), &object);
                }
                // Git does not own it.
                "CloneSet" => drop(scene.apply_as("kubectl", &object).await.unwrap()),
                _ => scene.put(&format!("{kind}-{name}.yaml"), &object),
            }
        }
        scene.push(&format!("1.{n}")).await;
        for (kind, name, fault) in workloads {
            scene.runs(kind, name, &pin(kind, n)).await;
            scene.outcome_is(kind, name, n, "Unproven").await;
            if n == 0 {
                scene.rolls_out(kind, name).await;
                continue;
            }
            scene.tells(kind, name, |generation| broken(kind, name, generation)).await;
            let own = scene.live(kind, name).await.unwrap();
            scene.release_pods(kind, name, Some(&own).filter(|_| name != "strange"), fault).await;
        }
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &scene.namespace);
    eventually("the kubelets say what is wrong", SOON, async || {
        let all = pods.list(&ListParams::default()).await?.items;
        let said =
            all.iter().filter(|pod| pod.status.as_ref().is_some_and(|s| s.container_statuses.is_some()));
        ensure!(said.count() == workloads.len(), "{} pods", all.len());
        Ok(())
    })
    .await;

    // Nobody waits for ten minutes: the operator comes back to records that are eleven minutes old.
    operator.kill();
    scene.let_in_earlier("CloneSet", "cart", 660).await;
    scene.let_in_earlier("Service", "cart", 660).await;
    operator.restart().await;
    for (kind, name, _) in workloads {
        scene.outcome_is(kind, name, 1, "Failed").await;
    }
    scene.ship("Deployment", "clock", 0).await;
    for (kind, name, _) in workloads {
        scene.stays_at(kind, name, &pin(kind, 1)).await;
    }

    operator.kill();
    std::fs::write(&kinds, &example).unwrap();
    operator.restart().await;
    for kind in ["Rollout", "CloneSet", "Service"] {
        scene.runs(kind, "cart", &scene.pin(0)).await;
        scene
            .explains(kind, "cart", "Held", &format!("containers/app of pod cart-{}", kind.to_lowercase()))
            .await;
    }
    scene.ship("Deployment", "watch", 0).await;
    for name in ["unpulled", "strange"] {
        scene.stays_at("Rollout", name, &scene.pin(1)).await;
    }
    // What kept the last one is only whose those pods are.
    let own = scene.live("Rollout", "strange").await.unwrap();
    scene.release_pods("Rollout", "strange", Some(&own), "crash").await;
    scene.runs("Rollout", "strange", &scene.pin(0)).await;
}

pub async fn create_definition(client: &kube::Client, text: &str) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let definition: CustomResourceDefinition = serde_yaml::from_str(text).unwrap();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition.metadata.name.clone().unwrap();
    api.create(&kube::api::PostParams::default(), &definition).await.unwrap();
    eventually(&format!("{name} is served"), SOON, async || {
        let conditions =
            api.get(&name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        ensure!(conditions.iter().any(|found| found.type_ == "Established" && found.status == "True"));
        Ok(())
    })
    .await;
}

/// If this fails a mistake in the file leaves kinds ungoverned, and nobody hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_kinds_that_is_wrong_keeps_the_operator_from_starting() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "apiVersion: countersign.dev/v1alpha1\nkind: WorkloadKinds\nkinds: [{kind: X}]\n",
    )
    .unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["run", "--workload-kinds"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("missing field `apiVersion`") && said.contains("kind: WorkloadKinds"), "{said}");
}
