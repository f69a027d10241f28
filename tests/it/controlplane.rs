//! The control plane that the other tests stand on: if one of these fails, what the others say means little.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controlplane::{Audit, ControlPlane, Options, eventually, shared};

const SOON: Duration = Duration::from_mins(1);
const DIGEST: &str = "sha256:5f1bd2b0a9c0c7ad4d1b8d3f6b3a8f1d2e4c6a8b0d2f4e6a8c0b2d4f6e8a0c2d";

fn from_json<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn pod_template(app: &str, annotations: &Value, containers: &Value) -> Value {
    json!({
        "metadata": { "labels": { "app": app }, "annotations": annotations },
        "spec": { "containers": containers },
    })
}

fn deployment(app: &str, annotations: &Value, containers: &Value) -> Deployment {
    from_json(json!({
        "metadata": { "name": app },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": app } },
            "template": pod_template(app, annotations, containers),
        },
    }))
}

async fn create_deployment(client: &Client, namespace: &str, deployment: &Deployment) -> Api<Deployment> {
    let deployments = Api::namespaced(client.clone(), namespace);
    deployments.create(&PostParams::default(), deployment).await.unwrap();
    deployments
}

async fn available(deployments: &Api<Deployment>, app: &str) {
    eventually("the deployment is available", SOON, async || {
        let found = deployments.get(app).await?;
        let status = found.status.unwrap_or_default();
        ensure!(status.observed_generation == found.metadata.generation, "not observed: {status:?}");
        ensure!(status.updated_replicas == Some(2) && status.available_replicas == Some(2), "{status:?}");
        ensure!(status.replicas == Some(2), "old pods are left: {status:?}");
        Ok(())
    })
    .await;
}

async fn pods_of(client: &Client, namespace: &str, app: &str) -> anyhow::Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    Ok(pods.list(&ListParams::default().labels(&format!("app={app}"))).await?.items)
}

fn statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn waiting_reason(status: &ContainerStatus) -> Option<&str> {
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// If kwok leaves imageID empty or short, nothing that compares running digests can be tested.
#[tokio::test]
async fn deployment_rolls_out_with_image_ids() {
    let plane = shared();
    let namespace = plane.namespace("rollout").await;
    let client = plane.client();
    let containers = json!([
        { "name": "pinned", "image": format!("registry.test:5000/team/web:1.4@{DIGEST}") },
        { "name": "tagged", "image": "redis:7" },
        { "name": "told", "image": "team/api" },
    ]);
    let annotations = json!({ "countersign.dev/test-digest.told": DIGEST });
    let mut web = deployment("web", &annotations, &containers);
    let template = web.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    template.init_containers =
        Some(vec![from_json(json!({ "name": "setup", "image": format!("busybox@{DIGEST}") }))]);
    let deployments = create_deployment(&client, &namespace, &web).await;
    available(&deployments, "web").await;

    for pod in pods_of(&client, &namespace, "web").await.unwrap() {
        let [pinned, tagged, told] = statuses(&pod) else { panic!("{:?}", pod.status) };
        assert_eq!(pinned.image_id, format!("registry.test:5000/team/web@{DIGEST}"));
        assert!(tagged.image_id.starts_with("docker.io/library/redis@sha256:"), "{}", tagged.image_id);
        assert_eq!(
            (tagged.image.as_str(), told.image.as_str()),
            ("docker.io/library/redis:7", "docker.io/team/api:latest")
        );
        assert_eq!(told.image_id, format!("docker.io/team/api@{DIGEST}"));
        assert!(pinned.ready && pinned.started == Some(true) && pinned.container_id.is_some(), "{pinned:?}");
        let setup = &pod.status.as_ref().unwrap().init_container_statuses.as_ref().unwrap()[0];
        assert_eq!(setup.image_id, format!("docker.io/library/busybox@{DIGEST}"));
    }
}

/// One release of a workload must be able to fail while another runs, or rollbacks cannot be tested.
#[tokio::test]
async fn a_crashing_release_does_not_replace_a_good_one() {
    let plane = shared();
    let namespace = plane.namespace("crash").await;
    let client = plane.client();
    let annotations = json!({ "countersign.dev/test-crash-images": "team/none,web:bad" });
    let deployments = create_deployment(
        &client,
        &namespace,
        &deployment("web", &annotations, &json!([{ "name": "c", "image": "web:good" }])),
    )
    .await;
    available(&deployments, "web").await;

    set_image(&deployments, "web:bad").await;
    eventually("the new pod crashes while the old ones run", SOON, async || {
        let pods = pods_of(&client, &namespace, "web").await?;
        let (ready, failing): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| is_ready(pod));
        ensure!(ready.len() == 2 && failing.len() == 1, "{} ready, {} failing", ready.len(), failing.len());
        let status = statuses(failing[0]).first().context("no container status")?;
        ensure!(waiting_reason(status) == Some("CrashLoopBackOff") && status.restart_count > 0, "{status:?}");
        ensure!(!status.image_id.is_empty(), "a container that crashes has been started");
        Ok(())
    })
    .await;

    set_image(&deployments, "web:good").await;
    available(&deployments, "web").await;
    let writes = eventually("the audit log has the image changes", SOON, async || {
        let writes = plane.writes("deployments", &namespace)?;
        ensure!(writes.len() >= 3, "{} writes", writes.len());
        Ok(writes)
    })
    .await;
    let by_test = writes.iter().filter(|write| write.user.username == "admin");
    let images: Vec<Vec<&str>> = by_test.map(|write| write.images()).collect();
    assert_eq!(images, [["web:good"], ["web:bad"], ["web:good"]]);
}

async fn set_image(deployments: &Api<Deployment>, image: &str) {
    let patch =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "c", "image": image }] } } } });
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
}

/// The switches must do what `kwok-stages.yaml` says, or tests of unhealthy workloads pass for the wrong
/// reason.
#[tokio::test]
async fn annotated_pods_fail_as_asked_and_recover() {
    let plane = shared();
    let namespace = plane.namespace("faults").await;
    let pods: Api<Pod> = Api::namespaced(plane.client(), &namespace);
    for (name, annotations) in [
        ("crash", json!({ "countersign.dev/test-crash": "true" })),
        ("never-ready", json!({ "countersign.dev/test-never-ready": "true" })),
        ("unpullable", json!({ "countersign.dev/test-unpullable": "true" })),
        ("init-crash", json!({ "countersign.dev/test-crash-images": "setup" })),
        ("healthy", json!({})),
    ] {
        let pod = json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": {
                "initContainers": [{ "name": "i", "image": "setup:1" }],
                "containers": [{ "name": "c", "image": "web:1" }],
            },
        });
        pods.create(&PostParams::default(), &from_json(pod)).await.unwrap();
    }
    let seen = async |name: &str| -> anyhow::Result<(String, bool, Option<String>)> {
        let pod = pods.get(name).await?;
        let status = statuses(&pod).first().with_context(|| format!("{name} has no container status"))?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        Ok((phase, is_ready(&pod), waiting_reason(status).map(str::to_owned)))
    };
    let expect = async |name: &str, phase: &str, ready: bool, waiting: Option<&str>| {
        eventually(&format!("{name} is as asked"), SOON, async || {
            let seen = seen(name).await?;
            ensure!(seen == (phase.to_owned(), ready, waiting.map(str::to_owned)), "{seen:?}");
            Ok(())
        })
        .await;
    };
    expect("healthy", "Running", true, None).await;
    expect("crash", "Running", false, Some("CrashLoopBackOff")).await;
    expect("never-ready", "Running", false, None).await;
    expect("unpullable", "Pending", false, Some("ImagePullBackOff")).await;
    expect("init-crash", "Pending", false, Some("PodInitializing")).await;

    let annotate = async |name: &str, annotation: &str| {
        let patch = json!({ "metadata": { "annotations": { annotation: "true" } } });
        pods.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    annotate("healthy", "countersign.dev/test-crash").await;
    expect("healthy", "Running", false, Some("CrashLoopBackOff")).await;
    for name in ["healthy", "crash", "never-ready"] {
        annotate(name, "countersign.dev/test-recover").await;
        expect(name, "Running", true, None).await;
    }

    pods.delete("healthy", &DeleteParams::default()).await.unwrap();
    eventually("the deleted pod is gone", SOON, async || {
        ensure!(pods.get_opt("healthy").await?.is_none(), "it is there");
        Ok(())
    })
    .await;
}

/// Jobs must end, or a CronJob under a policy can never be seen to run.
#[tokio::test]
async fn job_from_a_cron_job_succeeds() {
    let plane = shared();
    let namespace = plane.namespace("cron").await;
    let client = plane.client();
    let mut template = pod_template(
        "report",
        &json!({}),
        &json!([{ "name": "c", "image": format!("team/report@{DIGEST}") }]),
    );
    template["spec"]["restartPolicy"] = json!("Never");
    let cron_jobs: Api<CronJob> = Api::namespaced(client.clone(), &namespace);
    let cron_job = json!({
        "metadata": { "name": "report" },
        "spec": { "schedule": "0 0 1 1 *", "jobTemplate": { "spec": { "template": template } } },
    });
    let cron_job = cron_jobs.create(&PostParams::default(), &from_json(cron_job)).await.unwrap();

    // What `kubectl create job --from=cronjob/report` does: the schedule itself is never sooner than a
    // minute.
    let owner = OwnerReference { controller: Some(true), ..cron_job.owner_ref(&()).unwrap() };
    let job_template = cron_job.spec.unwrap().job_template;
    let mut job = Job { spec: job_template.spec, ..Job::default() };
    job.metadata.name = Some("report-now".to_owned());
    job.metadata.owner_references = Some(vec![owner]);
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    jobs.create(&PostParams::default(), &job).await.unwrap();
    eventually("the job is complete", SOON, async || {
        let status = jobs.get("report-now").await?.status.unwrap_or_default();
        let conditions = status.conditions.as_deref().unwrap_or_default();
        ensure!(
            conditions.iter().any(|condition| condition.type_ == "Complete" && condition.status == "True"),
            "{status:?}"
        );
        ensure!(status.succeeded == Some(1), "{status:?}");
        Ok(())
    })
    .await;
    let pods = pods_of(&client, &namespace, "report").await.unwrap();
    assert_eq!(statuses(&pods[0])[0].image_id, format!("docker.io/team/report@{DIGEST}"));
    assert_eq!(pods[0].status.as_ref().unwrap().phase.as_deref(), Some("Succeeded"));

    // Its pods have a finalizer that only the Job controller takes away.
    jobs.delete("report-now", &DeleteParams::background()).await.unwrap();
    eventually("the job's pods are gone", SOON, async || {
        let left = pods_of(&client, &namespace, "report").await?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await;
}

fn daemon_set(app: &str) -> DaemonSet {
    let containers = json!([{ "name": "c", "image": "agent:1" }]);
    from_json(json!({
        "metadata": { "name": app },
        "spec": {
            "selector": { "matchLabels": { "app": app } },
            "template": pod_template(app, &json!({}), &containers),
        },
    }))
}

async fn daemons(sets: &Api<DaemonSet>, desired: i32, ready: i32) {
    eventually("the daemons run", SOON, async || {
        let status = sets.get("agent").await?.status.unwrap_or_default();
        ensure!(status.desired_number_scheduled == desired && status.number_ready == ready, "{status:?}");
        Ok(())
    })
    .await;
}

/// A DaemonSet's progress is counted by node: each needs one of its pods.
#[tokio::test]
async fn daemon_set_is_ready_on_all_nodes() {
    let plane = shared();
    let namespace = plane.namespace("daemons").await;
    let sets: Api<DaemonSet> = Api::namespaced(plane.client(), &namespace);
    sets.create(&PostParams::default(), &daemon_set("agent")).await.unwrap();
    daemons(&sets, 3, 3).await;
    let pods = pods_of(&plane.client(), &namespace, "agent").await.unwrap();
    let nodes: BTreeSet<_> =
        pods.iter().map(|pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap()).collect();
    assert_eq!(nodes.len(), 3);
}

/// What breaks a cluster must be possible to do, and must not touch the plane that other tests share.
#[tokio::test]
async fn a_second_plane_loses_a_node_its_controllers_and_its_api_server() {
    let first = shared();
    let plane =
        ControlPlane::start(Options { nodes: 2, audit: Audit::Metadata, ..Options::default() }).unwrap();
    assert_ne!(plane.config().cluster_url, first.config().cluster_url);
    let namespace = plane.namespace("broken").await;
    let client = plane.client();
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
    sets.create(&PostParams::default(), &daemon_set("agent")).await.unwrap();
    daemons(&sets, 2, 2).await;

    plane.lose_node("node-1").await.unwrap();
    // A daemon on a lost node keeps its pod, but is no longer counted as wanted.
    daemons(&sets, 1, 1).await;
    let pods = pods_of(&client, &namespace, "agent").await.unwrap();
    assert_eq!((pods.len(), pods.iter().filter(|pod| is_ready(pod)).count()), (2, 1));
    plane.restore_node("node-1").await.unwrap();
    daemons(&sets, 2, 2).await;

    plane.pause_controller_manager().unwrap();
    let containers = json!([{ "name": "c", "image": "web:1" }]);
    let deployments =
        create_deployment(&client, &namespace, &deployment("web", &json!({}), &containers)).await;
    plane.stop_apiserver().unwrap();
    deployments.get("web").await.unwrap_err();
    plane.start_apiserver().await.unwrap();
    assert_eq!(deployments.get("web").await.unwrap().status.unwrap_or_default().observed_generation, None);
    plane.resume_controller_manager().unwrap();
    available(&deployments, "web").await;
    assert!(plane.audit_events().unwrap().iter().all(|event| event.request_object.is_none()));

    let account = plane.service_account_kubeconfig(&namespace, "default").await.unwrap();
    assert!(std::fs::read_to_string(account).unwrap().contains("token: "));
    let (directory, processes) = (plane.directory(), plane.process_ids());
    assert_eq!(processes.len(), 6, "{processes:?}");
    drop(plane);
    assert!(!directory.exists());
    for (name, id) in processes {
        assert!(!is_running(id), "{name} is left");
    }
    first.client().list_api_groups().await.unwrap();
}

/// A zombie has ended; only its parent has not looked yet.
fn is_running(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

const ONLY_START: &str = "COUNTERSIGN_TEST_ONLY_START_A_PLANE";

/// Not a test by itself: the process that [`a_killed_process_leaves_nothing_behind`] kills.
#[test]
fn the_process_that_is_killed() {
    if std::env::var_os(ONLY_START).is_some() {
        let plane = shared();
        let ids: Vec<String> = plane.process_ids().values().map(ToString::to_string).collect();
        eprintln!("started {} {}", plane.directory().display(), ids.join(" "));
        std::thread::park();
    }
}

/// A test run that is killed must not leave a cluster running on a developer's machine.
#[tokio::test]
async fn a_killed_process_leaves_nothing_behind() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "controlplane_tests::the_process_that_is_killed", "--nocapture"])
        .env(ONLY_START, "1")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let started =
        lines.map(Result::unwrap).find_map(|line| line.strip_prefix("started ").map(str::to_owned)).unwrap();
    let (directory, ids) = started.split_once(' ').unwrap();
    let ids: Vec<u32> = ids.split(' ').map(|id| id.parse().unwrap()).collect();
    assert!(Path::new(directory).exists() && ids.iter().all(|id| is_running(*id)), "{started}");

    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the watchdog has tidied up", SOON, async || {
        let left: Vec<_> = ids.iter().filter(|id| is_running(**id)).collect();
        ensure!(left.is_empty() && !Path::new(directory).exists(), "{left:?} {directory}");
        Ok(())
    })
    .await;
}
