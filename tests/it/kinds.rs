//! What the kinds accept and refuse: `tests/fixtures/kinds`, one case in each file.
//!
//! `good` and `bad` hold one object; `good-updates` and `bad-updates` an object and the one that is to follow it. A bad
//! case says with `# expect:` lines what is told about it.

use std::{fs, path::Path};

use countersign::api::{
    self, ApprovedImage, GitSource, ImagePolicy, ReleaseHistory, check_strict, check_update, read_strict,
};
use kube::CustomResourceExt;
use serde_json::Value;

struct Case {
    name: String,
    expect: Vec<String>,
    documents: Vec<Value>,
}

fn cases(directory: &str) -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kinds").join(directory);
    let mut cases: Vec<Case> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            Case {
                name: path.file_stem().unwrap().to_string_lossy().into_owned(),
                expect: text
                    .lines()
                    .filter_map(|line| line.strip_prefix("# expect: "))
                    .map(str::to_owned)
                    .collect(),
                documents: serde_saphyr::from_multiple(&text).unwrap(),
            }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!cases.is_empty(), "{}", directory.display());
    cases
}

fn assert_refused(case: &Case, result: Result<(), api::Invalid>) {
    let problems = result.expect_err(&case.name).problems;
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(
        told.len() == case.expect.len()
            && case.expect.iter().zip(&told).all(|(expected, told)| told.starts_with(expected)),
        "{}: expected {:#?}, told {told:#?}",
        case.name,
        case.expect
    );
}

/// Reads an object as its kind and writes it again.
fn round_trip(value: &Value) -> Value {
    let written = match value["kind"].as_str().unwrap() {
        "ApprovedImage" => serde_json::to_value(read_strict::<ApprovedImage>(value).unwrap()),
        "GitSource" => serde_json::to_value(read_strict::<GitSource>(value).unwrap()),
        "ImagePolicy" => serde_json::to_value(read_strict::<ImagePolicy>(value).unwrap()),
        "ReleaseHistory" => serde_json::to_value(read_strict::<ReleaseHistory>(value).unwrap()),
        other => panic!("{other}"),
    };
    written.unwrap()
}

/// A valid approval or policy in git is refused.
#[test]
fn good_objects_are_read() {
    for case in cases("good") {
        for document in &case.documents {
            check_strict(document).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        }
    }
}

/// What is written by us is refused, or means something else, when it is read again.
#[test]
fn what_is_written_reads_back_the_same() {
    for case in cases("good") {
        for document in &case.documents {
            let written = round_trip(document);
            assert_eq!(round_trip(&written), written, "{}", case.name);
        }
    }
}

/// A mistake in git is taken for a decision.
#[test]
fn bad_objects_are_refused_with_the_path_of_what_is_wrong() {
    for case in cases("bad") {
        assert_refused(&case, check_strict(&case.documents[0]));
    }
}

/// A correction is refused.
#[test]
fn good_updates_are_let_through() {
    for case in cases("good-updates") {
        check_update(&case.documents[1], &case.documents[0])
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
}

/// A revocation is taken back, or an approval comes to stand for another digest.
#[test]
fn bad_updates_are_refused() {
    for case in cases("bad-updates") {
        assert_refused(&case, check_update(&case.documents[1], &case.documents[0]));
    }
}

/// A rule is there that no case ever breaks.
#[test]
fn every_rule_is_broken_by_a_case() {
    let expected: Vec<String> =
        ["bad", "bad-updates"].into_iter().flat_map(cases).flat_map(|case| case.expect).collect();
    for crd in [ApprovedImage::crd(), GitSource::crd(), ImagePolicy::crd(), ReleaseHistory::crd()] {
        let mut messages = Vec::new();
        rule_messages(&serde_json::to_value(&crd).unwrap(), &mut messages);
        for message in messages {
            assert!(
                expected.iter().any(|told| told.ends_with(&message)),
                "{:?}: {message}",
                crd.metadata.name
            );
        }
    }
}

fn rule_messages(value: &Value, found: &mut Vec<String>) {
    if let Some(rules) = value.get("x-kubernetes-validations").and_then(Value::as_array) {
        found.extend(rules.iter().map(|rule| rule["message"].as_str().unwrap().to_owned()));
    }
    match value {
        Value::Object(object) => object.values().for_each(|value| rule_messages(value, found)),
        Value::Array(items) => items.iter().for_each(|value| rule_messages(value, found)),
        _ => {}
    }
}

/// The API server refuses a definition for what its rules could cost, or `kubectl explain` says nothing about a field.
#[test]
fn everything_is_bounded_and_described() {
    for crd in api::crds() {
        let name = crd.metadata.name.clone().unwrap();
        let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        assert_bounded(&schema["openAPIV3Schema"], &name);
    }
}

fn assert_bounded(schema: &Value, path: &str) {
    assert!(schema.get("nullable").is_none(), "{path} may be null");
    let has = |bound: &str| schema.get(bound).is_some();
    match schema["type"].as_str() {
        Some("string") => assert!(
            has("maxLength") || has("enum") || schema["format"] == "date-time",
            "{path} has no maxLength"
        ),
        Some("array") => {
            assert!(has("maxItems"), "{path} has no maxItems");
            assert!(has("x-kubernetes-list-type"), "{path} has no list type");
            assert_bounded(&schema["items"], &format!("{path}[]"));
        }
        Some("object") => {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                assert!(
                    property.get("description").is_some() || name == "metadata",
                    "{path} has no description"
                );
                assert_bounded(property, &path);
            }
            if let Some(values) = schema.get("additionalProperties") {
                assert!(has("maxProperties"), "{path} has no maxProperties");
                assert_bounded(values, &format!("{path}.*"));
            }
        }
        Some("integer" | "boolean") => {}
        other => panic!("{path} is of type {other:?}"),
    }
}

/// A field that a newer version stored makes the operator blind for an object.
#[test]
fn reading_from_the_api_server_passes_over_unknown_fields() {
    let mut object = cases("good").remove(0).documents.remove(0);
    object["spec"]["fromTheFuture"] = true.into();
    assert!(read_strict::<ApprovedImage>(&object).is_err());
    assert!(serde_json::from_value::<ApprovedImage>(object).is_ok());
}

/// A policy in a tenant's namespace sets what only the root namespace may.
#[test]
fn fields_for_the_root_namespace_are_named() {
    let policy = |name: &str| -> ImagePolicy {
        let case = cases("good").into_iter().find(|case| case.name == name).unwrap();
        read_strict(&case.documents[0]).unwrap()
    };
    assert!(policy("image-policy-minimal").root_only_fields().is_empty());
    assert_eq!(
        policy("image-policy-full").root_only_fields(),
        ["spec.match.namespaceSelector", "spec.match.exclude", "spec.rollback", "spec.admission"]
    );
}

/// The offline check is only worth something if the API server says the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_accepts_and_refuses_the_same_as_the_offline_check() {
    let plane = crate::support::scene::shared_plane().await;
    let namespace = plane.namespace("kinds").await;
    let api = |object: &Value| {
        let resource = api::crds()
            .into_iter()
            .find(|crd| crd.spec.names.kind == object["kind"].as_str().unwrap())
            .map(|crd| {
                let gvk = kube::core::GroupVersionKind::gvk(api::GROUP, api::VERSION, &crd.spec.names.kind);
                kube::core::ApiResource::from_gvk_with_plural(&gvk, &crd.spec.names.plural)
            })
            .unwrap();
        kube::Api::<kube::core::DynamicObject>::namespaced_with(plane.client(), &namespace, &resource)
    };
    let here = |object: &Value| {
        let mut object = object.clone();
        object["metadata"]["namespace"] = namespace.as_str().into();
        serde_json::from_value::<kube::core::DynamicObject>(object).unwrap()
    };
    let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
    for case in cases("good") {
        let object = &case.documents[0];
        let answer = api(object).create(&dry, &here(object)).await;
        answer.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
    // Unknown fields and nulls are dropped in silence by the API server unless a client asks for strictness.
    for case in cases("bad") {
        let object = &case.documents[0];
        let unknown =
            case.expect.iter().all(|expect| expect.contains("unknown field") || expect.contains("null"));
        let answer = api(object).create(&dry, &here(object)).await;
        assert!(unknown || answer.is_err(), "{} is accepted by the API server", case.name);
    }
    for (directory, good) in [("good-updates", true), ("bad-updates", false)] {
        for case in cases(directory) {
            let (old, mut new) = (here(&case.documents[0]), here(&case.documents[1]));
            let name = old.metadata.name.clone().unwrap();
            let api = api(&case.documents[0]);
            api.create(&Default::default(), &old).await.unwrap();
            // The operator writes to it, too: an answer that is only about the version says nothing.
            let answer = loop {
                new.metadata.resource_version = api.get(&name).await.unwrap().metadata.resource_version;
                match api.replace(&name, &dry, &new).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    answer => break answer,
                }
            };
            assert_eq!(answer.is_ok(), good, "{}: {answer:?}", case.name);
            // A revoked approval is kept by a finalizer; the others go.
            let _ = api.delete(&name, &Default::default()).await;
        }
    }
}
