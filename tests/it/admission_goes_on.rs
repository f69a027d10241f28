//! What runs goes on, whatever becomes of its approval: lost pods come back, more of them start, nodes are emptied, schedules
//! are kept. What is new is refused all the same.

use std::fmt::Write as _;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, future::join_all};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    core::Request,
};
use serde_json::{Value, json};

use crate::{
    controlplane::{self, eventually},
    support::{
        guarded::{dry_run, guarding_operator},
        manifests::{at, with},
        scene::{SOON, Scene},
    },
};

/// Git's workloads of a fleet.
const GITS: [(&str, &str); 4] =
    [("Deployment", "web"), ("StatefulSet", "db"), ("DaemonSet", "agent"), ("CronJob", "report")];
/// A Deployment that git does not own, and that names a tag.
const HANDS: (&str, &str) = ("Deployment", "hand");

/// Workloads of every kind, in a namespace beside another one under the same policy.
struct Fleet {
    scene: Scene,
    elsewhere: String,
}

/// A fleet that ran these releases, one after the other. No registry is there that could be asked for its images, here as in
/// every other story.
async fn fleet(name: &str, releases: &[u8], rollback: &str) -> Fleet {
    let scene = Scene::guarded(name).await;
    let elsewhere = controlplane::shared_guarded().namespace(&format!("{name}-elsewhere")).await;
    let only = format!("matchLabels: {{kubernetes.io/metadata.name: {}}}", scene.namespace);
    let both = format!(
        "matchExpressions: [{{key: kubernetes.io/metadata.name, operator: In, values: [{}, {elsewhere}]}}]",
        scene.namespace
    );
    let policy = scene.policy("Enforce").replace(&only, &both).replace("rollback: {", rollback);
    scene.write("policy.yaml", &policy);
    let fleet = Fleet { scene, elsewhere };
    for n in releases {
        fleet.runs(*n).await;
    }
    fleet
}

impl Fleet {
    async fn runs(&self, n: u8) {
        let scene = &self.scene;
        scene.file_approvals([n]);
        let all: String = GITS.iter().fold(String::new(), |mut all, (kind, name)| {
            writeln!(all, "{}---", scene.workload(kind, name, &scene.tag(n))).unwrap();
            all
        });
        scene.write("fleet.yaml", &all);
        scene.push(&format!("run 1.{n}")).await;
        let hand = scene.object(HANDS.0, HANDS.1, &scene.tag(n), json!({}));
        eventually("the Deployment is let in", SOON, async || Ok(scene.apply_as("kubectl", &hand).await?))
            .await;
        for (kind, name) in GITS {
            scene.runs(kind, name, &scene.pin(n)).await;
            if kind == "CronJob" {
                scene.says(kind, name, "Permitted").await;
            } else {
                scene.proven_at(kind, name, &scene.pin(n)).await;
            }
        }
        scene.proven_at(HANDS.0, HANDS.1, &scene.tag(n)).await;
    }

    /// Asks, without an effect, for everything that would be new with a release: workloads, and Pods in another namespace.
    async fn new_starts(&self, n: u8) -> Vec<(String, Result<(), String>)> {
        let scene = &self.scene;
        let mut answers = Vec::new();
        for image in [scene.pin(n), scene.tag(n)] {
            for (kind, _) in GITS {
                let object = serde_json::from_value(scene.object(kind, "late", &image, json!({}))).unwrap();
                let answer = scene.any(kind).create(&dry_run(), &object).await;
                answers.push((format!("{kind} with {image}"), answer.map(drop).map_err(said)));
            }
            let pods = scene.of("v1", "Pod", "pods", &self.elsewhere);
            let mut pod = scene.pod("late", &image);
            pod.metadata.namespace = Some(self.elsewhere.clone());
            let answer = pods.create(&dry_run(), &pod).await;
            answers.push((format!("a Pod elsewhere with {image}"), answer.map(drop).map_err(said)));
        }
        answers
    }

    /// Whatever is new with a release is let in.
    async fn new_may_start(&self, n: u8) {
        for (what, answer) in self.new_starts(n).await {
            assert_eq!(answer, Ok(()), "{what}");
        }
    }

    /// Waits until whatever is new with a release is refused for a reason.
    async fn new_is_refused(&self, n: u8, reason: &str) {
        eventually(&format!("what is new is refused: {reason}"), SOON, async || {
            for (what, answer) in self.new_starts(n).await {
                let why = answer.err().with_context(|| format!("{what} is let in"))?;
                ensure!(why.contains(reason), "{what}: {why}");
            }
            Ok(())
        })
        .await;
    }

    /// Pods are lost, more are asked for, a node is emptied, a schedule comes: all of it as if nothing had become of the
    /// release.
    async fn goes_on(&self, n: u8) {
        let (scene, pin) = (&self.scene, &self.scene.pin(n));
        let generations = self.generations().await;
        join_all(["web", "db", "agent", "hand"].map(|name| scene.replaces_a_pod(name, pin))).await;
        // As an autoscaler does, as `kubectl scale` does, and as somebody does who edits the object.
        let mut scale = scene.deployments().get_scale("web").await.unwrap();
        scale.spec.as_mut().unwrap().replicas = Some(4);
        scene.deployments().replace_scale("web", &PostParams::default(), &scale).await.unwrap();
        let three = json!({"spec": {"replicas": 3}});
        let params = PatchParams::default();
        scene.any("StatefulSet").patch_scale("db", &params, &Patch::Merge(&three)).await.unwrap();
        scene.edit("Deployment", "hand", &three).await;
        for (name, count) in [("web", 4), ("db", 3), ("hand", 3)] {
            scene.has_pods(name, count, pin, &[]).await;
        }
        scene.drains_a_node(&["web", "db", "hand"], pin).await;
        self.schedule_comes().await;
        scene.completes(&self.job().await, pin).await;
        let by_hand = scene.live("CronJob", "report").await.unwrap();
        scene.asks_for(&job_from(&by_hand, "by-hand")).await.unwrap();
        scene.completes("by-hand", pin).await;
        let scaled: Vec<i64> =
            generations.iter().zip([1, 1, 0, 0, 1]).map(|(was, more)| was + more).collect();
        assert_eq!(self.generations().await, scaled, "they were scaled, and nothing else");
    }

    async fn generations(&self) -> Vec<i64> {
        let mut found = Vec::new();
        for (kind, name) in GITS.into_iter().chain([HANDS]) {
            found.push(self.scene.any(kind).get(name).await.unwrap().metadata.generation.unwrap());
        }
        found
    }

    /// The CronJob's last run was so long ago that the next one is due.
    async fn schedule_comes(&self) {
        let long_ago = Patch::Merge(json!({"status": {"lastScheduleTime": "2020-06-01T00:00:00Z"}}));
        let api = self.scene.any("CronJob");
        api.patch_status("report", &PatchParams::default(), &long_ago).await.unwrap();
    }

    /// The Job that the CronJob's controller made.
    async fn job(&self) -> String {
        eventually("the CronJob has a Job", SOON, async || {
            let jobs = self.scene.any("Job").list(&ListParams::default()).await?;
            let is_own = |job: &&kube::api::DynamicObject| {
                job.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "CronJob")
            };
            let own = jobs.iter().find(is_own).with_context(|| format!("{:?}", jobs.items.len()))?;
            Ok(own.metadata.name.clone().unwrap())
        })
        .await
    }
}

/// What `kubectl create job --from=cronjob/…` sends.
fn job_from(cron_job: &Value, name: &str) -> Value {
    let owner = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "controller": true,
        "name": cron_job["metadata"]["name"], "uid": cron_job["metadata"]["uid"],
    });
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "annotations": {"cronjob.kubernetes.io/instantiate": "manual"}, "ownerReferences": [owner],
        },
        "spec": cron_job["spec"]["jobTemplate"]["spec"],
    })
}

fn said(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        error => panic!("{error}"),
    }
}

/// If this fails, every approval with an end is an outage: the next pod that is lost does not come back.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_when_its_approval_expires() {
    let fleet = fleet("expires", &[1], "rollback: {").await;
    fleet.new_may_start(1).await;
    let end = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 2).unwrap();
    let scene = &fleet.scene;
    scene.put("approvals/1.yaml", &scene.approval_with(1, json!({"expiresAt": end.to_string()})));
    scene.push("approve 1.1 for a moment only").await;
    fleet.new_is_refused(1, "Expired").await;
    fleet.goes_on(1).await;
    fleet.new_is_refused(1, "Expired").await;
}

/// If this fails, a file that is removed from git is an outage.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_when_its_approval_is_withdrawn() {
    let fleet = fleet("withdrawn", &[0, 1], "rollback: {").await;
    fleet.new_may_start(1).await;
    fleet.scene.remove("approvals/1.yaml");
    fleet.scene.push("withdraw 1.1").await;
    fleet.new_is_refused(1, "Unlisted").await;
    fleet.goes_on(1).await;
    fleet.new_is_refused(1, "Unlisted").await;
    fleet.new_may_start(0).await;
}

/// If this fails, a revocation takes a service down for which there is nothing else, or nobody hears that it runs on.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_with_an_alarm_when_it_is_revoked_and_nothing_safe_is_left() {
    let fleet = fleet("unsafe", &[1], "rollback: {").await;
    revoked_and_stays(&fleet, "no release to go back to").await;
}

/// The same where there would be something to go back to. If this fails, nobody can decide for a service that it runs on.
#[tokio::test(flavor = "multi_thread")]
async fn what_runs_goes_on_with_an_alarm_where_a_policy_says_that_a_revocation_moves_nothing() {
    let fleet = fleet("stays", &[0, 1], "rollback: {onRevocation: None, ").await;
    revoked_and_stays(&fleet, "rollback.onRevocation is None").await;
}

async fn revoked_and_stays(fleet: &Fleet, why: &str) {
    let scene = &fleet.scene;
    fleet.new_may_start(1).await;
    scene.revoke(1).await;
    for (kind, name) in GITS.into_iter().chain([HANDS]) {
        let said = scene.says(kind, name, "NoSafeRelease").await;
        assert!(said.contains(why), "{kind} {name}: {said}");
    }
    fleet.new_is_refused(1, "Revoked").await;
    fleet.goes_on(1).await;
    fleet.new_is_refused(1, "Revoked").await;

    // Whoever asks is told, the log tells, and a metric.
    let operator = guarding_operator().await;
    let runs = "countersign_admission_verdicts_total{mode=\"enforce\",verdict=\"runs\"}";
    let before = operator.metric(runs).await.unwrap();
    let pod = serde_json::to_vec(&scene.pod("by-hand", &scene.pin(1))).unwrap();
    let request = Request::new(scene.any("Pod").resource_url()).create(&PostParams::default(), pod).unwrap();
    let (answer, warnings) = scene.hears(request).await;
    assert!(answer.is_ok(), "{answer:?}");
    let alarm = "spec.containers[app]: let in, as its workload stays as it is";
    assert!(warnings.len() == 1 && warnings[0].contains(alarm), "{warnings:?}");
    assert!(operator.metric(runs).await.unwrap() > before);
    let log = operator.log();
    let alarms = log.lines().filter(|line| {
        line.contains("a revoked image was let in, as it runs") && line.contains(&scene.namespace)
    });
    let alarms: Vec<&str> = alarms.collect();
    assert!(alarms.iter().any(|line| line.contains("by-hand")), "{alarms:#?}");
    // One for each pod of the four workloads that was lost, at least.
    assert!(alarms.len() > 4, "{alarms:#?}");
    let counted = operator.metric("countersign_workloads{state=\"no_safe_release\"}").await.unwrap();
    assert!(counted >= 5.0, "{counted}");
}

/// If this fails, the way back from a revoked image is itself an outage: pods are refused before their successors are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_loses_no_pod_and_afterwards_no_pod_of_the_revoked_image_starts() {
    let scene = Scene::guarded("rollback").await;
    scene.file_approvals(0..2);
    for n in 0..2 {
        let six = with(
            scene.object("Deployment", "cart", &scene.tag(n), json!({})),
            json!({"spec": {"replicas": 6}}),
        );
        scene.put("cart.yaml", &six);
        scene.push(&format!("run 1.{n}")).await;
        scene.runs("Deployment", "cart", &scene.pin(n)).await;
        scene.proven("Deployment", "cart").await;
    }
    let api: Api<_> = scene.deployments();
    let before = api.get("cart").await.unwrap();
    let params = WatchParams::default().fields("metadata.name=cart");
    let mut seen = api.watch(&params, &before.metadata.resource_version.unwrap()).await.unwrap().boxed();
    let refused = scene.events_like("FailedCreate").await.unwrap();
    scene.revoke(1).await;
    let mut available = Vec::new();
    let is_rolled_back = async {
        while let Some(event) = seen.next().await {
            let WatchEvent::Modified(now) = event.unwrap() else { continue };
            let status = serde_json::to_value(now.status.unwrap()).unwrap();
            available.push(status["availableReplicas"].as_i64().unwrap_or(0));
            let is_new = status["observedGeneration"].as_i64() > before.metadata.generation;
            let is_through =
                ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|of| status[of] == 6);
            if is_new && is_through {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, is_rolled_back).await.unwrap();
    // Of six one may be unavailable, by default.
    assert!(available.len() > 2 && available.iter().all(|count| *count >= 5), "{available:?}");
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    let all = scene.has_pods("cart", 6, &scene.pin(0), &[]).await;
    assert_eq!(scene.events_like("FailedCreate").await.unwrap(), refused, "no pod was refused");

    let why = scene.asks_for_pod("revoked", &scene.pin(1)).await.unwrap_err();
    assert!(why.contains("Revoked") && why.contains(&scene.digest(1)), "{why}");
    // What was gone back to is approved, and goes on anyhow.
    scene.replaces_a_pod("cart", &scene.pin(0)).await;
    assert_eq!(all.len(), scene.ready_pods("cart").await.unwrap().len());
    assert_eq!(at(&scene.live("Deployment", "cart").await.unwrap(), "/spec/replicas"), &json!(6));
}
