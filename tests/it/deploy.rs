//! What is shipped in `deploy/`: written from one place, and the chart the same as the base.

mod containerfile;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use countersign::domain::workload::KINDS;
use expect_test::expect_file;
use serde_json::Value;

use crate::controlplane::{HELM, KUSTOMIZE, find_or_build};

pub fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(deploy(path)).unwrap()
}

/// The objects of a YAML stream.
fn objects(yaml: &str) -> Vec<Value> {
    let parsed = countersign::domain::manifest::parse("deploy", yaml.as_bytes(), &Default::default());
    assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
    parsed.objects.into_iter().map(|object| object.value().clone()).collect()
}

/// Standard output of a program that must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The base as kustomize builds it.
pub fn base() -> Vec<Value> {
    let kustomize = find_or_build(&[&KUSTOMIZE]).unwrap().remove(KUSTOMIZE.name).unwrap();
    objects(&output(Command::new(kustomize).arg("build").arg(deploy("base"))))
}

/// The chart as Helm renders it, with its definitions.
fn chart(values: &[&str]) -> Vec<Value> {
    let helm = find_or_build(&[&HELM]).unwrap().remove(HELM.name).unwrap();
    let mut command = Command::new(helm);
    command.args(["template", "any-release", "--namespace", "countersign-system", "--include-crds"]);
    command.args(["--kube-version", "1.33.0"]);
    command.args(values.iter().flat_map(|value| ["--set", value]));
    objects(&output(command.arg(deploy("chart/countersign"))))
}

/// Rules for every workload kind, one for each group.
fn workload_rules(verbs: &str) -> String {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for kind in KINDS {
        groups.entry(kind.group).or_default().push(kind.plural);
    }
    let rule = |(group, plurals): (&str, Vec<&str>)| {
        format!("- {{apiGroups: [{group}], resources: [{}], verbs: [{verbs}]}}", plurals.join(", "))
    };
    groups.into_iter().map(rule).collect::<Vec<_>>().join("\n  ")
}

fn rbac() -> String {
    let template = include_str!("deploy/rbac.template.yaml");
    let expand = |line: &str| match line.trim().strip_prefix("{{workloads: ") {
        Some(verbs) => format!("  {}\n", workload_rules(verbs.trim_end_matches("}}"))),
        None => format!("{line}\n"),
    };
    template.lines().map(expand).collect()
}

/// If this fails, a workload kind was added or a rule changed and the rights that are shipped are not those of the code.
#[test]
fn rights_are_made_from_the_table_of_kinds() {
    expect_file![deploy("base/rbac.yaml")].assert_eq(&rbac());
}

#[test]
fn no_role_has_a_wildcard_and_only_the_applier_may_create_workloads() {
    for object in objects(&rbac()) {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        for rule in object["rules"].as_array().into_iter().flatten() {
            assert!(!rule.to_string().contains('*'), "{name}: {rule}");
            let creates =
                rule["verbs"].to_string().contains("create") || rule["verbs"].to_string().contains("delete");
            let workloads = KINDS.iter().any(|kind| rule["resources"].to_string().contains(kind.plural));
            assert!(!(creates && workloads) || name.contains("countersign-applier-usual"), "{name}: {rule}");
        }
    }
}

/// What the chart says instead of the base. Each text stands in the base, and its replacement in the templates.
const VALUES: &[(&str, &str)] = &[
    ("countersign-system", "{{ .Release.Namespace }}"),
    ("image: registry.example/countersign/countersign:0.1.0", "image: {{ .Values.image }}"),
    (
        "'[\"registry.example/countersign/countersign:0.1.0\"]'",
        "{{ concat (list .Values.image) .Values.otherImages | toJson | squote }}",
    ),
    ("replicas: 2", "replicas: {{ .Values.replicas }}"),
    (
        "resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {memory: 1Gi}}",
        "resources: {{ toJson .Values.resources }}",
    ),
    (
        "{name: COUNTERSIGN_PRIVATE_GIT_HOSTS, value: \"\"}",
        "{name: COUNTERSIGN_PRIVATE_GIT_HOSTS, value: {{ join \",\" .Values.privateGitHosts | quote }}}",
    ),
    ("emptyDir: {sizeLimit: 5Gi}", "emptyDir: {sizeLimit: {{ .Values.cacheSize }}}"),
];

/// If this fails, the chart is not the base any more.
#[test]
fn the_templates_of_the_chart_are_made_from_the_base() {
    let mut used = vec![false; VALUES.len()];
    for file in ["rbac", "root", "networkpolicy", "service", "poddisruptionbudget", "deployment"] {
        // As generated now: the two golden files must not lag behind each other.
        let mut template = if file == "rbac" { rbac() } else { text(&format!("base/{file}.yaml")) };
        for ((from, to), used) in VALUES.iter().zip(&mut used) {
            *used |= template.contains(from);
            template = template.replace(from, to);
        }
        let note =
            "# Made from deploy/base by tests/it/deploy.rs; UPDATE_EXPECT=1 cargo test writes it anew.\n";
        expect_file![deploy(&format!("chart/countersign/templates/{file}.yaml"))]
            .assert_eq(&format!("{note}{template}"));
    }
    assert!(used.iter().all(|used| *used), "{used:?}");
    for crd in countersign::api::crds() {
        let file = format!("chart/countersign/crds/{}.yaml", crd.metadata.name.as_deref().unwrap());
        expect_file![deploy(&file)].assert_eq(&countersign::api::to_yaml(&crd).unwrap());
    }
}

type Identity = (String, String);

fn by_identity(objects: Vec<Value>) -> BTreeMap<Identity, Value> {
    let of = |object: &Value, field: &str| object.pointer(field).unwrap().as_str().unwrap().to_owned();
    objects
        .into_iter()
        .map(|object| ((of(&object, "/kind"), of(&object, "/metadata/name")), object))
        .collect()
}

/// If this fails, those who install with Helm run something else than those who install with kustomize.
#[test]
fn helm_renders_the_same_objects_as_kustomize() {
    let mut base = by_identity(base());
    // Helm makes the namespace of a release itself, or is told of one.
    base.remove(&("Namespace".to_owned(), "countersign-system".to_owned())).unwrap();
    let rendered = by_identity(chart(&[]));
    assert_eq!(rendered.keys().collect::<Vec<_>>(), base.keys().collect::<Vec<_>>());
    for (identity, object) in &base {
        assert_eq!(&rendered[identity], object, "{identity:?}");
    }
    let helm = find_or_build(&[&HELM]).unwrap().remove(HELM.name).unwrap();
    output(
        Command::new(helm)
            .args(["lint", "--strict", "--kube-version", "1.33.0"])
            .arg(deploy("chart/countersign")),
    );
    let other = by_identity(chart(&[
        "image=registry.example/other@sha256:00",
        "replicas=3",
        "privateGitHosts={git.inside,10.0.0.0/8}",
    ]));
    let deployment = &other[&("Deployment".to_owned(), "countersign".to_owned())];
    assert_eq!(deployment["spec"]["replicas"], 3);
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "registry.example/other@sha256:00");
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
    let hosts = env.iter().find(|variable| variable["name"] == "COUNTERSIGN_PRIVATE_GIT_HOSTS").unwrap();
    assert_eq!(hosts["value"], "git.inside,10.0.0.0/8");
}

/// If this fails, who installs as the guide says has an operator that its own namespace refuses.
#[test]
fn the_documented_overlay_names_its_image_wherever_it_is_named() {
    let guide = include_str!("../../docs/guides/install.md");
    let block = guide.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // kustomize takes no absolute path.
    let up = "../".repeat(directory.path().canonicalize().unwrap().components().count() - 1);
    let base = deploy("base").canonicalize().unwrap();
    let base = base.display().to_string().trim_start_matches('/').to_owned();
    let digest = format!("sha256:{}", "0".repeat(64));
    let overlay: String = block
        .replace("sha256:…", &digest)
        .lines()
        .map(|line| {
            if line.starts_with("resources: ") {
                format!("resources: [{up}{base}]\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    fs::write(directory.path().join("kustomization.yaml"), overlay).unwrap();
    let kustomize = find_or_build(&[&KUSTOMIZE]).unwrap().remove(KUSTOMIZE.name).unwrap();
    let built = by_identity(objects(&output(Command::new(kustomize).arg("build").arg(directory.path()))));
    let of = |kind: &str, name: &str| &built[&(kind.to_owned(), name.to_owned())]["spec"];
    let image = format!("registry.internal/countersign@{digest}");
    assert_eq!(of("Deployment", "countersign")["template"]["spec"]["containers"][0]["image"], image.as_str());
    let variable = &of("ValidatingAdmissionPolicy", "countersign-root")["variables"][0];
    assert_eq!(*variable, serde_json::json!({"name": "images", "expression": format!("[\"{image}\"]")}));
    let chart = by_identity(chart(&[&format!("image={image}"), "otherImages={registry.example/mesh:1}"]));
    let policy = &chart[&("ValidatingAdmissionPolicy".to_owned(), "countersign-root".to_owned())];
    let expression = format!("[\"{image}\",\"registry.example/mesh:1\"]");
    assert_eq!(policy["spec"]["variables"][0]["expression"], expression.as_str());
}

#[test]
fn versions_agree() {
    let version = env!("CARGO_PKG_VERSION");
    let deployment = text("base/deployment.yaml");
    assert!(deployment.contains(&format!("image: registry.example/countersign/countersign:{version}\n")));
    let chart = text("chart/countersign/Chart.yaml");
    assert!(chart.contains(&format!("version: {version}\n")), "{chart}");
    assert!(chart.contains(&format!("appVersion: \"{version}\"\n")), "{chart}");
}
