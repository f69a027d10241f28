//! A repository of many manifests, and the source that follows it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use countersign::api::GitSource;
use hmac::{Hmac, KeyInit as _, Mac as _};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    audit::Object,
    controlplane::ControlPlane,
    support::{operator::ROOT, repo::Repo},
    until,
};

/// How many namespaces the objects stand in.
pub const NAMESPACES: usize = 10;
/// How many manifests one directory holds.
const DIRECTORY: usize = 100;
/// Every so many manifests one is a Deployment.
const DEPLOYMENTS: usize = 50;
const IMAGE: &str = "registry.example/bench/app";
/// What the sender of pushes shows.
const TOKEN: &str = "a token of many letters";

/// A repository, and the source that follows it.
pub struct Repository {
    pub repo: Repo,
    client: Client,
    name: String,
    len: usize,
    stamp: std::cell::RefCell<String>,
}

/// One changed file.
pub struct Changed {
    pub path: String,
    pub namespace: String,
    name: String,
}

impl Changed {
    /// Whether this is the object.
    pub fn is(&self, object: &Object) -> bool {
        object.namespace == self.namespace && object.name == self.name
    }
}

impl Repository {
    /// Makes it, and the namespaces. Nobody follows it yet.
    pub async fn new(plane: &ControlPlane, len: usize, round: usize) -> anyhow::Result<Self> {
        let repository = Self {
            repo: Repo::new(),
            client: plane.client(),
            name: format!("bench-{round}"),
            len,
            stamp: std::cell::RefCell::default(),
        };
        make_namespaces(&repository.client, &repository.name).await?;
        repository.repo.write("rules.json", &repository.policy().to_string());
        repository.repo.write("approval.json", &approval().to_string());
        for (n, object) in repository.objects(&repository.name).enumerate() {
            repository.repo.write(&path(n), &serde_json::to_string_pretty(&object)?);
        }
        repository.repo.commit("all");
        Ok(repository)
    }

    /// The objects of the manifests, in namespaces with this prefix.
    pub fn objects(&self, prefix: &str) -> impl Iterator<Item = Value> {
        let prefix = prefix.to_owned();
        (0..self.len).map(move |n| object(&prefix, n, "0"))
    }

    fn policy(&self) -> Value {
        json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
            "metadata": {"name": self.name, "namespace": ROOT},
            "spec": {
                "mode": "Enforce", "requireDigest": true, "approval": {"by": "People", "from": ["Root"]},
                "match": {"namespaceSelector": {"matchLabels": {"bench": self.name}}},
            },
        })
    }

    /// Whether an object is one of the manifests'.
    pub fn has(&self, object: &Object) -> bool {
        written(object) && object.namespace.starts_with(&format!("{}-", self.name))
    }

    fn sources(&self) -> Api<GitSource> {
        Api::namespaced(self.client.clone(), ROOT)
    }

    /// Makes the source.
    pub async fn follow(&self) -> anyhow::Result<()> {
        let source = json!({
            "metadata": {"name": self.name, "namespace": ROOT},
            "spec": {"url": self.repo.path(), "ref": {"branch": "main"}, "interval": "1h", "timeout": "5m", "prune": true},
        });
        self.sources().create(&PostParams::default(), &serde_json::from_value(source)?).await?;
        Ok(())
    }

    /// Asks the source to look now.
    pub async fn poke(&self) -> anyhow::Result<()> {
        let stamp = jiff::Timestamp::now().to_string();
        let asked = json!({"metadata": {"annotations": {"countersign.dev/reconcile-requested-at": stamp}}});
        self.sources().patch(&self.name, &PatchParams::default(), &Patch::Merge(&asked)).await?;
        *self.stamp.borrow_mut() = stamp;
        Ok(())
    }

    /// Makes the source receive pushes.
    pub async fn receive_pushes(&self) -> anyhow::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), ROOT);
        let secret = json!({"metadata": {"name": self.name}, "stringData": {"token": TOKEN}});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        let receiver = json!({"type": "GitHub", "secretRef": {"name": self.name}});
        let patch = Patch::Merge(json!({"spec": {"receiver": receiver}}));
        self.sources().patch(&self.name, &PatchParams::default(), &patch).await?;
        until("the receiver knows its token", Duration::from_millis(50), async || {
            let status = self.sources().get(&self.name).await?.status.unwrap_or_default();
            Ok(status.conditions.iter().any(|said| said.type_ == "Receiver" && said.status == "True"))
        })
        .await
    }

    /// Tells that something was pushed, as GitHub does.
    pub async fn push(&self, port: u16) -> anyhow::Result<()> {
        let body = r#"{"ref": "refs/heads/main"}"#;
        let mut signature = Hmac::<Sha256>::new_from_slice(TOKEN.as_bytes())?;
        signature.update(body.as_bytes());
        let signature = format!("sha256={}", hex::encode(signature.finalize().into_bytes()));
        let url = format!("http://127.0.0.1:{port}/hooks/{ROOT}/{}", self.name);
        let request = reqwest::Client::new().post(url).header("X-Hub-Signature-256", signature).body(body);
        let status = request.send().await?.status();
        ensure!(status == reqwest::StatusCode::ACCEPTED, "a push is answered with {status}");
        self.stamp.borrow_mut().clear();
        Ok(())
    }

    /// Waits until the source has applied the head, and has looked since it was asked last.
    pub async fn until_looked(&self) -> anyhow::Result<()> {
        let (head, stamp) = (self.repo.head(), self.stamp.borrow().clone());
        until("the source has looked", Duration::from_millis(5), async || {
            let status = self.sources().get(&self.name).await?.status.unwrap_or_default();
            // A push is stamped by the operator.
            let handled = stamp.is_empty() || status.last_handled_reconcile_at.as_deref() == Some(&stamp);
            Ok(handled && status.last_applied_commit.as_deref() == Some(&head))
        })
        .await
    }

    /// Commits a change of one ConfigMap.
    pub fn change(&self, round: usize) -> anyhow::Result<Changed> {
        // Another directory each time, and never a Deployment.
        let n = (round * 7 * DIRECTORY + 1) % self.len;
        let object = object(&self.name, n, &format!("changed in round {round}"));
        let path = path(n);
        self.repo.write(&path, &serde_json::to_string_pretty(&object)?);
        self.repo.git(&["add", &path]);
        self.repo.git(&["commit", "-q", "-m", "change"]);
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        Ok(Changed {
            path,
            namespace: text("/metadata/namespace").context("no namespace")?,
            name: text("/metadata/name").context("no name")?,
        })
    }
}

/// Whether this is a write of an object that stands in a manifest.
pub fn written(object: &Object) -> bool {
    ["configmaps", "deployments"].contains(&object.resource.as_str()) && object.subresource.is_empty()
}

pub async fn make_namespaces(client: &Client, prefix: &str) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for n in 0..NAMESPACES {
        let namespace = json!({"metadata": {"name": format!("{prefix}-{n}"), "labels": {"bench": prefix}}});
        namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
    }
    Ok(())
}

fn path(n: usize) -> String {
    format!("apps/{}/{n}.json", n / DIRECTORY)
}

fn approval() -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
        "metadata": {"name": "bench", "namespace": ROOT},
        "spec": {"image": IMAGE, "tag": "1.0", "digest": format!("sha256:{}", hex::encode(Sha256::digest("bench")))},
    })
}

/// The n-th manifest.
fn object(prefix: &str, n: usize, value: &str) -> Value {
    let metadata = json!({
        "name": format!("app-{n}"), "namespace": format!("{prefix}-{}", n % NAMESPACES),
        "labels": {"app.kubernetes.io/part-of": "bench", "app.kubernetes.io/name": format!("app-{n}")},
    });
    if n.is_multiple_of(DEPLOYMENTS) {
        let labels = json!({"app": format!("app-{n}")});
        return json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
            "spec": {
                "replicas": 0, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "app", "image": format!("{IMAGE}:1.0")}]}},
            },
        });
    }
    let mut data = json!({"value": value});
    for key in 0..10 {
        data[format!("setting-{key}")] = json!(format!("a value of some length, number {key} of object {n}"));
    }
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
}
