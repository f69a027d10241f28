//! A git server says that something was pushed.

use anyhow::ensure;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::StatusCode;
use serde_json::json;
use sha2::Sha256;

use crate::{
    controlplane::eventually,
    support::{
        operator::ROOT,
        scene::{SOON, Scene, shared_operator},
    },
};

const TOKEN: &str = "a token of many letters";
const BODY: &str = r#"{"ref": "refs/heads/main"}"#;

fn hmac(token: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// A source that looks by itself once in an hour, and listens.
async fn listening(name: &str, sender: &str) -> Scene {
    let scene = Scene::new(name).await;
    scene
        .apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": scene.namespace, "namespace": ROOT},
            "stringData": {"token": TOKEN},
        }))
        .await;
    scene.follow(json!({"receiver": {"type": sender, "secretRef": {"name": scene.namespace}}})).await;
    scene
}

async fn post(url: &str, header: &str, shown: &str, body: &str) -> (StatusCode, String) {
    let client = reqwest::Client::new();
    let answer = client.post(url).header(header, shown).body(body.to_owned()).send().await.unwrap();
    (answer.status(), answer.text().await.unwrap())
}

async fn url(namespace: &str, name: &str) -> String {
    format!("http://127.0.0.1:{}/hooks/{namespace}/{name}", shared_operator().await.receiver_port)
}

/// If this fails, a push waits for the interval, or a sender of one kind cannot be used.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_seen_at_once_from_every_kind_of_sender() {
    let signed = hmac(TOKEN, BODY);
    let senders = [
        ("GitHub", "X-Hub-Signature-256", format!("sha256={signed}")),
        ("GitLab", "X-Gitlab-Token", TOKEN.to_owned()),
        ("Gitea", "X-Gitea-Signature", signed.clone()),
        ("Generic", "X-Signature", format!("sha256={signed}")),
    ];
    for (sender, header, shown) in senders {
        let scene = listening(&format!("push-{}", sender.to_lowercase()), sender).await;
        let url = url(ROOT, &scene.source).await;
        eventually("the receiver knows its token", SOON, async || {
            let (status, _) = post(&url, header, &shown, BODY).await;
            ensure!(status == StatusCode::ACCEPTED, "{status}");
            Ok(())
        })
        .await;
        scene.write("a.yaml", &scene.config("a"));
        scene.repo.commit("nobody asks for it but the sender");
        let (status, text) = post(&url, header, &shown, BODY).await;
        assert_eq!((status, text.as_str()), (StatusCode::ACCEPTED, ""));
        eventually("the push is applied", SOON, async || {
            ensure!(scene.has_config("a").await);
            Ok(())
        })
        .await;
    }
}

/// If this fails, whoever reaches the port learns which sources there are, or makes the operator work.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_show_the_token_learns_and_moves_nothing() {
    let scene = listening("push-stranger", "GitHub").await;
    let (ours, nobodys) = (url(ROOT, &scene.source).await, url(ROOT, "no-such-source").await);
    let right = format!("sha256={}", hmac(TOKEN, BODY));
    eventually("the receiver knows its token", SOON, async || {
        let (status, _) = post(&ours, "X-Hub-Signature-256", &right, BODY).await;
        ensure!(status == StatusCode::ACCEPTED, "{status}");
        Ok(())
    })
    .await;
    let asked = async || {
        let source = scene.sources().get(&scene.source).await.unwrap();
        source.metadata.annotations.unwrap_or_default().get("countersign.dev/reconcile-requested-at").cloned()
    };
    eventually("the source was asked for", SOON, async || {
        ensure!(asked().await.is_some_and(|value| value.starts_with("push-")));
        Ok(())
    })
    .await;
    let before = asked().await;
    let large = "x".repeat(2 << 20);
    let wrong = [
        ("X-Hub-Signature-256", format!("sha256={}", hmac("another token of letters", BODY)), BODY),
        ("X-Hub-Signature-256", String::new(), BODY),
        ("X-Gitlab-Token", TOKEN.to_owned(), BODY),
        ("X-Signature", right.clone(), BODY),
        ("X-Hub-Signature-256", right.clone(), "another body"),
        ("X-Hub-Signature-256", format!("sha256={}", hmac(TOKEN, &large)), &large),
    ];
    let nothing = (StatusCode::NOT_FOUND, String::new());
    for (header, shown, body) in &wrong {
        assert_eq!(post(&ours, header, shown, body).await, nothing, "{header} {shown}");
        assert_eq!(post(&nobodys, header, shown, body).await, nothing, "{header} {shown}");
    }
    assert_eq!(post(&nobodys, "X-Hub-Signature-256", &right, BODY).await, nothing);
    assert_eq!(asked().await, before);
    assert!(!shared_operator().await.log().contains(TOKEN));
}
