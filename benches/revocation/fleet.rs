//! Fleets of identical Deployments: one that git owns, one that nobody governs.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use countersign::api::{GitSource, ReleaseHistory, release_history::Outcome};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Namespace};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    audit::{AuditLog, Mark, Written},
    controlplane::ControlPlane,
    support::{operator::ROOT, repo::Repo},
    until,
};

const NAMESPACES: usize = 5;
const SOURCE: &str = "fleet";
const IMAGE: &str = "registry.example/fleet/cart";

fn tag(n: usize) -> String {
    format!("{IMAGE}:1.{n}")
}

fn digest(n: usize) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(format!("fleet-{n}"))))
}

fn pin(n: usize) -> String {
    format!("{}@{}", tag(n), digest(n))
}

/// Deployments in some namespaces.
#[derive(Clone)]
pub struct Fleet {
    client: Client,
    prefix: &'static str,
    len: usize,
}

impl Fleet {
    /// Makes the namespaces.
    pub async fn new(plane: &ControlPlane, prefix: &'static str, len: usize) -> anyhow::Result<Self> {
        let fleet = Self { client: plane.client(), prefix, len };
        let namespaces: Api<Namespace> = Api::all(fleet.client.clone());
        for n in 0..NAMESPACES {
            let namespace =
                json!({"metadata": {"name": format!("{prefix}-{n}"), "labels": {"fleet": prefix}}});
            namespaces.create(&PostParams::default(), &serde_json::from_value(namespace)?).await?;
        }
        Ok(fleet)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn has(&self, namespace: &str) -> bool {
        namespace.starts_with(self.prefix)
    }

    /// Namespaces and names.
    fn members(&self) -> impl Iterator<Item = (String, String)> {
        (0..self.len).map(|n| (format!("{}-{}", self.prefix, n % NAMESPACES), format!("cart-{n}")))
    }

    fn resource() -> ApiResource {
        ApiResource::erase::<Deployment>(&())
    }

    async fn list(&self) -> anyhow::Result<Vec<DynamicObject>> {
        let mut found = Vec::new();
        for n in 0..NAMESPACES {
            let namespace = format!("{}-{n}", self.prefix);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &namespace, &Self::resource());
            found.extend(api.list(&ListParams::default()).await?.items);
        }
        Ok(found)
    }

    /// That every Deployment runs an image.
    pub async fn check(&self, image: usize) -> anyhow::Result<()> {
        let all = self.list().await?;
        let runs = |object: &DynamicObject| {
            object.data.pointer("/spec/template/spec/containers/0/image").and_then(Value::as_str)
                == Some(&pin(image))
        };
        let right = all.iter().filter(|object| runs(object)).count();
        ensure!(right == self.len, "{right} of {} run {}", self.len, pin(image));
        Ok(())
    }

    /// What has to be applied so that it runs an image, with the same preconditions that the operator sends.
    pub async fn bodies(&self, image: usize, replicas: usize) -> anyhow::Result<Vec<Value>> {
        let found: BTreeMap<_, _> = self
            .list()
            .await?
            .into_iter()
            .map(|object| {
                ((object.metadata.namespace.clone(), object.metadata.name.clone()), object.metadata)
            })
            .collect();
        let body = |(namespace, name): (String, String)| {
            let mut body = deployment(&namespace, &name, &pin(image), replicas);
            // As a source labels what it applies.
            body["metadata"]["labels"]["countersign.dev/source-name"] = json!(SOURCE);
            body["metadata"]["labels"]["countersign.dev/source-namespace"] = json!(ROOT);
            if let Some(live) = found.get(&(Some(namespace), Some(name))) {
                body["metadata"]["uid"] = json!(live.uid);
                body["metadata"]["resourceVersion"] = json!(live.resource_version);
            }
            body
        };
        Ok(self.members().map(body).collect())
    }

    /// Applies them, so many at once.
    pub async fn write_bodies(&self, bodies: Vec<Value>, in_flight: usize) -> anyhow::Result<()> {
        let (bodies, next) = (Arc::new(bodies), Arc::new(AtomicUsize::new(0)));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let (client, bodies, next) = (self.client.clone(), Arc::clone(&bodies), Arc::clone(&next));
            workers.spawn(async move {
                let params = PatchParams::apply("countersign").force();
                while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let text = |key: &str| body["metadata"][key].as_str().unwrap_or_default();
                    let api: Api<DynamicObject> =
                        Api::namespaced_with(client.clone(), text("namespace"), &Self::resource());
                    api.patch(text("name"), &params, &Patch::Apply(body)).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        Ok(())
    }

    /// Moves it to an image.
    pub async fn write(&self, image: usize, replicas: usize, in_flight: usize) -> anyhow::Result<()> {
        self.write_bodies(self.bodies(image, replicas).await?, in_flight).await
    }
}

impl AuditLog {
    /// Waits until every Deployment of a fleet was patched.
    pub async fn until_patched(&self, since: &Mark, fleet: &Fleet) -> anyhow::Result<Written> {
        self.until_all("every Deployment is patched", since, fleet.len(), |object| {
            object.resource == "deployments" && object.subresource.is_empty() && fleet.has(&object.namespace)
        })
        .await
    }

    /// Waits until every history was recorded.
    pub async fn until_recorded(&self, since: &Mark, count: usize) -> anyhow::Result<Written> {
        self.until_all("every history is recorded", since, count, |object| {
            object.resource == "releasehistories" && object.subresource == "status"
        })
        .await
    }
}

/// A fleet that a git repository says.
pub struct Governed {
    pub fleet: Fleet,
    repo: Repo,
}

impl Governed {
    /// The repository, with the policy; the source follows it.
    pub async fn new(plane: &ControlPlane, len: usize) -> anyhow::Result<Self> {
        let fleet = Fleet::new(plane, "governed", len).await?;
        let governed = Self { fleet, repo: Repo::new() };
        governed.repo.write("policy.yaml", &json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
            "metadata": {"name": "fleet", "namespace": ROOT},
            "spec": {
                "mode": "Enforce", "requireDigest": true, "approval": {"by": "People", "from": ["Root"]},
                "match": {"namespaceSelector": {"matchLabels": {"fleet": "governed"}}}, "rollback": {"healthyFor": "1s"},
            },
        }).to_string());
        governed.repo.commit("policy");
        let source = json!({
            "metadata": {"name": SOURCE, "namespace": ROOT},
            "spec": {"url": governed.repo.path(), "ref": {"branch": "main"}, "interval": "1h", "prune": true},
        });
        governed.sources().create(&PostParams::default(), &serde_json::from_value(source)?).await?;
        Ok(governed)
    }

    fn sources(&self) -> Api<GitSource> {
        Api::namespaced(self.fleet.client.clone(), ROOT)
    }

    /// Approves an image in the work tree, or revokes it.
    pub fn approve(&self, n: usize, revoked: Option<&str>) {
        let mut approval = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
            "metadata": {"name": format!("cart-1.{n}"), "namespace": ROOT},
            "spec": {"image": IMAGE, "digest": digest(n), "tag": format!("1.{n}"), "approvedAt": format!("2026-01-01T00:{n:02}:00Z")},
        });
        if let Some(why) = revoked {
            approval["spec"]["revocation"] = json!({"reason": why});
        }
        self.repo.write(&format!("approvals/{n}.yaml"), &approval.to_string());
    }

    /// Names an image in every manifest of the work tree.
    pub fn run(&self, n: usize, replicas: usize) {
        for (namespace, name) in self.fleet.members() {
            let manifest = deployment(&namespace, &name, &tag(n), replicas);
            let text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
            self.repo.write(&format!("{namespace}/{name}.yaml"), &text);
        }
    }

    /// Adds what changed, so that a commit has nothing else to do.
    pub fn stage(&self) {
        self.repo.git(&["add", "-A"]);
    }

    pub fn commit(&self, message: &str) {
        self.repo.git(&["commit", "-q", "-m", message]);
    }

    /// Commits, and waits until the source has looked.
    pub async fn push(&self, message: &str) -> anyhow::Result<()> {
        let commit = self.repo.commit(message);
        self.poke().await?;
        until("the source has applied the commit", Duration::from_millis(200), async || {
            let status = self.sources().get(SOURCE).await?.status.unwrap_or_default();
            Ok(status.last_applied_commit.as_deref() == Some(&commit))
        })
        .await
    }

    /// Asks the source to look now.
    pub async fn poke(&self) -> anyhow::Result<()> {
        let stamp = jiff::Timestamp::now().to_string();
        let asked = json!({"metadata": {"annotations": {"countersign.dev/reconcile-requested-at": stamp}}});
        self.sources().patch(SOURCE, &PatchParams::default(), &Patch::Merge(&asked)).await?;
        Ok(())
    }

    async fn histories(&self) -> anyhow::Result<Vec<ReleaseHistory>> {
        let api: Api<ReleaseHistory> = Api::namespaced(self.fleet.client.clone(), ROOT);
        Ok(api.list(&ListParams::default()).await?.items)
    }

    /// Waits until the present release of every Deployment is good.
    pub async fn until_proven(&self) -> anyhow::Result<()> {
        until("every release is good", Duration::from_secs(2), async || {
            let good = |history: &ReleaseHistory| {
                let Some(status) = &history.status else { return false };
                let present =
                    status.releases.iter().find(|release| Some(&release.id) == status.present.as_ref());
                present.is_some_and(|present| present.outcome == Outcome::Good)
            };
            Ok(self.histories().await?.iter().filter(|history| good(history)).count() == self.fleet.len)
        })
        .await
    }

    /// That every record says what holds.
    pub async fn check_held(&self) -> anyhow::Result<()> {
        let histories = self.histories().await?;
        for history in histories {
            let status = history.status.context("no status")?;
            ensure!(status.hold.is_some(), "{:?} is not held", history.spec.workload_ref.name);
        }
        Ok(())
    }
}

fn deployment(namespace: &str, name: &str, image: &str, replicas: usize) -> Value {
    let labels = json!({"app": name, "app.kubernetes.io/part-of": "shop"});
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {
            "replicas": replicas, "revisionHistoryLimit": 2, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels, "annotations": {"prometheus.io/scrape": "true"}},
                "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": "app", "image": image, "args": ["--listen", ":8080", "--log", "json"],
                        "env": [{"name": "REGION", "value": "here"}, {"name": "LEVEL", "value": "info"},
                            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                        "ports": [{"name": "http", "containerPort": 8080}],
                        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                        "livenessProbe": probe, "readinessProbe": probe,
                        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false},
                    }],
                },
            },
        },
    })
}
