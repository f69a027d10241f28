//! Stories on a control plane whose API server asks the operator what may be let in.

use std::sync::OnceLock;

use anyhow::ensure;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use super::{
    manifests::at,
    operator::{Operator, install},
    scene::{SOON, Scene},
};
use crate::{
    controlplane::{self, ControlPlane, eventually},
    story_custom::{EXAMPLE, ROLLOUTS, create_definition},
};

/// The operator that is asked on the shared control plane of these stories.
pub async fn guarding_operator() -> &'static Operator<'static> {
    static STARTED: OnceLock<Operator<'static>> = OnceLock::new();
    static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let plane = controlplane::shared_guarded();
    let _turn = STARTING.lock().await;
    if let Some(operator) = STARTED.get() {
        return operator;
    }
    let operator = install_guarding(plane).await;
    STARTED.get_or_init(|| operator)
}

/// Installs an operator that is asked, about configured kinds, too, on a control plane of the story's own.
pub async fn install_guarding(plane: &ControlPlane) -> Operator<'_> {
    install(plane).await;
    create_definition(&plane.client(), ROLLOUTS).await;
    let operator = Operator::new(plane).admitting().with("COUNTERSIGN_WORKLOAD_KINDS", EXAMPLE);
    operator.restart().await;
    operator
}

impl Scene {
    /// A story on the shared control plane whose API server asks.
    pub async fn guarded(name: &str) -> Self {
        guarding_operator().await;
        Self::guarded_on(controlplane::shared_guarded(), name).await
    }

    /// The same, on a control plane of its own. It begins when the API server asks and the story's policy is known.
    pub async fn guarded_on(plane: &ControlPlane, name: &str) -> Self {
        let scene = Self::on(plane, name).await;
        eventually("what nobody approved is refused", SOON, async || {
            let object = scene.pod("probe", &scene.pin(255));
            let answer = scene.any("Pod").create(&dry_run(), &object).await;
            ensure!(answer.is_err(), "it is let in");
            Ok(())
        })
        .await;
        scene
    }

    /// A Pod with one container.
    pub fn pod(&self, name: &str, image: &str) -> DynamicObject {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"containers": [{"name": "app", "image": image}]}});
        serde_json::from_value(object).unwrap()
    }

    /// Asks for a Pod with one image; answers with the image as stored, or with why not.
    pub async fn asks_for_pod(&self, name: &str, image: &str) -> Result<String, String> {
        let object = serde_json::to_value(self.pod(name, image)).unwrap();
        let stored = self.asks_for(&object).await?;
        Ok(at(&stored, "/spec/containers/0/image").as_str().unwrap().to_owned())
    }

    /// Asks for a new object; answers with it as stored, or with why not.
    pub async fn asks_for(&self, object: &Value) -> Result<Value, String> {
        let api = self.any(object["kind"].as_str().unwrap());
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        match api.create(&PostParams::default(), &object).await {
            Ok(stored) => Ok(serde_json::to_value(stored).unwrap()),
            Err(kube::Error::Api(status)) => Err(status.message),
            Err(error) => panic!("{error}"),
        }
    }
}

/// To ask without an effect.
pub fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}
