//! The fake nodes: making them, losing one, getting it back.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::ControlPlane;

/// kwok plays the kubelet of a node while it has this label (see `kwok-stages.yaml`).
const MANAGED: &str = "kwok.x-k8s.io/node";

impl ControlPlane {
    /// Adds a node and waits until it is ready. The nodes made at the start are `node-0`, `node-1`, ….
    pub async fn add_node(&self, name: &str) -> anyhow::Result<()> {
        create(&self.client(), name).await?;
        self.node_is_ready(name).await
    }

    /// The node is lost, as when its machine loses power: it and its pods are no longer ready, and pods that
    /// are scheduled to it stay Pending. It stays so until [`ControlPlane::restore_node`].
    pub async fn lose_node(&self, name: &str) -> anyhow::Result<()> {
        let client = self.client();
        let nodes: Api<Node> = Api::all(client.clone());
        label(&nodes, name, None).await?;
        let now = jiff::Timestamp::now();
        let ready = json!({
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
            "message": "Kubelet stopped posting node status.",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        let status = json!({ "status": { "conditions": [ready] } });
        nodes.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?;
        set_pods_ready(&client, name, "False").await
    }

    /// Undoes [`ControlPlane::lose_node`].
    pub async fn restore_node(&self, name: &str) -> anyhow::Result<()> {
        let client = self.client();
        label(&Api::all(client.clone()), name, Some("fake")).await?;
        self.node_is_ready(name).await?;
        set_pods_ready(&client, name, "True").await
    }

    pub(super) async fn node_is_ready(&self, name: &str) -> anyhow::Result<()> {
        let client = self.client();
        self.wait_for("the node is ready", async || check_ready(&client, name).await).await
    }
}

pub(super) async fn create(client: &Client, name: &str) -> anyhow::Result<()> {
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": { MANAGED: "fake" },
            "labels": {
                MANAGED: "fake",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            },
        },
    });
    let nodes: Api<Node> = Api::all(client.clone());
    nodes
        .create(&PostParams::default(), &serde_json::from_value(node)?)
        .await
        .with_context(|| format!("create {name}"))?;
    Ok(())
}

/// Whether the node can take pods: it is ready, and the taint of the beginning is gone.
pub(super) async fn check_ready(client: &Client, name: &str) -> anyhow::Result<()> {
    let node = Api::<Node>::all(client.clone()).get(name).await?;
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    ensure!(ready && taints.is_empty(), "{name} is not ready: {conditions:?} {taints:?}");
    Ok(())
}

async fn label(nodes: &Api<Node>, name: &str, value: Option<&str>) -> anyhow::Result<()> {
    let labels = json!({ "metadata": { "labels": { MANAGED: value } } });
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(labels)).await?;
    Ok(())
}

/// What the node lifecycle controller does to the pods of a lost node, and the kubelet when it is back;
/// without their delays.
async fn set_pods_ready(client: &Client, node: &str, status: &str) -> anyhow::Result<()> {
    let everywhere: Api<Pod> = Api::all(client.clone());
    for pod in everywhere.list(&ListParams::default().fields(&format!("spec.nodeName={node}"))).await? {
        let conditions =
            pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        if conditions
            .iter()
            .any(|condition| condition.type_ == "ContainersReady" && condition.status == "True")
        {
            let ready =
                json!({ "type": "Ready", "status": status, "lastTransitionTime": jiff::Timestamp::now() });
            let patch = Patch::Strategic(json!({ "status": { "conditions": [ready] } }));
            let pods: Api<Pod> =
                Api::namespaced(client.clone(), &pod.namespace().context("a pod has a namespace")?);
            pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await?;
        }
    }
    Ok(())
}
