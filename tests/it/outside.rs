//! What is seen of the operator from outside: events, columns, metrics, probes, and that it costs nothing when nothing happens.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    controlplane::{AuditEvent, ControlPlane, Options, eventually},
    support::{
        operator::{Operator, install},
        scene::{SOON, Scene},
        story::rough,
    },
};

/// Plural, the column that names it and its value, and what stands in other columns.
type Story = (&'static str, &'static str, String, &'static [(&'static str, &'static str)]);

/// A story in which 1.1 was revoked and 1.0 runs again.
async fn rolled_back(scene: &Scene) {
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.revoke(1).await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
    scene.proven_at("Deployment", "cart", &scene.pin(0)).await;
}

/// If this fails, people are flooded with events, or are not told of a rollback at all.
#[tokio::test(flavor = "multi_thread")]
async fn every_change_has_one_event() {
    let scene = Scene::new("events").await;
    rolled_back(&scene).await;
    let reasons = async || {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for event in scene.any("Event").list(&kube::api::ListParams::default()).await? {
            if event.data["involvedObject"]["name"] == "cart"
                && event.data["source"]["component"] != "deployment-controller"
            {
                let again = event.data["series"]["count"].as_u64().unwrap_or(1);
                let reason = event.data["reason"].as_str().unwrap_or_default().to_owned();
                *reasons.entry(reason).or_default() += usize::try_from(again)?;
            }
        }
        anyhow::Ok(reasons)
    };
    let expected: BTreeMap<String, usize> =
        [("Created", 1), ("Forward", 1), ("RolledBack", 1), ("RollbackCompleted", 1)]
            .map(|(reason, count)| (reason.to_owned(), count))
            .into();
    eventually("the story is told", SOON, async || {
        let told = reasons().await?;
        ensure!(told == expected, "{told:?}");
        Ok(())
    })
    .await;
    // Looking again is no change.
    for _ in 0..3 {
        scene.poke().await;
    }
    assert_eq!(reasons().await.unwrap(), expected);
}

/// If this fails, `kubectl get` does not tell what happened.
#[tokio::test(flavor = "multi_thread")]
async fn the_columns_of_kubectl_get_tell_the_story() {
    let scene = Scene::new("columns").await;
    rolled_back(&scene).await;
    let row = async |plural: &str, mine: &dyn Fn(&BTreeMap<String, String>) -> bool| {
        let path = format!("/apis/countersign.dev/v1alpha1/namespaces/countersign-system/{plural}");
        let request = axum::http::Request::get(path)
            .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
            .body(Vec::new())?;
        let table: Value = serde_json::from_str(&scene.client.request_text(request).await?)?;
        let names: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .context("no columns")?
            .iter()
            .filter_map(|column| column["name"].as_str())
            .collect();
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows = table["rows"].as_array().context("no rows")?.iter().filter_map(|row| {
            let cells = row["cells"].as_array()?;
            Some(names.iter().map(|name| (*name).to_owned()).zip(cells.iter().map(cell)).collect())
        });
        let rows: Vec<BTreeMap<String, String>> = rows.collect();
        rows.into_iter().find(|row| mine(row)).with_context(|| format!("no row of {plural}"))
    };
    let ns = scene.namespace.clone();
    let stories: [Story; 4] = [
        (
            "releasehistories",
            "Namespace",
            ns.clone(),
            &[
                ("Workload", "cart"),
                ("Kind", "Deployment"),
                ("Ready", "False"),
                ("Hold", "CVE-2026-0001"),
                ("Present", ":1.0@sha256:"),
                ("Status", "held at cart:1.0"),
            ],
        ),
        ("gitsources", "Name", ns.clone(), &[("Ready", "True"), ("Status", "applied")]),
        ("imagepolicies", "Name", ns.clone(), &[("Ready", "True"), ("Not-Permitted", "1")]),
        (
            "approvedimages",
            "Name",
            scene.approval_name(1),
            &[("Standing", "Revoked"), ("Tag", "1.1"), ("Workloads", "0"), ("Status", "CVE-2026-0001")],
        ),
    ];
    for (plural, column, value, cells) in stories {
        eventually(&format!("the columns of {plural}"), SOON, async || {
            let row = row(plural, &|row| row.get(column) == Some(&value)).await?;
            for (name, part) in cells {
                ensure!(row.get(*name).is_some_and(|cell| cell.contains(part)), "{name}: {part}: {row:?}");
            }
            ensure!(row.contains_key("Age"), "{row:?}");
            Ok(())
        })
        .await;
    }
}

/// If this fails, nobody can tell from the metrics how long a revocation took.
#[tokio::test(flavor = "multi_thread")]
async fn every_stage_of_a_rollback_is_measured() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "measured").await;
    rolled_back(&scene).await;
    for stage in ["seen", "planned", "patched", "completed"] {
        let series = format!("countersign_rollback_duration_seconds_count{{stage=\"{stage}\"}}");
        eventually(&format!("{stage} is measured"), SOON, async || {
            let count = rough.operator.metric(&series).await?;
            ensure!(count >= 1.0, "{count}");
            Ok(())
        })
        .await;
    }
}

/// If this fails, an update of the operator loses what it did last, and the next one acts on old records.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_good_order_with_everything_recorded() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "term").await;
    scene.approve(&[0, 1]).await;
    scene.ran("cart", &[0, 1]).await;
    scene.write("approvals/1.yaml", &scene.approval(1, Some("CVE-2026-0001")));
    scene.repo.commit("revoke 1.1");
    scene.ask().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    let stops = |log: String| log.lines().filter(|line| line.ends_with(" stopped")).count();
    let before = stops(rough.operator.log());
    rough.plane.signal("countersign", "TERM").unwrap();
    eventually("it says that it stopped", SOON, async || {
        ensure!(stops(rough.operator.log()) == before + 1);
        Ok(())
    })
    .await;
    let status = scene.history("Deployment", "cart").await.unwrap().status.unwrap();
    let hold = status.hold.expect("the hold is recorded");
    assert_eq!(status.present, Some(hold.target));
    rough.operator.kill();
    rough.operator.restart().await;
    scene.held_at("Deployment", "cart", &scene.pin(0)).await;
}

/// Requests of the operator after its last write, by what they asked for.
fn since_the_last_write(plane: &ControlPlane) -> anyhow::Result<(Option<AuditEvent>, Vec<AuditEvent>)> {
    let log = std::fs::read_to_string(plane.directory().join("audit.log"))?;
    let ours = log.lines().filter(|line| line.contains("\"userAgent\":\"countersign/"));
    // That it leads is renewed all the time.
    let ours = ours.filter(|line| !line.contains("\"resource\":\"leases\""));
    let events: Vec<AuditEvent> = ours.filter_map(|line| serde_json::from_str(line).ok()).collect();
    let last = events.iter().rposition(AuditEvent::is_successful_write);
    let after = events[last.map_or(0, |last| last + 1)..].to_vec();
    Ok((last.map(|last| events[last].clone()), after))
}

/// If this fails, a probe says ready to soon or never, or a fleet at rest loads the API server for ever.
#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_its_definitions_and_a_fleet_at_rest_costs_no_write() {
    /// Git owns half of them.
    const FLEET: u32 = 200;
    let plane = ControlPlane::start(Options::default()).unwrap();
    let operator = Operator::named(&plane, "countersign");
    operator.spawn();
    let url = format!("http://127.0.0.1:{}/readyz", operator.metrics_port);
    eventually("it says what it waits for", SOON, async || {
        let answer = reqwest::get(&url).await?;
        let (status, body) = (answer.status(), answer.text().await?);
        let missing =
            ["approvals", "policies", "sources", "histories"].iter().all(|part| body.contains(part));
        ensure!(status == 503 && missing && !body.contains("deployments"), "{status}: {body}");
        Ok(())
    })
    .await;
    install(&plane).await;
    operator.ready().await;

    let scene = Scene::on(&plane, "idle").await;
    let at_rest = |n: u32| {
        let whole = scene.workload("Deployment", &format!("cart-{n}"), &scene.pin(0));
        whole.replace("spec:\n", "spec:\n  replicas: 0\n")
    };
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    scene.write("fleet.yaml", &(0..FLEET / 2).map(at_rest).collect::<Vec<_>>().join("---\n"));
    scene.push("a fleet").await;
    for n in FLEET / 2..FLEET {
        scene.apply_yaml(&at_rest(n)).await;
    }
    eventually("all are governed", SOON * 2, async || {
        let governed = operator.metric("countersign_workloads{state=\"no_fallback\"}").await?;
        ensure!(governed >= f64::from(FLEET), "{governed}");
        Ok(())
    })
    .await;
    // Watches are made anew every minute: two of them one after the other are two minutes.
    eventually("two minutes pass without a write", Duration::from_mins(5), async || {
        let (last, after) = since_the_last_write(&plane)?;
        let renewed =
            |event: &&AuditEvent| event.verb == "watch" && event.request_uri.contains("/namespaces?");
        let completed =
            after.iter().filter(renewed).filter(|event| event.stage == "ResponseComplete").count();
        ensure!(completed >= 3, "{completed}; the last write: {last:?}");
        Ok(())
    })
    .await;
}
