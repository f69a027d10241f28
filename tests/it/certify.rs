//! The webhook's certificate on a real API server: made once, replaced without a gap, and its key kept to itself.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use countersign::{
    adapters::{
        certificate::{SECRET, Shelf, Store, make},
        cluster::Cluster,
    },
    controllers::certify::{Certificates, Source},
    domain::certificate::Terms,
    telemetry::{
        Metrics,
        http::{Purpose, Readiness},
        https::{Answers, Bounds, Refusal, Server},
    },
};
use http::{Request, Response};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::ValidatingWebhookConfiguration,
        core::v1::{ConfigMap, Secret, ServiceAccount},
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    controlplane::{self, ControlPlane, eventually},
    https::trusts,
};

const SOON: Duration = Duration::from_mins(1);
const ADDRESS: &str = "127.0.0.1";

/// Steps follow each other as fast as API servers can be trusted to hear of them on a busy machine.
fn terms() -> Terms {
    let settle = SignedDuration::from_millis(1500);
    Terms { settle, overlap: SignedDuration::from_millis(500), ..Terms::default() }
}

fn source(client: &Client, namespace: &str, terms: Terms) -> Source {
    Source::Own {
        cluster: Cluster::new(client.clone()),
        root: namespace.to_owned(),
        names: vec![ADDRESS.to_owned()],
        terms,
    }
}

/// One replica.
struct Replica {
    certificates: Certificates,
    metrics: Metrics,
    readiness: Readiness,
}

fn replica(client: &Client, namespace: &str, stop: &CancellationToken) -> Replica {
    replica_on(terms(), client, namespace, stop)
}

fn replica_on(terms: Terms, client: &Client, namespace: &str, stop: &CancellationToken) -> Replica {
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let certificates = Certificates::new(metrics.clone(), readiness.part("certificate"));
    tokio::spawn(certificates.clone().keep(source(client, namespace, terms), stop.clone()));
    Replica { certificates, metrics, readiness }
}

impl Replica {
    fn bundle(&self) -> Option<String> {
        self.certificates.bundle().borrow().clone()
    }

    /// Waits for a bundle of so many authorities.
    async fn has(&self, count: usize) -> String {
        eventually("the bundle has so many authorities", SOON, async || {
            let bundle = self.bundle().context("none yet")?;
            let found = bundle.matches("BEGIN CERTIFICATE").count();
            ensure!(found == count, "{found}, not {count}");
            Ok(bundle)
        })
        .await
    }
}

/// A client with the rights that `deploy` gives for this, and no others.
async fn least_rights(plane: &ControlPlane, namespace: &str) -> Client {
    let rules = json!([
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]);
    let metadata = json!({"name": "certify"});
    let subject = json!({"kind": "ServiceAccount", "name": "certify", "namespace": namespace});
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "certify"});
    let params = PostParams::default();
    let account = serde_json::from_value(json!({"metadata": metadata})).unwrap();
    Api::<ServiceAccount>::namespaced(plane.client(), namespace).create(&params, &account).await.unwrap();
    let rules = serde_json::from_value(json!({"metadata": metadata, "rules": rules})).unwrap();
    Api::<Role>::namespaced(plane.client(), namespace).create(&params, &rules).await.unwrap();
    let binding = json!({"metadata": metadata, "roleRef": role, "subjects": [subject]});
    let binding = serde_json::from_value(binding).unwrap();
    Api::<RoleBinding>::namespaced(plane.client(), namespace).create(&params, &binding).await.unwrap();
    let path = plane.service_account_kubeconfig(namespace, "certify").await.unwrap();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Lets everything pass.
#[derive(Default)]
struct Allow {
    asked: AtomicUsize,
    /// The highest number that was asked for as a path: which configuration the API server knows.
    knows: watch::Sender<usize>,
}

impl Answers for Allow {
    async fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Ok(knows) = request.uri().path().trim_start_matches('/').parse::<usize>() {
            self.knows.send_if_modified(|known| {
                let newer = knows > *known;
                *known = knows.max(*known);
                newer
            });
        }
        let review: Value = serde_json::from_slice(request.body()).unwrap();
        let response = json!({"uid": review["request"]["uid"], "allowed": true});
        let review =
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        Response::new(Bytes::from(review.to_string()))
    }

    fn refuse(&self, refusal: Refusal, _: &Request<Bytes>) -> Response<Bytes> {
        panic!("{refusal}")
    }
}

async fn serve(certificates: &Certificates, stop: &CancellationToken) -> (SocketAddr, Arc<Allow>) {
    let purpose = Purpose { what: "admission", flag: "--webhook-addr" };
    let addr = format!("{ADDRESS}:0").parse().unwrap();
    let server = Server::bind(addr, purpose, certificates.served(), Bounds::default()).await.unwrap();
    let (addr, allow) = (server.addr(), Arc::<Allow>::default());
    tokio::spawn(server.serve(Arc::clone(&allow), stop.clone()));
    (addr, allow)
}

/// Whether who trusts this bundle gets through.
async fn accepts(addr: SocketAddr, bundle: &str) -> bool {
    let stream = TcpStream::connect(addr).await.unwrap();
    trusts(bundle).connect(ServerName::try_from(ADDRESS).unwrap(), stream).await.is_ok()
}

/// If two replicas each serve their own, every second request fails.
#[tokio::test(flavor = "multi_thread")]
async fn of_replicas_that_begin_at_once_one_makes_the_certificate_with_least_rights() {
    let plane = controlplane::shared();
    let namespace = plane.namespace("certify").await;
    let client = least_rights(plane, &namespace).await;
    let stop = CancellationToken::new();
    let replicas: Vec<Replica> = (0..4).map(|_| replica(&client, &namespace, &stop)).collect();
    let mut bundles = Vec::new();
    for replica in &replicas {
        bundles.push(replica.has(1).await);
        assert!(replica.readiness.is_ready() && replica.certificates.served().is_set());
        let expiry = replica.metrics.encode();
        let name = "countersign_webhook_certificate_expiry_timestamp_seconds ";
        let expiry = expiry.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse::<i64>().unwrap();
        let left = expiry - Timestamp::now().as_second();
        assert!((179 * 86_400..=180 * 86_400).contains(&left), "{left}");
    }
    bundles.dedup();
    assert_eq!(bundles.len(), 1, "all have the same");
    eventually("the audit log says it", SOON, async || {
        let writes = plane.writes("secrets", &namespace)?;
        ensure!(writes.len() == 1, "{writes:?}");
        Ok(())
    })
    .await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_written_only_on_the_version_that_was_seen() {
    let plane = controlplane::shared();
    let namespace = plane.namespace("certify").await;
    let store = Store::new(Cluster::new(plane.client()), &namespace);
    let shelf = || {
        let now = Timestamp::now();
        let pair = make(&[ADDRESS.to_owned()], Terms::default().life_from(now), now).unwrap();
        Shelf { current: Some(pair), ..Shelf::default() }
    };
    assert!(store.read().await.unwrap().is_none());
    let first = shelf();
    assert!(store.write(&first, None).await.unwrap());
    assert!(!store.write(&shelf(), None).await.unwrap(), "it exists by now");
    let seen = store.read().await.unwrap().unwrap();
    assert_eq!(seen.shelf.bundle(), first.bundle());

    let secrets: Api<Secret> = Api::namespaced(plane.client(), &namespace);
    let label = Patch::Merge(json!({"metadata": {"labels": {"team": "platform"}}}));
    secrets.patch(SECRET, &PatchParams::default(), &label).await.unwrap();
    assert!(!store.write(&shelf(), Some(&seen.version)).await.unwrap(), "somebody else was faster");
    let seen = store.read().await.unwrap().unwrap();
    assert_eq!(seen.shelf.bundle(), first.bundle());
    let second = shelf();
    assert!(store.write(&second, Some(&seen.version)).await.unwrap());
    let kept = secrets.get(SECRET).await.unwrap();
    assert_eq!(kept.metadata.labels.unwrap()["team"], "platform", "only what is ours is written");

    let seen = store.read().await.unwrap().unwrap();
    assert_eq!(seen.shelf.bundle(), second.bundle());
    let freeze = Patch::Merge(json!({"immutable": true}));
    secrets.patch(SECRET, &PatchParams::default(), &freeze).await.unwrap();
    let seen = store.read().await.unwrap().unwrap();
    let error = store.write(&shelf(), Some(&seen.version)).await.unwrap_err();
    assert!(error.explain().contains("immutable"), "no other was faster: {}", error.explain());
    secrets.delete(SECRET, &DeleteParams::default()).await.unwrap();
    assert!(!store.write(&shelf(), Some(&seen.version)).await.unwrap(), "it is gone");
}

/// If this fails, a renewal is served to API servers that do not trust it yet, or the other way round.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_served_once_every_bundle_holds_its_authority() {
    let plane = controlplane::shared();
    let namespace = plane.namespace("certify").await;
    let stop = CancellationToken::new();
    let replica = replica(&plane.client(), &namespace, &stop);
    let (addr, _) = serve(&replica.certificates, &stop).await;
    let old = replica.has(1).await;
    assert!(accepts(addr, &old).await);
    let certificates = &replica.certificates;
    certificates.registered(vec![old.clone()]);

    // What a person does who wants another one.
    let secrets: Api<Secret> = Api::namespaced(plane.client(), &namespace);
    secrets.delete(SECRET, &DeleteParams::default()).await.unwrap();
    let both = replica.has(2).await;
    let new = both.strip_prefix(&old).expect("the old one is kept").to_owned();
    // Not all bundles hold it, however long that lasts.
    certificates.registered(vec![both.clone(), old.clone()]);
    let looked_at = resource_version(&secrets).await;
    for (bundle, trusted) in [(&old, true), (&both, true), (&new, false)] {
        assert_eq!(accepts(addr, bundle).await, trusted);
    }
    assert_eq!(resource_version(&secrets).await, looked_at);

    certificates.registered(vec![both.clone(), both.clone()]);
    eventually("the new one is served", SOON, async || {
        ensure!(accepts(addr, &new).await);
        Ok(())
    })
    .await;
    assert!(accepts(addr, &both).await && !accepts(addr, &old).await);
    assert_eq!(replica.has(1).await, new, "after a while the old one is not trusted any more");
    let stored = secrets.get(SECRET).await.unwrap().data.unwrap();
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["ca.crt", "tls.crt", "tls.key"]);
    stop.cancel();
}

async fn resource_version(secrets: &Api<Secret>) -> Option<String> {
    secrets.get(SECRET).await.unwrap().metadata.resource_version
}

/// What the operator's registration does: writes the bundle into the configuration, and tells what is stored there. Each
/// configuration has a path of its own, and what it holds is told once the API server asks there: then it knows of it.
async fn register(
    client: Client,
    name: String,
    addr: SocketAddr,
    certificates: Certificates,
    allow: Arc<Allow>,
) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let (mut bundles, mut known) = (certificates.bundle(), allow.knows.subscribe());
    for number in 1.. {
        let bundle = bundles.borrow_and_update().clone();
        if let Some(bundle) = bundle {
            let configuration = json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": name},
                "webhooks": [{
                    "name": "certify.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                    "clientConfig": {"url": format!("https://{addr}/{number}"), "caBundle": ByteString(bundle.into_bytes())},
                    "timeoutSeconds": 5, "failurePolicy": "Fail",
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
                    "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
                }],
            });
            let params = PatchParams::apply("certify-test").force();
            let stored = api.patch(&name, &params, &Patch::Apply(&configuration)).await.unwrap();
            let entries = stored.webhooks.unwrap_or_default().into_iter();
            let stored =
                entries.map(|entry| entry.client_config.ca_bundle.unwrap_or(ByteString(Vec::new())).0);
            known.wait_for(|known| *known >= number).await.unwrap();
            certificates.registered(stored.map(|bundle| String::from_utf8(bundle).unwrap()).collect());
        }
        if bundles.changed().await.is_err() {
            return;
        }
    }
}

/// If this fails, the cluster refuses changes for a moment each time the certificate is renewed.
#[tokio::test(flavor = "multi_thread")]
async fn no_admission_fails_while_certificates_are_replaced_again_and_again() {
    const TIMES: usize = 100;
    let plane = controlplane::shared();
    let (client, namespace) = (plane.client(), plane.namespace("certify").await);
    let stop = CancellationToken::new();
    // That the API server knows of a bundle is seen here, not waited for: what is left is for requests that had begun before.
    let terms = Terms { settle: SignedDuration::from_millis(300), overlap: SignedDuration::ZERO, ..terms() };
    let replica = replica_on(terms, &client, &namespace, &stop);
    let (addr, allow) = serve(&replica.certificates, &stop).await;
    let mut current = replica.has(1).await;
    let registering = tokio::spawn(register(
        client.clone(),
        namespace.clone(),
        addr,
        replica.certificates.clone(),
        Arc::clone(&allow),
    ));
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "asks"}})).unwrap();
    eventually("the webhook is asked", SOON, async || {
        maps.create(&params, &map).await?;
        ensure!(allow.asked.load(Ordering::SeqCst) > 0);
        Ok(())
    })
    .await;

    let done = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let (maps, map, params, done) = (maps.clone(), map.clone(), params.clone(), Arc::clone(&done));
        asking.spawn(async move {
            let mut asked = 0;
            while !done.load(Ordering::SeqCst) {
                maps.create(&params, &map).await?;
                asked += 1;
            }
            anyhow::Ok(asked)
        });
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    for _ in 0..TIMES {
        secrets.delete(SECRET, &DeleteParams::default()).await.unwrap();
        current = eventually("another one is served, and the old one forgotten", SOON, async || {
            let bundle = replica.bundle().context("none")?;
            ensure!(bundle != current && bundle.matches("BEGIN").count() == 1, "{bundle}");
            ensure!(!asking.is_empty() && asking.try_join_next().is_none(), "a client gave up");
            Ok(bundle)
        })
        .await;
    }
    done.store(true, Ordering::SeqCst);
    let mut asked = 0;
    while let Some(ended) = asking.join_next().await {
        asked += ended.unwrap().expect("no admission fails");
    }
    assert!(asked > 100 && allow.asked.load(Ordering::SeqCst) > asked, "{asked}");
    stop.cancel();
    registering.abort();
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    api.delete(&namespace, &DeleteParams::default()).await.unwrap();
}

/// All that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Whoever may read logs, Events or metrics must not be able to answer in the operator's place.
#[tokio::test]
async fn no_key_is_ever_logged_however_much_is_logged() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    let logging = tracing::subscriber::set_default(subscriber);
    let plane = controlplane::shared();
    let namespace = plane.namespace("certify").await;
    let stop = CancellationToken::new();
    let replica = replica(&plane.client(), &namespace, &stop);
    let (addr, _) = serve(&replica.certificates, &stop).await;
    let bundle = replica.has(1).await;
    assert!(accepts(addr, &bundle).await);
    let secrets: Api<Secret> = Api::namespaced(plane.client(), &namespace);
    let stored = secrets.get(SECRET).await.unwrap().data.unwrap();
    let key = stored["tls.key"].0.clone();
    // Something is wrong with it, which is logged.
    let spoiled = [&key[..60], b"!", &key[60..]].concat();
    let spoil = Patch::Merge(json!({"data": {"tls.key": ByteString(spoiled)}}));
    secrets.patch(SECRET, &PatchParams::default(), &spoil).await.unwrap();
    replica.has(2).await;
    stop.cancel();
    drop(logging);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("TRACE") && log.contains("a certificate cannot be read"), "all is logged");
    let stored = secrets.get(SECRET).await.unwrap().data.unwrap();
    let keys = [&key, &stored["next-tls.key"].0].map(|key| String::from_utf8(key.clone()).unwrap());
    for key in keys {
        let encoded = serde_json::to_value(ByteString(key.clone().into_bytes())).unwrap();
        // In PEM and as a Secret holds it; and parts of it, wherever lines break.
        let pem = key.lines().filter(|line| !line.starts_with('-')).map(|line| &line[..line.len().min(40)]);
        let in_secret =
            encoded.as_str().unwrap().as_bytes().chunks(40).map(|part| std::str::from_utf8(part).unwrap());
        for part in pem.chain(in_secret).filter(|part| part.len() > 20) {
            let found = log.lines().find(|line| line.contains(part));
            // The first part of it is "BEGIN PRIVATE KEY".
            assert!(found.is_none(), "{part} in {found:?}");
        }
    }
}
