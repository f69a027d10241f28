//! Kinds that the table has not: the documented example configures them.

use anyhow::ensure;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;

use super::scene::SOON;
use crate::controlplane::eventually;

pub const ROLLOUTS: &str = include_str!("../../fixtures/crds/argo-rollouts.yaml");
pub const CLONE_SETS: &str = include_str!("../../fixtures/crds/openkruise-clonesets.yaml");
pub const SERVICES: &str = include_str!("../../fixtures/crds/knative-services.yaml");
pub const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides/workload-kinds.yaml");

pub async fn create_definition(client: &kube::Client, text: &str) {
    let definition: CustomResourceDefinition = serde_yaml::from_str(text).unwrap();
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = definition.metadata.name.clone().unwrap();
    api.create(&kube::api::PostParams::default(), &definition).await.unwrap();
    eventually(&format!("{name} is served"), SOON, async || {
        let conditions =
            api.get(&name).await?.status.and_then(|status| status.conditions).unwrap_or_default();
        ensure!(conditions.iter().any(|found| found.type_ == "Established" && found.status == "True"));
        Ok(())
    })
    .await;
}
