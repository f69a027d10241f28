//! Kinds that configuration adds: Argo Rollouts, `OpenKruise` and Knative. Their controllers are played by the tests, which write
//! the status that those would.

use anyhow::{Context as _, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    support::{
        manifests::at,
        operator::{Operator, install},
        scene::{SOON, Scene},
    },
};

const ROLLOUTS: &str = include_str!("../fixtures/crds/argo-rollouts.yaml");
const CLONE_SETS: &str = include_str!("../fixtures/crds/openkruise-clonesets.yaml");
const SERVICES: &str = include_str!("../fixtures/crds/knative-services.yaml");

/// An operator that knows the kinds of the documented example.
async fn operator(plane: &ControlPlane) -> Operator<'_> {
    install(plane).await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/workload-kinds.yaml");
    Operator::new(plane).with("COUNTERSIGN_WORKLOAD_KINDS", example)
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
    async fn rolls_out(&self, kind: &str) {
        let live = self.live(kind, "cart").await.unwrap();
        let status = complete(kind, at(&live, "/metadata/generation"));
        let patch = Patch::Merge(json!({"status": status}));
        self.any(kind).patch_status("cart", &PatchParams::default(), &patch).await.unwrap();
        self.proven(kind, "cart").await;
    }

    async fn outcome_is(&self, kind: &str, n: u8, outcome: &str) {
        eventually(&format!("1.{n} of {kind} is {outcome}"), SOON, async || {
            let outcomes = self.outcomes(kind, "cart", &self.digest(n)).await?;
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
            scene.outcome_is(kind, n, "Unproven").await;
            scene.rolls_out(kind).await;
        }
        scene.outcome_is("CloneSet", n, "Unproven").await;
        scene.rolls_out("CloneSet").await;
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
        scene.rolls_out(kind).await;
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

async fn create_definition(client: &kube::Client, text: &str) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let definition: CustomResourceDefinition = serde_yaml::from_str(text).unwrap();
    let api: kube::Api<CustomResourceDefinition> = kube::Api::all(client.clone());
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
