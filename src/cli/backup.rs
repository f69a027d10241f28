//! `countersign backup` and `countersign restore`: what only the cluster knows. Everything else comes from git again.
//!
//! | kept | why |
//! |---|---|
//! | histories, with their status | what each workload ran, whether it was good, which holds stand |
//! | revocations | git may have forgotten them; they are not taken back |
//! | inventories | what each source may prune |

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::connect::{Alone, Quiet, block_on, config};
use crate::{
    adapters::cluster::{Account, Cluster, id_of},
    api::{REVOCATION_FIELD_MANAGER, ReleaseHistory, annotation::FORGET_REVOCATION, webhooks::NAME},
    controllers::source::{inventory, revocation::revocation},
    domain::{inventory::ObjectId, ownership::MANAGER},
};

/// What `countersign backup` takes.
#[derive(Debug, clap::Args)]
pub(super) struct BackupArgs {
    /// The operator's own namespace
    #[arg(
        long,
        env = "COUNTERSIGN_ROOT_NAMESPACE",
        default_value = "countersign-system",
        value_name = "NAME"
    )]
    root_namespace: String,
}

/// What `countersign restore` takes.
#[derive(Debug, clap::Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    quiet: Quiet,
    /// What countersign backup wrote; - for standard input
    file: PathBuf,
}

pub(super) fn backup(args: &BackupArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let items = block_on(async {
        let client =
            kube::Client::try_from(config().await?).context("cannot make a client of the cluster")?;
        collect(&Cluster::new(client), &args.root_namespace).await
    })?;
    // One object a line: large backups can be looked through, and kubectl reads it.
    writeln!(out, "{{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[")?;
    for (number, item) in items.iter().enumerate() {
        writeln!(out, "{item}{}", if number + 1 < items.len() { "," } else { "" })?;
    }
    writeln!(out, "]}}")?;
    Ok(())
}

async fn collect(cluster: &Cluster, root: &str) -> anyhow::Result<Vec<Value>> {
    let list = async |api_version: &str, kind: &str, namespace: &str, selector: &str| {
        let resource = cluster.resource(api_version, kind).await?;
        cluster.list(&resource, namespace, selector).await
    };
    let approvals = list(OURS, "ApprovedImage", "", "").await.context("cannot read the revocations")?;
    let histories = list(OURS, "ReleaseHistory", root, "").await.context("cannot read the histories")?;
    let inventories =
        list("v1", "ConfigMap", root, inventory::LABEL).await.context("cannot read the inventories")?;
    let revocations = approvals.iter().filter_map(standing_revocation);
    let histories = histories.iter().map(|object| bare(object, &["spec", "status"]));
    let inventories = inventories.iter().map(|object| bare(object, &["data", "binaryData"]));
    Ok(revocations.chain(inventories).chain(histories).collect())
}

/// The revocation of an approval, unless a person let it go.
fn standing_revocation(approval: &Value) -> Option<Value> {
    let said = approval.pointer("/metadata/annotations").and_then(|said| said.get(FORGET_REVOCATION));
    let forgotten = said.is_some() && said == approval.pointer("/spec/digest");
    if forgotten { None } else { revocation(approval) }
}

const OURS: &str = "countersign.dev/v1alpha1";

/// An object as it is applied: without what the API server adds.
fn bare(object: &Value, fields: &[&str]) -> Value {
    let mut kept = json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": {}});
    for field in ["name", "namespace", "labels", "annotations"] {
        if let Some(value) = object["metadata"].get(field) {
            kept["metadata"][field] = value.clone();
        }
    }
    for field in fields {
        if let Some(value) = object.get(*field) {
            kept[*field] = value.clone();
        }
    }
    kept
}

/// What a backup holds, checked.
enum Kept {
    Revocation(Value),
    Inventory(Value),
    History(Box<ReleaseHistory>),
}

pub(super) fn restore(args: &RestoreArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let root = &args.quiet.root_namespace;
    let text = read(&args.file)?;
    // All is checked before anything is written.
    let kept = parse(&text, root).with_context(|| format!("{} is no usable backup", args.file.display()))?;
    let restored = block_on(async {
        let alone = Alone::wait(&args.quiet).await?;
        let historian = historian(&alone.cluster, root).await?;
        let mut counts = [0_usize; 3];
        for item in &kept {
            put_back(&alone.cluster, &historian, root, item).await?;
            match item {
                Kept::Revocation(_) => counts[0] += 1,
                Kept::Inventory(_) => counts[1] += 1,
                Kept::History(_) => counts[2] += 1,
            }
        }
        alone.end().await?;
        Ok(counts)
    })?;
    let [revocations, inventories, histories] = restored;
    writeln!(
        out,
        "restored {histories} histories, {revocations} revocations and {inventories} parts of inventories"
    )?;
    Ok(())
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
    } else {
        text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

fn parse(text: &str, root: &str) -> anyhow::Result<Vec<Kept>> {
    let list: Value =
        serde_json::from_str(text).context("it is not the JSON that countersign backup writes")?;
    let Some(Value::Array(items)) = list.get("items") else { bail!("it has no list of items") };
    items.iter().map(|item| check(item, root).with_context(|| id_of(item).to_string())).collect()
}

fn check(item: &Value, root: &str) -> anyhow::Result<Kept> {
    let id = id_of(item);
    let in_root = || {
        ensure!(
            id.namespace == root,
            "it is of the root namespace {}, and this one is {root}: say which with --root-namespace",
            id.namespace
        );
        Ok(())
    };
    match (id.api_version.as_str(), id.kind.as_str()) {
        (OURS, "ApprovedImage") => {
            Ok(Kept::Revocation(revocation(item).context("it carries no revocation")?))
        }
        ("v1", "ConfigMap") => {
            in_root()?;
            ensure!(inventory::is_part(item), "it is no part of an inventory");
            Ok(Kept::Inventory(item.clone()))
        }
        (OURS, "ReleaseHistory") => {
            in_root()?;
            let history: ReleaseHistory =
                serde_json::from_value(item.clone()).context("it is not a ReleaseHistory of this version")?;
            let (_, unreadable) = history.status.clone().unwrap_or_default().history();
            ensure!(unreadable.is_empty(), "{}", unreadable.join("; "));
            Ok(Kept::History(Box::new(history)))
        }
        (api_version, kind) => bail!(
            "{api_version} {kind} is not restored: only revocations, inventories and histories are; apply it with kubectl, or from git"
        ),
    }
}

/// Where admission is registered only the operator writes histories, so they are written in its name.
async fn historian(cluster: &Cluster, root: &str) -> anyhow::Result<Cluster> {
    let exists = async |api_version: &str, kind: &str, namespace: &str| {
        let text = str::to_owned;
        let id = ObjectId {
            api_version: text(api_version),
            kind: text(kind),
            namespace: text(namespace),
            name: text(NAME),
        };
        cluster.exists(&id).await.map_err(|error| anyhow::anyhow!(error.explain()))
    };
    let registered = exists("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "").await?;
    Ok(if registered && exists("v1", "ServiceAccount", root).await? {
        cluster.acting_as(Account { namespace: root.to_owned(), name: NAME.to_owned() })
    } else {
        cluster.clone()
    })
}

async fn put_back(cluster: &Cluster, historian: &Cluster, root: &str, kept: &Kept) -> anyhow::Result<()> {
    let explained = |id: String| {
        move |error: crate::adapters::cluster::Error| {
            anyhow::anyhow!("{id} cannot be restored: {}", error.explain())
        }
    };
    match kept {
        Kept::Revocation(object) => {
            cluster
                .apply(object, REVOCATION_FIELD_MANAGER)
                .await
                .map_err(explained(id_of(object).to_string()))?;
        }
        Kept::Inventory(object) => {
            cluster.apply(object, MANAGER).await.map_err(explained(id_of(object).to_string()))?;
        }
        Kept::History(history) => {
            let name = history.metadata.name.as_deref().unwrap_or_default();
            let object = json!({
                "apiVersion": OURS, "kind": "ReleaseHistory",
                "metadata": {"name": name, "namespace": root}, "spec": history.spec,
            });
            let id = id_of(&object).to_string();
            historian.apply(&object, MANAGER).await.map_err(explained(id.clone()))?;
            let status = history.status.clone().unwrap_or_default();
            // kubectl apply would leave it out.
            historian.report::<ReleaseHistory>(root, name, &status).await.map_err(explained(id))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(items: &Value) -> String {
        let text = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
        parse(&text, "root").err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    /// If this fails, a restore brings back revocations that a person has let go, or loses others.
    #[test]
    fn revocations_are_kept_unless_they_were_let_go() {
        let approval = |annotation: &str| {
            json!({
                "apiVersion": OURS, "kind": "ApprovedImage",
                "metadata": {"name": "a", "namespace": "root", "annotations": {FORGET_REVOCATION: annotation}},
                "spec": {"image": "registry.example/a", "digest": "sha256:aa", "revocation": {"reason": "bad"}, "tag": "1"},
            })
        };
        assert_eq!(standing_revocation(&approval("sha256:aa")), None);
        let kept = standing_revocation(&approval("sha256:bb")).unwrap();
        assert_eq!(kept["spec"]["revocation"]["reason"], "bad");
        assert_eq!(kept["spec"].get("tag"), None, "that is its source's to say");
    }

    /// If this fails, half a backup is restored before somebody notices that it is none.
    #[test]
    fn what_is_no_backup_is_refused_by_name() {
        let of = |api_version: &str, kind: &str, namespace: &str| json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a", "namespace": namespace}, "spec": {}});
        assert_eq!(problem(&json!([])), "");
        for (item, says) in [
            (of("v1", "Secret", "root"), "v1 Secret is not restored"),
            (of("v1", "ConfigMap", "root"), "no part of an inventory"),
            (of("v1", "ConfigMap", "other"), "--root-namespace"),
            (of(OURS, "ReleaseHistory", "other"), "--root-namespace"),
            (of(OURS, "ReleaseHistory", "root"), "not a ReleaseHistory"),
            (of(OURS, "ApprovedImage", "team"), "no revocation"),
        ] {
            let found = problem(&json!([item]));
            assert!(found.contains(says), "{found}");
        }
        assert!(parse("items: []", "root").is_err());
    }
}
