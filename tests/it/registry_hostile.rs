//! Reading from registries that are honest, broken or hostile, in this process.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use countersign::{
    adapters::registry::{Bounds, Error, Keychain, Registry, Settings},
    domain::image::{Digest, ImageRef, Repository},
};
use futures::stream;
use serde_json::json;

use crate::support::registry::{INDEX, Image, MANIFEST, OciServer, answer, digest_of, refusal, settings};

const PATH: &str = "shop/cart";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

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

fn reference(repository: &Repository, tag: &str) -> ImageRef {
    format!("{repository}:{tag}").parse().unwrap()
}

#[track_caller]
fn invalid<T: std::fmt::Debug>(read: Result<T, Error>, says: &str) {
    let error = read.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Invalid { .. }) && text.contains(says), "{text}");
}

/// An honest registry with one image under the tag `1.0`.
async fn with_image() -> (OciServer, Repository, Digest) {
    let server = OciServer::start().await;
    let digest = server.push_image(PATH, &Image::default());
    server.tag(PATH, "1.0", &digest);
    let repository = server.repository(PATH);
    (server, repository, digest)
}

/// A body without an end, and how many bytes of it were taken.
fn endless(taken: &Arc<AtomicUsize>) -> Body {
    let taken = Arc::clone(taken);
    let chunks = stream::repeat_with(move || {
        taken.fetch_add(64 << 10, Ordering::SeqCst);
        Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 64 << 10]))
    });
    Body::from_stream(chunks)
}

/// CVE-2023-47630, CVE-2022-47633: what is approved is another image than what runs.
#[tokio::test]
async fn what_a_digest_names_has_that_digest_whatever_headers_say() {
    let (server, repository, digest) = with_image().await;
    let (registry, none) = (registry(&[&server]), nobody());
    let other = server.push_image(PATH, &Image { layers: vec![b"evil".to_vec()], ..Image::default() });
    let evil = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).to_string();
    let evil_digest = digest_of(evil.as_bytes());
    for lie in
        [digest.to_string(), other.to_string(), format!("sha512:{}", "0".repeat(128)), "nonsense".to_owned()]
    {
        let (evil, lie) = (evil.clone(), lie.clone());
        server.hook(move |seen| {
            seen.path.contains("/manifests/").then(|| {
                let mut answer = answer(200, INDEX, evil.clone());
                answer.headers_mut().insert("docker-content-digest", lie.parse().unwrap());
                answer
            })
        });
        invalid(registry.manifest(&repository, &digest, &none).await, "another digest");
        invalid(registry.platforms(&repository, &digest, &none).await, "another digest");
        assert_eq!(registry.resolve(&reference(&repository, "1.0"), &none).await.unwrap(), evil_digest);
    }
    server
        .hook(|seen| seen.path.contains("/blobs/").then(|| answer(200, "application/octet-stream", "evil")));
    invalid(registry.platforms(&repository, &digest, &none).await, "another digest");
    invalid(registry.blob(&repository, &digest_of(b"layer"), 100, &none).await, "another digest");
    // Another image with every request: what was resolved is what is read, or nothing.
    let times = AtomicUsize::new(0);
    let manifests = [digest.clone(), other.clone()];
    let base = server.base();
    server.hook(move |seen| {
        let to = seen
            .path
            .ends_with("/manifests/1.0")
            .then(|| &manifests[times.fetch_add(1, Ordering::SeqCst) % 2])?;
        let mut answer = answer(307, "text/plain", "");
        let to = format!("{base}/v2/{PATH}/manifests/{to}");
        answer.headers_mut().insert("location", to.parse().unwrap());
        Some(answer)
    });
    let mut resolved = BTreeSet::new();
    for _ in 0..4 {
        let now = registry.resolve(&reference(&repository, "1.0"), &none).await.unwrap();
        assert_eq!(registry.platforms(&repository, &now, &none).await.unwrap().images[0].manifest, now);
        resolved.insert(now);
    }
    assert_eq!(resolved, [digest, other].into());
}

/// CVE-2021-41190, over the wire.
#[tokio::test]
async fn what_could_be_read_in_two_ways_is_refused() {
    let (server, repository, digest) = with_image().await;
    let (registry, none) = (registry(&[&server]), nobody());
    let entry = server.descriptor(PATH, &digest);
    let both =
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "layers": [], "config": entry});
    let twice = format!("{{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[{entry}]}}");
    let honest = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string();
    for (bytes, served, says) in [
        (both.to_string(), INDEX, "beside"),
        (twice, INDEX, "twice"),
        (honest.clone(), MANIFEST, "served as"),
        (honest.clone(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "served as"),
        (honest.replace("manifests", "Manifests"), INDEX, "some readers"),
    ] {
        let pushed = server.push_raw(PATH, served, bytes.as_bytes());
        server.tag(PATH, "odd", &pushed);
        invalid(registry.resolve(&reference(&repository, "odd"), &none).await, says);
        invalid(registry.manifest(&repository, &pushed, &none).await, says);
        invalid(registry.platforms(&repository, &pushed, &none).await, says);
    }
    let page = server.push_raw(PATH, "text/html", honest.as_bytes());
    assert!(registry.manifest(&repository, &page, &none).await.is_err());
}

/// CVE-2023-46737 and others: one image takes the memory, or the time, of all.
#[tokio::test]
async fn bodies_without_an_end_end_and_others_do_not_wait_for_them() {
    let (good, repository, digest) = with_image().await;
    let (bad, bad_repository, _) = with_image().await;
    let taken = Arc::new(AtomicUsize::new(0));
    let (manifests, blobs) = (Arc::clone(&taken), Arc::clone(&taken));
    bad.hook(move |seen| {
        if seen.path.contains("/blobs/") {
            return Some(answer(200, "application/octet-stream", endless(&blobs)));
        }
        Some(answer(200, INDEX, endless(&manifests)))
    });
    let bounds = Bounds { total: Duration::from_secs(3), document_bytes: 1 << 20, ..Bounds::default() };
    let made = Registry::new(Settings { bounds, ..settings(&[&good, &bad]) }).unwrap();
    let none = nobody();
    invalid(made.resolve(&reference(&bad_repository, "1.0"), &none).await, "more than 1048576 bytes");
    invalid(made.manifest(&bad_repository, &digest, &none).await, "more than 1048576 bytes");
    invalid(made.referrers(&bad_repository, &digest, None, &none).await, "more than 1048576 bytes");
    invalid(made.blob(&bad_repository, &digest, 5_000, &none).await, "more than 5000 bytes");
    // What is under way in buffers of the system comes on top.
    let read = taken.load(Ordering::SeqCst);
    assert!(read < 4 * (8 << 20), "{read} bytes were taken");
    // A length that is said is believed before anything is read.
    bad.hook(|_| {
        let mut said =
            answer(200, INDEX, Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()));
        said.headers_mut().insert("content-length", "1048577".parse().unwrap());
        Some(said)
    });
    invalid(made.manifest(&bad_repository, &digest, &none).await, "more than 1048576 bytes");

    // Nothing at all, to the question or behind the first words.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("127.0.0.1:{}", silent.local_addr().unwrap().port());
    let mut patient = settings(&[&bad]);
    patient.plain_http.insert(host.clone());
    patient.bounds.read = Duration::from_millis(200);
    let patient = Registry::new(patient).unwrap();
    bad.hook(|_| {
        let never = stream::pending::<Result<Bytes, std::io::Error>>();
        Some(answer(200, INDEX, Body::from_stream(never)))
    });
    for repository in [format!("{host}/{PATH}").parse().unwrap(), bad_repository.clone()] {
        let began = Instant::now();
        let error = patient.manifest(&repository, &digest, &none).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    // Slowly, and never.
    for slow in [false, true] {
        bad.hook(move |_| {
            let never = stream::pending::<Result<Bytes, std::io::Error>>();
            if !slow {
                return Some(answer(200, INDEX, Body::from_stream(never)));
            }
            let ticks =
                stream::unfold(tokio::time::interval(Duration::from_millis(50)), async |mut clock| {
                    clock.tick().await;
                    Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), clock))
                });
            Some(answer(200, INDEX, Body::from_stream(ticks)))
        });
        let began = Instant::now();
        let waiting = (0..20).map(|_| made.manifest(&bad_repository, &digest, &none));
        let waiting = futures::future::join_all(waiting);
        let others = async {
            for _ in 0..20 {
                made.platforms(&repository, &digest, &none).await.unwrap();
            }
            began.elapsed()
        };
        let (slow_ones, others) = tokio::join!(waiting, others);
        assert!(others < Duration::from_secs(2), "others took {others:?}");
        for slow_one in slow_ones {
            let error = slow_one.unwrap_err();
            assert!(
                matches!(error, Error::Unavailable { .. }) && error.to_string().contains("within 3 s"),
                "{error}"
            );
        }
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

/// CVE-2024-29902, CVE-2024-45395: whoever may push floods, and what was looked for is not found.
#[tokio::test]
async fn ten_thousand_referrers_hide_nothing_and_are_not_all_kept() {
    let (server, repository, digest) = with_image().await;
    let (registry, none) = (registry(&[&server]), nobody());
    for n in 0..10_000 {
        server.attach(PATH, &digest, "application/x.flood", "application/x", format!("{n}").as_bytes());
    }
    let ours = server.attach(PATH, &digest, BUNDLE, BUNDLE, b"signed");
    server.page(1_000);
    let find = async || registry.referrers(&repository, &digest, Some(BUNDLE), &none).await.unwrap();
    assert_eq!(find().await.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&ours]);
    assert_eq!(server.count("/referrers/"), 1, "the registry filters");
    invalid(registry.referrers(&repository, &digest, None, &none).await, "more than 1000 of this type");
    invalid(
        registry.referrers(&repository, &digest, Some("application/x.flood"), &none).await,
        "more than 1000",
    );

    // The registry does not filter, whatever it says.
    let pages: Vec<String> = flood(&server, &digest, &ours);
    server.hook(move |seen| {
        let rest = seen.path.split_once("/referrers/")?.1;
        let page: usize = seen.query.strip_prefix("page=").map_or(0, |page| page.parse().unwrap());
        let mut listed = answer(200, INDEX, pages[page].clone());
        listed.headers_mut().insert("oci-filters-applied", "artifactType".parse().unwrap());
        if page + 1 < pages.len() {
            let link = format!("</v2/{PATH}/referrers/{rest}?page={}>; rel=next", page + 1);
            listed.headers_mut().insert("link", link.parse().unwrap());
        }
        Some(listed)
    });
    server.forget_seen();
    assert_eq!(find().await.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&ours]);
    assert_eq!(server.count("/referrers/"), 11);
}

/// Eleven pages, and what is looked for on the last.
fn flood(server: &OciServer, digest: &Digest, ours: &Digest) -> Vec<String> {
    let page = |entries: Vec<serde_json::Value>| {
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string()
    };
    let mut other = server.descriptor(PATH, digest);
    other["artifactType"] = json!("application/x.flood");
    let mut wanted = server.descriptor(PATH, ours);
    wanted["artifactType"] = json!(BUNDLE);
    let mut pages = vec![page(vec![other; 1_000]); 10];
    pages.push(page(vec![wanted.clone(), wanted]));
    pages
}

#[tokio::test]
async fn pages_end() {
    let (server, repository, digest) = with_image().await;
    let elsewhere = OciServer::start().await;
    let made = Registry::new(Settings {
        bounds: Bounds { pages: 7, listed: 100, ..Bounds::default() },
        ..settings(&[&server, &elsewhere])
    })
    .unwrap();
    let none = nobody();
    let list = async || made.referrers(&repository, &digest, None, &none).await;
    for (says, asked, entries, next) in [
        ("more than 7 pages", 7, 1, "?n="),
        ("more than 100", 2, 60, "?n="),
        ("circle", 2, 1, "?again"),
        ("somewhere else", 1, 1, "/v2/shop/other/referrers/x?n=1"),
        ("somewhere else", 1, 1, "ELSEWHERE"),
        ("somewhere else", 1, 1, "http://["),
    ] {
        let index = {
            let mut entry = server.descriptor(PATH, &digest);
            entry["artifactType"] = json!("application/x");
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": vec![entry; entries]}).to_string()
        };
        let (times, other) = (AtomicUsize::new(0), elsewhere.base());
        let next = next.to_owned();
        server.forget_seen();
        server.hook(move |seen| {
            let n = times.fetch_add(1, Ordering::SeqCst);
            let next = match next.as_str() {
                "ELSEWHERE" => format!("{other}{}?n=1", seen.path),
                "?n=" => format!("{}?n={n}", seen.path),
                "?again" => format!("{}?again", seen.path),
                next => next.to_owned(),
            };
            let mut listed = answer(200, INDEX, index.clone());
            listed.headers_mut().insert("link", format!("<{next}>; rel=\"next\"").parse().unwrap());
            Some(listed)
        });
        invalid(list().await, says);
        assert_eq!(server.seen().len(), asked, "{says}");
    }
    assert!(elsewhere.seen().is_empty());
}

/// If this fails, signatures are missed in registries that know only tags, or an odd tag makes an image one without.
#[tokio::test]
async fn where_there_is_no_referrers_api_a_tag_stands_for_it() {
    let (server, repository, digest) = with_image().await;
    server.without_referrers();
    let (registry, none) = (registry(&[&server]), nobody());
    let list = async |kind: Option<&'static str>| registry.referrers(&repository, &digest, kind, &none).await;
    assert!(list(None).await.unwrap().is_empty());
    let tag = digest.as_str().replace(':', "-");
    let ours = server.attach(PATH, &digest, BUNDLE, BUNDLE, b"signed");
    let mut entry = server.descriptor(PATH, &ours);
    let index = |entries: Vec<serde_json::Value>| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    server.tag(PATH, &tag, &server.push_manifest(PATH, &index(vec![entry.clone()])));
    assert_eq!(list(None).await.unwrap()[0].digest, ours);
    assert!(list(Some(BUNDLE)).await.unwrap().is_empty(), "the list does not say what it is");
    entry["artifactType"] = json!(BUNDLE);
    server.tag(PATH, &tag, &server.push_manifest(PATH, &index(vec![entry.clone(), entry.clone()])));
    assert_eq!(list(Some(BUNDLE)).await.unwrap().len(), 1);
    let many: Vec<_> = (0..1_001)
        .map(|n| {
            let mut other = entry.clone();
            other["digest"] = json!(digest_of(format!("{n}").as_bytes()));
            other
        })
        .collect();
    server.tag(PATH, &tag, &server.push_manifest(PATH, &index(many)));
    invalid(list(Some(BUNDLE)).await, "more than 1000");
    server.tag(PATH, &tag, &digest);
    invalid(list(None).await, "with an image");
    for status in [400, 405, 406, 501] {
        server.remove(PATH, &tag);
        server.hook(move |seen| seen.path.contains("/referrers/").then(|| refusal(status, "UNSUPPORTED")));
        assert!(list(None).await.unwrap().is_empty());
        server.tag(PATH, &tag, &digest);
    }
}

/// If this fails, a part of what a digest stands for is taken for all of it.
#[tokio::test]
async fn the_platforms_of_an_index_are_all_of_them_or_none() {
    let (server, repository, amd) = with_image().await;
    let (registry, none) = (registry(&[&server]), nobody());
    let read = async |entries: Vec<serde_json::Value>| {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
        let index = server.push_manifest(PATH, &index);
        registry.platforms(&repository, &index, &none).await
    };
    let of = |digest: &Digest| server.descriptor(PATH, digest);
    let arm = server.push_image(PATH, &Image { architecture: "arm64", ..Image::default() });
    let artifact = server.attach(PATH, &amd, BUNDLE, BUNDLE, b"signed");
    let inner = server.push_index(PATH, &[(arm.clone(), "linux", "arm64")]);
    let mut attestation = of(&artifact);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let mut hidden = of(&arm);
    hidden["platform"] = attestation["platform"].clone();
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut chart = of(&artifact);
    chart["mediaType"] = json!("application/x.chart");

    let entries = vec![of(&amd), attestation.clone(), of(&artifact), chart.clone(), of(&inner), of(&amd)];
    let platforms = read(entries).await.unwrap();
    let names: Vec<&str> = platforms.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    // One digest is listed once.
    assert_eq!(platforms.apart.len(), 1);
    let platforms = read(vec![hidden]).await.unwrap();
    assert_eq!(platforms.images[0].manifest, arm, "nobody hides by saying that it is unknown");

    let mut resized = of(&arm);
    resized["size"] = json!(1);
    invalid(read(vec![of(&amd), resized]).await, "where it is referred to");
    let mut renamed = of(&arm);
    renamed["mediaType"] = json!(INDEX);
    invalid(read(vec![renamed]).await, "not what the index calls it");
    let deep = (0..3).fold(inner.clone(), |inner, n| {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [of(&inner)], "annotations": {"n": format!("{n}")}});
        server.push_manifest(PATH, &index)
    });
    invalid(read(vec![of(&deep)]).await, "deep");
    let many = (0..201).map(|n| {
        let mut other = chart.clone();
        other["digest"] = json!(digest_of(format!("{n}").as_bytes()));
        other
    });
    invalid(read(many.collect()).await, "more than 200");
    invalid(registry.platforms(&repository, &artifact, &none).await, "no container image");

    let config =
        json!({"os": "linux", "architecture": "s390x", "rootfs": {"type": "layers", "diff_ids": []}})
            .to_string();
    let blob = server.push_blob(PATH, config.as_bytes());
    let layer = json!({"mediaType": "application/x", "digest": blob, "size": 1});
    let short = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": crate::support::registry::CONFIG, "digest": blob, "size": config.len()},
        "layers": [layer],
    });
    let short = server.push_manifest(PATH, &short);
    invalid(read(vec![of(&short)]).await, "1 layers, and its config 0");

    let both = vec![of(&amd), of(&arm)];
    assert_eq!(read(both.clone()).await.unwrap().images.len(), 2);
    server.remove(PATH, arm.as_str());
    let absent = read(both).await.unwrap_err();
    assert!(absent.is_absent(), "{absent}");
}
