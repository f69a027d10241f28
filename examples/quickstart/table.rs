//! The workloads as the cluster shows them.

use anyhow::Context as _;
use countersign::{
    api::{ReleaseHistory, release_history::Outcome, release_history::RollbackOutcome},
    domain::workload,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    core::{ApiResource, GroupVersionKind},
};

use super::{
    screen::{Ink, Screen},
    stage::ROOT,
};

/// One of the story's workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub kind: &'static str,
    pub namespace: &'static str,
    pub name: &'static str,
}

pub const WORKLOADS: [Workload; 4] = [
    Workload { kind: "Deployment", namespace: "shop", name: "cart" },
    Workload { kind: "StatefulSet", namespace: "shop", name: "store" },
    Workload { kind: "DaemonSet", namespace: "edge", name: "cache" },
    Workload { kind: "CronJob", namespace: "edge", name: "report" },
];

impl Workload {
    pub fn api(self, client: &Client) -> Api<DynamicObject> {
        let group = if self.runs_pods() { "apps" } else { "batch" };
        let kind = GroupVersionKind::gvk(group, "v1", self.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &format!("{}s", self.kind.to_lowercase()));
        Api::namespaced_with(client.clone(), self.namespace, &resource)
    }

    /// A CronJob runs none until its time comes.
    pub fn runs_pods(self) -> bool {
        self.kind != "CronJob"
    }
}

/// What the cluster says of a workload.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The image in its pod template.
    pub image: Option<String>,
    /// Pods that are ready with just this image, and all of its pods.
    pub pods: Option<(usize, usize)>,
    /// Why its history is or is not Ready.
    pub reason: String,
    pub message: String,
    /// What its present release proved.
    pub outcome: Option<Outcome>,
    /// How its last rollback went.
    pub rollback: Option<RollbackOutcome>,
}

/// Reads everything about a workload.
pub async fn look(client: &Client, workload: Workload) -> anyhow::Result<Row> {
    let Some(object) = workload.api(client).get_opt(workload.name).await? else { return Ok(Row::default()) };
    let mut row = Row { image: image_of(workload, &object)?, ..Row::default() };
    if workload.runs_pods() {
        let pods: Api<Pod> = Api::namespaced(client.clone(), workload.namespace);
        let selected = ListParams::default().labels(&format!("app={}", workload.name));
        let all = pods.list(&selected).await?.items;
        let ready = all.iter().filter(|pod| is_ready_with(pod, row.image.as_deref())).count();
        row.pods = Some((ready, all.len()));
    }
    let histories: Api<ReleaseHistory> = Api::namespaced(client.clone(), ROOT);
    let all = histories.list(&ListParams::default()).await?.items;
    let own = all.into_iter().find(|history| {
        let at = &history.spec.workload_ref;
        (at.kind.as_str(), at.namespace.as_str(), at.name.as_str())
            == (workload.kind, workload.namespace, workload.name)
    });
    if let Some(status) = own.and_then(|history| history.status) {
        if let Some(ready) = status.conditions.iter().find(|condition| condition.type_ == "Ready") {
            row.reason.clone_from(&ready.reason);
            row.message.clone_from(&ready.message);
        }
        let present = status.releases.iter().find(|release| Some(&release.id) == status.present.as_ref());
        row.outcome = present.map(|release| release.outcome);
        row.rollback = status.rollbacks.last().map(|rollback| rollback.outcome);
    }
    Ok(row)
}

/// The only image in a workload's pod template.
pub fn image_of(of: Workload, object: &DynamicObject) -> anyhow::Result<Option<String>> {
    let object = serde_json::to_value(object).context("a workload is JSON")?;
    let template = if of.runs_pods() { "/spec/template" } else { "/spec/jobTemplate/spec/template" };
    Ok(object.pointer(template).and_then(|template| workload::images(template).into_values().next()))
}

fn is_ready_with(pod: &Pod, image: Option<&str>) -> bool {
    let spec = pod.spec.iter().flat_map(|spec| &spec.containers);
    let runs = spec.into_iter().all(|container| container.image.as_deref() == image);
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True");
    runs && ready && pod.metadata.deletion_timestamp.is_none()
}

/// An image for people: the last part of its name, its tag, the beginning of its digest.
pub fn short(image: &str) -> String {
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let name = name.rsplit('/').next().unwrap_or_default();
    let digest = digest.trim_start_matches("sha256:");
    let digest = digest.get(..6).map_or_else(String::new, |start| format!("@{start}"));
    format!("{name}{digest}")
}

/// How long after the commit something was seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub set: Option<f64>,
    pub done: Option<f64>,
}

/// The table of all workloads.
pub fn lines(screen: &Screen, rows: &[(Row, Times)]) -> Vec<String> {
    let cells = |cells: [&str; 7]| {
        let [kind, name, image, pods, state, set, done] = cells;
        format!("{kind:<11}  {name:<11}  {image:<15}  {pods:>4}  {state:<12}  {set:>6}  {done:>6}")
    };
    let head = cells(["KIND", "WORKLOAD", "IMAGE", "PODS", "STATE", "SET", "DONE"]);
    let mut lines = vec![screen.ink(Ink::Dim, &head)];
    for (workload, (row, times)) in WORKLOADS.iter().zip(rows) {
        let seconds = |time: Option<f64>| time.map_or_else(|| "…".to_owned(), |time| format!("{time:.1} s"));
        let image = row.image.as_deref().map_or_else(|| "-".to_owned(), short);
        let pods = row.pods.map_or_else(|| "-".to_owned(), |(ready, all)| format!("{ready}/{all}"));
        let state = if row.reason.is_empty() { "-" } else { &row.reason };
        let line = cells([
            workload.kind,
            &format!("{}/{}", workload.namespace, workload.name),
            &image,
            &pods,
            state,
            &seconds(times.set),
            &seconds(times.done),
        ]);
        let ink = match (times.done, state) {
            (None, _) => Ink::Plain,
            (Some(_), "Permitted") => Ink::Good,
            (Some(_), "Held") => Ink::Warn,
            (Some(_), _) => Ink::Bad,
        };
        lines.push(screen.ink(ink, &line));
    }
    lines
}
