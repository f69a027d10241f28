//! An installation from `deploy/base`, and the product's own commands beside it.

use std::{
    net::SocketAddr,
    process::{Command, Output},
    time::Duration,
};

use anyhow::ensure;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{DynamicObject, ListParams, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, eventually},
    deploy::base,
    support::{
        operator::{Operator, ROOT, free_port},
        scene::SOON,
        service::{lead_service_to, own_address},
    },
};

/// The kinds of the base and of the guides, and their resources.
const PLURALS: &[(&str, &str)] = &[
    ("CustomResourceDefinition", "customresourcedefinitions"),
    ("Namespace", "namespaces"),
    ("ServiceAccount", "serviceaccounts"),
    ("ClusterRole", "clusterroles"),
    ("ClusterRoleBinding", "clusterrolebindings"),
    ("Role", "roles"),
    ("RoleBinding", "rolebindings"),
    ("NetworkPolicy", "networkpolicies"),
    ("Service", "services"),
    ("PodDisruptionBudget", "poddisruptionbudgets"),
    ("Deployment", "deployments"),
    ("GitSource", "gitsources"),
    ("ValidatingAdmissionPolicy", "validatingadmissionpolicies"),
    ("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"),
];

/// Where an object of the base stands.
pub fn api_of(plane: &ControlPlane, object: &Value) -> Api<DynamicObject> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
    let (kind, plural) =
        PLURALS.iter().find(|(kind, _)| *kind == text("/kind")).expect("a kind of the base or of a guide");
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
    match text("/metadata/namespace") {
        "" => Api::all_with(plane.client(), &resource),
        namespace => Api::namespaced_with(plane.client(), namespace, &resource),
    }
}

pub fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

/// Applies the base, as `kubectl apply --server-side -k deploy/base` does, and waits until it has taken effect.
pub async fn apply_base(plane: &ControlPlane) {
    for object in base() {
        let params = PatchParams { field_manager: Some("kubectl".to_owned()), ..PatchParams::default() };
        api_of(plane, &object).patch(name_of(&object), &params, &Patch::Apply(&object)).await.unwrap();
        if object["kind"] == "CustomResourceDefinition" {
            is_true(plane, &object, "Established").await;
        }
    }
}

async fn is_true(plane: &ControlPlane, object: &Value, condition: &str) {
    eventually(&format!("{} is {condition}", name_of(object)), Duration::from_secs(20), async || {
        let found = api_of(plane, object).get(name_of(object)).await?;
        let conditions = found.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        ensure!(conditions.iter().any(|c| c["type"] == condition && c["status"] == "True"), "{conditions:?}");
        Ok(())
    })
    .await;
}

/// An operator as a pod of the base's Deployment has it: with its environment, the rights of its account, and asked through its
/// Service.
pub async fn operator_as_installed<'a>(plane: &'a ControlPlane, name: &'static str) -> Operator<'a> {
    let deployment = base().into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    no_pods_are_played(plane, &deployment).await;
    let kubeconfig = plane.service_account_kubeconfig(ROOT, "countersign").await.unwrap();
    let mut operator = Operator::named(plane, name).with("KUBECONFIG", kubeconfig.display().to_string());
    let variables = deployment.pointer("/spec/template/spec/containers/0/env").unwrap();
    for variable in variables.as_array().unwrap() {
        let Some(value) = variable["value"].as_str() else { continue };
        operator = match variable["name"].as_str().unwrap() {
            // Beside a control plane there are neither volumes nor addresses of a pod's own.
            "COUNTERSIGN_CACHE_DIR"
            | "COUNTERSIGN_METRICS_ADDR"
            | "COUNTERSIGN_RECEIVER_ADDR"
            | "COUNTERSIGN_PRIVATE_GIT_HOSTS" => operator,
            variable @ "COUNTERSIGN_WEBHOOK_ADDR" => {
                let at = SocketAddr::new(own_address(), free_port());
                lead_service_to(plane, name, at).await;
                operator.with(variable, at.to_string())
            }
            variable => operator.with(variable, value),
        };
    }
    operator
}

/// From here on the real binary is the operator: where its pods are played, the Service would lead to nobody.
async fn no_pods_are_played(plane: &ControlPlane, deployment: &Value) {
    let deployments = api_of(plane, deployment);
    if deployments.get_opt("countersign").await.unwrap().is_some() {
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        deployments.patch("countersign", &PatchParams::default(), &none).await.unwrap();
    }
    let slices: Api<EndpointSlice> = Api::namespaced(plane.client(), ROOT);
    let of_pods = ListParams::default().labels(
        "kubernetes.io/service-name=countersign-webhook,endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
    );
    eventually("the Service leads to no pod", SOON, async || {
        let found = slices.list(&of_pods).await?.items;
        ensure!(!found.is_empty() && found.iter().all(|slice| slice.endpoints.is_empty()), "{found:?}");
        Ok(())
    })
    .await;
}

/// A command of the product, with all rights.
pub fn command(plane: &ControlPlane, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(args).env("KUBECONFIG", plane.kubeconfig_path()).env("COUNTERSIGN_ROOT_NAMESPACE", ROOT);
    command
}

/// What a command says that must succeed.
pub async fn run(mut command: Command) -> String {
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}
