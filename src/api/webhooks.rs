//! What the API server asks admission about: the two webhook configurations, made from the table of workload kinds.
//!
//! An update that changes no image is never asked about: the conditions (CEL) compare what an object names with what it named
//! before, in the API server itself. So labels, scaling, statuses and deletions pass also while no replica is there to answer.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use url::Url;

use super::{GROUP, VERSION};
use crate::domain::{
    admission::{PARTS, Part},
    ledger::Scope,
    policy::Policy,
    workload::Kind,
};

/// The name of both configurations.
pub const NAME: &str = "countersign";
/// The Service in the root namespace through which the API server reaches the operator.
pub const SERVICE: &str = "countersign-webhook";
/// Where verdicts are given.
pub const VALIDATE: &str = "/validate";
/// Where Pods are pinned, and what a hold keeps out is put right.
pub const MUTATE: &str = "/mutate";
/// The namespace of the cluster's own parts, which must be able to start while nothing else runs.
const SYSTEM: &str = "kube-system";
/// How long the API server waits for an answer.
const TIMEOUT_SECONDS: u8 = 5;

/// How the API server reaches the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Through [`SERVICE`].
    Service,
    /// At an address, where the operator runs outside of the cluster. Without a slash at its end.
    Url(String),
}

impl Endpoint {
    /// Reads what `--webhook-url` says.
    ///
    /// # Errors
    /// What is wrong with it. The API server would refuse it as well, but only while the operator runs.
    pub fn url(text: &str) -> Result<Self, String> {
        let expected = "expected https://HOST:PORT, or a path below it";
        let url = Url::parse(text).map_err(|error| format!("{error}; {expected}"))?;
        if url.scheme() != "https" || !url.has_host() {
            return Err(format!("the API server asks over https only; {expected}"));
        }
        let plain = url.username().is_empty() && url.password().is_none();
        if !plain || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("the API server takes neither user, query nor fragment; {expected}"));
        }
        Ok(Self::Url(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The names by which the API server calls what answers there.
    pub fn names(&self, root: &str) -> Vec<String> {
        match self {
            Self::Service => vec![format!("{SERVICE}.{root}.svc")],
            Self::Url(url) => {
                let url = Url::parse(url).ok();
                let host = url.as_ref().and_then(Url::host_str);
                host.map(|host| host.trim_matches(['[', ']']).to_owned()).into_iter().collect()
            }
        }
    }
}

/// What the configurations are made of.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// The operator's own namespace.
    pub root: &'a str,
    /// The workload kinds.
    pub kinds: &'a [&'static Kind],
    /// Where the operator is reached.
    pub endpoint: &'a Endpoint,
    /// The authorities that the API server is to trust, as PEM; `None`: those of its machine.
    pub ca_bundle: Option<&'a str>,
    /// The namespaces that are left out besides the root namespace and kube-system; see [`left_out`].
    pub left_out: &'a BTreeSet<String>,
    /// The user that the operator is to the API server.
    pub operator: &'a str,
    /// The object that takes both configurations along when it is deleted, as a reference.
    pub owner: Option<&'a Value>,
}

/// The namespaces in which nothing is governed: every policy of the root namespace excludes them by name, and none stands in
/// them.
pub fn left_out<'a>(policies: impl Iterator<Item = &'a Policy>) -> BTreeSet<String> {
    let mut excluded: Option<BTreeSet<String>> = None;
    let mut stands_in = BTreeSet::new();
    for policy in policies {
        match (&policy.scope, &mut excluded) {
            (Scope::Root, None) => excluded = Some(policy.exclude_namespaces.clone()),
            (Scope::Root, Some(excluded)) => {
                excluded.retain(|name| policy.exclude_namespaces.contains(name));
            }
            (Scope::Namespace(name), _) => {
                stands_in.insert(name);
            }
        }
    }
    excluded.unwrap_or_default().into_iter().filter(|name| !stands_in.contains(name)).collect()
}

/// The `ValidatingWebhookConfiguration` and the `MutatingWebhookConfiguration`.
///
/// # Guarantees
/// Every field that the API server would fill in is said, so that what is stored can be compared with it.
pub fn configurations(registration: &Registration<'_>) -> [Value; 2] {
    let of = |kind: &str, webhooks: Vec<Value>| {
        let mut metadata = json!({
            "name": NAME,
            "labels": {"app.kubernetes.io/name": NAME, "app.kubernetes.io/part-of": NAME},
        });
        if let Some(owner) = registration.owner {
            metadata["ownerReferences"] = json!([owner]);
        }
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": metadata,
            "webhooks": webhooks,
        })
    };
    [
        of("ValidatingWebhookConfiguration", registration.validating()),
        of("MutatingWebhookConfiguration", registration.mutating()),
    ]
}

/// Whether a stored configuration is what is wanted, or was stored instead of it: `answered` is what the API server made of the
/// webhooks that were sent last. An entry or a condition that somebody added counts: it could switch others off.
pub fn stands(stored: &Value, wanted: &Value, answered: Option<&Value>) -> bool {
    let metadata = |object: &Value, field: &str| object["metadata"][field].clone();
    let labels = metadata(stored, "labels");
    let owners = metadata(stored, "ownerReferences");
    let mut owned = metadata(wanted, "ownerReferences").as_array().cloned().unwrap_or_default().into_iter();
    let webhooks = &stored["webhooks"];
    (*webhooks == wanted["webhooks"] || answered == Some(webhooks))
        && metadata(wanted, "labels")
            .as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| labels[key] == *value)
        && owned.all(|owner| owners.as_array().is_some_and(|owners| owners.contains(&owner)))
}

/// The authorities (PEM) that each entry of a stored configuration holds; an empty text where it holds none that can be read.
pub fn authorities(stored: &Value) -> Vec<String> {
    let of = |webhook: &Value| {
        let bundle = BASE64_STANDARD.decode(webhook["clientConfig"]["caBundle"].as_str()?).ok()?;
        String::from_utf8(bundle).ok()
    };
    let webhooks = stored["webhooks"].as_array();
    webhooks.into_iter().flatten().map(|webhook| of(webhook).unwrap_or_default()).collect()
}

/// Rules by group and version: the resources.
type Resources<'a> = BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>>;

impl Registration<'_> {
    fn validating(&self) -> Vec<Value> {
        let mut webhooks = self.images(&[], &pods);
        for (path, resources) in self.by_template(&PARTS) {
            webhooks.extend(self.images(path, &|operation| rules(&resources, &[operation])));
        }
        webhooks.push(self.own_kinds());
        webhooks.push(self.histories());
        webhooks
    }

    /// What is new, and what changes. Of what is new everything is asked about: a condition, even one that always holds, costs
    /// the API server more than the question.
    fn images(&self, path: &[&str], rules: &dyn Fn(&'static str) -> Vec<Value>) -> Vec<Value> {
        let governed = self.governed();
        let changes = condition("images-change", &images_change(path));
        vec![
            self.webhook(VALIDATE, &images_of(path), &rules("CREATE"), &governed, &[]),
            self.webhook(VALIDATE, &changes_of(path), &rules("UPDATE"), &governed, &[changes]),
        ]
    }

    fn mutating(&self) -> Vec<Value> {
        let tag = || condition("a-tag-is-named", &names_tag());
        let changes = condition("images-change", &images_change(&[]));
        let governed = self.governed();
        let mut webhooks = vec![
            self.webhook(MUTATE, &images_of(&[]), &pods("CREATE"), &governed, &[tag()]),
            self.webhook(MUTATE, &changes_of(&[]), &pods("UPDATE"), &governed, &[changes, tag()]),
        ];
        // A hold stands on a workload that is there; nothing else of a workload is ever changed.
        for (path, resources) in self.by_template(&[]) {
            let rules = rules(&resources, &["UPDATE"]);
            let conditions = [condition("images-change", &images_change(path))];
            webhooks.push(self.webhook(MUTATE, &changes_of(path), &rules, &governed, &conditions));
        }
        for webhook in &mut webhooks {
            // A sidecar that another webhook brings in later is pinned, too.
            webhook["reinvocationPolicy"] = "IfNeeded".into();
        }
        webhooks
    }

    /// What only the operator can say of its kinds. In the root namespace whoever may write is trusted, and must be able to
    /// revoke while no operator is there; so must everybody in their own.
    fn own_kinds(&self) -> Value {
        let resources = BTreeSet::from(["approvedimages", "gitsources", "imagepolicies"]);
        let rules = rules(&BTreeMap::from([((GROUP, VERSION), resources)]), &["CREATE", "UPDATE"]);
        let conditions = [
            condition("the-spec-changes", &differs(&["spec"])),
            condition("is-no-revocation", r#"!object[?"spec"][?"revocation"].hasValue()"#),
        ];
        let elsewhere = named(&[self.root], "NotIn");
        self.webhook(VALIDATE, "kinds.countersign.dev", &rules, &elsewhere, &conditions)
    }

    /// Histories are the operator's own, and it must be able to write them whoever answers; people annotate them.
    fn histories(&self) -> Value {
        let resources = BTreeSet::from(["releasehistories", "releasehistories/status"]);
        let rules = rules(&BTreeMap::from([((GROUP, VERSION), resources)]), &["CREATE", "UPDATE"]);
        let conditions = [
            condition(
                "is-not-the-operator",
                &format!("request.userInfo.username != {}", text(self.operator)),
            ),
            condition("the-content-changes", &differs(&["spec", "status"])),
        ];
        self.webhook(VALIDATE, "histories.countersign.dev", &rules, &json!({}), &conditions)
    }

    /// Everything with a pod template, by where it stands.
    fn by_template(&self, parts: &'static [Part]) -> BTreeMap<&'static [&'static str], Resources<'static>> {
        let kinds = self.kinds.iter().map(|kind| (kind.group, kind.version, kind.plural, kind.template));
        let parts = parts.iter().map(|part| (part.group, part.version, part.plural, part.template));
        let mut found: BTreeMap<_, Resources<'_>> = BTreeMap::new();
        for (group, version, resource, template) in kinds.chain(parts) {
            found.entry(template).or_default().entry((group, version)).or_default().insert(resource);
        }
        found
    }

    /// The namespaces in which images are governed. Told by the label that nobody can change.
    fn governed(&self) -> Value {
        let fixed = [self.root, SYSTEM].map(str::to_owned);
        let left_out: BTreeSet<String> = self.left_out.iter().cloned().chain(fixed).collect();
        named(&left_out.iter().map(String::as_str).collect::<Vec<_>>(), "NotIn")
    }

    fn webhook(
        &self,
        path: &str,
        name: &str,
        rules: &[Value],
        namespaces: &Value,
        conditions: &[Value],
    ) -> Value {
        let mut client = match self.endpoint {
            Endpoint::Service => {
                json!({"service": {"namespace": self.root, "name": SERVICE, "path": path, "port": 443}})
            }
            Endpoint::Url(url) => json!({"url": format!("{url}{path}")}),
        };
        if let Some(bundle) = self.ca_bundle {
            client["caBundle"] = BASE64_STANDARD.encode(bundle).into();
        }
        let mut webhook = json!({
            "name": name,
            "clientConfig": client,
            "rules": rules,
            "namespaceSelector": namespaces,
            "objectSelector": {},
            "matchPolicy": "Equivalent",
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "timeoutSeconds": TIMEOUT_SECONDS,
            "admissionReviewVersions": ["v1"],
        });
        if !conditions.is_empty() {
            webhook["matchConditions"] = conditions.into();
        }
        webhook
    }
}

/// The name of the webhook for images in a pod template: its path, as a domain. Parts of a path begin with a small letter, so no
/// two paths have the same name.
fn images_of(path: &[&str]) -> String {
    let mut name = String::new();
    for part in path {
        for letter in part.chars() {
            if letter.is_ascii_uppercase() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name.push('.');
    }
    name + "images.countersign.dev"
}

/// The name of the webhook for images that change.
fn changes_of(path: &[&str]) -> String {
    format!("changed.{}", images_of(path))
}

fn rules(resources: &Resources<'_>, operations: &[&str]) -> Vec<Value> {
    let rule = |((group, version), resources): (&(&str, &str), &BTreeSet<&str>)| {
        json!({
            "apiGroups": [group],
            "apiVersions": [version],
            "resources": resources,
            "operations": operations,
            "scope": "Namespaced",
        })
    };
    resources.iter().map(rule).collect()
}

/// Subresources of Pods are only updated.
fn pods(operation: &'static str) -> Vec<Value> {
    let all = BTreeSet::from(["pods", "pods/ephemeralcontainers", "pods/resize"]);
    let resources = if operation == "CREATE" { BTreeSet::from(["pods"]) } else { all };
    rules(&BTreeMap::from([(("", "v1"), resources)]), &[operation])
}

fn named(names: &[&str], operator: &str) -> Value {
    json!({"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": operator, "values": names}]})
}

fn condition(name: &str, expression: &str) -> Value {
    json!({"name": name, "expression": expression})
}

/// A text in CEL; a JSON string is one.
fn text(value: &str) -> String {
    Value::from(value).to_string()
}

/// Whether an update changes one of the fields, or there was no object before.
fn differs(fields: &[&str]) -> String {
    let one = |field: &&str| format!("object[?{0}] != oldObject[?{0}]", text(field));
    format!("oldObject == null || {}", fields.iter().map(one).collect::<Vec<_>>().join(" || "))
}

/// The lists of a pod spec that name an image in `image`.
const CONTAINERS: &str = r#"["containers", "initContainers", "ephemeralContainers"]"#;

/// A field of an object, where there is one.
fn field(object: &str, path: &[&str]) -> String {
    path.iter().fold(object.to_owned(), |steps, part| steps + "[?" + &text(part) + "]")
}

/// A list of the pod spec in an object, empty where there is none; `list` is an expression.
fn entries(object: &str, path: &[&str], list: &str) -> String {
    let spec = field(object, &[path, &["spec"]].concat());
    // Custom kinds may hold a null where others leave a list out.
    format!("optional.ofNonZeroValue(dyn({spec}[?{list}].orValue(null))).orValue([])")
}

/// Whether an update names an image that was not named before at the same place.
fn images_change(path: &[&str]) -> String {
    let (now, before) = (entries("object", path, "list"), entries("oldObject", path, "list"));
    let containers = format!(
        r#"{CONTAINERS}.exists(list, !{now}.all(entry, {before}.exists(old, old[?"name"] == entry[?"name"] && old[?"image"] == entry[?"image"])))"#
    );
    let (now, before) = (entries("object", path, r#""volumes""#), entries("oldObject", path, r#""volumes""#));
    let volumes = format!(
        r#"!{now}.all(entry, !entry[?"image"].hasValue() || {before}.exists(old, old[?"name"] == entry[?"name"] && old[?"image"][?"reference"] == entry[?"image"][?"reference"]))"#
    );
    // What is the same is not looked into, however long or odd it is.
    let template = if path.is_empty() { &["spec"] } else { path };
    let (now, before) = (field("object", template), field("oldObject", template));
    format!("{now} != {before} && ({containers} || {volumes})")
}

/// Whether a Pod names an image without a digest.
fn names_tag() -> String {
    let (containers, volumes) = (entries("object", &[], "list"), entries("object", &[], r#""volumes""#));
    format!(
        r#"{CONTAINERS}.exists(list, {containers}.exists(entry, !entry[?"image"].orValue("").contains("@"))) || {volumes}.exists(entry, !entry[?"image"][?"reference"].orValue("@").contains("@"))"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{policy::tests::policy, workload::KINDS};

    fn registration<'a>(endpoint: &'a Endpoint, left_out: &'a BTreeSet<String>) -> Registration<'a> {
        static ALL: std::sync::LazyLock<Vec<&'static Kind>> =
            std::sync::LazyLock::new(|| KINDS.iter().collect());
        let (root, operator) = ("countersign-system", "system:serviceaccount:countersign-system:countersign");
        Registration { root, kinds: &ALL, endpoint, ca_bundle: Some("PEM"), left_out, operator, owner: None }
    }

    /// Reviewed as a whole: what stands here decides what is never asked.
    #[test]
    fn the_configurations_are_the_golden_ones() {
        let [validating, mutating] = configurations(&registration(&Endpoint::Service, &BTreeSet::new()));
        let text = [validating, mutating].map(|object| super::super::to_yaml(&object).unwrap()).join("---\n");
        expect_test::expect_file!["../../tests/fixtures/webhooks.yaml"].assert_eq(&text);
    }

    #[test]
    fn a_namespace_is_left_out_only_if_no_policy_counts_there() {
        let excludes = |names: &[&str]| Policy {
            exclude_namespaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..policy()
        };
        let of = |policies: &[Policy]| Vec::from_iter(left_out(policies.iter()));
        assert_eq!(of(&[]), Vec::<String>::new());
        assert_eq!(of(&[excludes(&["cni", "csi"])]), ["cni", "csi"]);
        assert_eq!(of(&[excludes(&["cni", "csi"]), excludes(&["csi"])]), ["csi"]);
        assert_eq!(of(&[excludes(&["csi"]), policy()]), Vec::<String>::new());
        let tenant = Policy { scope: Scope::Namespace("csi".into()), ..policy() };
        assert_eq!(of(&[tenant.clone(), excludes(&["cni", "csi"])]), ["cni"]);
        assert_eq!(of(&[tenant]), Vec::<String>::new());
        let left_out = BTreeSet::from(["a-cni".to_owned()]);
        let [validating, mutating] = configurations(&registration(&Endpoint::Service, &left_out));
        for webhook in [&validating["webhooks"][0], &mutating["webhooks"][0]] {
            let values = &webhook["namespaceSelector"]["matchExpressions"][0]["values"];
            assert_eq!(*values, json!(["a-cni", "countersign-system", "kube-system"]));
        }
    }

    #[test]
    fn an_address_is_one_that_the_api_server_takes() {
        let left_out = BTreeSet::new();
        let url = |text: &str| {
            let endpoint = Endpoint::url(text).unwrap();
            let [validating, _] = configurations(&registration(&endpoint, &left_out));
            validating["webhooks"][0]["clientConfig"]["url"].as_str().unwrap().to_owned()
        };
        assert_eq!(url("https://operator.example:9443"), "https://operator.example:9443/validate");
        assert_eq!(url("https://[::1]:9443/below/"), "https://[::1]:9443/below/validate");
        for (text, says) in [
            ("http://a", "https only"),
            ("operator.example:9443", "https only"),
            ("a b", "https://HOST"),
            ("https://user@a", "neither user"),
            ("https://a?b", "neither user"),
            ("https://a#b", "neither user"),
        ] {
            let error = Endpoint::url(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn what_somebody_added_or_took_away_is_seen() {
        let (endpoint, left_out) = (Endpoint::Service, BTreeSet::new());
        let owner = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": NAME, "uid": "1"});
        let owned = Registration { owner: Some(&owner), ..registration(&endpoint, &left_out) };
        let [wanted, _] = configurations(&owned);
        let mut stored = wanted.clone();
        stored["metadata"]["labels"]["somebody"] = "else".into();
        stored["metadata"]["ownerReferences"].as_array_mut().unwrap().push(json!({"uid": "2"}));
        assert!(stands(&stored, &wanted, None));
        for (pointer, value) in [
            ("/webhooks/0/failurePolicy", json!("Ignore")),
            ("/webhooks/1/matchConditions", json!([{"name": "never", "expression": "false"}])),
            ("/webhooks/0/namespaceSelector", json!({})),
            ("/webhooks", json!([])),
            ("/metadata/labels", json!({})),
            ("/metadata/ownerReferences", json!([])),
        ] {
            let mut meddled = stored.clone();
            *meddled.pointer_mut(pointer).unwrap() = value;
            assert!(!stands(&meddled, &wanted, None), "{pointer}");
        }
        // A newer API server fills in more.
        stored["webhooks"][0]["aNewField"] = "default".into();
        assert!(!stands(&stored, &wanted, None));
        assert!(stands(&stored, &wanted, Some(&stored["webhooks"])));
    }

    /// Two webhooks of one name would have the whole configuration refused.
    #[test]
    fn every_path_has_a_name_of_its_own() {
        assert_eq!(images_of(&[]), "images.countersign.dev");
        let names = [["jobTemplate", "spec"], ["jobtemplate", "spec"], ["job", "templateSpec"]];
        let names: BTreeSet<String> = names.iter().map(|path| images_of(path)).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.contains("job-template.spec.images.countersign.dev"));
    }
}
