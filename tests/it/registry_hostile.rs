//! Reading from registries that are honest, broken or hostile, in this process.

use countersign::{
    adapters::registry::{Error, Keychain, Registry, Settings},
    domain::image::Digest,
};

use crate::support::registry::{Image, OciServer};

const PATH: &str = "shop/cart";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn settings(servers: &[&OciServer]) -> Settings {
    Settings {
        ca: servers.iter().filter_map(|server| server.ca.clone()).collect(),
        plain_http: servers
            .iter()
            .filter(|server| server.ca.is_none())
            .map(|server| server.host.clone())
            .collect(),
        private: "127.0.0.1,localhost".parse().unwrap(),
        ..Settings::default()
    }
}

fn registry(servers: &[&OciServer]) -> Registry {
    Registry::new(settings(servers)).unwrap()
}

fn nobody() -> Keychain {
    Keychain::default()
}

/// If this fails, the tests' registry is not what the others stand on, or is not read as it is.
#[tokio::test]
async fn what_is_pushed_is_read() {
    for server in [OciServer::start().await, OciServer::start_tls().await] {
        let repository = server.repository(PATH);
        let amd = server.push_image(PATH, &Image::default());
        let layers = vec![b"layer".to_vec(), b"another".to_vec()];
        let arm = server.push_image(PATH, &Image { architecture: "arm64", layers, ..Image::default() });
        let index =
            server.push_index(PATH, &[(amd.clone(), "linux", "amd64"), (arm.clone(), "linux", "arm64")]);
        server.tag(PATH, "1.0", &index);
        let bundle = server.attach(PATH, &index, BUNDLE, BUNDLE, b"signed");
        let registry = registry(&[&server]);
        let none = nobody();

        let reference = format!("{repository}:1.0").parse().unwrap();
        assert_eq!(registry.resolve(&reference, &none).await.unwrap(), index);
        let platforms = registry.platforms(&repository, &index, &none).await.unwrap();
        let names: Vec<(&str, &Digest, usize)> = platforms
            .images
            .iter()
            .map(|image| (image.name.as_str(), &image.manifest, image.diff_ids.len()))
            .collect();
        assert_eq!(names, [("linux/amd64", &amd, 1), ("linux/arm64", &arm, 2)]);
        let found = registry.referrers(&repository, &index, Some(BUNDLE), &none).await.unwrap();
        assert_eq!(found.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&bundle]);
        let manifest = registry.referrer(&repository, &index, &found[0], &none).await.unwrap();
        let blob = &manifest.layers[0];
        assert_eq!(registry.blob(&repository, &blob.digest, 100, &none).await.unwrap(), b"signed");
        assert!(registry.referrers(&repository, &amd, None, &none).await.unwrap().is_empty());
        let absent = format!("{repository}:2.0").parse().unwrap();
        assert!(registry.resolve(&absent, &none).await.unwrap_err().is_absent());
        assert!(server.seen().iter().all(|seen| {
            seen.headers["user-agent"].to_str().unwrap().starts_with("countersign/")
                && seen.authorization().is_empty()
        }));

        server.off();
        let away = registry.resolve(&reference, &none).await.unwrap_err();
        assert!(matches!(away, Error::Unavailable { .. }), "{away}");
        server.on();
        assert_eq!(registry.resolve(&reference, &none).await.unwrap(), index);
    }
}
