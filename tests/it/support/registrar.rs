//! What keeps the webhook configurations, run by a test itself beside a real control plane.

use std::time::Duration;

use anyhow::ensure;
use countersign::{
    adapters::cluster::Cluster,
    api::webhooks::Endpoint,
    controllers::{
        memory::Memory,
        register::{self, Registrar},
    },
    domain::workload::{KINDS, Kind},
    telemetry::Metrics,
};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{operator::ROOT, scene::SOON};
use crate::controlplane::{ControlPlane, eventually};

/// Nothing listens there.
pub const NOBODY: &str = "https://127.0.0.1:1";

/// A registrar that runs until it is dropped.
pub struct Registering {
    pub memory: Memory,
    pub metrics: Metrics,
    pub ca: watch::Sender<Option<String>>,
    /// What every entry held at the last look.
    pub stored: watch::Receiver<Vec<String>>,
    _stop: DropGuard,
}

impl Registering {
    /// For an operator that nobody reaches.
    pub fn start(plane: &ControlPlane, client: Client, more: Vec<&'static Kind>) -> Self {
        let (ca, authorities) = watch::channel(Some(plane.ca_pem()));
        let (tells, stored) = watch::channel(Vec::new());
        let (memory, metrics, stop) = (Memory::default(), Metrics::new(), CancellationToken::new());
        let registrar = Registrar {
            cluster: Cluster::new(client),
            memory: memory.clone(),
            metrics: metrics.clone(),
            root: ROOT.to_owned(),
            kinds: KINDS.iter().chain(more).collect(),
            endpoint: Endpoint::url(NOBODY).unwrap(),
            ca: authorities,
            stored: Box::new(move |bundles| drop(tells.send_replace(bundles))),
        };
        tokio::spawn(register::run(registrar, stop.clone()));
        Self { memory, metrics, ca, stored, _stop: stop.drop_guard() }
    }

    /// One sample of its metrics, by the text of its series.
    pub fn metric(&self, series: &str) -> u32 {
        let text = self.metrics.encode();
        let line =
            text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until both are registered as they are wanted.
    pub async fn registered(&self) {
        eventually("both configurations are registered", SOON, async || {
            let why = self.memory.read().unguarded.clone();
            ensure!(self.metric("countersign_webhook_registered ") == 1, "{why:?}");
            Ok(())
        })
        .await;
    }
}

/// The configurations of a kind: `Validating` or `Mutating`.
pub fn configurations(plane: &ControlPlane, kind: &str) -> Api<DynamicObject> {
    let gvk =
        GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", &format!("{kind}WebhookConfiguration"));
    let plural = format!("{}webhookconfigurations", kind.to_lowercase());
    Api::all_with(plane.client(), &ApiResource::from_gvk_with_plural(&gvk, &plural))
}

/// The webhooks of a configuration, if it is there.
pub async fn webhooks(plane: &ControlPlane, kind: &str) -> Option<Value> {
    let found = configurations(plane, kind).get_opt("countersign").await.unwrap()?;
    Some(found.data["webhooks"].clone())
}

/// The names of all webhook configurations.
pub async fn registered_names(plane: &ControlPlane) -> Vec<String> {
    let mut names = Vec::new();
    for kind in ["Validating", "Mutating"] {
        let all = configurations(plane, kind).list(&ListParams::default()).await.unwrap();
        names.extend(all.into_iter().map(|found| format!("{kind} {}", found.metadata.name.unwrap())));
    }
    names
}

/// Waits as long as a change of a configuration may take to count.
pub const COUNTS: Duration = Duration::from_secs(20);
