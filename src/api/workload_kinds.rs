//! The file that adds workload kinds (`--workload-kinds`). It is written like an object, but never
//! stored in a cluster.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::domain::{
    manifest::{Limits, documents},
    pods::is_label_word,
    workload::{Check, Kind, NewestPods, Path, Progress, Proof},
};

/// Kinds of one file, at most.
const KINDS: usize = 32;
/// Checks of one list, at most.
const CHECKS: usize = 16;
/// Parts of one path, at most.
const PARTS: usize = 12;
/// Characters of the path of a template, at most.
const TEMPLATE: usize = 100;
/// The size of the file, at most.
const BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    kinds: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Row {
    api_version: String,
    kind: String,
    plural: String,
    template: String,
    rollout: Rollout,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rollout {
    complete: Vec<Said>,
    #[serde(default)]
    failed: Vec<Said>,
    newest_pods: Option<Newest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Newest {
    label: String,
    equals: Option<String>,
    suffix_of: Option<String>,
    #[serde(default)]
    refused: Vec<Said>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Said {
    condition: Option<String>,
    field: Option<String>,
    is: Option<String>,
    equals: Option<String>,
}

/// Reads the kinds of a file.
///
/// # Errors
/// What is wrong with it, where, and what was expected.
pub fn read_workload_kinds(path: &str, content: &[u8]) -> Result<Vec<Kind>, String> {
    let limits = Limits { file_bytes: BYTES, ..Limits::default() };
    let (found, errors) = documents(path, content, &limits);
    if let Some(error) = errors.first() {
        return Err(error.to_string());
    }
    let expected =
        "expected one document {apiVersion: countersign.dev/v1alpha1, kind: WorkloadKinds, kinds: […]}";
    let [document] = found.as_slice() else {
        return Err(format!("{path}: {} documents; {expected}", found.len()));
    };
    let value = &document.value;
    if value["apiVersion"] != "countersign.dev/v1alpha1" || value["kind"] != "WorkloadKinds" {
        return Err(format!("{path}: another object; {expected}"));
    }
    let file: File =
        serde_json::from_value(value.clone()).map_err(|error| format!("{path}: {error}; {expected}"))?;
    if file.kinds.len() > KINDS {
        return Err(format!("{path}: kinds: {} entries; at most {KINDS}", file.kinds.len()));
    }
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for (index, row) in file.kinds.into_iter().enumerate() {
        let at = |why: String| format!("{path}: kinds[{index}].{why}");
        if Kind::find(&row.api_version, &row.kind).is_some() {
            return Err(at(format!("kind: {} is known without being configured; leave it out", row.kind)));
        }
        let row = kind(&row).map_err(at)?;
        if !seen.insert((row.group, row.kind)) {
            return Err(at(format!(
                "kind: {} of {} stands in the file twice; leave one out",
                row.kind, row.group
            )));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The rows live as long as the process: the table of kinds is one for all of it.
fn kind(row: &Row) -> Result<Kind, String> {
    let forever = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let (group, version) = row
        .api_version
        .split_once('/')
        .filter(|(group, version)| is_name(group) && is_name(version))
        .ok_or_else(|| {
            format!("apiVersion: {:?} is not group/version, such as apps.kruise.io/v1alpha1", row.api_version)
        })?;
    let word =
        |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric());
    if !word(&row.kind) || !row.kind.starts_with(|c: char| c.is_ascii_uppercase()) {
        return Err(format!("kind: {:?} is no kind, such as CloneSet", row.kind));
    }
    if !word(&row.plural) || row.plural.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("plural: {:?} is no resource, such as clonesets", row.plural));
    }
    let template = path(&row.template).map_err(|why| format!("template: {why}"))?;
    // The webhook for it is named after it.
    if row.template.len() > TEMPLATE
        || template.iter().any(|part| part.starts_with(|c: char| c.is_ascii_uppercase()))
    {
        return Err(format!(
            "template: {:?} is longer than {TEMPLATE} characters, or a part of it begins with a capital letter",
            row.template
        ));
    }
    let template: Vec<&'static str> = template.iter().map(|part| forever(part)).collect();
    if row.rollout.complete.is_empty() {
        return Err("rollout.complete: empty; say by what a complete rollout is known".to_owned());
    }
    let proof = Proof {
        complete: checks(&row.rollout.complete).map_err(|why| format!("rollout.complete{why}"))?,
        failed: checks(&row.rollout.failed).map_err(|why| format!("rollout.failed{why}"))?,
        newest_pods: row
            .rollout
            .newest_pods
            .as_ref()
            .map(newest_pods)
            .transpose()
            .map_err(|why| format!("rollout.newestPods{why}"))?,
    };
    Ok(Kind {
        group: forever(group),
        version: forever(version),
        kind: forever(&row.kind),
        plural: forever(&row.plural),
        template: Vec::leak(template),
        progress: Progress::Configured(Box::leak(Box::new(proof))),
    })
}

fn newest_pods(said: &Newest) -> Result<NewestPods, String> {
    let (prefix, name) = said.label.rsplit_once('/').unwrap_or(("any", &said.label));
    if !is_name(prefix) || !is_label_word(name) {
        return Err(format!(".label: {:?} is no label, such as controller-revision-hash", said.label));
    }
    let (value, suffix) = match (&said.equals, &said.suffix_of) {
        (Some(value), None) => (value, false),
        (None, Some(value)) => (value, true),
        _ => {
            return Err(
                ": expected {label: LABEL, equals: PATH} or {label: LABEL, suffixOf: PATH}".to_owned()
            );
        }
    };
    Ok(NewestPods {
        label: said.label.clone(),
        value: path(value).map_err(|why| format!(": {why}"))?,
        suffix,
        refused: checks(&said.refused).map_err(|why| format!(".refused{why}"))?,
    })
}

fn checks(said: &[Said]) -> Result<Vec<Check>, String> {
    if said.len() > CHECKS {
        return Err(format!(": {} entries; at most {CHECKS}", said.len()));
    }
    said.iter()
        .enumerate()
        .map(|(index, said)| check(said).map_err(|why| format!("[{index}]: {why}")))
        .collect()
}

fn check(said: &Said) -> Result<Check, String> {
    match (&said.condition, &said.field, &said.is, &said.equals) {
        (Some(type_), None, Some(status), None) => {
            Ok(Check::Condition { type_: type_.clone(), status: status.clone() })
        }
        (None, Some(field), Some(value), None) => Ok(Check::Is { field: path(field)?, value: value.clone() }),
        (None, Some(field), None, Some(other)) => {
            Ok(Check::Same { field: path(field)?, other: path(other)? })
        }
        _ => Err(
            "expected {condition: TYPE, is: STATUS}, {field: PATH, is: VALUE} or {field: PATH, equals: PATH}"
                .to_owned(),
        ),
    }
}

/// `spec.template` as its parts.
fn path(text: &str) -> Result<Path, String> {
    let parts: Path = text.split('.').map(str::to_owned).collect();
    let plain = |part: &String| {
        !part.is_empty() && part.len() <= 63 && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    if parts.len() > PARTS || !parts.iter().all(plain) {
        return Err(format!("{text:?} is no path of at most {PARTS} fields, such as spec.template"));
    }
    Ok(parts)
}

/// A name as groups and versions have it.
fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-';
    !text.is_empty() && text.len() <= 253 && text.bytes().all(plain) && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEAD: &str = "apiVersion: countersign.dev/v1alpha1\nkind: WorkloadKinds\n";
    const CLONE_SET: &str = "{apiVersion: apps.kruise.io/v1alpha1, kind: CloneSet, plural: clonesets, template: spec.template, rollout: {complete: [{field: status.updatedReadyReplicas, equals: spec.replicas}]}}";

    fn read(kinds: &str) -> Result<Vec<Kind>, String> {
        read_workload_kinds("kinds.yaml", format!("{HEAD}kinds: [{kinds}]\n").as_bytes())
    }

    #[test]
    fn the_documented_example_is_read() {
        let text = include_bytes!("../../docs/guides/workload-kinds.yaml");
        let kinds = read_workload_kinds("workload-kinds.yaml", text).unwrap();
        let names: Vec<(&str, &str, &str)> =
            kinds.iter().map(|kind| (kind.group, kind.version, kind.kind)).collect();
        assert_eq!(
            names,
            [
                ("argoproj.io", "v1alpha1", "Rollout"),
                ("apps.kruise.io", "v1alpha1", "CloneSet"),
                ("serving.knative.dev", "v1", "Service"),
            ]
        );
        assert!(kinds.iter().all(|kind| kind.template == ["spec", "template"]));
        // By what of their status their controllers label pods.
        let status = json!({"status": {"currentPodHash": "76b9c8d", "updateRevision": "my-set-5d4f",
            "latestCreatedRevisionName": "hello-00002"}});
        let selector = |kind: &Kind| match kind.progress {
            Progress::Configured(proof) => proof.newest_pods.as_ref()?.selector(&status),
            _ => None,
        };
        assert_eq!(
            kinds.iter().filter_map(selector).collect::<Vec<_>>(),
            [
                "rollouts-pod-template-hash=76b9c8d",
                "pod-template-hash=5d4f",
                "serving.knative.dev/revision=hello-00002"
            ]
        );
    }

    /// A mistake in this file would leave a kind ungoverned.
    #[test]
    fn every_mistake_is_told_with_its_place() {
        for (from, to, said) in [
            ("apps.kruise.io/v1alpha1", "v1", "kinds[0].apiVersion: \"v1\" is not group/version"),
            ("kind: CloneSet", "kind: cloneset", "kinds[0].kind: \"cloneset\" is no kind"),
            ("plural: clonesets", "plural: CloneSets", "kinds[0].plural: \"CloneSets\" is no resource"),
            ("plural: clonesets, ", "", "missing field `plural`"),
            ("spec.template,", "spec..template,", "kinds[0].template: \"spec..template\" is no path"),
            ("spec.template,", "spec.Template,", "a part of it begins with a capital letter"),
            ("spec.replicas", "spec/replicas", "kinds[0].rollout.complete[0]: \"spec/replicas\" is no path"),
            (
                "equals: spec.replicas",
                "condition: Ready",
                "kinds[0].rollout.complete[0]: expected {condition: TYPE",
            ),
            (
                "[{field: status.updatedReadyReplicas, equals: spec.replicas}]",
                "[]",
                "kinds[0].rollout.complete: empty",
            ),
            ("plural:", "plurals: x, plural:", "unknown field `plurals`"),
            (
                "rollout: {",
                "rollout: {newestPods: {label: a=b, equals: status.x}, ",
                "kinds[0].rollout.newestPods.label: \"a=b\" is no label",
            ),
            (
                "rollout: {",
                "rollout: {newestPods: {label: example.com/a, equals: status.x, suffixOf: status.y}, ",
                "kinds[0].rollout.newestPods: expected {label: LABEL, equals: PATH}",
            ),
            (
                "rollout: {",
                "rollout: {newestPods: {label: a, suffixOf: status/x}, ",
                "kinds[0].rollout.newestPods: \"status/x\" is no path",
            ),
            (
                "rollout: {",
                "rollout: {newestPods: {label: a, equals: status.x, refused: [{}]}, ",
                "kinds[0].rollout.newestPods.refused[0]: expected {condition: TYPE",
            ),
            (
                "apps.kruise.io/v1alpha1, kind: CloneSet",
                "apps/v1, kind: Deployment",
                "Deployment is known without being configured",
            ),
        ] {
            assert!(CLONE_SET.contains(from), "{from}");
            let error = read(&CLONE_SET.replacen(from, to, 1)).unwrap_err();
            assert!(error.starts_with("kinds.yaml: ") && error.contains(said), "{to}: {error}");
        }
        let error = read(&format!("{CLONE_SET}, {CLONE_SET}")).unwrap_err();
        assert!(
            error.contains("kinds[1].kind: CloneSet of apps.kruise.io stands in the file twice"),
            "{error}"
        );
        for text in ["", "kinds: []", "apiVersion: v1\nkind: ConfigMap\n"] {
            let error = read_workload_kinds("kinds.yaml", text.as_bytes()).unwrap_err();
            assert!(error.contains("kind: WorkloadKinds"), "{error}");
        }
        assert!(read_workload_kinds("kinds.yaml", "a: b\na: c\n".as_bytes()).is_err());
        assert!(read_workload_kinds("kinds.yaml", &vec![b'#'; BYTES + 1]).is_err());
        assert!(read(&vec![CLONE_SET; KINDS + 1].join(", ")).unwrap_err().contains("at most 32"));
    }
}
