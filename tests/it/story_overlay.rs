//! An overlay's workload is pinned, taken back and brought forward like any other.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::ensure;
use serde_json::json;

use crate::{
    controlplane::eventually,
    support::{
        operator::kustomize,
        scene::{SOON, Scene},
        story::rough,
    },
};

const PROD: &str = "overlays/prod/kustomization.yaml";

/// `base/` and `overlays/prod/`, which chooses the image.
fn put(scene: &Scene, n: u8) {
    let base = scene.workload("Deployment", "cart", &scene.image());
    scene.write("base/cart.yaml", &base.replace(&format!(", namespace: {}", scene.namespace), ""));
    scene.write("base/kustomization.yaml", "resources: [cart.yaml]\n");
    let text = format!(
        "resources: [../../base]\nnamePrefix: prod-\nnamespace: {ns}\nimages: [{{name: {image}, newTag: '1.{n}'}}]\n\
         patches: [{{target: {{kind: Deployment}}, patch: '[{{\"op\": \"add\", \"path\": \"/spec/replicas\", \"value\": 2}}]'}}]\n\
         configMapGenerator: [{{name: settings, literals: [release=r{n}]}}]\n",
        ns = scene.namespace,
        image = scene.image(),
    );
    scene.write(PROD, &text);
}

/// Writes the overlay's own file otherwise.
fn edit(scene: &Scene, change: impl FnOnce(String) -> String) {
    scene.write(PROD, &change(fs::read_to_string(scene.repo.path().join(PROD)).unwrap()));
}

/// 1.1 runs, and is taken back to 1.0.
async fn runs_and_is_revoked(scene: &Scene) {
    put(scene, 1);
    scene.push("run 1.1").await;
    scene.proven_at("Deployment", "prod-cart", &scene.pin(1)).await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.held_at("Deployment", "prod-cart", &scene.pin(0)).await;
}

/// A kustomize that says so in `began` (it may make files, but not fill them) when it is run where `gated` stands, and waits for
/// `open`.
struct Gate {
    program: PathBuf,
    began: PathBuf,
    open: PathBuf,
}

impl Gate {
    fn at(program: PathBuf, gated: &str) -> Self {
        let gate =
            Self { began: program.with_extension("began"), open: program.with_extension("open"), program };
        let Self { program, began, open } = &gate;
        fs::create_dir(began).unwrap();
        let script = format!(
            "#!/bin/sh\nif /bin/grep -rqs {gated} .; then : > {}/$$; while [ ! -e {} ]; do /bin/sleep 0.1; done; fi\nexec {} \"$@\"\n",
            began.display(),
            open.display(),
            kustomize().display(),
        );
        // Whole from the first moment on: the operator may look for it now.
        let made = program.with_extension("new");
        fs::write(&made, script).unwrap();
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&made, program).unwrap();
        gate
    }

    /// Waits until it is run and waits; answers with the processes that ever did.
    async fn waits(&self) -> Vec<PathBuf> {
        eventually("an overlay is being built", SOON, async || {
            let began =
                fs::read_dir(&self.began)?.map(|entry| Path::new("/proc").join(entry.unwrap().file_name()));
            let processes: Vec<_> = began.collect();
            ensure!(!processes.is_empty(), "it is not");
            Ok(processes)
        })
        .await
    }

    fn opens(&self) {
        fs::write(&self.open, "").unwrap();
    }
}

/// If this fails whoever uses kustomize is not protected: their workloads are not pinned, or a revocation passes them by.
#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_is_pinned_rolled_back_and_goes_forward() {
    let scene = Scene::new("overlay").await;
    scene.file_approvals(0..2);
    put(&scene, 0);
    scene.push("run 1.0").await;
    scene.synced().await;
    scene.proven_at("Deployment", "prod-cart", &scene.pin(0)).await;
    scene.stands("Deployment", "prod-cart", "/spec/replicas", &json!(2)).await;
    assert!(
        scene.deployments().get_opt("cart").await.unwrap().is_none(),
        "the base is no workload of its own"
    );
    runs_and_is_revoked(&scene).await;

    // An overlay that breaks takes nothing away, and hides nothing else.
    edit(&scene, |good| good.replace("../../base", "https://example.com/base"));
    scene.put("other.yaml", &scene.config_map("other", "1"));
    scene.push("a remote base").await;
    let message = scene.source_says("ProblemsFound").await;
    assert!(
        message.contains("overlays/prod/kustomization.yaml: resources: \"https://example.com/base\""),
        "{message}"
    );
    scene.stands("ConfigMap", "other", "/data/value", &json!("1")).await;
    scene.held_at("Deployment", "prod-cart", &scene.pin(0)).await;

    scene.file_approvals(2..3);
    put(&scene, 2);
    scene.push("run 1.2").await;
    scene.synced().await;
    scene.proven_at("Deployment", "prod-cart", &scene.pin(2)).await;
}

/// If this fails a missing program is an outage, or passes for an empty repository.
#[tokio::test(flavor = "multi_thread")]
async fn without_kustomize_overlays_wait_and_everything_else_goes_on() {
    let rough = rough().await;
    let scene = Scene::on(rough.plane, "nokustomize").await;
    scene.file_approvals(0..1);
    put(&scene, 0);
    scene.put("other.yaml", &scene.config_map("other", "1"));
    scene.push("run 1.0").await;
    scene.proven_at("Deployment", "prod-cart", &scene.pin(0)).await;

    rough.operator.kill();
    let program = rough.plane.directory().join("no-kustomize-here");
    rough.operator.spawn_with_kustomize(&program);
    rough.operator.ready().await;
    scene.remove("other.yaml");
    scene.put("more.yaml", &scene.config_map("more", "1"));
    scene.push("one more, one less").await;
    let message = scene.source_says("ProblemsFound").await;
    assert!(
        message
            .contains("overlays/prod/kustomization.yaml: the overlay is not built: there is no kustomize at"),
        "{message}"
    );
    scene.stands("ConfigMap", "more", "/data/value", &json!("1")).await;
    assert!(scene.has_config("other").await, "nothing is pruned");
    scene.runs("Deployment", "prod-cart", &scene.pin(0)).await;

    // Installed while it runs: the next look finds it. What changed in place does not wait for what is built.
    let gate = Gate::at(program, "prod-");
    scene.put("more.yaml", &scene.config_map("more", "2"));
    scene.repo.commit("changed in place");
    scene.ask().await;
    scene.stands("ConfigMap", "more", "/data/value", &json!("2")).await;
    let building = gate.waits().await;
    assert!(building.iter().all(|process| process.exists()), "a build was given up before");
    gate.opens();
    scene.synced().await;
    scene.gone(&scene.any("ConfigMap"), "other").await;
    rough.operator.kill();
}

/// If this fails the first revocation after the installation finds nothing to go back to, although git's log names it.
#[tokio::test(flavor = "multi_thread")]
async fn earlier_versions_of_an_overlay_are_the_fallback() {
    let scene = Scene::new("overlaylog").await;
    scene.file_approvals(0..3);
    // The base names the image, which stands outside of the overlay.
    put(&scene, 0);
    edit(&scene, |text| text.replace("images:", "#images:"));
    scene.write("base/cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(0)));
    scene.repo.commit("run 1.0");
    scene.write("base/cart.yaml", &scene.workload("Deployment", "cart", &scene.tag(2)));
    edit(&scene, |text| text.replace("../../base", "https://example.com/base"));
    scene.repo.commit("an overlay that cannot be built");
    scene.repo.commit_file("unrelated.txt", "nothing of the overlay");
    runs_and_is_revoked(&scene).await;
    let history = scene.explains("Deployment", "prod-cart", "Held", "CVE-2026-0001").await;
    assert_eq!(history["status"]["releases"].as_array().unwrap().len(), 2, "{history}");
}

/// If this fails everything that a source says, its revocations among it, waits for builds of what it said long ago.
#[tokio::test(flavor = "multi_thread")]
async fn no_sync_waits_for_earlier_versions_of_overlays() {
    let rough = rough().await;
    rough.operator.kill();
    let gate = Gate::at(rough.plane.directory().join("slow-kustomize"), "gated");
    rough.operator.spawn_with_kustomize(&gate.program);
    rough.operator.ready().await;

    let scene = Scene::on(rough.plane, "slowlog").await;
    scene.file_approvals(0..2);
    // Builds are killed after 20 s: two of them leave a busy machine 40 s for what is not to wait.
    for gates in ["", "commonAnnotations: {a: gated}\n", "commonAnnotations: {b: gated}\n"] {
        put(&scene, 0);
        edit(&scene, |text| text + gates);
        scene.repo.commit("run 1.0");
    }
    put(&scene, 1);
    scene.push("run 1.1").await;
    scene.proven_at("Deployment", "prod-cart", &scene.pin(1)).await;
    gate.waits().await;
    scene.put("other.yaml", &scene.config_map("other", "1"));
    scene.push("one more").await;
    scene.stands("ConfigMap", "other", "/data/value", &json!("1")).await;
    scene.file_revocation(1, "CVE-2026-0001");
    scene.push("revoke 1.1").await;
    scene.explains("Deployment", "prod-cart", "NoSafeRelease", "CVE-2026-0001").await;

    gate.opens();
    scene.held_at("Deployment", "prod-cart", &scene.pin(0)).await;
    rough.operator.kill();
}
