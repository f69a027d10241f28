//! One revoked image, many workloads of all kinds, several namespaces: each goes back to its own last good release.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        manifests::{at, image_writes, template, writes},
        scene::{SOON, Scene, shared_plane},
    },
};

/// If this fails a revocation leaves workloads on the revoked image, takes them to another's release or to half of their
/// own, or restarts them more than once.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_takes_every_workload_back_to_its_own_last_good_release_with_one_write_each() {
    let plane = shared_plane().await;
    let scene = Scene::new("everywhere").await;
    let (b, c) = (plane.namespace("everywhere-b").await, plane.namespace("everywhere-c").await);
    let policies: Vec<String> = [&scene.namespace, &b, &c]
        .map(|ns| {
            scene
                .policy("Enforce")
                .replace(&format!("name: {}}}", scene.namespace), &format!("name: {ns}}}"))
                .replace(&format!("name: {}, namespace", scene.namespace), &format!("name: {ns}, namespace"))
        })
        .into();
    scene.write("policy.yaml", &policies.join("---\n"));
    scene.file_approvals(0..3);
    // (kind, name, namespace, the last good release)
    let workloads = [
        ("Deployment", "web", scene.namespace.clone(), 0),
        ("StatefulSet", "db", b.clone(), 2),
        ("DaemonSet", "agent", c.clone(), 0),
        ("CronJob", "report", scene.namespace.clone(), 2),
    ];
    let put = |release: u8, of: &(&str, &str, String, u8)| {
        let (kind, name, namespace, _) = of;
        let over = json!({"args": [format!("--level={release}")], "env": [{"name": "RELEASE", "value": format!("r{release}")}]});
        let mut object = scene.object(kind, name, &scene.tag(release), over);
        object["metadata"]["namespace"] = json!(namespace);
        scene.put(&format!("{name}.yaml"), &object);
    };
    let in_namespace = |of: &(&'static str, &'static str, String, u8)| {
        let view = of.clone();
        let plural = format!("{}s", view.0.to_lowercase());
        let api = if view.0 == "CronJob" { "batch/v1" } else { "apps/v1" };
        (scene.of(api, view.0, &plural, &view.2), plural)
    };
    let shows = async |of: &(&'static str, &'static str, String, u8), release: u8| {
        let (api, _) = in_namespace(of);
        eventually(&format!("{} {} is at 1.{release}", of.0, of.1), SOON, async || {
            let object = serde_json::to_value(api.get(of.1).await?)?;
            let app = at(&object, &format!("{}/spec/containers/0", template(of.0)));
            ensure!(app["image"] == json!(scene.pin(release)), "{app}");
            ensure!(app["args"] == json!([format!("--level={release}")]), "{app}");
            ensure!(app["env"] == json!([{"name": "RELEASE", "value": format!("r{release}")}]), "{app}");
            Ok(())
        })
        .await;
    };
    let good = async |of: &(&'static str, &'static str, String, u8)| {
        let api =
            scene.of("countersign.dev/v1alpha1", "ReleaseHistory", "releasehistories", "countersign-system");
        eventually(&format!("{} {} proved itself", of.0, of.1), SOON, async || {
            let all = serde_json::to_value(api.list(&Default::default()).await?.items)?;
            let own = all.as_array().into_iter().flatten().find(|history| {
                let at = at(history, "/spec/workloadRef");
                at["kind"] == of.0 && at["name"] == of.1 && at["namespace"] == json!(of.2)
            });
            let Some(own) = own else { anyhow::bail!("no history") };
            let releases = at(own, "/status/releases").as_array().cloned().unwrap_or_default();
            let present = releases.iter().find(|release| release["id"] == *at(own, "/status/present"));
            let outcome = present.map_or(Value::Null, |present| present["outcome"].clone());
            ensure!(outcome == "Good", "{outcome}; {own}");
            Ok(())
        })
        .await;
    };

    for of in &workloads {
        put(of.3, of);
    }
    scene.push("approve and run").await;
    for of in &workloads {
        shows(of, of.3).await;
        if of.0 != "CronJob" {
            good(of).await;
        }
    }
    for of in &workloads {
        put(1, of);
    }
    scene.push("all run 1.1").await;
    for of in &workloads {
        shows(of, 1).await;
        if of.0 != "CronJob" {
            good(of).await;
        }
    }
    let written = |of: &(&'static str, &'static str, String, u8)| {
        image_writes(&writes(plane, &in_namespace(of).1, &of.2), of.1)
    };
    eventually("the audit log has both releases of all", SOON, async || {
        for of in &workloads {
            ensure!(written(of).len() >= 2, "{of:?}: {:?}", written(of));
        }
        Ok(())
    })
    .await;
    let before: Vec<usize> = workloads.iter().map(|of| written(of).len()).collect();

    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    for of in &workloads {
        shows(of, of.3).await;
        if of.0 != "CronJob" {
            good(of).await;
        }
    }
    scene.explains("Deployment", "web", "Held", "CVE-2026-0001").await;
    scene.explains("CronJob", "report", "Held", "not yet proven").await;
    scene.poke().await;
    eventually("the audit log has the rollbacks", SOON, async || {
        for (of, before) in workloads.iter().zip(&before) {
            ensure!(written(of).len() > *before, "{of:?}");
        }
        Ok(())
    })
    .await;
    for (of, before) in workloads.iter().zip(before) {
        assert_eq!(written(of)[before..], [[scene.pin(of.3)]], "{} {}", of.0, of.1);
    }
    eventually("an event says that the CronJob's target never proved itself", SOON, async || {
        let events = scene.events("report").await?;
        let said = |(reason, note): &(String, String)| {
            reason == "RolledBack" && note.contains("never proved itself")
        };
        ensure!(events.iter().any(said), "{events:?}");
        Ok(())
    })
    .await;
}

/// If this fails a commit that revokes an image and names its successor, as most fixes do, restarts everything twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_revokes_an_image_and_names_its_successor_moves_a_workload_once() {
    let plane = shared_plane().await;
    let scene = Scene::new("successor").await;
    let names = ["fixed", "left", "hasty"];
    let run = |name: &str, release: u8| {
        scene.write(&format!("{name}.yaml"), &scene.workload("Deployment", name, &scene.tag(release)));
    };
    scene.file_approvals(0..2);
    for release in [0, 1] {
        for name in names {
            run(name, release);
        }
        scene.push(&format!("run 1.{release}")).await;
        for name in names {
            scene.proven_at("Deployment", name, &scene.pin(release)).await;
        }
    }
    let written = |name: &str| image_writes(&writes(plane, "deployments", &scene.namespace), name);
    eventually("the audit log has both releases of all", SOON, async || {
        ensure!(names.iter().all(|name| written(name).len() == 2), "{:?}", names.map(written));
        Ok(())
    })
    .await;
    // One has an approved successor, one has none, one an image that nobody approved.
    scene.file_revocation(1, "CVE-2026-0001");
    scene.file_approvals(2..3);
    run("fixed", 2);
    run("hasty", 3);
    scene.push("revoke 1.1, run 1.2 instead").await;
    let ends = [("fixed", 2), ("left", 0), ("hasty", 0)];
    for (name, release) in ends {
        scene.proven_at("Deployment", name, &scene.pin(release)).await;
    }
    for (name, release) in ends {
        eventually("the audit log has the last write", SOON, async || {
            ensure!(written(name).len() > 2, "{name}");
            Ok(())
        })
        .await;
        assert_eq!(written(name)[2..], [[scene.pin(release)]], "{name}");
    }
}
