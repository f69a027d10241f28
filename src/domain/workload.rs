//! Workloads: the kinds with a pod template, and the images in such a template.

use std::{cmp::Ordering, collections::BTreeMap, fmt, hash, str::FromStr, sync::OnceLock};

use serde_json::Value;

/// One row of the table of workload kinds. RBAC, watches and webhook rules are made from it.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The API group.
    pub group: &'static str,
    /// The version in which objects are read and written.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The resource.
    pub plural: &'static str,
    /// Where the pod template stands in an object.
    pub template: &'static [&'static str],
    /// How a rollout shows that it proved itself.
    pub progress: Progress,
}

/// How a rollout of a kind shows that it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the kinds")]
pub enum Progress {
    Deployment,
    StatefulSet,
    DaemonSet,
    CronJob,
    /// As the configuration of the kind says.
    Configured(&'static Proof),
}

/// By what an object of a configured kind shows how far its rollout is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// All of these hold once it is complete.
    pub complete: Vec<Check>,
    /// All of these hold once it failed; none: it never says so.
    pub failed: Vec<Check>,
    /// Which pods are of its newest release; absent: they are not looked at.
    pub newest_pods: Option<NewestPods>,
}

/// By what the pods of the newest release of an object of a configured kind are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestPods {
    /// The label that they carry.
    pub label: String,
    /// Where the object says the value of the label.
    pub value: Path,
    /// The label has only what follows the last `-` there.
    pub suffix: bool,
    /// All of these hold of the object while pods of it cannot be created; none: it never says so.
    pub refused: Vec<Check>,
}

/// Something that can be seen in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A condition in `status.conditions` has this status.
    Condition {
        /// Its type.
        type_: String,
        /// Its status.
        status: String,
    },
    /// A field has this value.
    Is {
        /// Its path.
        field: Path,
        /// The value, as text.
        value: String,
    },
    /// Two fields have the same value.
    Same {
        /// The path of one.
        field: Path,
        /// The path of the other.
        other: Path,
    },
}

/// Where a field stands in an object.
pub type Path = Vec<String>;

impl Check {
    /// Whether it holds. A field that is not there is equal to nothing.
    pub fn holds(&self, object: &Value) -> bool {
        let text = |path: &Path| text_at(object, path);
        match self {
            Self::Condition { type_, status } => {
                let all = object.pointer("/status/conditions").and_then(Value::as_array);
                all.into_iter()
                    .flatten()
                    .any(|found| found["type"] == type_.as_str() && found["status"] == status.as_str())
            }
            Self::Is { field, value } => text(field).as_ref() == Some(value),
            Self::Same { field, other } => text(field).is_some_and(|own| text(other) == Some(own)),
        }
    }
}

/// A field as text; `None` where it holds none. Some controllers write numbers as texts.
pub fn text_at(object: &Value, path: &[String]) -> Option<String> {
    match path.iter().try_fold(object, |value, part| value.get(part))? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The kinds that are configured, for the whole process.
static CONFIGURED: OnceLock<Vec<Kind>> = OnceLock::new();

/// Adds kinds to the table; once, before anything reads it. Answers whether that was so.
pub fn configure(kinds: Vec<Kind>) -> bool {
    CONFIGURED.set(kinds).is_ok()
}

/// Every workload kind.
pub fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().chain(CONFIGURED.get().into_iter().flatten())
}

/// The workload kinds that are always there.
pub const KINDS: &[Kind] = &[
    Kind {
        group: "apps",
        version: "v1",
        kind: "Deployment",
        plural: "deployments",
        template: &["spec", "template"],
        progress: Progress::Deployment,
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "StatefulSet",
        plural: "statefulsets",
        template: &["spec", "template"],
        progress: Progress::StatefulSet,
    },
    Kind {
        group: "apps",
        version: "v1",
        kind: "DaemonSet",
        plural: "daemonsets",
        template: &["spec", "template"],
        progress: Progress::DaemonSet,
    },
    Kind {
        group: "batch",
        version: "v1",
        kind: "CronJob",
        plural: "cronjobs",
        template: &["spec", "jobTemplate", "spec", "template"],
        progress: Progress::CronJob,
    },
];

impl Kind {
    /// The row of an `apiVersion` and `kind`; `None` when it is no workload. Any version of the group counts.
    pub fn find(api_version: &str, kind: &str) -> Option<&'static Self> {
        let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
        kinds().find(|row| row.group == group && row.kind == kind)
    }

    /// `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The JSON pointer of the pod template.
    pub fn template_pointer(&self) -> String {
        self.template.iter().fold(String::new(), |pointer, part| pointer + "/" + part)
    }

    /// The pod template of an object of this kind.
    pub fn template_of<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.template.iter().try_fold(object, |value, part| value.get(part))
    }

    /// The object with another pod template.
    #[must_use]
    pub fn with_template(&self, object: &Value, template: Value) -> Value {
        let mut object = object.clone();
        if let Some(slot) = object.pointer_mut(&self.template_pointer()) {
            *slot = template;
        }
        object
    }
}

/// Which workload: the unit of planning.
#[derive(Clone)]
pub struct WorkloadId {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl WorkloadId {
    fn parts(&self) -> (&str, &str, &str, &str) {
        (self.kind.group, self.kind.kind, &self.namespace, &self.name)
    }
}

impl PartialEq for WorkloadId {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for WorkloadId {}

impl PartialOrd for WorkloadId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WorkloadId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

impl hash::Hash for WorkloadId {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.kind, self.namespace, self.name)
    }
}

impl fmt::Debug for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where in a pod spec an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// `spec.containers[].image`
    Containers,
    /// `spec.initContainers[].image`, sidecars included
    InitContainers,
    /// `spec.volumes[].image.reference`
    Volumes,
    /// `spec.ephemeralContainers[].image`, of Pods; no template may have any
    EphemeralContainers,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Containers, Self::InitContainers, Self::Volumes, Self::EphemeralContainers];

    /// The field of the pod spec.
    pub fn field(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::Volumes => "volumes",
            Self::EphemeralContainers => "ephemeralContainers",
        }
    }

    /// The path of the image within an entry of the list.
    fn image(self) -> &'static str {
        match self {
            Self::Containers | Self::InitContainers | Self::EphemeralContainers => "/image",
            Self::Volumes => "/image/reference",
        }
    }
}

/// One place in a pod template that names an image; written `containers/app`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId {
    /// The list.
    pub list: List,
    /// The name within the list.
    pub name: String,
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.list.field(), self.name)
    }
}

impl FromStr for ContainerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (field, name) = text.split_once('/').ok_or_else(|| format!("{text:?} is not list/name"))?;
        let list = List::ALL.into_iter().find(|list| list.field() == field);
        let list = list.ok_or_else(|| {
            format!("{field:?} is not containers, initContainers, ephemeralContainers or volumes")
        })?;
        Ok(Self { list, name: name.to_owned() })
    }
}

/// The images of a pod template, by place.
pub type Images = BTreeMap<ContainerId, String>;

/// Every image that a pod template names.
pub fn images(template: &Value) -> Images {
    places(template).map(|place| (place.id, place.image.to_owned())).collect()
}

/// A pod template with images set; places that it does not have are left out.
#[must_use]
pub fn with_images(template: &Value, images: &Images) -> Value {
    let mut changed = template.clone();
    for place in places(template) {
        if let (Some(image), Some(slot)) = (images.get(&place.id), changed.pointer_mut(&place.pointer)) {
            *slot = Value::from(image.as_str());
        }
    }
    changed
}

/// One image in a pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Which one.
    pub id: ContainerId,
    /// The image as written.
    pub image: &'a str,
    /// Its JSON pointer from the template.
    pub pointer: String,
    /// The JSON pointer of its entry's name; of the image, where it has no name that is a text.
    pub name_pointer: String,
}

/// Every place of a pod template that names an image.
pub fn places(template: &Value) -> impl Iterator<Item = Place<'_>> {
    List::ALL.into_iter().flat_map(move |list| {
        let entries =
            template.pointer("/spec").and_then(|spec| spec.get(list.field())).and_then(Value::as_array);
        entries.into_iter().flatten().enumerate().filter_map(move |(index, entry)| {
            let image = entry.pointer(list.image())?.as_str()?;
            let base = format!("/spec/{}/{index}", list.field());
            let pointer = format!("{base}{}", list.image());
            // Where a kind asks for no name (Knative), or lets it be anything, an entry is known by where it stands.
            let (name, name_pointer) = match entry.get("name").and_then(Value::as_str) {
                Some(name) => (name.to_owned(), format!("{base}/name")),
                None => (format!("[{index}]"), pointer.clone()),
            };
            Some(Place { id: ContainerId { list, name }, image, pointer, name_pointer })
        })
    })
}

/// The ConfigMaps and Secrets that a pod template cannot start without: `(kind, name)`.
pub fn named_config(template: &Value) -> std::collections::BTreeSet<(&'static str, String)> {
    let mut found = std::collections::BTreeSet::new();
    let Some(spec) = template.get("spec") else { return found };
    let mut add = |kind, reference: Option<&Value>, key: &str| {
        let Some(reference) = reference else { return };
        let optional = reference.get("optional").and_then(Value::as_bool).unwrap_or(false);
        if let (false, Some(name)) = (optional, reference.get(key).and_then(Value::as_str)) {
            found.insert((kind, name.to_owned()));
        }
    };
    for volume in entries(spec, "volumes") {
        add("ConfigMap", volume.get("configMap"), "name");
        add("Secret", volume.get("secret"), "secretName");
        for source in volume.get("projected").into_iter().flat_map(|projected| entries(projected, "sources"))
        {
            add("ConfigMap", source.get("configMap"), "name");
            add("Secret", source.get("secret"), "name");
        }
    }
    for container in entries(spec, "containers").chain(entries(spec, "initContainers")) {
        for from in entries(container, "envFrom") {
            add("ConfigMap", from.get("configMapRef"), "name");
            add("Secret", from.get("secretRef"), "name");
        }
        for from in entries(container, "env").filter_map(|env| env.get("valueFrom")) {
            add("ConfigMap", from.get("configMapKeyRef"), "name");
            add("Secret", from.get("secretKeyRef"), "name");
        }
    }
    found
}

fn entries<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({"spec": {
            "containers": [{"name": "app", "image": "a:1",
                "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "x"}}}],
                "envFrom": [{"secretRef": {"name": "token"}}, {"secretRef": {"name": "maybe", "optional": true}}]},
                {"name": "no-image"}],
            "initContainers": [{"name": "app", "image": "i:1", "restartPolicy": "Always"}],
            "volumes": [{"name": "model", "image": {"reference": "m:1"}}, {"name": "tmp", "emptyDir": {}},
                {"name": "c", "configMap": {"name": "files"}}, {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}]}}],
        }})
    }

    /// An image in a list that is not read is an image that is not governed.
    #[test]
    fn every_list_is_read_and_set() {
        let found = images(&template());
        let texts: Vec<String> = found.iter().map(|(id, image)| format!("{id}={image}")).collect();
        assert_eq!(texts, ["containers/app=a:1", "initContainers/app=i:1", "volumes/model=m:1"]);
        let wanted: Images = found.keys().map(|id| (id.clone(), format!("{id}:2"))).collect();
        let changed = with_images(&template(), &wanted);
        assert_eq!(images(&changed), wanted);
        assert_eq!(with_images(&changed, &found), template(), "nothing else is touched");
        for id in found.keys() {
            assert_eq!(id.to_string().parse::<ContainerId>().unwrap(), *id);
        }
    }

    /// A kind's controller may take such a name for none, and run the image.
    #[test]
    fn an_entry_whose_name_is_no_text_is_read_all_the_same() {
        for name in [json!(null), json!(5), json!(["app"])] {
            let template = json!({"spec": {"containers": [{"name": name, "image": "a:1"}]}});
            let found: Vec<Place<'_>> = places(&template).collect();
            assert_eq!((found[0].id.to_string().as_str(), found[0].image), ("containers/[0]", "a:1"));
            assert_eq!(found[0].name_pointer, found[0].pointer);
        }
    }

    #[test]
    fn what_a_template_cannot_start_without_is_named() {
        let names: Vec<String> =
            named_config(&template()).into_iter().map(|(kind, name)| format!("{kind}/{name}")).collect();
        assert_eq!(names, ["ConfigMap/files", "ConfigMap/settings", "Secret/projected", "Secret/token"]);
    }

    #[test]
    fn kinds_are_found_by_group_and_kind() {
        assert_eq!(Kind::find("apps/v1", "Deployment").unwrap().plural, "deployments");
        assert_eq!(
            Kind::find("batch/v1", "CronJob").unwrap().template_pointer(),
            "/spec/jobTemplate/spec/template"
        );
        assert!(Kind::find("v1", "Deployment").is_none());
        assert!(Kind::find("example.com/v1", "Deployment").is_none());
    }
}
