//! Admission by the real operator, as the API server asks it.

use anyhow::ensure;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    support::{
        manifests::at,
        operator::{Operator, install},
        scene::{SOON, Scene},
    },
};

impl Scene {
    /// Asks for a Pod with one image; answers with the image as stored, or with why not.
    async fn asks_for_pod(&self, name: &str, image: &str) -> Result<String, String> {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"containers": [{"name": "app", "image": image}]}});
        self.asks_for(&object)
            .await
            .map(|stored| at(&stored, "/spec/containers/0/image").as_str().unwrap().to_owned())
    }

    async fn asks_for(&self, object: &Value) -> Result<Value, String> {
        let api = self.any(object["kind"].as_str().unwrap());
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        match api.create(&PostParams::default(), &object).await {
            Ok(stored) => Ok(serde_json::to_value(stored).unwrap()),
            Err(kube::Error::Api(status)) => Err(status.message),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until the API server asks.
async fn guarded(scene: &Scene) {
    eventually("what nobody approved is refused", SOON, async || {
        let answer = scene.asks_for_pod("probe", &scene.pin(9)).await;
        if answer.is_ok() {
            scene.delete("Pod", "probe").await;
        }
        ensure!(answer.is_err(), "{answer:?}");
        Ok(())
    })
    .await;
}

/// If this fails, what nobody approved starts, or a revocation is but a wish.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_approved_is_not_let_in() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    let operator = Operator::new(&plane).admitting();
    operator.restart().await;
    let scene = Scene::on(&plane, "admission").await;
    scene.approve(&[0, 1]).await;
    guarded(&scene).await;

    let why = scene.asks_for_pod("unlisted", &scene.pin(5)).await.unwrap_err();
    for part in
        ["spec.containers[app]", &scene.pin(5), &scene.namespace, "kind: ApprovedImage", &scene.digest(5)]
    {
        assert!(why.contains(part), "{part} is missing in: {why}");
    }
    assert_eq!(scene.asks_for_pod("pinned", &scene.pin(0)).await, Ok(scene.pin(0)));
    // The kubelet would ask the registry anew what a tag stands for.
    assert_eq!(scene.asks_for_pod("tagged", &scene.tag(0)).await, Ok(scene.pin(0)));

    let cart = scene.object("Deployment", "cart", &scene.tag(0), json!({}));
    scene.asks_for(&cart).await.unwrap();
    scene.proven("Deployment", "cart").await;
    scene.sets("somebody", "cart", &scene.tag(1)).await;
    scene.proven_at("Deployment", "cart", &scene.tag(1)).await;
    let other = scene.object("Deployment", "other", &scene.tag(5), json!({}));
    let why = scene.asks_for(&other).await.unwrap_err();
    assert!(why.contains("spec.template.spec.containers[app]"), "{why}");

    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let why = eventually("a Pod of the revoked image is refused", SOON, async || {
        let answer = scene.asks_for_pod("revoked", &scene.pin(1)).await;
        if answer.is_ok() {
            scene.delete("Pod", "revoked").await;
        }
        answer.err().ok_or_else(|| anyhow::anyhow!("it was let in"))
    })
    .await;
    assert!(why.contains("revoked"), "{why}");
}
