//! What is shipped in `deploy/`: written from one place, and the chart the same as the base.

mod containerfile;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use countersign::{
    adapters::certificate::SECRET,
    api::webhooks::{self, Endpoint},
    domain::workload::KINDS,
};
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
    built(&deploy("base"))
}

/// A directory as kustomize builds it.
fn built(directory: &Path) -> Vec<Value> {
    let kustomize = find_or_build(&[&KUSTOMIZE]).unwrap().remove(KUSTOMIZE.name).unwrap();
    objects(&output(Command::new(kustomize).arg("build").arg(directory)))
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
    (
        "\n            - {name: COUNTERSIGN_WEBHOOK_ADDR, value: \"0.0.0.0:9443\"}",
        "\n            - {name: COUNTERSIGN_WEBHOOK_ADDR, value: \"0.0.0.0:9443\"}\
         \n            {{- with .Values.webhookCertificateSecret }}\
         \n            - {name: COUNTERSIGN_WEBHOOK_CERT_DIR, value: /etc/countersign/webhook}\
         \n            {{- end }}",
    ),
    (
        "\n            - {name: tmp, mountPath: /tmp}",
        "\n            - {name: tmp, mountPath: /tmp}\
         \n            {{- with .Values.webhookCertificateSecret }}\
         \n            - {name: webhook-certificate, mountPath: /etc/countersign/webhook, readOnly: true}\
         \n            {{- end }}",
    ),
    (
        "\n        - {name: tmp, emptyDir: {sizeLimit: 1Gi}}",
        "\n        - {name: tmp, emptyDir: {sizeLimit: 1Gi}}\
         \n        {{- with .Values.webhookCertificateSecret }}\
         \n        - {name: webhook-certificate, secret: {secretName: {{ . | quote }}}}\
         \n        {{- end }}",
    ),
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
    let built = by_identity(self::built(directory.path()));
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

/// If this fails, the API server asks where nobody answers, and nothing can be created any more.
#[test]
fn the_service_leads_to_where_admission_is_served() {
    let base = by_identity(base());
    let of = |kind: &str, name: &str| &base[&(kind.to_owned(), name.to_owned())]["spec"];
    let container = &of("Deployment", "countersign")["template"]["spec"]["containers"][0];
    let named = |list: &str, name: &str| {
        let list = container[list].as_array().unwrap();
        list.iter().find(|entry| entry["name"] == name).unwrap().clone()
    };
    assert_eq!(named("env", "COUNTERSIGN_WEBHOOK_ADDR")["value"], "0.0.0.0:9443");
    assert_eq!(named("ports", "webhook")["containerPort"], 9443);
    let service = of("Service", webhooks::SERVICE);
    assert_eq!(service["ports"][0]["port"], 443);
    assert_eq!(service["ports"][0]["targetPort"], "webhook");
    let pods = &of("Deployment", "countersign")["template"]["metadata"]["labels"];
    for selector in [
        &service["selector"],
        &of("PodDisruptionBudget", "countersign")["selector"]["matchLabels"],
        &of("NetworkPolicy", "countersign")["podSelector"]["matchLabels"],
    ] {
        let labels = selector.as_object().unwrap();
        assert!(!labels.is_empty() && labels.iter().all(|(key, value)| pods[key] == *value), "{selector}");
    }
    let open = of("NetworkPolicy", "countersign")["ingress"][0]["ports"].as_array().unwrap();
    assert!(open.contains(&serde_json::json!({"protocol": "TCP", "port": 9443})), "{open:?}");
    // While one is away, the other answers.
    assert!(of("Deployment", "countersign")["replicas"].as_u64().unwrap() >= 2);
    assert_eq!(of("PodDisruptionBudget", "countersign")["maxUnavailable"], 1);
}

/// If this fails, who lets cert-manager make the certificate has a webhook that API servers do not trust.
#[test]
fn cert_manager_makes_the_certificate_that_is_mounted_for_the_name_that_is_called() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cert-manager");
    let mut built = by_identity(self::built(&example));
    let deployment = ("Deployment".to_owned(), "countersign".to_owned());
    let mut take = |kind: &str, name: &str| built.remove(&(kind.to_owned(), name.to_owned())).unwrap();
    let certificate = take("Certificate", webhooks::SERVICE);
    let names = serde_json::to_value(Endpoint::Service.names("countersign-system")).unwrap();
    assert_eq!(certificate["spec"]["dnsNames"], names);
    let secret = certificate["spec"]["secretName"].as_str().unwrap();
    // The operator's own, which uninstalling deletes.
    assert_ne!(secret, SECRET);
    let issuer = take("Issuer", certificate["spec"]["issuerRef"]["name"].as_str().unwrap());
    let authority = take("Certificate", "countersign-webhook-ca");
    assert_eq!(issuer["spec"]["ca"]["secretName"], authority["spec"]["secretName"]);
    take("Issuer", authority["spec"]["issuerRef"]["name"].as_str().unwrap());
    // Nothing else is other than in the base but the Deployment, and that is what the chart makes of the same wish.
    let pod = &built[&deployment]["spec"]["template"]["spec"];
    let volume =
        pod["volumes"].as_array().unwrap().iter().find(|volume| volume["secret"]["secretName"] == secret);
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == volume.unwrap()["name"]).unwrap();
    let env = pod["containers"][0]["env"].as_array().unwrap();
    let directory = env.iter().find(|variable| variable["name"] == "COUNTERSIGN_WEBHOOK_CERT_DIR").unwrap();
    assert_eq!(directory["value"], mount["mountPath"]);
    let mut chart = by_identity(chart(&[&format!("webhookCertificateSecret={secret}")]));
    built.remove(&("Namespace".to_owned(), "countersign-system".to_owned())).unwrap();
    let sorted = |object: &mut Value| {
        let pod = &mut object["spec"]["template"]["spec"];
        for list in ["/containers/0/env", "/containers/0/volumeMounts", "/volumes"] {
            let list = pod.pointer_mut(list).unwrap().as_array_mut().unwrap();
            list.sort_by_key(|entry| entry["name"].to_string());
        }
    };
    sorted(built.get_mut(&deployment).unwrap());
    sorted(chart.get_mut(&deployment).unwrap());
    assert_eq!(built.keys().collect::<Vec<_>>(), chart.keys().collect::<Vec<_>>());
    for (identity, object) in &built {
        assert_eq!(&chart[identity], object, "{identity:?}");
    }
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
