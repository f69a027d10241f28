//! What the operator holds while it is asked: approvals, policies and workloads, all of them from git.

use std::time::Duration;

use anyhow::Context as _;
use countersign::api::{ApprovedImage, GitSource, ReleaseHistory, release_history::Outcome};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    Settings,
    controlplane::ControlPlane,
    support::{operator::ROOT, repo::Repo},
    until,
};

/// How many policies govern every namespace; each of the others governs one.
const EVERYWHERE: usize = 10;
/// The first so many images of each namespace are run by its workloads.
const RUN: usize = 8;
const SOURCE: &str = "fleet";
/// The namespace whose Pods we are asked about.
pub const GOVERNED: &str = "shop-0";

/// Everything there is.
pub struct World {
    client: Client,
    namespaces: usize,
    _repo: Repo,
}

impl World {
    /// Writes everything to a repository and to the cluster's source of it. `left_out`: namespaces of which no policy knows.
    pub async fn new(plane: &ControlPlane, settings: &Settings, left_out: &[&str]) -> anyhow::Result<Self> {
        let client = plane.client();
        let namespaces = settings.policies.saturating_sub(EVERYWHERE).max(1);
        let repo = Repo::new();
        let api: Api<Namespace> = Api::all(client.clone());
        let shops = (0..namespaces).map(|n| format!("shop-{n}"));
        for name in shops.chain(left_out.iter().map(ToString::to_string)) {
            api.create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": name}}))?)
                .await?;
        }
        for n in 0..settings.policies {
            let matched = match n.checked_sub(EVERYWHERE) {
                Some(shop) => json!({"kubernetes.io/metadata.name": format!("shop-{shop}")}),
                None => json!({}),
            };
            repo.write(&format!("policies/{n}.yaml"), &policy(n, &matched, left_out).to_string());
        }
        for n in 0..settings.approvals {
            let (shop, app) = (n % namespaces, n / namespaces);
            let approval = approval(&format!("shop-{shop}-app-{app}"), &image(shop, app));
            repo.write(&format!("approvals/{n}.yaml"), &approval.to_string());
        }
        for n in 0..settings.workloads {
            let (shop, app) = (n % namespaces, n / namespaces % RUN);
            repo.write(
                &format!("shops/{shop}/{n}.yaml"),
                &deployment(shop, n, &tag(&image(shop, app))).to_string(),
            );
        }
        repo.commit("everything");
        let source = json!({
            "metadata": {"name": SOURCE, "namespace": ROOT},
            "spec": {"url": repo.path(), "ref": {"branch": "main"}, "interval": "1h", "prune": true},
        });
        let sources: Api<GitSource> = Api::namespaced(client.clone(), ROOT);
        sources.create(&PostParams::default(), &serde_json::from_value(source)?).await?;
        Ok(Self { client, namespaces, _repo: repo })
    }

    /// Waits until every workload runs a release that is good.
    pub async fn until_proven(&self, workloads: usize) -> anyhow::Result<()> {
        let histories: Api<ReleaseHistory> = Api::namespaced(self.client.clone(), ROOT);
        until("every release is good", Duration::from_secs(30), async || {
            let good = |history: &ReleaseHistory| {
                let Some(status) = &history.status else { return false };
                let present =
                    status.releases.iter().find(|release| Some(&release.id) == status.present.as_ref());
                present.is_some_and(|present| present.outcome == Outcome::Good)
            };
            let good = histories.list(&ListParams::default()).await?.items.iter().filter(|h| good(h)).count();
            eprintln!("{good} of {workloads} releases are good");
            Ok(good == workloads)
        })
        .await
    }

    /// A Pod of an image that is approved for no workload yet.
    pub async fn approve_spare(&self, n: usize) -> anyhow::Result<Value> {
        let image = format!("registry.example/shop-0/spare-{n}");
        let approval = serde_json::from_value(approval(&format!("spare-{n}"), &image))?;
        self.approvals().create(&PostParams::default(), &approval).await?;
        Ok(pod(GOVERNED, "spare", &pin(&image)))
    }

    /// Revokes it; returns when the API server says that it is stored.
    pub async fn revoke_spare(&self, n: usize) -> anyhow::Result<()> {
        let revoked = json!({"spec": {"revocation": {"reason": "CVE-2026-0001"}}});
        let name = format!("spare-{n}");
        self.approvals()
            .patch(&name, &PatchParams::default(), &Patch::Merge(&revoked))
            .await
            .context(name)?;
        Ok(())
    }

    fn approvals(&self) -> Api<ApprovedImage> {
        Api::namespaced(self.client.clone(), ROOT)
    }

    /// What is held, for people.
    pub fn said(&self, settings: &Settings) -> String {
        let Settings { approvals, policies, workloads, .. } = settings;
        format!(
            "{approvals} approvals, {policies} policies ({EVERYWHERE} of them for every namespace), {workloads} Deployments in {} namespaces",
            self.namespaces
        )
    }
}

/// A Pod as people run them, of an approved image.
pub fn approved_pod(namespace: &str, name: &str) -> Value {
    pod(namespace, name, &pin(&image(0, 0)))
}

fn image(shop: usize, app: usize) -> String {
    format!("registry.example/shop-{shop}/app-{app}")
}

fn tag(image: &str) -> String {
    format!("{image}:1.0")
}

fn digest(image: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(image)))
}

fn pin(image: &str) -> String {
    format!("{}@{}", tag(image), digest(image))
}

fn approval(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
        "metadata": {"name": name, "namespace": ROOT},
        "spec": {"image": image, "digest": digest(image), "tag": "1.0", "approvedAt": "2026-01-01T00:00:00Z"},
    })
}

fn policy(n: usize, matched: &Value, left_out: &[&str]) -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
        "metadata": {"name": format!("policy-{n}"), "namespace": ROOT},
        "spec": {
            "mode": "Enforce", "requireDigest": true, "approval": {"by": "People", "from": ["Root"]},
            "match": {
                "images": ["registry.example/**"], "exclude": {"namespaces": left_out},
                "namespaceSelector": {"matchLabels": matched},
            },
            "rollback": {"healthyFor": "1s"},
        },
    })
}

fn pod_spec(image: &str) -> Value {
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5});
    json!({
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
    })
}

fn pod(namespace: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": "bench"}},
        "spec": pod_spec(image),
    })
}

fn deployment(shop: usize, n: usize, image: &str) -> Value {
    let name = format!("cart-{n}");
    let labels = json!({"app": name, "app.kubernetes.io/part-of": "shop"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": format!("shop-{shop}"), "name": name, "labels": labels},
        "spec": {
            "replicas": 1, "revisionHistoryLimit": 2, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": pod_spec(image)},
        },
    })
}
