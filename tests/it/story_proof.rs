//! What makes a release good, and what does not.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    support::{
        manifests::{at, with},
        operator::{Operator, install},
        scene::{SOON, Scene},
    },
};

/// If this fails a release that never ran counts as one to go back to.
#[tokio::test(flavor = "multi_thread")]
async fn zero_replicas_prove_nothing() {
    let scene = Scene::new("zero").await;
    scene.file_approvals([0]);
    let cart = scene.object("Deployment", "cart", &scene.tag(0), json!({}));
    scene.put("cart.yaml", &with(cart, json!({"spec": {"replicas": 0}})));
    scene.push("run nothing").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.stands("Deployment", "cart", "/status/observedGeneration", &json!(1)).await;
    scene.explains("Deployment", "cart", "Permitted", "not yet proven").await;
    // Several looks, and longer than healthyFor: what is awaited here is another workload's proof.
    scene.ship("Deployment", "clock", 0).await;
    for value in ["1", "2"] {
        scene.edit("Deployment", "cart", &json!({"metadata": {"annotations": {"look": value}}})).await;
        scene.poke().await;
    }
    assert_eq!(scene.outcomes("Deployment", "cart", &scene.digest(0)).await.unwrap(), ["Unproven"]);

    let cart = scene.object("Deployment", "cart", &scene.tag(0), json!({}));
    scene.put("cart.yaml", &with(cart, json!({"spec": {"replicas": 1}})));
    scene.push("run one").await;
    scene.proven("Deployment", "cart").await;
}

/// If this fails a rollback goes to a release that crashes.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_pods_crash_is_failed_and_never_a_target() {
    let scene = Scene::new("crash").await;
    scene.file_approvals(0..3);
    let release = |n: u8| {
        let cart = scene.object("Deployment", "cart", &scene.tag(n), json!({}));
        let crash = json!({"countersign.dev/test-crash-images": scene.digest(1)});
        let over =
            json!({"spec": {"progressDeadlineSeconds": 3, "template": {"metadata": {"annotations": crash}}}});
        scene.put("cart.yaml", &with(cart, over));
    };
    release(0);
    scene.push("1.0 runs").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.proven("Deployment", "cart").await;
    release(1);
    scene.push("1.1 crashes").await;
    scene.runs("Deployment", "cart", &scene.pin(1)).await;
    eventually("1.1 is failed", SOON, async || {
        let outcomes = scene.outcomes("Deployment", "cart", &scene.digest(1)).await?;
        ensure!(outcomes == ["Failed"], "{outcomes:?}");
        Ok(())
    })
    .await;
    release(2);
    scene.push("1.2 runs").await;
    scene.runs("Deployment", "cart", &scene.pin(2)).await;
    scene.proven("Deployment", "cart").await;
    scene.file_revocation(2, "CVE-2026-0002");
    scene.push("revoke 1.2").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.file_revocation(0, "CVE-2026-0000");
    scene.push("revoke 1.0; only the failed 1.1 is left").await;
    scene.says("Deployment", "cart", "NoSafeRelease").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails one broken node keeps a DaemonSet without a release to go back to.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_does_not_keep_a_daemon_set_from_being_good() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    let _operator = Operator::start(&plane).await;
    let scene = Scene::on(&plane, "lost").await;
    scene.file_approvals(0..2);
    let agent = |n: u8| {
        let agent = scene.object("DaemonSet", "agent", &scene.tag(n), json!({}));
        // As agents of nodes do: without this the lost node would not count among those where it belongs.
        let tolerate = json!([{"operator": "Exists"}]);
        let over = json!({"spec": {
            "updateStrategy": {"rollingUpdate": {"maxUnavailable": 3}},
            "template": {"spec": {"tolerations": tolerate}},
        }});
        scene.put("agent.yaml", &with(agent, over));
    };
    agent(0);
    scene.push("1.0").await;
    scene.runs("DaemonSet", "agent", &scene.pin(0)).await;
    scene.proven("DaemonSet", "agent").await;

    plane.lose_node("node-1").await.unwrap();
    agent(1);
    scene.push("1.1, while a node is lost").await;
    scene.runs("DaemonSet", "agent", &scene.pin(1)).await;
    scene.proven("DaemonSet", "agent").await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1, while a node is lost").await;
    scene.runs("DaemonSet", "agent", &scene.pin(0)).await;
    eventually("the rollback is complete", SOON, async || {
        let history = serde_json::to_value(scene.history("DaemonSet", "agent").await?)?;
        let last = at(&history, "/status/rollbacks").as_array().and_then(|all| all.last().cloned());
        ensure!(
            last.as_ref().is_some_and(|last| last["outcome"] == "Completed"),
            "{:?}",
            last.unwrap_or(Value::Null)
        );
        Ok(())
    })
    .await;
}

/// If this fails CronJobs never have a proven release, or one that never ran counts as proven.
#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_is_good_once_a_job_of_it_succeeded() {
    let scene = Scene::new("cron").await;
    scene.file_approvals(0..2);
    scene.write("report.yaml", &scene.workload("CronJob", "report", &scene.tag(0)));
    scene.push("run 1.0").await;
    scene.runs("CronJob", "report", &scene.pin(0)).await;
    scene.explains("CronJob", "report", "Permitted", "not yet proven").await;
    let cron_job = scene.live("CronJob", "report").await.unwrap();
    let owner = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "name": "report", "controller": true,
        "uid": cron_job["metadata"]["uid"],
    });
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "by-hand", "namespace": scene.namespace, "ownerReferences": [owner]},
        "spec": at(&cron_job, "/spec/jobTemplate/spec"),
    });
    scene.apply(&job).await;
    scene.proven("CronJob", "report").await;

    scene.write("report.yaml", &scene.workload("CronJob", "report", &scene.tag(1)));
    scene.push("run 1.1").await;
    scene.runs("CronJob", "report", &scene.pin(1)).await;
    scene.explains("CronJob", "report", "Permitted", "not yet proven").await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.runs("CronJob", "report", &scene.pin(0)).await;
    let history = scene.explains("CronJob", "report", "Held", "good").await;
    assert!(!history["status"].to_string().contains("never proved itself"), "{history}");
}
