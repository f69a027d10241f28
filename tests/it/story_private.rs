//! A private repository, and a Secret that is wrong, right, and gone.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::controlplane::eventually;
use crate::support::{
    operator::ROOT,
    repo::{GitHttp, Manner},
    scene::{SOON, Scene, ready, shared_operator, shared_plane},
    ssh::{Sshd, holds},
};

const PASSWORD: &str = "correct-horse-battery-staple";

async fn secret(scene: &Scene, values: &[(&str, &str)]) {
    let text: serde_json::Map<String, Value> =
        values.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let secrets: kube::Api<k8s_openapi::api::core::v1::Secret> =
        kube::Api::namespaced(scene.client.clone(), ROOT);
    let _ = secrets.delete(&scene.source, &kube::api::DeleteParams::default()).await;
    scene
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": text,
            "metadata": {"name": scene.source, "namespace": ROOT},
        }))
        .await;
}

/// If this fails a private repository cannot be followed, or its owner is not told what to mend, or everybody who may read
/// logs and statuses has the password.
#[tokio::test(flavor = "multi_thread")]
async fn a_private_source_opens_with_its_secret_and_says_which_one_is_wrong() {
    let plane = shared_plane().await;
    let scene = Scene::new("private").await;
    let server = GitHttp::start_tls(&scene.repo).await;
    server.behave(Manner::Needs(format!("Basic {}", STANDARD.encode(format!("ada:{PASSWORD}")))));
    let ca = String::from_utf8(server.ca.clone().unwrap()).unwrap();
    let named = json!({"url": server.url, "secretRef": {"name": scene.source}});
    scene.follow(named).await;
    let told = scene.source_says("SecretNotFound").await;
    assert!(told.contains(&format!("Secret {ROOT}/{}", scene.source)), "{told}");

    secret(&scene, &[("username", "ada"), ("ca.crt", &ca)]).await;
    scene.poke().await;
    let told = scene.source_says("InvalidCredentials").await;
    assert!(told.contains("username and not password"), "{told}");

    secret(&scene, &[("username", "ada"), ("password", "wrong-horse"), ("ca.crt", &ca)]).await;
    scene.poke().await;
    let told = scene.source_says("AccessDenied").await;
    assert!(told.contains(&format!("Secret {ROOT}/{}", scene.source)) && told.contains("401"), "{told}");

    secret(&scene, &[("username", "ada"), ("password", PASSWORD), ("ca.crt", &ca)]).await;
    scene.file_approvals([0]);
    scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    scene.push("approve and run 1.0").await;
    scene.synced().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;

    // The key was changed at the server: what runs goes on.
    secret(&scene, &[("username", "ada"), ("password", "wrong-horse"), ("ca.crt", &ca)]).await;
    scene.poke().await;
    scene.source_says("AccessDenied").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;

    let encoded = STANDARD.encode(format!("ada:{PASSWORD}"));
    let status = serde_json::to_string(&scene.sources().get(&scene.source).await.unwrap()).unwrap();
    let operator = shared_operator().await;
    let metrics = operator.metrics().await.unwrap();
    let events = format!("{:?}", scene.events(&scene.source).await.unwrap());
    let log = operator.log();
    for said in [&status, &metrics, &events, &log] {
        for value in [PASSWORD, "wrong-horse", &encoded, &STANDARD.encode(PASSWORD)] {
            assert!(!said.contains(value), "{value} is told");
        }
    }
    assert!(log.contains(&server.url), "the log is that of this operator");
    assert!(!holds(&plane.directory().join("cache"), PASSWORD).unwrap());
}

/// The same by ssh, with a range of versions: a new tag is rolled out, an older one is not gone back to.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_follows_versions_over_ssh() {
    let scene = Scene::new("versions").await;
    let sshd = Sshd::start().await;
    secret(&scene, &[("identity", &sshd.identity()), ("known_hosts", &sshd.known_hosts())]).await;
    scene.file_approvals(0..3);
    let release = |n: u8, tag: &str| {
        scene.write("cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(n)));
        let commit = scene.repo.commit(tag);
        scene.repo.git(&["tag", tag]);
        commit
    };
    let tags = async || {
        let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
        (status.last_attempted_tag, status.last_applied_tag)
    };
    let tag = |tag: &str| Some(tag.to_owned());
    assert_eq!(tags().await, (None, None), "it follows a branch");
    let first = release(0, "v1.0.0");
    scene
        .follow(json!({
            "url": sshd.url(scene.repo.path()), "secretRef": {"name": scene.source}, "ref": {"semver": ">=1.0.0 <2.0.0"},
        }))
        .await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    eventually("the version is told", SOON, async || {
        let told = scene.source_says("Applied").await;
        anyhow::ensure!(told.starts_with(&format!("applied v1.0.0 ({}): ", &first[..12])), "{told}");
        Ok(())
    })
    .await;
    assert_eq!(tags().await, (tag("v1.0.0"), tag("v1.0.0")));
    let second = release(1, "v1.1.0");
    release(2, "v2.0.0");
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    let told = scene.source_says("Applied").await;
    assert!(told.starts_with(&format!("applied v1.1.0 ({}): ", &second[..12])), "{told}");
    assert_eq!(tags().await, (tag("v1.1.0"), tag("v1.1.0")));
    // The same commit under a newer name is a newer version.
    scene.repo.git(&["tag", "v1.1.1", "v1.1.0"]);
    scene.poke().await;
    assert_eq!(tags().await, (tag("v1.1.1"), tag("v1.1.1")));
    scene.repo.git(&["tag", "-d", "v1.1.1"]);

    // A tag that goes away leaves an older one: no way back but by a person.
    let applied = scene.repo.git(&["rev-parse", "v1.1.0"]);
    scene.repo.git(&["tag", "-d", "v1.1.0"]);
    scene.poke().await;
    let told = scene.source_says("HistoryRewritten").await;
    assert!(told.contains(&applied), "{told}");
    assert_eq!(
        tags().await,
        (tag("v1.0.0"), tag("v1.1.1")),
        "what is held back is told apart from what runs"
    );
    scene.runs("Deployment", "cart", &scene.pin(1)).await;

    // Only the key that is pinned is believed.
    secret(&scene, &[("identity", &sshd.identity()), ("known_hosts", &sshd.other_known_hosts())]).await;
    scene.poke().await;
    scene.source_says("HostKeyRefused").await;
    eventually("its message names the Secret", SOON, async || {
        let source = scene.sources().get(&scene.source).await?;
        let (_, told) = ready(&serde_json::to_value(&source)?)?;
        anyhow::ensure!(told.contains(&scene.source) && told.contains("another one"), "{told}");
        Ok(())
    })
    .await;
}
