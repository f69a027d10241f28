//! Objects that say no place there can be: named, not applied, and in nobody's way.

use std::io::Read as _;

use anyhow::ensure;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{ResourceExt as _, api::ListParams};
use serde_json::{Value, json};

use crate::{
    controlplane::eventually,
    support::{
        manifests::yaml,
        operator::ROOT,
        scene::{SOON, Scene},
    },
};

/// What stands in the stored inventory of the scene's source: `apiVersion kind namespace name`, one a line.
async fn inventory(scene: &Scene) -> String {
    let maps = scene.of("v1", "ConfigMap", "configmaps", ROOT);
    let labelled = ListParams::default().labels("countersign.dev/inventory");
    let source = format!("{ROOT}/{}", scene.source);
    let mut parts: Vec<Value> = maps
        .list(&labelled)
        .await
        .unwrap()
        .into_iter()
        .filter(|part| part.annotations().get("countersign.dev/source") == Some(&source))
        .map(|part| serde_json::to_value(part).unwrap())
        .collect();
    assert_eq!(parts.len(), 1, "one part: {parts:#?}");
    let bytes = STANDARD.decode(parts.remove(0)["binaryData"]["inventory"].as_str().unwrap()).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
    text.replace('\t', " ")
}

fn homeless(name: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: b}}\n")
}

/// If this fails, a line left out of a manifest deletes what runs, keeps other files from being pruned or applied, or leaves
/// the source something that it can neither apply nor get rid of.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_without_a_place_is_named_and_blocks_nothing() {
    let scene = Scene::new("place").await;
    let ns = scene.namespace.clone();
    scene.approve(&[0]).await;
    let cart = scene.workload("Deployment", "cart", &scene.tag(0));
    scene.write("cart.yaml", &cart);
    scene.write("settings.yaml", &scene.config("settings"));
    scene.write("old.yaml", &scene.config("old"));
    scene.push("everything in its place").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    scene.synced().await;

    // Two lose their namespace, many never had one, one has one that it cannot have; and one file goes.
    let lost = format!(", namespace: {ns}");
    scene.write("cart.yaml", &cart.replace(&lost, ""));
    scene.write("settings.yaml", &scene.config("settings").replace(&lost, ""));
    let many: Vec<String> = (0..12).map(|n| homeless(&format!("homeless-{n}"))).collect();
    scene.write(
        "bad/many.yaml",
        &format!("# a comment\n{}---\n{}", many.join("---\n"), scene.config("beside")),
    );
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": ns, "namespace": ns}, "rules": []});
    scene.write("bad/role.yaml", &yaml(&role));
    scene.remove("old.yaml");
    scene.push("places are lost").await;
    let told = scene.source_says("ProblemsFound").await;
    assert!(told.contains("15 problems"), "{told}");
    let status = scene.sources().get(&scene.source).await.unwrap().status.unwrap();
    for (path, line, document, object, says) in [
        ("bad/many.yaml", 2, 1, "ConfigMap homeless-0".to_owned(), "metadata.namespace is missing"),
        ("bad/many.yaml", 57, 12, "ConfigMap homeless-11".to_owned(), "spec.targetNamespace"),
        ("bad/role.yaml", 1, 1, format!("ClusterRole {ns}/{ns}"), "stand in no namespace; remove it"),
        ("cart.yaml", 1, 1, "Deployment cart".to_owned(), "metadata.namespace is missing"),
        ("settings.yaml", 1, 1, "ConfigMap settings".to_owned(), "metadata.namespace is missing"),
    ] {
        let found = status.problems.iter().find(|problem| problem.object.as_ref() == Some(&object));
        let found = found.unwrap_or_else(|| panic!("{object}: {:#?}", status.problems));
        assert_eq!((found.path.as_str(), found.line, found.document), (path, Some(line), Some(document)));
        assert!(found.message.contains(says), "{found:?}");
    }
    assert!(scene.has_config("beside").await, "what stands beside it is applied");
    scene.gone(&scene.any("ConfigMap"), "old").await;
    // What lost its place in git keeps it in the cluster, and stays the source's.
    scene.poke().await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
    assert!(scene.has_config("settings").await);
    let known = inventory(&scene).await;
    assert!(
        !known.contains("homeless") && !known.contains("ClusterRole") && !known.contains(" old"),
        "{known}"
    );
    assert!(known.contains(&format!("{ns} settings")) && known.contains(&format!("{ns} beside")), "{known}");

    // A revocation without a place cannot count, and that is told also while its commit is held back.
    let revocation = scene.approval(0, Some("CVE-2026-0001")).replace(&format!(", namespace: {ROOT}"), "");
    scene.write("approvals/0.yaml", &revocation);
    scene.repo.git(&["add", "-A"]);
    scene.repo.git(&["commit", "-q", "--amend", "-m", "a lost revocation, over rewritten history"]);
    scene.poke().await;
    scene.source_says("HistoryRewritten").await;
    eventually("the lost revocation is told", SOON, async || {
        let status = scene.sources().get(&scene.source).await?.status.unwrap();
        let name = format!("ApprovedImage {}", scene.approval_name(0));
        ensure!(status.problems.iter().any(|problem| problem.object.as_ref() == Some(&name)), "{status:#?}");
        Ok(())
    })
    .await;
    scene.write("approvals/0.yaml", &scene.approval(0, None));
    scene.follow(json!({"allowRewrite": true})).await;

    // Mended, all of it is pruned as everything else; nothing is left over that a guard would count.
    scene.write("cart.yaml", &cart);
    scene.remove("settings.yaml");
    scene.remove("bad/role.yaml");
    scene.write("bad/many.yaml", &homeless("homeless-0").replace("homeless-0", &format!("homeless-0{lost}")));
    scene.push("mended").await;
    scene.synced().await;
    scene.gone(&scene.any("ConfigMap"), "settings").await;
    scene.gone(&scene.any("ConfigMap"), "beside").await;
    assert!(scene.has_config("homeless-0").await);
    scene.remove("bad/many.yaml");
    scene.push("the last one goes").await;
    scene.synced().await;
    scene.gone(&scene.any("ConfigMap"), "homeless-0").await;
    scene.runs("Deployment", "cart", &scene.pin(0)).await;
}
