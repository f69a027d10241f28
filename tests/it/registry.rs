//! Reading from the real registry.

use countersign::{
    adapters::registry::{Error, Keychain, Registry, Settings},
    domain::{image::Digest, registry::Manifest},
};
use serde_json::{Value, json};

use crate::support::{
    distribution::{Distribution, LOGIN},
    registry::{CONFIG, EMPTY, INDEX, LAYER, MANIFEST, keychain},
};

const PATH: &str = "shop/cart";

fn registry(server: &Distribution) -> Registry {
    let settings = Settings {
        plain_http: [server.host.clone()].into(),
        private: "127.0.0.1".parse().unwrap(),
        ..Settings::default()
    };
    Registry::new(settings).unwrap()
}

fn ada(scope: &str, password: &str) -> Keychain {
    keychain(scope, LOGIN.0, password)
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// An image of one layer under a tag.
async fn push_image(server: &Distribution, tag: &str, architecture: &str) -> (Digest, usize) {
    let layer = server.push_blob(PATH, architecture.as_bytes()).await;
    let config = json!({
        "os": "linux",
        "architecture": architecture,
        "created": "2026-11-20T09:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    })
    .to_string();
    let digest = server.push_blob(PATH, config.as_bytes()).await;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &digest, config.len()),
        "layers": [descriptor(LAYER, &layer, architecture.len())],
    });
    (server.push_manifest(PATH, tag, &manifest).await, manifest.to_string().len())
}

/// If this fails, what is read here is not what clients of a real registry read.
#[tokio::test]
async fn images_and_what_refers_to_them_are_read_without_a_referrers_api() {
    let server = Distribution::start(false).await;
    let (registry, repository, none) = (registry(&server), server.repository(PATH), Keychain::default());
    let (amd, amd_size) = push_image(&server, "amd", "amd64").await;
    let (arm, arm_size) = push_image(&server, "arm", "arm64").await;
    let platform = |mut descriptor: Value, architecture: &str| {
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    };
    let manifests = [
        platform(descriptor(MANIFEST, &amd, amd_size), "amd64"),
        platform(descriptor(MANIFEST, &arm, arm_size), "arm64"),
    ];
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let index_digest = server.push_manifest(PATH, "1.0", &index).await;

    let resolved = registry.resolve(&format!("{repository}:1.0").parse().unwrap(), &none).await.unwrap();
    assert_eq!(resolved, index_digest);
    let platforms = registry.platforms(&repository, &resolved, &none).await.unwrap();
    let names: Vec<&str> = platforms.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    assert!(platforms.apart.is_empty());

    for reference in [format!("{repository}:2.0"), server.repository("shop/other").to_string()] {
        let absent = registry.resolve(&reference.parse().unwrap(), &none).await.unwrap_err();
        assert!(absent.is_absent() && absent.to_string().contains("UNKNOWN"), "{absent}");
    }
    let unknown: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    assert!(registry.manifest(&repository, &unknown, &none).await.unwrap_err().is_absent());
    assert!(registry.blob(&repository, &unknown, 9, &none).await.unwrap_err().is_absent());

    assert!(registry.referrers(&repository, &index_digest, None, &none).await.unwrap().is_empty());
    let (empty, signed) = (server.push_blob(PATH, b"{}").await, server.push_blob(PATH, b"signed").await);
    let bundle = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x.bundle",
        "config": descriptor(EMPTY, &empty, 2),
        "layers": [descriptor("application/x.bundle", &signed, 6)],
        "subject": descriptor(INDEX, &index_digest, index.to_string().len()),
    });
    let bundle_digest = server.push_manifest(PATH, "bundle", &bundle).await;
    let mut entry = descriptor(MANIFEST, &bundle_digest, bundle.to_string().len());
    entry["artifactType"] = json!("application/x.bundle");
    let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    let tag = index_digest.as_str().replace(':', "-");
    server.push_manifest(PATH, &tag, &list).await;
    let found =
        registry.referrers(&repository, &index_digest, Some("application/x.bundle"), &none).await.unwrap();
    assert_eq!(found.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&bundle_digest]);
    assert!(
        registry
            .referrers(&repository, &index_digest, Some("application/x"), &none)
            .await
            .unwrap()
            .is_empty()
    );
    let image = registry.referrer(&repository, &index_digest, &found[0], &none).await.unwrap();
    assert_eq!(registry.blob(&repository, &image.layers[0].digest, 6, &none).await.unwrap(), b"signed");
    let other = registry.referrer(&repository, &amd, &found[0], &none).await.unwrap_err();
    assert!(other.to_string().contains("not about"), "{other}");

    let sig = format!("{tag}.sig");
    let absent = registry.tagged(&repository, &sig.parse().unwrap(), &none).await.unwrap_err();
    assert!(absent.is_absent(), "{absent}");
    server.push_manifest(PATH, &sig, &bundle).await;
    let (digest, manifest) = registry.tagged(&repository, &sig.parse().unwrap(), &none).await.unwrap();
    assert!(digest == bundle_digest && matches!(manifest, Manifest::Image(_)));
}

/// If this fails, a private image is taken for one that is not there, or for one without signatures.
#[tokio::test]
async fn a_private_registry_wants_the_credentials_that_are_for_it() {
    let server = Distribution::start(true).await;
    let (registry, repository) = (registry(&server), server.repository(PATH));
    let (digest, _) = push_image(&server, "1.0", "amd64").await;
    let reference = format!("{repository}:1.0").parse().unwrap();
    for (keychain, says) in [
        (Keychain::default(), "name a pull secret"),
        (ada(&server.host, "wrong"), "apps/pull"),
        (ada("127.0.0.1", LOGIN.1), "name a pull secret"),
        (ada(&format!("{}/other", server.host), LOGIN.1), "name a pull secret"),
    ] {
        for told in [
            registry.resolve(&reference, &keychain).await.map(drop).unwrap_err(),
            registry.referrers(&repository, &digest, None, &keychain).await.map(drop).unwrap_err(),
        ] {
            let text = told.to_string();
            assert!(matches!(told, Error::Forbidden { .. }) && text.contains(says), "{text}");
            assert!(!text.contains("wrong") && !text.contains(LOGIN.1), "{text}");
        }
    }
    let right = ada(&format!("{}/shop", server.host), LOGIN.1);
    assert_eq!(registry.resolve(&reference, &right).await.unwrap(), digest);
    assert!(registry.referrers(&repository, &digest, None, &right).await.unwrap().is_empty());
    // What one was let in with opens nothing for another.
    assert!(registry.resolve(&reference, &Keychain::default()).await.is_err());
}
