//! The webhook that lets everything in, beside which ours is measured.

use std::{net::TcpListener, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{Api, api::PostParams};
use serde_json::json;

use super::controlplane::ControlPlane;

/// The name of its process.
pub const NOTHING: &str = "nothing";

/// Builds it, starts it, and has the API server ask it about the Pods of one namespace.
pub async fn start(plane: &ControlPlane, namespace: &str) -> anyhow::Result<()> {
    let program = build()?;
    let certified = plane.serving_certificate(&["127.0.0.1"])?;
    let write = |name: &str, text: &str| {
        let path = plane.directory().join(name);
        std::fs::write(&path, text).map(|()| path)
    };
    let (certificate, key) =
        (write("nothing.crt", &certified.certificate)?, write("nothing.key", &certified.key)?);
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new(program);
    command.arg(addr.to_string()).args([certificate, key]);
    plane.spawn(NOTHING, command)?;
    let configuration = json!({
        "metadata": {"name": "nothing"},
        "webhooks": [{
            "name": "nothing.example.com",
            "clientConfig": {"url": format!("https://{addr}/validate"), "caBundle": BASE64_STANDARD.encode(plane.ca_pem())},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE", "UPDATE"], "scope": "Namespaced"}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": "Fail", "sideEffects": "None", "timeoutSeconds": 5, "admissionReviewVersions": ["v1"],
        }],
    });
    let api: Api<ValidatingWebhookConfiguration> = Api::all(plane.client());
    api.create(&PostParams::default(), &serde_json::from_value(configuration)?).await?;
    Ok(())
}

fn build() -> anyhow::Result<PathBuf> {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nothing");
    let mut go = Command::new("go");
    go.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".");
    go.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/admission/nothing"));
    let built = go.output().context("go is not installed")?;
    ensure!(built.status.success(), "go build: {}", String::from_utf8_lossy(&built.stderr));
    Ok(program)
}
