//! An installation from `deploy/base`, and the product's own commands beside it.

use std::{
    process::{Command, Output},
    time::Duration,
};

use anyhow::ensure;
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;

use crate::{
    controlplane::{ControlPlane, eventually},
    deploy::base,
    support::operator::{Operator, ROOT},
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

/// An operator with the rights of the base's service account, as its pod has.
pub async fn operator_with_its_own_rights<'a>(plane: &'a ControlPlane, name: &'static str) -> Operator<'a> {
    let kubeconfig = plane.service_account_kubeconfig(ROOT, "countersign").await.unwrap();
    Operator::named(plane, name)
        .with("KUBECONFIG", kubeconfig.display().to_string())
        .with("COUNTERSIGN_APPLIER", "countersign-applier")
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
