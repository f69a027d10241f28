//! One replica, asked directly, as the API server asks.

use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::Api;
use serde_json::{Value, json};

use super::{controlplane::ControlPlane, support::operator::Operator};

/// A replica.
pub struct Replica {
    client: reqwest::Client,
    url: String,
}

impl Replica {
    /// Trusts what the API server is told to trust.
    pub async fn of(plane: &ControlPlane, operator: &Operator<'_>) -> anyhow::Result<Self> {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(plane.client());
        let registered = serde_json::to_value(api.get("countersign").await?)?;
        let bundle = registered["webhooks"][0]["clientConfig"]["caBundle"].as_str().context("no caBundle")?;
        let bundle = BASE64_STANDARD.decode(bundle)?;
        let trusted = reqwest::Certificate::from_pem_bundle(&bundle)?;
        let client = reqwest::Client::builder().tls_certs_only(trusted).build()?;
        Ok(Self { client, url: format!("{}/validate", operator.webhook_url()) })
    }

    /// Whether it lets a new Pod in.
    pub async fn lets_in(&self, pod: &Value) -> anyhow::Result<bool> {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "5c1b0a4e-0000-4000-8000-00000000000f", "operation": "CREATE", "dryRun": true,
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"],
                "userInfo": {"username": "bench"}, "object": pod, "oldObject": null,
            },
        });
        let answer = self.client.post(&self.url).body(review.to_string()).send().await?;
        let answer: Value = serde_json::from_slice(&answer.bytes().await?)?;
        answer["response"]["allowed"].as_bool().with_context(|| format!("no verdict: {answer}"))
    }
}
