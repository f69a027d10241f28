//! Dry-run creates of Pods, so many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::ensure;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use tokio::task::JoinSet;

use super::{
    SIDES, Side,
    controlplane::ControlPlane,
    support::{guarded::dry_run, operator::Operator},
    world::approved_pod,
};

/// What asks for Pods.
pub struct Load {
    client: Client,
    pod: Pod,
}

impl Load {
    pub fn new(plane: &ControlPlane) -> Self {
        let pod = serde_json::from_value(approved_pod("", "bench")).unwrap();
        Self { client: plane.client(), pod }
    }

    /// How long each of so many requests took, in seconds.
    pub async fn create(
        &self,
        namespace: &str,
        in_flight: usize,
        requests: usize,
    ) -> anyhow::Result<Vec<f64>> {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let (asked, mut pod) = (Arc::clone(&asked), self.pod.clone());
            pod.metadata.namespace = Some(namespace.to_owned());
            workers.spawn(async move {
                let mut took = Vec::new();
                let params: PostParams = dry_run();
                while asked.fetch_add(1, Ordering::Relaxed) < requests {
                    let began = Instant::now();
                    api.create(&params, &pod).await?;
                    took.push(began.elapsed().as_secs_f64());
                }
                anyhow::Ok(took)
            });
        }
        let mut all = Vec::new();
        while let Some(took) = workers.join_next().await {
            all.extend(took??);
        }
        Ok(all)
    }

    /// That the operator is asked about the Pods of its namespace and of no other.
    pub async fn asks_only_whom_it_should(&self, operator: &Operator<'_>) -> anyhow::Result<()> {
        for side in SIDES {
            let before = reviews(operator).await?;
            self.create(side.namespace(), 1, 10).await?;
            let asked = reviews(operator).await? - before;
            let wanted = if side == Side::Ours { 10.0 } else { 0.0 };
            ensure!((asked - wanted).abs() < 0.5, "{side:?}: the operator was asked {asked} times of 10");
        }
        Ok(())
    }
}

async fn reviews(operator: &Operator<'_>) -> anyhow::Result<f64> {
    let metrics = operator.metrics().await?;
    let reviews = metrics.lines().filter(|line| line.starts_with("countersign_admission_reviews_total"));
    Ok(reviews.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
