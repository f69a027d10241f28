//! `countersign uninstall`: the operator goes, in an order in which nothing gets stuck; what it knows stays unless asked.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::connect::{Alone, Quiet, block_on, config};
use crate::{
    adapters::{
        certificate::SECRET,
        cluster::{Cluster, Error, id_of},
    },
    api::{annotation::UNINSTALLING, webhooks::NAME},
    controllers::{lead::LEASE, source::revocation::FINALIZER},
    domain::inventory::ObjectId,
};

/// What `countersign uninstall` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    quiet: Quiet,
    /// Also delete the kinds with all policies, approvals, revocations, sources and histories, and the namespace
    #[arg(long)]
    all: bool,
}

/// What the objects of an installation carry, by kustomize and by Helm.
const INSTALLED: &str = "app.kubernetes.io/part-of=countersign";
const ADMISSION: &str = "admissionregistration.k8s.io/v1";
/// What an installation is made of in the whole cluster.
const CLUSTER_PARTS: &[(&str, &str)] = &[
    (ADMISSION, "ValidatingWebhookConfiguration"),
    (ADMISSION, "MutatingWebhookConfiguration"),
    (ADMISSION, "ValidatingAdmissionPolicyBinding"),
    (ADMISSION, "ValidatingAdmissionPolicy"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
];
/// What it is made of in the root namespace, its Deployment apart.
const ROOT_PARTS: &[(&str, &str)] = &[
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("v1", "Service"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("v1", "ServiceAccount"),
];
/// How long a definition or the namespace may take to go.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) fn run(args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
    let root = args.quiet.root_namespace.as_str();
    block_on(async {
        let client =
            kube::Client::try_from(config().await?).context("cannot make a client of the cluster")?;
        let cluster = Cluster::new(client);
        // Before anything else: what nobody answers for any more would keep every Pod from being created.
        end_admission(&cluster, out).await?;
        if cluster.get(&object("v1", "Namespace", "", root)).await.map_err(|error| explain(&error))?.is_some()
        {
            stop(&cluster, &args.quiet, out).await?;
        }
        // Of an installation whose namespace was deleted.
        delete_parts(&cluster, "", out).await?;
        if args.all {
            delete_everything(&cluster, root, out).await?;
        } else {
            writeln!(
                out,
                "kept: the namespace {root}, the kinds, and all policies, approvals, sources and histories (--all deletes them)"
            )?;
        }
        Ok(())
    })
}

/// Nobody is asked any more. The operator, which may still run, is told to leave it at that.
async fn end_admission(cluster: &Cluster, out: &mut impl Write) -> anyhow::Result<()> {
    for kind in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
        let id = object(ADMISSION, kind, "", NAME);
        let mark = json!({"metadata": {"annotations": {UNINSTALLING: "true"}}});
        match cluster.merge_patch(&id, &mark).await {
            Ok(found) => delete(cluster, &found, out).await?,
            Err(error) if error.code() == Some(404) => {}
            Err(error) => return Err(explain(&error)),
        }
    }
    Ok(())
}

/// Ends the operator, and frees what only it would let go.
async fn stop(cluster: &Cluster, quiet: &Quiet, out: &mut impl Write) -> anyhow::Result<()> {
    let root = quiet.root_namespace.as_str();
    // First, or it would set its finalizers again.
    for object in listed(cluster, "apps/v1", "Deployment", root).await? {
        delete(cluster, &object, out).await?;
    }
    writeln!(out, "waiting until no operator leads")?;
    let alone = Alone::wait(quiet).await?;
    let freed = free_revocations(&alone.cluster).await?;
    writeln!(out, "{freed} revocations let go of their finalizer; they stay")?;
    delete_parts(&alone.cluster, "", out).await?;
    delete_parts(&alone.cluster, root, out).await?;
    // Only now: without rights no replica that is slow to end can lead again.
    alone.end().await?;
    for left in [object("coordination.k8s.io/v1", "Lease", root, LEASE), object("v1", "Secret", root, SECRET)]
    {
        if let Some(found) = cluster.get(&left).await.map_err(|error| explain(&error))? {
            delete(cluster, &found, out).await?;
        }
    }
    Ok(())
}

/// Deletes the parts of an installation that stand in a namespace, or (empty) in none.
async fn delete_parts(cluster: &Cluster, namespace: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let parts = if namespace.is_empty() { CLUSTER_PARTS } else { ROOT_PARTS };
    for (api_version, kind) in parts {
        for object in listed(cluster, api_version, kind, namespace).await? {
            delete(cluster, &object, out).await?;
        }
    }
    Ok(())
}

fn object(api_version: &str, kind: &str, namespace: &str, name: &str) -> ObjectId {
    let text = str::to_owned;
    ObjectId {
        api_version: text(api_version),
        kind: text(kind),
        namespace: text(namespace),
        name: text(name),
    }
}

async fn listed(
    cluster: &Cluster,
    api_version: &str,
    kind: &str,
    namespace: &str,
) -> anyhow::Result<Vec<Value>> {
    let resource = cluster.resource(api_version, kind).await.map_err(|error| explain(&error))?;
    cluster.list(&resource, namespace, INSTALLED).await.map_err(|error| explain(&error))
}

async fn delete(cluster: &Cluster, object: &Value, out: &mut impl Write) -> anyhow::Result<()> {
    let id = id_of(object);
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    cluster.delete(&id, uid).await.map_err(|error| explain(&error))?;
    writeln!(out, "deleted {id}")?;
    Ok(())
}

/// Nobody would remove the finalizers any more: approvals, and their namespaces, could never be deleted.
async fn free_revocations(cluster: &Cluster) -> anyhow::Result<usize> {
    let resource = match cluster.resource("countersign.dev/v1alpha1", "ApprovedImage").await {
        Err(Error::NoSuchKind { .. }) => return Ok(0),
        found => found.map_err(|error| explain(&error))?,
    };
    let mut freed = 0;
    for object in cluster.list(&resource, "", "").await.map_err(|error| explain(&error))? {
        let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
        let Some(at) = finalizers.and_then(|all| all.iter().position(|name| name == FINALIZER)) else {
            continue;
        };
        let path = format!("/metadata/finalizers/{at}");
        let patch = json!([{"op": "test", "path": path, "value": FINALIZER}, {"op": "remove", "path": path}]);
        match cluster.json_patch(&id_of(&object), patch).await {
            Ok(_) => freed += 1,
            Err(error) if error.code() == Some(404) => {}
            Err(error) => return Err(explain(&error)),
        }
    }
    Ok(freed)
}

async fn delete_everything(cluster: &Cluster, root: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let mut gone = Vec::new();
    for definition in crate::api::crds() {
        let name = definition.metadata.name.unwrap_or_default();
        gone.push(object("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", &name));
    }
    gone.push(object("v1", "Namespace", "", root));
    for id in gone {
        if let Some(found) = cluster.get(&id).await.map_err(|error| explain(&error))? {
            delete(cluster, &found, out).await?;
            until_gone(cluster, &id).await?;
        }
    }
    Ok(())
}

async fn until_gone(cluster: &Cluster, id: &ObjectId) -> anyhow::Result<()> {
    let began = Instant::now();
    while cluster.get(id).await.map_err(|error| explain(&error))?.is_some() {
        ensure!(
            began.elapsed() < PATIENCE,
            "{id} is still there after {} s: something else holds it (see its status)",
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

fn explain(error: &Error) -> anyhow::Error {
    anyhow::anyhow!(error.explain())
}
