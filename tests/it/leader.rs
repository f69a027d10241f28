//! Several operators: one acts, and one that is out of date has no effect.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use countersign::{
    adapters::cluster::Cluster,
    api::{ReleaseHistory, ReleaseHistoryStatus, status_patch},
};
use k8s_openapi::api::{coordination::v1::Lease, rbac::v1::ClusterRoleBinding};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::{
    controlplane::{Audit, AuditEvent, ControlPlane, Options, eventually},
    support::{
        operator::{Operator, ROOT, install},
        scene::{SOON, Scene},
    },
};

/// Two operators on one control plane, with an account each, so that the audit log tells them apart. The first leads.
pub struct Pair {
    pub plane: &'static ControlPlane,
    pub first: &'static Operator<'static>,
    pub second: &'static Operator<'static>,
    _turn: MutexGuard<'static, ()>,
}

pub async fn pair() -> Pair {
    static TURN: Mutex<()> = Mutex::const_new(());
    static STARTED: OnceCell<(&ControlPlane, &Operator<'static>, &Operator<'static>)> = OnceCell::const_new();
    let turn = TURN.lock().await;
    let start = async || {
        let options = Options { audit: Audit::RequestBodies, ..Options::default() };
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).unwrap()));
        install(plane).await;
        let operator = async |name| {
            let kubeconfig = account(plane, name).await.display().to_string();
            &*Box::leak(Box::new(Operator::named(plane, name).with("KUBECONFIG", kubeconfig)))
        };
        (plane, operator("first").await, operator("second").await)
    };
    let (plane, first, second) = *STARTED.get_or_init(start).await;
    // Whatever an earlier story left.
    for operator in ["first", "second"] {
        let _ = plane.kill(operator);
    }
    let _ = leases(plane).delete("countersign", &DeleteParams::default()).await;
    first.restart().await;
    leads(first).await;
    second.restart().await;
    assert_eq!(second.metric("countersign_leader").await.unwrap(), 0.0, "ready, and waits");
    Pair { plane, first, second, _turn: turn }
}

/// A service account with all rights.
pub async fn account(plane: &ControlPlane, name: &str) -> std::path::PathBuf {
    let accounts = Api::namespaced(plane.client(), ROOT);
    let account: k8s_openapi::api::core::v1::ServiceAccount =
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    accounts.create(&PostParams::default(), &account).await.unwrap();
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": ROOT}],
    });
    let bindings: Api<ClusterRoleBinding> = Api::all(plane.client());
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    plane.service_account_kubeconfig(ROOT, name).await.unwrap()
}

pub fn leases(plane: &ControlPlane) -> Api<Lease> {
    Api::namespaced(plane.client(), ROOT)
}

pub async fn leads(operator: &Operator<'_>) {
    eventually("it leads", SOON, async || {
        ensure!((operator.metric("countersign_leader").await? - 1.0).abs() < 0.1);
        Ok(())
    })
    .await;
}

/// What an operator wrote with success, its lease apart.
pub fn writes(plane: &ControlPlane, name: &str) -> Vec<AuditEvent> {
    let user = format!("system:serviceaccount:{ROOT}:{name}");
    let on_lease =
        |event: &AuditEvent| event.object_ref.as_ref().is_some_and(|object| object.resource == "leases");
    let events = plane.audit_events().unwrap().into_iter();
    events.filter(|e| e.user.username == user && e.is_successful_write() && !on_lease(e)).collect()
}

/// Waits until an operator has ended because another leads; one that waits to lead says so in the log.
async fn gave_up(operator: &Operator<'_>) {
    eventually("it ended", SOON, async || {
        let log = operator.log();
        ensure!(log.contains("error: the operator ended: the lease countersign was taken over by"), "{log}");
        Ok(())
    })
    .await;
}

const FLEET: usize = 20;

fn fleet(scene: &Scene, version: u8) {
    let all = (0..FLEET).map(|n| scene.workload("Deployment", &format!("cart-{n}"), &scene.tag(version)));
    scene.write("fleet.yaml", &all.collect::<Vec<_>>().join("---\n"));
}

async fn all_run(scene: &Scene, version: u8) {
    for n in 0..FLEET {
        scene.runs("Deployment", &format!("cart-{n}"), &scene.pin(version)).await;
    }
}

/// If this fails, a leader that stands still for a while goes on where it was, against the one that took over.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_writes_nothing_when_it_wakes_up() {
    let Pair { plane, first, second, _turn } = pair().await;
    let scene = Scene::on(plane, "frozen").await;
    scene.approve(&[0, 1]).await;
    fleet(&scene, 1);
    scene.repo.commit("a fleet");
    scene.ask().await;
    eventually("it is in the middle of its work", SOON, async || {
        ensure!(!scene.deployments().list(&Default::default()).await?.items.is_empty());
        Ok(())
    })
    .await;
    first.signal("STOP");
    leads(second).await;
    all_run(&scene, 1).await;
    // Something that the frozen one would undo, if it went on with what it knows.
    fleet(&scene, 0);
    scene.push("back to 1.0").await;
    all_run(&scene, 0).await;
    let before = writes(plane, "first");
    assert!(!before.is_empty());
    first.signal("CONT");
    gave_up(first).await;
    assert_eq!(writes(plane, "first").len(), before.len(), "{:?}", writes(plane, "first").last());
    all_run(&scene, 0).await;
}

/// If this fails, every update of the operator leaves revocations waiting until a lease runs out.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_told_to_end_hands_over_at_once() {
    let Pair { plane, first, second, _turn } = pair().await;
    let scene = Scene::on(plane, "handover").await;
    scene.approve(&[0, 1, 2]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let began = Instant::now();
    first.signal("TERM");
    leads(second).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let log = first.log();
    assert!(log.contains("the lease is let go"), "{log}");
    let lease = leases(plane).get("countersign").await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(2), "{lease:?}");
    // The successor knows the hold, and how it ends.
    let handed_over = writes(plane, "first").len();
    scene.sets("somebody", "cart", &scene.tag(1)).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.ship("Deployment", "cart", 2).await;
    assert_eq!(writes(plane, "first").len(), handed_over);
}

/// If this fails, a record that was on its way while another took over replaces what the other recorded.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_only_written_on_the_version_that_was_seen() {
    let plane = crate::support::scene::shared_plane().await;
    let cluster = Cluster::new(plane.client());
    let name = "version-of-a-history";
    let object = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ReleaseHistory",
        "metadata": {"name": name, "namespace": ROOT},
        "spec": {"workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "nowhere", "name": "cart"}},
    });
    let created = cluster.apply(&object, "countersign").await.unwrap();
    let version =
        |object: &serde_json::Value| object["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let report = async |uid: &str, seen: &str| {
        let status = ReleaseHistoryStatus { uid: Some(uid.to_owned()), ..ReleaseHistoryStatus::default() };
        let patch = status_patch::<ReleaseHistory>(&status);
        cluster.report_on::<ReleaseHistory>(ROOT, name, &patch, Some(seen)).await
    };
    let first = report("of the leader", &version(&created)).await.unwrap();
    let late = report("of the one before", &version(&created)).await.unwrap_err();
    assert_eq!(late.code(), Some(409), "{late}");
    report("of the leader, again", &version(&first)).await.unwrap();
}

/// If this fails, an API server that stood still lets two operators act when it goes on, or ends both.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_api_server_stood_still_only_the_holder_of_the_lease_writes() {
    let Pair { plane, first, second, _turn } = pair().await;
    let scene = Scene::on(plane, "still").await;
    scene.follow(json!({"interval": "1s"})).await;
    scene.approve(&[0]).await;
    scene.ship("Deployment", "cart", 0).await;
    let held = leases(plane).get("countersign").await.unwrap().spec.unwrap().holder_identity;
    plane.signal("kube-apiserver", "STOP").unwrap();
    eventually("the leader knows that its time is up", SOON, async || {
        ensure!(first.metric("countersign_leader").await? < 0.5);
        Ok(())
    })
    .await;
    // It reads the commit every second, and would apply it.
    scene.write("config.yaml", &crate::support::manifests::yaml(&scene.config_map("late", "1")));
    scene.repo.commit("work while nobody leads");
    eventually("it is kept from writing", SOON, async || {
        ensure!(first.log().contains("this process does not lead (any more): nothing is written"));
        Ok(())
    })
    .await;
    plane.signal("kube-apiserver", "CONT").unwrap();
    let holder = eventually("somebody leads and does the work", SOON, async || {
        scene.any("ConfigMap").get("late").await?;
        let spec = leases(plane).get("countersign").await?.spec.context("no spec")?;
        spec.holder_identity.filter(|holder| !holder.is_empty()).context("nobody")
    })
    .await;
    let (leader, other) = if Some(&holder) == held.as_ref() { (first, "second") } else { (second, "first") };
    leads(leader).await;
    let about = |event: &AuditEvent| event.is_about("configmaps", &scene.namespace);
    assert_eq!(writes(plane, other).iter().filter(|event| about(event)).count(), 0);
    if other == "first" {
        gave_up(first).await;
    }
}
