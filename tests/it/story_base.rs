//! Images that are built on others: a base that is revoked takes everything back that is built on it.

use anyhow::ensure;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    controlplane::{ControlPlane, Options, eventually},
    support::{
        operator::{Operator, ROOT, install},
        registry::{Image, OciServer},
        scene::{SOON, Scene},
    },
};
use countersign::api::ApprovedImage;

/// An image that is approved.
struct Approved {
    name: &'static str,
    path: &'static str,
    tag: &'static str,
    role: &'static str,
    digest: String,
}

impl Approved {
    /// Pushes an image with these layers, the lowest first.
    fn push(
        registry: &OciServer,
        (name, path, tag): (&'static str, &'static str, &'static str),
        layers: &[&str],
    ) -> Self {
        let layers = layers.iter().map(|layer| layer.as_bytes().to_vec()).collect();
        let digest = registry.push_image(path, &Image { layers, ..Image::default() }).to_string();
        let role = if path.starts_with("base/") { "Base" } else { "Application" };
        Self { name, path, tag, role, digest }
    }

    fn image(&self, registry: &OciServer) -> String {
        format!("{}/{}:{}", registry.host, self.path, self.tag)
    }

    fn pin(&self, registry: &OciServer) -> String {
        format!("{}@{}", self.image(registry), self.digest)
    }

    fn file(&self, scene: &Scene, registry: &OciServer, revocation: Option<&str>) {
        let mut spec = json!({
            "image": format!("{}/{}", registry.host, self.path), "digest": self.digest, "tag": self.tag, "role": self.role,
        });
        if let Some(reason) = revocation {
            spec["revocation"] = json!({"reason": reason});
        }
        scene.put(
            &format!("{}.yaml", self.name),
            &json!({
                "apiVersion": "countersign.dev/v1alpha1", "kind": "ApprovedImage",
                "metadata": {"name": self.name, "namespace": ROOT}, "spec": spec,
            }),
        );
    }
}

/// Waits until the platforms of so many approved images stand in their statuses.
async fn looked_at(scene: &Scene, images: usize) {
    let approvals: Api<ApprovedImage> = Api::namespaced(scene.client.clone(), ROOT);
    eventually("all images were looked at", SOON, async || {
        let all = approvals.list(&ListParams::default()).await?.items;
        let known = |object: &&ApprovedImage| {
            let evidence = object.status.as_ref().and_then(|status| status.evidence.as_ref());
            evidence
                .and_then(|evidence| evidence.platforms.as_ref())
                .is_some_and(|all| !all[0].diff_ids.is_empty())
        };
        let unknown: Vec<String> =
            all.iter().filter(|object| !known(object)).map(ResourceExt::name_any).collect();
        ensure!(all.len() == images && unknown.is_empty(), "{} of {images}, unknown {unknown:?}", all.len());
        Ok(())
    })
    .await;
}

/// If this fails, a hole in a base image stays open in everything that is built on it until somebody has found it all.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_base_takes_back_everything_that_is_built_on_it_while_the_registry_is_away() {
    let plane = ControlPlane::start(Options::default()).unwrap();
    install(&plane).await;
    let registry = OciServer::start().await;
    let operator = Operator::new(&plane)
        .with("COUNTERSIGN_PLAIN_HTTP_REGISTRIES", &registry.host)
        .with("COUNTERSIGN_PRIVATE_REGISTRIES", "127.0.0.1");
    operator.restart().await;
    let scene = Scene::on(&plane, "base").await;
    let image = |name, layers: &[&str]| Approved::push(&registry, name, layers);
    let old_base = image(("base-12", "base/debian", "12"), &["debian 12"]);
    let new_base = image(("base-13", "base/debian", "13"), &["debian 13"]);
    let old = [
        image(("cart-0", "shop/cart", "1.0"), &["debian 12", "cart 0"]),
        image(("web-0", "shop/web", "1.0"), &["debian 12", "web 0"]),
    ];
    let new = [
        image(("cart-1", "shop/cart", "1.1"), &["debian 13", "runtime", "cart 1"]),
        image(("web-1", "shop/web", "1.1"), &["debian 13", "web 1"]),
    ];
    // The same layers in another order are another image.
    let other = image(("job-1", "shop/job", "1.1"), &["job 1", "debian 13"]);
    for approved in old.iter().chain(&new).chain([&old_base, &new_base, &other]) {
        approved.file(&scene, &registry, None);
    }
    let names = ["cart", "web"];
    let put = |name: &str, approved: &Approved| {
        scene.put(
            &format!("{name}.yaml"),
            &scene.object("Deployment", name, &approved.image(&registry), json!({})),
        );
    };
    put("job", &other);
    for release in [&old, &new] {
        for (name, approved) in names.iter().zip(release) {
            put(name, approved);
        }
        scene.push("a release").await;
        for (name, approved) in names.iter().zip(release) {
            scene.runs("Deployment", name, &approved.pin(&registry)).await;
            scene.proven("Deployment", name).await;
        }
    }
    looked_at(&scene, 7).await;

    // What is known outlives the process, and whoever knows it needs no registry.
    registry.off();
    operator.kill();
    operator.restart().await;
    new_base.file(&scene, &registry, Some("CVE-2026-0001"));
    scene.push("the base is revoked").await;
    for (name, approved) in names.iter().zip(&old) {
        scene.runs("Deployment", name, &approved.pin(&registry)).await;
        let why = scene.says("Deployment", name, "Held").await;
        assert!(why.contains("1.1"), "{why}");
    }
    let job = scene.images("Deployment", "job").await.unwrap();
    assert_eq!(job, [other.pin(&registry)], "it is not built on that base");
}
