//! Admission while things go wrong: too early, killed, meddled with, asked too much. The real operator, on control planes of
//! their own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use countersign::{
    adapters::certificate::make,
    controllers::{admit::Admission, attempts::Denied, memory::Memory},
    domain::certificate::Terms,
    telemetry::{
        Metrics,
        http::{Purpose, Readiness},
        https::{Answers, Bounds, Refusal, Served, Server},
    },
};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::ValidatingWebhookConfiguration,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace, Pod, ServiceAccount},
        rbac::v1::ClusterRole,
    },
};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    deploy::base,
    install::client_of,
    installed::{apply_base, operator_as_installed},
    support::{
        guarded::dry_run,
        operator::{Operator, ROOT, install},
        registrar::{configurations, registered_names, webhooks},
        scene::{SOON, Scene},
        way::Way,
    },
};

/// What nobody approved, in every story.
const UNLISTED: u8 = 255;
/// As soon after its namespace as a Pod is created here.
const AT_ONCE: Duration = Duration::from_millis(50);

/// A policy for the namespaces with a label.
fn policy_for(stage: &str) -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ImagePolicy",
        "metadata": {"name": format!("stage-{stage}"), "namespace": ROOT},
        "spec": {
            "mode": "Enforce", "requireDigest": true, "approval": {"by": "People", "from": ["Root"]},
            "match": {"namespaceSelector": {"matchLabels": {"stage": stage}}},
        },
    })
}

/// A namespace that was made just now.
struct Fresh<'a> {
    scene: &'a Scene,
    pods: Api<Pod>,
    since: Instant,
}

impl<'a> Fresh<'a> {
    async fn new(scene: &'a Scene, name: &str, labels: Value) -> Self {
        let namespaces: Api<Namespace> = Api::all(scene.client.clone());
        let object = serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap();
        namespaces.create(&PostParams::default(), &object).await.unwrap();
        let since = Instant::now();
        // Without it no Pod can be created, and its controller takes its time.
        let accounts: Api<ServiceAccount> = Api::namespaced(scene.client.clone(), name);
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}})).unwrap();
        if let Err(error) = accounts.create(&PostParams::default(), &account).await {
            assert!(error.to_string().contains("already exists"), "{error}");
        }
        Self { scene, pods: Api::namespaced(scene.client.clone(), name), since }
    }

    /// Whether a Pod with one image was let in, or why not; and how long after the namespace it was asked for.
    async fn asks_for(&self, name: &str, image: &str) -> (Result<(), String>, Duration) {
        let mut object = serde_json::to_value(self.scene.pod(name, image)).unwrap();
        object["metadata"].as_object_mut().unwrap().remove("namespace");
        let object = serde_json::from_value(object).unwrap();
        let asked = self.since.elapsed();
        let answer = self.pods.create(&PostParams::default(), &object).await;
        (answer.map(drop).map_err(|error| error.to_string()), asked)
    }

    async fn lets_in(&self, name: &str, image: &str) -> Duration {
        let (answer, asked) = self.asks_for(name, image).await;
        assert_eq!(answer, Ok(()), "{image}");
        asked
    }

    async fn refuses(&self, name: &str, image: &str) -> Duration {
        let (answer, asked) = self.asks_for(name, image).await;
        let why = answer.expect_err("it was let in");
        assert!(why.contains("denied the request") && why.contains("is not permitted"), "{why}");
        asked
    }
}

/// If this fails, whoever is quicker than a watch starts anything, or nothing starts where the operator has not heard of a
/// namespace yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_comes_at_once_after_its_namespace_is_judged() {
    const TIMES: usize = 50;
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    let way = Way::to(&plane).await;
    let operator = Operator::new(&plane).admitting().with("KUBECONFIG", way.kubeconfig.display().to_string());
    operator.restart().await;
    let scene = Scene::guarded_on(&plane, "first").await;
    scene.approve(&[0]).await;
    for stage in ["production", "test"] {
        scene.apply(&policy_for(stage)).await;
    }
    let production = json!({"stage": "production"});
    let mut probes = 0;
    eventually("the policies and the approval count", SOON, async || {
        probes += 1;
        let probe = Fresh::new(&scene, &format!("probe-{probes}"), production.clone()).await;
        let (unlisted, approved) = (
            probe.asks_for("unlisted", &scene.pin(UNLISTED)).await.0,
            probe.asks_for("approved", &scene.pin(0)).await.0,
        );
        ensure!(unlisted.is_err() && approved.is_ok(), "{unlisted:?} {approved:?}");
        Ok(())
    })
    .await;

    // Quicker than anybody is by hand; which of the two the operator hears of first is left to chance.
    let mut at_once = 0;
    for n in 0.. {
        let fresh = Fresh::new(&scene, &format!("at-once-{n}"), production.clone()).await;
        let asked = if n % 2 == 0 {
            let asked = fresh.refuses("unlisted", &scene.pin(UNLISTED)).await;
            fresh.lets_in("approved", &scene.pin(0)).await;
            asked
        } else {
            let asked = fresh.lets_in("approved", &scene.pin(0)).await;
            fresh.refuses("unlisted", &scene.pin(UNLISTED)).await;
            asked
        };
        at_once += usize::from(asked < AT_ONCE);
        if at_once == TIMES {
            break;
        }
        assert!(n < 10 * TIMES, "only {at_once} of {n} were asked for within {AT_ONCE:?}");
    }

    // Now it is certain that the operator has not heard of them.
    way.hold(true);
    let governed = Fresh::new(&scene, "unheard-governed", production).await;
    governed.refuses("unlisted", &scene.pin(UNLISTED)).await;
    governed.lets_in("approved", &scene.pin(0)).await;
    let other = Fresh::new(&scene, "unheard-other", json!({"stage": "play"})).await;
    other.refuses("unlisted", &scene.pin(UNLISTED)).await;
    other.lets_in("approved", &scene.pin(0)).await;
    way.hold(false);
    eventually("the operator hears that no policy matches", SOON, async || {
        let (answer, _) = other.asks_for("unlisted", &scene.pin(UNLISTED)).await;
        ensure!(answer.is_ok(), "{answer:?}");
        Ok(())
    })
    .await;
    governed.refuses("unlisted", &scene.pin(UNLISTED)).await;
}

/// Clients that create Pods again and again, whatever they are answered.
struct Load {
    done: Arc<AtomicBool>,
    let_in: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    clients: JoinSet<anyhow::Result<()>>,
}

impl Load {
    fn begin(scene: &Scene) -> Self {
        let mut load = Self {
            done: Arc::default(),
            let_in: Arc::default(),
            refused: Arc::default(),
            clients: JoinSet::new(),
        };
        for client in 0..4 {
            let (approved, unlisted) =
                (scene.pod("approved", &scene.pin(0)), scene.pod("bad", &scene.pin(UNLISTED)));
            let (pods, done) = (scene.any("Pod"), Arc::clone(&load.done));
            let (let_in, refused) = (Arc::clone(&load.let_in), Arc::clone(&load.refused));
            load.clients.spawn(async move {
                let named = |object: &DynamicObject, n: usize| {
                    let mut object = object.clone();
                    object.metadata.name = Some(format!("load-{client}-{n}"));
                    object
                };
                for n in 0.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let answer = pods.create(&PostParams::default(), &named(&unlisted, n)).await;
                    let Err(kube::Error::Api(status)) = answer else {
                        anyhow::bail!("what nobody approved: {answer:?}")
                    };
                    refused.fetch_add(
                        usize::from(status.message.contains("is not permitted")),
                        Ordering::SeqCst,
                    );
                    // Mostly without an effect, or there were soon thousands of them.
                    let params = PostParams { dry_run: n % 50 != 0, ..PostParams::default() };
                    if pods.create(&params, &named(&approved, n)).await.is_ok() {
                        let_in.fetch_add(1, Ordering::SeqCst);
                    }
                }
                Ok(())
            });
        }
        load
    }

    /// Waits until so many more were let in and refused by what answers.
    async fn goes_on(&mut self, more: usize) {
        let now = || (self.let_in.load(Ordering::SeqCst), self.refused.load(Ordering::SeqCst));
        let before = now();
        let clients = &mut self.clients;
        eventually("admission answers again", SOON, async || {
            let ended = clients.try_join_next();
            ensure!(ended.is_none(), "{ended:?}");
            let now = now();
            ensure!(now.0 >= before.0 + more && now.1 >= before.1 + more, "{before:?}, {now:?}");
            Ok(())
        })
        .await;
    }

    async fn end(mut self) {
        self.done.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap().expect("nothing unapproved was let in");
        }
    }
}

/// If this fails, an operator that crashes lets anything in, or locks the cluster and itself out for good.
#[tokio::test(flavor = "multi_thread")]
async fn while_all_replicas_are_killed_nothing_unapproved_gets_in_and_afterwards_all_goes_on() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    apply_base(&plane).await;
    let replicas =
        [operator_as_installed(&plane, "countersign").await, operator_as_installed(&plane, "replica").await];
    for replica in &replicas {
        replica.restart().await;
    }
    let scene = Scene::guarded_on(&plane, "killed").await;
    scene.approve(&[0]).await;
    scene.asks_for(&scene.object("Deployment", "cart", &scene.pin(0), json!({}))).await.unwrap();
    scene.proven("Deployment", "cart").await;
    let mut load = Load::begin(&scene);
    load.goes_on(20).await;
    for round in 1..=3 {
        for replica in &replicas {
            replica.kill();
        }
        // While nobody answers: no Pod of a governed namespace, but whatever the cluster and the operator live by.
        scene.asks_for_pod(&format!("nobody-{round}"), &scene.pin(0)).await.unwrap_err();
        let scale = Patch::Merge(json!({"spec": {"replicas": 1 + round}}));
        scene.any("Deployment").patch_scale("cart", &PatchParams::default(), &scale).await.unwrap();
        what_must_start_can_start(&plane, &scene, round).await;
        for replica in &replicas {
            replica.spawn();
        }
        for replica in &replicas {
            replica.ready().await;
        }
        load.goes_on(20).await;
        eventually("the controller's pods come up", SOON, async || {
            let status = scene.live("Deployment", "cart").await?["status"].clone();
            ensure!(status["readyReplicas"] == 1 + round, "{status}");
            Ok(())
        })
        .await;
    }
    load.end().await;
    // One of them leads, and does its work.
    scene.approve(&[1]).await;
    assert_eq!(scene.asks_for_pod("next", &scene.pin(1)).await, Ok(scene.pin(1)));
    let pods = scene.any("Pod").list(&ListParams::default()).await.unwrap();
    let unlisted: Vec<_> =
        pods.items.iter().filter(|pod| pod.data.to_string().contains(&scene.digest(UNLISTED))).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
    // It was they who refused; since the last start all may have come over connections to one of them.
    let mut refused = 0.0;
    for replica in &replicas {
        let denied = "countersign_admission_reviews_total{webhook=\"validate\",answer=\"denied\"}";
        refused += replica.metric(denied).await.unwrap();
    }
    assert!(refused > 0.0);
}

async fn what_must_start_can_start(plane: &ControlPlane, scene: &Scene, round: usize) {
    let deployment = base().into_iter().find(|object| object["kind"] == "Deployment").unwrap();
    let own =
        json!({"metadata": {"name": format!("own-{round}")}, "spec": deployment["spec"]["template"]["spec"]});
    let network = json!({"metadata": {"name": format!("network-{round}")},
        "spec": {"containers": [{"name": "app", "image": scene.pin(UNLISTED)}]}});
    for (namespace, pod) in [(ROOT, own), ("kube-system", network)] {
        let pods: Api<Pod> = Api::namespaced(plane.client(), namespace);
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    }
    let leases: Api<Lease> = Api::namespaced(plane.client(), ROOT);
    let touched = Patch::Merge(json!({"metadata": {"annotations": {"touched": round.to_string()}}}));
    leases.patch("countersign", &PatchParams::default(), &touched).await.unwrap();
    let revoked = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
        "metadata": {"name": format!("revoked-{round}"), "namespace": ROOT},
        "spec": {"image": scene.image(), "digest": scene.digest(200), "revocation": {"reason": "CVE-2026-0001"}},
    });
    scene.apply(&revoked).await;
}

/// If this fails, whoever deletes or weakens the configurations has switched admission off; or at three in the morning nobody
/// can.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_that_were_meddled_with_are_back_within_seconds() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    apply_base(&plane).await;
    let operator = operator_as_installed(&plane, "countersign").await;
    operator.restart().await;
    let scene = Scene::guarded_on(&plane, "meddled").await;
    let (mut repairs, mut wanted) = (BTreeMap::from([("deleted", 0.0), ("changed", 0.0)]), BTreeMap::new());
    for kind in ["Validating", "Mutating"] {
        wanted.insert(kind, webhooks(&plane, kind).await.unwrap());
    }
    let weak = json!({"webhooks": wanted["Validating"].as_array().unwrap().iter().map(|webhook| {
        let mut webhook = webhook.clone();
        webhook["failurePolicy"] = "Ignore".into();
        webhook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": "nowhere"}});
        webhook
    }).collect::<Vec<_>>()});
    for (kind, change) in [
        ("Validating", None),
        ("Validating", Some(weak)),
        ("Mutating", Some(json!({"webhooks": []}))),
        ("Mutating", None),
    ] {
        let api = configurations(&plane, kind);
        let cause = match change {
            None => {
                api.delete("countersign", &DeleteParams::default()).await.unwrap();
                "deleted"
            }
            Some(change) => {
                api.patch("countersign", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
                "changed"
            }
        };
        *repairs.get_mut(cause).unwrap() += 1.0;
        eventually(
            &format!("the {kind} configuration, {cause}, is back"),
            Duration::from_secs(10),
            async || {
                let count = operator
                    .metric(&format!("countersign_webhook_repairs_total{{cause=\"{cause}\"}}"))
                    .await?;
                ensure!(count == repairs[cause], "{count}");
                ensure!(webhooks(&plane, kind).await.as_ref() == Some(&wanted[kind]));
                Ok(())
            },
        )
        .await;
        is_refused_again(&scene).await;
    }

    // Where it cannot be put back, it is said; and once it can, it is.
    let roles: Api<ClusterRole> = Api::all(plane.client());
    let rules = serde_json::to_value(roles.get("countersign").await.unwrap().rules).unwrap();
    let may = |verbs: &[&str]| {
        let mut rules = rules.clone();
        for rule in rules.as_array_mut().unwrap() {
            if rule["apiGroups"][0] == "admissionregistration.k8s.io" {
                rule["verbs"] = json!(verbs);
            }
        }
        Patch::Merge(json!({"rules": rules}))
    };
    roles.patch("countersign", &PatchParams::default(), &may(&["list", "watch"])).await.unwrap();
    let own: Api<ValidatingWebhookConfiguration> = Api::all(client_of(&plane, "countersign").await);
    eventually("it may not write any more", SOON, async || {
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let written = own.patch("countersign", &dry, &Patch::Merge(json!({}))).await;
        ensure!(written.is_err_and(|error| error.to_string().contains("forbidden")));
        Ok(())
    })
    .await;
    configurations(&plane, "Validating").delete("countersign", &DeleteParams::default()).await.unwrap();
    let said = scene.policy_says(&scene.namespace, "Unguarded").await;
    assert!(said.contains("validatingwebhookconfigurations"), "{said}");
    assert_eq!(operator.metric("countersign_webhook_registered ").await.unwrap(), 0.0);
    assert_eq!(scene.asks_for_pod("meanwhile", &scene.pin(UNLISTED)).await, Ok(scene.pin(UNLISTED)));
    roles
        .patch("countersign", &PatchParams::default(), &Patch::Merge(json!({"rules": rules})))
        .await
        .unwrap();
    is_refused_again(&scene).await;
    eventually("the policy does not say it any more", SOON, async || {
        let api: Api<countersign::api::ImagePolicy> = Api::namespaced(scene.client.clone(), ROOT);
        let status = api.get(&scene.namespace).await?.status.context("no status")?;
        ensure!(status.conditions.iter().all(|found| found.type_ != "Unguarded"), "{status:?}");
        Ok(())
    })
    .await;
    it_can_be_switched_off_and_on(&plane, &operator, &scene).await;
}

async fn is_refused_again(scene: &Scene) {
    eventually("what nobody approved is refused again", SOON, async || {
        let answer = scene.any("Pod").create(&dry_run(), &scene.pod("probe", &scene.pin(UNLISTED))).await;
        ensure!(answer.is_err(), "it is let in");
        Ok(())
    })
    .await;
}

/// What the guide says for three in the morning.
async fn it_can_be_switched_off_and_on(plane: &ControlPlane, operator: &Operator<'_>, scene: &Scene) {
    operator.kill();
    scene.asks_for_pod("dead", &scene.pin(UNLISTED)).await.unwrap_err();
    for kind in ["Validating", "Mutating"] {
        configurations(plane, kind).delete("countersign", &DeleteParams::default()).await.unwrap();
    }
    eventually("anything is let in", SOON, async || {
        scene.any("Pod").create(&dry_run(), &scene.pod("probe", &scene.pin(UNLISTED))).await?;
        Ok(())
    })
    .await;
    // An operator that does not serve it leaves it at that.
    let without =
        Operator::named(plane, "without").with("KUBECONFIG", plane.kubeconfig_path().display().to_string());
    without.restart().await;
    eventually("it leads", SOON, async || {
        ensure!(without.metric("countersign_leader ").await? == 1.0);
        Ok(())
    })
    .await;
    scene.approve(&[0]).await;
    assert_eq!(registered_names(plane).await, Vec::<String>::new());
    without.kill();
    operator.restart().await;
    is_refused_again(scene).await;
    eventually("both are registered", SOON, async || {
        let names = registered_names(plane).await;
        ensure!(names.len() == 2, "{names:?}");
        Ok(())
    })
    .await;
}

/// The product's own answers, which wait until they are let go.
struct Slow {
    admission: Admission,
    go: Semaphore,
    waiting: AtomicUsize,
    refused: AtomicUsize,
}

impl Answers for Slow {
    async fn answer(&self, request: &http::Request<Bytes>) -> http::Response<Bytes> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        self.admission.answer(request).await
    }

    fn refuse(&self, refusal: Refusal, request: &http::Request<Bytes>) -> http::Response<Bytes> {
        assert_eq!(refusal, Refusal::Busy);
        self.refused.fetch_add(1, Ordering::SeqCst);
        self.admission.refuse(refusal, request)
    }
}

/// If this fails, an operator that is asked too much at once makes everybody wait, or lets things in, or nobody learns why.
#[tokio::test(flavor = "multi_thread")]
async fn asked_too_much_it_says_so_at_once_and_the_api_server_asks_again() {
    let plane = crate::controlplane::shared();
    let namespace = plane.namespace("overload").await;
    let readiness = Readiness::default();
    readiness.part("all").ready();
    let slow = Arc::new(Slow {
        admission: Admission {
            memory: Memory::default(),
            readiness,
            root: ROOT.to_owned(),
            user: "operator".to_owned(),
            metrics: Metrics::new(),
            denied: Denied::default(),
        },
        go: Semaphore::new(0),
        waiting: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    });
    let bounds = Bounds { answering: 1, answer: Duration::from_secs(30), ..Bounds::default() };
    is_asked(plane, &namespace, Arc::clone(&slow), bounds).await;
    let maps: Api<ConfigMap> = Api::namespaced(plane.client(), &namespace);
    let asks = |name: &str| {
        let (maps, name) = (maps.clone(), name.to_owned());
        tokio::spawn(async move {
            let map = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            maps.create(&PostParams::default(), &map).await.map(drop).map_err(|error| error.to_string())
        })
    };
    let count = |of: &AtomicUsize, at_least: usize| {
        let now = of.load(Ordering::SeqCst);
        ensure!(now >= at_least, "{now}");
        anyhow::Ok(())
    };
    let mut probes = 0;
    let first = eventually("the webhook is asked", SOON, async || {
        probes += 1;
        let first = asks(&format!("first-{probes}"));
        let waits =
            crate::controlplane::within(Duration::from_secs(2), async || count(&slow.waiting, 1)).await;
        waits.map(|()| first)
    })
    .await;

    let second = asks("second");
    eventually("it was too much", SOON, async || count(&slow.refused, 1)).await;
    assert!(!first.is_finished() && !second.is_finished());
    slow.go.add_permits(2);
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(second.await.unwrap(), Ok(()), "the API server asked again");

    let third = asks("third");
    eventually("the third waits", SOON, async || count(&slow.waiting, 1)).await;
    let why = asks("fourth").await.unwrap().unwrap_err();
    assert!(why.contains("failed calling webhook"), "{why}");
    third.await.unwrap().unwrap_err();
    let counted = slow.admission.metrics.encode();
    let series = "countersign_admission_reviews_total{webhook=\"validate\",answer=\"unanswered\"}";
    let line = format!("{series} {}", slow.refused.load(Ordering::SeqCst));
    assert!(counted.lines().any(|counted| counted == line), "{line}: {counted}");
}

/// Serves what answers, and makes the API server ask it about the ConfigMaps of a namespace.
async fn is_asked(plane: &ControlPlane, namespace: &str, answers: Arc<Slow>, bounds: Bounds) {
    let (address, now) = ("127.0.0.1", Timestamp::now());
    let pair = make(&[address.to_owned()], Terms::default().life_from(now), now).unwrap();
    let served = Served::default();
    served.set(pair.certificate().certified());
    let purpose = Purpose { what: "admission", flag: "--webhook-addr" };
    let server =
        Server::bind(format!("{address}:0").parse().unwrap(), purpose, served, bounds).await.unwrap();
    let url = format!("https://{}/validate", server.addr());
    tokio::spawn(server.serve(answers, CancellationToken::new()));
    let bundle = ByteString(pair.authority().as_bytes().to_vec());
    let configuration = json!({
        "metadata": {"name": namespace},
        "webhooks": [{
            "name": "overload.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": url, "caBundle": bundle}, "timeoutSeconds": 5, "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        }],
    });
    let api: Api<ValidatingWebhookConfiguration> = Api::all(plane.client());
    api.create(&PostParams::default(), &serde_json::from_value(configuration).unwrap()).await.unwrap();
}
