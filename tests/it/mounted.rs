//! The webhook's certificate, made by somebody else and mounted, as cert-manager does.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use countersign::{
    adapters::certificate::SECRET,
    api::webhooks::{Endpoint, authorities},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    controlplane::{Authority, Certified, ControlPlane, Options, eventually},
    installed::{apply_base, operator_as_installed},
    support::{
        guarded::dry_run,
        operator::ROOT,
        registrar::configurations,
        scene::{SOON, Scene},
    },
};

/// Puts a certificate where it is mounted.
fn mount(directory: &Path, certified: &Certified, authorities: &str) {
    for (file, text) in
        [("tls.crt", certified.certificate.as_str()), ("tls.key", &certified.key), ("ca.crt", authorities)]
    {
        fs::write(directory.join(file), text).unwrap();
    }
}

/// Waits until every entry of both configurations holds these authorities.
async fn all_hold(plane: &ControlPlane, wanted: &str) {
    eventually("all entries hold the mounted authority", SOON, async || {
        for kind in ["Validating", "Mutating"] {
            let found =
                configurations(plane, kind).get_opt("countersign").await?.context("not registered")?;
            let held = authorities(&serde_json::to_value(found)?);
            ensure!(!held.is_empty() && held.iter().all(|held| held == wanted), "{held:?}");
        }
        Ok(())
    })
    .await;
}

/// If this fails, who lets cert-manager make the certificate has an API server that trusts nobody, or two that write the same
/// field for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_certificate_is_served_and_its_authority_registered_beside_an_injector() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    apply_base(&plane).await;
    let directory = plane.directory().join("mounted");
    fs::create_dir(&directory).unwrap();
    let names = Endpoint::Service.names(ROOT);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    mount(&directory, &plane.serving_certificate(&names).unwrap(), &plane.ca_pem());
    let operator = operator_as_installed(&plane, "countersign").await;
    let operator = operator.with("COUNTERSIGN_WEBHOOK_CERT_DIR", directory.display().to_string());
    operator.restart().await;
    let scene = Scene::guarded_on(&plane, "mounted").await;
    scene.approve(&[0]).await;
    assert_eq!(scene.asks_for_pod("approved", &scene.pin(0)).await, Ok(scene.pin(0)));
    all_hold(&plane, &plane.ca_pem()).await;
    let secrets: Api<Secret> = Api::namespaced(plane.client(), ROOT);
    assert!(secrets.get_opt(SECRET).await.unwrap().is_none(), "it made one of its own");

    // Somebody asks cert-manager's injector for the same authority, and it writes what is there already.
    let injected = json!({"metadata": {"annotations": {"cert-manager.io/inject-ca-from": format!("{ROOT}/countersign-webhook")}}});
    for kind in ["Validating", "Mutating"] {
        let params = PatchParams {
            field_manager: Some("cert-manager-cainjector".to_owned()),
            ..PatchParams::default()
        };
        configurations(&plane, kind).patch("countersign", &params, &Patch::Merge(&injected)).await.unwrap();
    }
    // The authority is renewed: the old one is still in what is mounted, as the new certificate is already of the new one.
    let other = Authority::new().unwrap();
    let both = format!("{}{}", plane.ca_pem(), other.pem());
    mount(&directory, &other.server(&names).unwrap(), &both);
    all_hold(&plane, &both).await;
    eventually("the new certificate is trusted", SOON, async || {
        let why = scene.any("Pod").create(&dry_run(), &scene.pod("probe", &scene.pin(9))).await;
        let why = why.err().context("it is let in")?.to_string();
        ensure!(why.contains("is not permitted"), "{why}");
        Ok(())
    })
    .await;
    for kind in ["Validating", "Mutating"] {
        let found = configurations(&plane, kind).get("countersign").await.unwrap();
        assert!(found.metadata.annotations.unwrap().contains_key("cert-manager.io/inject-ca-from"));
    }
    let text = operator.metrics().await.unwrap();
    let repairs = text.lines().filter(|line| line.starts_with("countersign_webhook_repairs_total{"));
    let repairs: Vec<&str> = repairs.collect();
    assert!(repairs.len() == 2 && repairs.iter().all(|line| line.ends_with(" 0")), "{repairs:?}");
}
