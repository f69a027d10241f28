//! What was denied is told on the policy that denied it: in its status, and in events about it.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use countersign::api::{
    ImagePolicy,
    image_policy::{DeniedAttempt, PolicyDenied},
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    controlplane::{self, ControlPlane, Options, eventually},
    installed::{apply_base, operator_as_installed},
    leader::leads,
    support::{
        guarded::{dry_run, guarding_operator},
        operator::{Operator, ROOT},
        registrar::webhooks,
        scene::{SOON, Scene},
    },
};

/// Somebody with all rights.
fn somebody(plane: &ControlPlane, name: &str) -> Client {
    let mut config = plane.config();
    config.auth_info.impersonate = Some(name.to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
    Client::try_from(config).unwrap()
}

impl Scene {
    /// Asks for an object in somebody's name. It is denied.
    async fn is_denied(&self, by: &Client, object: &Value, params: &PostParams) {
        let resource = match object["kind"].as_str().unwrap() {
            "Pod" => format!("/api/v1/namespaces/{}/pods", self.namespace),
            "Deployment" => format!("/apis/apps/v1/namespaces/{}/deployments", self.namespace),
            other => panic!("{other}"),
        };
        let request = kube::core::Request::new(resource);
        let http = request.create(params, serde_json::to_vec(object).unwrap()).unwrap();
        let error = by.request::<Value>(http).await.unwrap_err().to_string();
        assert!(error.contains("is not permitted"), "{error}");
    }

    /// What the status of the story's policy says that it denied.
    async fn denied(&self) -> anyhow::Result<PolicyDenied> {
        let api: Api<ImagePolicy> = Api::namespaced(self.client.clone(), ROOT);
        let status = api.get(&self.namespace).await?.status.context("no status")?;
        status.denied.context("nothing was denied")
    }

    /// Waits until it says that so much was denied.
    async fn denied_in_all(&self, total: u32) -> Vec<DeniedAttempt> {
        eventually(&format!("{total} denials are in the summary"), SOON, async || {
            let denied = self.denied().await?;
            ensure!(denied.total == total, "{denied:?}");
            Ok(denied.recent)
        })
        .await
    }

    /// The events about its policy that say that something was denied.
    async fn denial_events(&self) -> anyhow::Result<Vec<Event>> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), ROOT);
        let mut all = api.list(&ListParams::default()).await?.items;
        all.retain(|event| {
            let about = event.regarding.as_ref().and_then(|about| about.name.as_deref());
            about == Some(&self.namespace) && event.reason.as_deref() == Some("Denied")
        });
        Ok(all)
    }
}

fn by_whom(recent: &[DeniedAttempt]) -> BTreeSet<(&str, u32)> {
    recent.iter().map(|attempt| (attempt.user.as_str(), attempt.count)).collect()
}

/// If this fails, nobody hears who keeps trying what; or a dry run, which is to leave nothing behind, does.
#[tokio::test(flavor = "multi_thread")]
async fn who_tried_what_and_how_often_is_told_on_the_policy() {
    let scene = Scene::guarded("denied").await;
    let plane = controlplane::shared_guarded();
    let [ana, bob, dan, eve] = ["ana", "bob", "dan", "eve"].map(|name| somebody(plane, name));
    let pod = serde_json::to_value(scene.pod("probe", &scene.pin(5))).unwrap();
    let mut any_pod = pod.clone();
    any_pod["metadata"] = json!({"generateName": "probe-"});
    let cart = scene.object("Deployment", "cart", &scene.pin(6), json!({}));
    scene.is_denied(&eve, &pod, &dry_run()).await;
    for (by, object) in [(&ana, &pod), (&ana, &pod), (&ana, &pod), (&bob, &cart), (&dan, &any_pod)] {
        scene.is_denied(by, object, &PostParams::default()).await;
    }

    let recent = scene.denied_in_all(5).await;
    let of = |user: &str| recent.iter().find(|attempt| attempt.user == user).unwrap().clone();
    let DeniedAttempt { namespace, kind, name, image, user, reason, count, first_seen, last_seen } =
        of("ana");
    assert_eq!((namespace, kind, name), (scene.namespace.clone(), "Pod".into(), Some("probe".into())));
    assert_eq!((image, user, reason, count), (scene.pin(5), "ana".into(), "Unlisted".into(), 3));
    assert!(first_seen.0 <= last_seen.0);
    let bobs = of("bob");
    assert_eq!((bobs.kind.as_str(), bobs.name.as_deref(), bobs.count), ("Deployment", Some("cart"), 1));
    assert!(of("dan").name.is_some_and(|name| name.starts_with("probe-")));
    // The dry run was denied before these, and is not among them.
    assert_eq!(by_whom(&recent), BTreeSet::from([("ana", 3), ("bob", 1), ("dan", 1)]));

    let told = eventually("it is told", SOON, async || {
        let told = scene.denial_events().await?;
        ensure!(told.len() >= 3, "{told:?}");
        Ok(told)
    })
    .await;
    let notes: BTreeSet<String> = told.iter().filter_map(|event| event.note.clone()).collect();
    let starts = |with: String| notes.iter().any(|note| note.starts_with(&with));
    let (ns, pods, deployments) = (&scene.namespace, scene.pin(5), scene.pin(6));
    assert!(starts(format!("ana asked for Pod {ns}/probe with {pods}: Unlisted; denied ")), "{notes:?}");
    assert!(starts(format!(
        "bob asked for Deployment {ns}/cart with {deployments}: Unlisted; denied 1 time since "
    )));
    assert!(starts(format!("dan asked for Pod {ns}/probe-")));
    assert_eq!(told.len(), 3, "and nothing else: {notes:?}");
    for event in &told {
        let refused = event.related.clone().unwrap();
        assert_eq!(
            (refused.namespace.as_deref(), event.type_.as_deref()),
            (Some(ns.as_str()), Some("Warning"))
        );
    }
}

/// If this fails, a controller that tries again and again floods the API server through the operator.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_denials_costs_a_few_writes() {
    const FLOOD: u32 = 500;
    let scene = Scene::guarded("flood").await;
    let plane = controlplane::shared_guarded();
    let (began, bot) = (Instant::now(), somebody(plane, "bot"));
    stream::iter(0..FLOOD)
        .for_each_concurrent(16, |n| {
            let (scene, bot) = (&scene, &bot);
            async move {
                let image = scene.pin(u8::try_from(100 + n % 50).unwrap());
                let pod = serde_json::to_value(scene.pod(&format!("flood-{n}"), &image)).unwrap();
                scene.is_denied(bot, &pod, &PostParams::default()).await;
            }
        })
        .await;
    let recent = scene.denied_in_all(FLOOD).await;
    assert_eq!(recent.len(), 20);
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let mut written = plane.audit_events().unwrap();
    written.retain(|event| event.is_successful_write() && event.user_agent.starts_with("countersign/"));
    let of = |resource: &str, is_one: &dyn Fn(&str) -> bool| {
        let objects = written.iter().filter_map(|event| event.object_ref.as_ref());
        objects.filter(|at| at.resource == resource && at.namespace == ROOT && is_one(&at.name)).count()
    };
    let told = scene.denial_events().await.unwrap();
    let names: BTreeSet<_> = told.into_iter().filter_map(|event| event.metadata.name).collect();
    let statuses = of("imagepolicies", &|name| name == scene.namespace);
    let events = of("events", &|name| names.contains(name));
    // The rest is what the leader reports of the policy itself.
    assert!((1..=seconds / 10 + 5).contains(&statuses), "{statuses} writes of the status in {seconds} s");
    assert!((1..=10 * (seconds / 60 + 1)).contains(&events), "{events} events in {seconds} s");
}

/// If this fails, nobody hears that a revoked image still starts where it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_image_that_is_let_in_is_counted() {
    let scene = Scene::guarded("alarm").await;
    let operator = guarding_operator().await;
    scene.write(
        "policy.yaml",
        &scene.policy("Enforce").replace("rollback: {", "rollback: {onRevocation: None, "),
    );
    scene.approve(&[0]).await;
    scene.ran("cart", &[0]).await;
    scene.revoke(0).await;
    scene.says("Deployment", "cart", "NoSafeRelease").await;
    let series = "countersign_admission_alarms_total{why=\"stays\"}";
    let before = operator.metric(series).await.unwrap();
    assert_eq!(scene.asks_for_pod("replacement", &scene.pin(0)).await, Ok(scene.pin(0)));
    assert!(operator.metric(series).await.unwrap() > before);
}

/// A review of a Pod, as the API server of another replica would ask.
async fn asks(operator: &Operator<'_>, bundle: &[u8], scene: &Scene, user: &str) -> Value {
    let pod = serde_json::to_value(scene.pod("probe", &scene.pin(5))).unwrap();
    let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "5c1b0a4e-0000-4000-8000-00000000000f", "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": scene.namespace, "name": "probe", "operation": "CREATE", "dryRun": false,
        "userInfo": {"username": user}, "object": pod, "oldObject": null,
    }});
    let authority = reqwest::Certificate::from_pem(bundle).unwrap();
    let client = reqwest::Client::builder().add_root_certificate(authority).build().unwrap();
    let url = format!("{}/validate", operator.webhook_url());
    let answer = client.post(url).body(review.to_string()).send().await.unwrap();
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

/// If this fails, what a replica denied that does not lead is nowhere, or in the place of what another one denied.
#[tokio::test(flavor = "multi_thread")]
async fn what_every_replica_denied_is_in_one_summary() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    apply_base(&plane).await;
    let first = operator_as_installed(&plane, "first").await.admitting();
    first.restart().await;
    leads(&first).await;
    let second = operator_as_installed(&plane, "second").await.admitting();
    second.restart().await;
    let scene = Scene::guarded_on(&plane, "replicas").await;
    let registered = webhooks(&plane, "Validating").await.unwrap();
    let bundle = registered[0]["clientConfig"]["caBundle"].as_str().unwrap().to_owned();
    let bundle = BASE64_STANDARD.decode(bundle).unwrap();
    let denied = async |operator: &Operator<'_>, user: &str| {
        let answer = asks(operator, &bundle, &scene, user).await;
        assert_eq!(answer["response"]["allowed"], false, "{answer}");
    };
    // At the same time, so that they write at the same time; and then again.
    for round in 1..=3 {
        tokio::join!(denied(&first, "ana"), denied(&second, "bob"), denied(&second, "bob"));
        let recent = scene.denied_in_all(3 * round).await;
        assert_eq!(by_whom(&recent), BTreeSet::from([("ana", round), ("bob", 2 * round)]));
    }
    assert!(second.metric("countersign_leader").await.unwrap() < 0.5);
    let told = eventually("both tell", SOON, async || {
        let told = scene.denial_events().await?;
        ensure!(told.len() == 2, "{told:?}");
        Ok(told)
    })
    .await;
    assert!(told.iter().all(|event| event.note.as_ref().is_some_and(|note| note.contains("denied "))));
    // What it has not written yet when it is told to end.
    denied(&second, "bob").await;
    second.signal("TERM");
    let recent = scene.denied_in_all(10).await;
    assert_eq!(by_whom(&recent), BTreeSet::from([("ana", 3), ("bob", 7)]));
    let own = |event: &controlplane::AuditEvent| {
        let at = event.object_ref.as_ref().map(|at| at.resource.as_str());
        event.user_agent.starts_with("countersign/") && matches!(at, Some("imagepolicies" | "events"))
    };
    let mut refused = plane.audit_events().unwrap();
    refused.retain(|event| own(event) && event.response_status.as_ref().is_some_and(|s| s.code == 403));
    assert!(refused.is_empty(), "{refused:?}");
}
