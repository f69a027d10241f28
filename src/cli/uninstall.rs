//! `countersign uninstall`: the operator goes, in an order in which nothing gets stuck; what it knows stays unless asked.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::connect::{Alone, block_on, config};
use crate::{
    adapters::cluster::{Cluster, Error, id_of},
    controllers::source::apply::FINALIZER,
    domain::inventory::ObjectId,
};

/// What `countersign uninstall` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The operator's own namespace
    #[arg(
        long,
        env = "COUNTERSIGN_ROOT_NAMESPACE",
        default_value = "countersign-system",
        value_name = "NAME"
    )]
    root_namespace: String,
    /// Also delete the kinds with all policies, approvals, revocations, sources and histories, and the namespace
    #[arg(long)]
    all: bool,
}

/// What the objects of an installation carry, by kustomize and by Helm.
const INSTALLED: &str = "app.kubernetes.io/part-of=countersign";
/// Everything an installation is made of but its Deployment, and whether it stands in the root namespace.
const PARTS: &[(&str, &str, Place)] = &[
    ("policy/v1", "PodDisruptionBudget", Place::Root),
    ("networking.k8s.io/v1", "NetworkPolicy", Place::Root),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", Place::Cluster),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", Place::Cluster),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", Place::Root),
    ("rbac.authorization.k8s.io/v1", "Role", Place::Root),
    ("v1", "ServiceAccount", Place::Root),
];
/// How long pods and definitions may take to go.
const PATIENCE: Duration = Duration::from_mins(2);

enum Place {
    Root,
    Cluster,
}

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let root = args.root_namespace.as_str();
    block_on(async {
        let client =
            kube::Client::try_from(config().await?).context("cannot make a client of the cluster")?;
        let free = Cluster::new(client);
        // First, or it would set its finalizers again.
        for object in listed(&free, "apps/v1", "Deployment", root).await? {
            delete(&free, &object, out).await?;
        }
        writeln!(out, "waiting until no operator leads")?;
        let alone = Alone::wait(root).await?;
        let freed = free_revocations(&alone.cluster).await?;
        writeln!(out, "{freed} revocations let go of their finalizer; they stay")?;
        for (api_version, kind, place) in PARTS {
            let namespace = match place {
                Place::Root => root,
                Place::Cluster => "",
            };
            for object in listed(&free, api_version, kind, namespace).await? {
                delete(&free, &object, out).await?;
            }
        }
        // Only now: without rights no replica that is slow to end can lead again.
        alone.end().await?;
        let lease = ObjectId {
            api_version: "coordination.k8s.io/v1".to_owned(),
            kind: "Lease".to_owned(),
            namespace: root.to_owned(),
            name: crate::controllers::lead::LEASE.to_owned(),
        };
        if let Some(found) = free.get(&lease).await.map_err(explain)? {
            delete(&free, &found, out).await?;
        }
        if args.all {
            delete_everything(&free, root, out).await?;
        } else {
            writeln!(
                out,
                "kept: the namespace {root}, the kinds, and all policies, approvals, sources and histories (--all deletes them)"
            )?;
        }
        Ok(())
    })
}

async fn listed(
    cluster: &Cluster,
    api_version: &str,
    kind: &str,
    namespace: &str,
) -> anyhow::Result<Vec<Value>> {
    let resource = cluster.resource(api_version, kind).await.map_err(explain)?;
    cluster.list(&resource, namespace, INSTALLED).await.map_err(explain)
}

async fn delete(cluster: &Cluster, object: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    let id = id_of(object);
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    cluster.delete(&id, uid).await.map_err(explain)?;
    writeln!(out, "deleted {id}")?;
    Ok(())
}

/// Nobody would remove the finalizers any more: approvals, and their namespaces, could never be deleted.
async fn free_revocations(cluster: &Cluster) -> anyhow::Result<usize> {
    let resource = match cluster.resource("countersign.dev/v1alpha1", "ApprovedImage").await {
        Err(Error::NoSuchKind { .. }) => return Ok(0),
        found => found.map_err(explain)?,
    };
    let mut freed = 0;
    for object in cluster.list(&resource, "", "").await.map_err(explain)? {
        let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
        let Some(at) = finalizers.and_then(|all| all.iter().position(|name| name == FINALIZER)) else {
            continue;
        };
        let path = format!("/metadata/finalizers/{at}");
        let patch = json!([{"op": "test", "path": path, "value": FINALIZER}, {"op": "remove", "path": path}]);
        match cluster.json_patch(&id_of(&object), patch).await {
            Ok(_) => freed += 1,
            Err(error) if error.code() == Some(404) => {}
            Err(error) => return Err(explain(error)),
        }
    }
    Ok(freed)
}

async fn delete_everything(cluster: &Cluster, root: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let mut gone = Vec::new();
    for definition in crate::api::crds() {
        gone.push(ObjectId {
            api_version: "apiextensions.k8s.io/v1".to_owned(),
            kind: "CustomResourceDefinition".to_owned(),
            namespace: String::new(),
            name: definition.metadata.name.unwrap_or_default(),
        });
    }
    gone.push(ObjectId {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        namespace: String::new(),
        name: root.to_owned(),
    });
    for id in gone {
        if let Some(found) = cluster.get(&id).await.map_err(explain)? {
            delete(cluster, &found, out).await?;
            until_gone(cluster, &id).await?;
        }
    }
    Ok(())
}

async fn until_gone(cluster: &Cluster, id: &ObjectId) -> anyhow::Result<()> {
    let began = Instant::now();
    while cluster.get(id).await.map_err(explain)?.is_some() {
        ensure!(
            began.elapsed() < PATIENCE,
            "{id} is still there after {} s: something else holds it (see its status)",
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn explain(error: Error) -> anyhow::Error {
    anyhow::anyhow!(error.explain())
}
