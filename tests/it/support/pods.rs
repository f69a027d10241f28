//! The pods of a story's workloads, as real controllers make them.

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::Mutex;

use super::scene::{SOON, Scene};
use crate::controlplane::eventually;

impl Scene {
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods of a workload that are ready, and are not about to go.
    pub async fn ready_pods(&self, workload: &str) -> anyhow::Result<Vec<Pod>> {
        let all = self.pods().list(&ListParams::default().labels(&format!("app={workload}"))).await?;
        Ok(all.items.into_iter().filter(|pod| is_ready(pod) && !is_going(pod)).collect())
    }

    /// Waits until a workload has so many ready pods, and none of those that are gone; all of them run one image.
    pub async fn has_pods(&self, workload: &str, count: usize, image: &str, gone: &[Pod]) -> Vec<Pod> {
        eventually(&format!("{workload} has {count} pods of {image}"), SOON, async || {
            let ready = self.ready_pods(workload).await?;
            let found: Vec<_> = ready.iter().map(|pod| (pod.name_any(), image_of(pod))).collect();
            let of_image = found.iter().all(|(_, runs)| runs == image);
            let is_gone = |pod: &Pod| gone.iter().any(|gone| gone.uid() == pod.uid());
            if found.len() != count || !of_image || ready.iter().any(is_gone) {
                anyhow::bail!("{found:?}; {:?}", self.events_like("FailedCreate").await?);
            }
            Ok(ready)
        })
        .await
    }

    /// A pod of a workload is lost, and another one takes its place.
    pub async fn replaces_a_pod(&self, workload: &str, image: &str) {
        let before = self.ready_pods(workload).await.unwrap();
        let lost = before.first().unwrap_or_else(|| panic!("{workload} has no pod"));
        self.pods().delete(&lost.name_any(), &DeleteParams::default()).await.unwrap();
        self.has_pods(workload, before.len(), image, std::slice::from_ref(lost)).await;
    }

    /// Empties a node that runs a pod of a workload, as `kubectl drain --ignore-daemonsets` does, of what runs in this
    /// namespace, until these workloads have as many pods elsewhere.
    pub async fn drains_a_node(&self, workloads: &[&str], image: &str) {
        static TURN: Mutex<()> = Mutex::const_new(());
        // One node at a time: there are few.
        let _turn = TURN.lock().await;
        let mut before = Vec::new();
        for workload in workloads {
            before.push((*workload, self.ready_pods(workload).await.unwrap()));
        }
        let node = node_of(&before[0].1[0]).to_owned();
        self.cordon(&node, true).await;
        let on_node: Vec<Pod> =
            before.iter().flat_map(|(_, pods)| pods).filter(|pod| node_of(pod) == node).cloned().collect();
        for pod in &on_node {
            self.pods().evict(&pod.name_any(), &EvictParams::default()).await.unwrap();
        }
        for (workload, pods) in before {
            let now = self.has_pods(workload, pods.len(), image, &on_node).await;
            assert!(now.iter().all(|pod| node_of(pod) != node), "{node} is closed: {now:?}");
        }
        self.cordon(&node, false).await;
    }

    async fn cordon(&self, node: &str, closed: bool) {
        let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({"spec": {"unschedulable": closed}}));
        nodes.patch(node, &PatchParams::default(), &patch).await.unwrap();
    }

    /// What the events of a reason say, in this namespace.
    pub async fn events_like(&self, reason: &str) -> anyhow::Result<Vec<String>> {
        let api: Api<k8s_openapi::api::core::v1::Event> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let of = api.list(&ListParams::default().fields(&format!("reason={reason}"))).await?;
        Ok(of.items.into_iter().filter_map(|event| event.message).collect())
    }

    /// Waits until the Job of a name ended well; its one pod ran an image.
    pub async fn completes(&self, job: &str, image: &str) {
        eventually(&format!("the Job {job} completes"), SOON, async || {
            let object = serde_json::to_value(self.any("Job").get(job).await?)?;
            ensure!(
                object["status"]["succeeded"] == 1,
                "{}; {:?}",
                object["status"],
                self.events_like("FailedCreate").await?
            );
            Ok(())
        })
        .await;
        let of = format!("batch.kubernetes.io/job-name={job}");
        let pods = self.pods().list(&ListParams::default().labels(&of)).await.unwrap();
        let images: Vec<String> = pods.iter().map(image_of).collect();
        assert_eq!(images, [image]);
    }
}

pub fn image_of(pod: &Pod) -> String {
    let spec = pod.spec.as_ref().unwrap();
    spec.containers[0].image.clone().unwrap_or_default()
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}
