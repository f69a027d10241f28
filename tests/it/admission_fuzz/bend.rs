//! What is done to objects and patches.

use serde_json::{Value, json};

use super::{dice::Dice, text};
use crate::{
    admission_away::Row,
    admission_matrix::{Place, Verb},
    support::{
        manifests::{at, with},
        raw::LISTS,
        scene::Scene,
    },
};

/// A body, and what was done to it.
pub struct Bent {
    pub how: Vec<&'static str>,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// Who bends.
pub struct Bender {
    namespace: String,
    repository: String,
    hub: String,
    /// Of approved images of the repository.
    digests: [String; 2],
    /// Of the approved image of the hub.
    hub_digest: String,
    revoked: String,
    unlisted: String,
    withdrawn: String,
}

type Bend = fn(&Bender, &mut Dice, &mut Value);

/// What is done to the structure.
const BENDS: [(usize, (&str, Bend)); 15] = [
    (30, ("another image", |bender, dice, value| bender.another_image(dice, value))),
    (14, ("one more entry", |bender, dice, value| bender.one_more_entry(dice, value))),
    (10, ("one more list", |bender, dice, value| bender.one_more_list(dice, value))),
    (5, ("no list", |_, dice, value| no_list(dice, value))),
    (5, ("no image", |bender, dice, value| bender.no_image(dice, value))),
    (5, ("no name", |bender, dice, value| bender.no_name(dice, value))),
    (9, ("look-alike field", |bender, dice, value| bender.look_alike(dice, value))),
    (7, ("unknown field", |bender, dice, value| bender.unknown_field(dice, value))),
    (8, ("metadata", |bender, dice, value| bender.metadata(dice, value))),
    (3, ("api version", |_, dice, value| api_version(dice, value))),
    (6, ("swapped", |_, dice, value| swapped(dice, value))),
    (2, ("wrapped", |_, dice, value| wrapped(dice, value))),
    (4, ("status", |bender, _, value| bender.status(value))),
    (2, ("very long", |bender, dice, value| bender.very_long(dice, value))),
    (8, ("directive", |_, dice, value| directive(dice, value))),
];

/// Everything that is done, by its name; each must have been done at least once.
pub const WAYS: [&str; 30] = [
    "nothing",
    "another image",
    "one more entry",
    "one more list",
    "no list",
    "no image",
    "no name",
    "look-alike field",
    "unknown field",
    "metadata",
    "api version",
    "swapped",
    "wrapped",
    "status",
    "very long",
    "directive",
    "another content type",
    "key twice",
    "escaped key",
    "bytes",
    "more after it",
    "cut",
    "yaml",
    "yaml: anchor",
    "yaml: merge key",
    "yaml: key twice",
    "yaml: documents",
    "yaml: block",
    "yaml: tag",
    "yaml: flow",
];

impl Bender {
    pub fn new(scene: &Scene, hub: &str) -> Self {
        Self {
            namespace: scene.namespace.clone(),
            repository: scene.image(),
            hub: hub.to_owned(),
            digests: [scene.digest(0), scene.digest(1)],
            hub_digest: scene.digest(4),
            revoked: scene.digest(2),
            unlisted: scene.digest(9),
            withdrawn: scene.digest(3),
        }
    }

    /// A plain image that nobody approved.
    pub fn evil(&self) -> String {
        format!("{}:1.0@{}", self.repository, self.unlisted)
    }

    /// Something to ask for.
    pub fn bent(
        &self,
        dice: &mut Dice,
        row: &Row,
        verb: Verb,
        name: &str,
        part: &str,
        live: Option<&Value>,
    ) -> Bent {
        let mut how = Vec::new();
        let live = live.unwrap_or(&Value::Null);
        let mut value = match verb {
            Verb::Json => self.json_patch(dice, row, live),
            Verb::Create | Verb::ApplyNew => row.full(name, &self.good(dice), None),
            Verb::Apply if part.is_empty() && dice.chance(60) => row.full(name, &self.good(dice), None),
            Verb::Apply => with(
                json!({"apiVersion": row.api_version, "kind": row.kind, "metadata": {"name": name}}),
                self.partial(dice, row, part),
            ),
            Verb::Put => self.put(dice, row, part, live),
            Verb::Merge | Verb::Strategic => self.partial(dice, row, part),
        };
        let bends = dice.one(&[0, 1, 1, 1, 2, 2, 3, 5]);
        for _ in 0..bends {
            let (what, bend) = dice.weighted(&BENDS);
            if verb == Verb::Json && *what != "another image" {
                continue;
            }
            bend(self, dice, &mut value);
            how.push(*what);
        }
        let mut content_type = verb.content_type();
        let plain = value.to_string();
        let evil = self.evil();
        let takes_yaml = matches!(verb, Verb::Create | Verb::ApplyNew | Verb::Put | Verb::Apply);
        let body = if takes_yaml && dice.chance(25) {
            if !content_type.contains("apply") {
                content_type = "application/yaml";
            }
            how.push("yaml");
            text::yaml(dice, &value, &evil, &mut how)
        } else if dice.chance(30) {
            text::json(dice, plain, &evil, &mut how)
        } else {
            plain.into_bytes()
        };
        if dice.chance(2) {
            how.push("another content type");
            content_type = dice.one(&Verb::ALL).content_type();
        }
        if how.is_empty() {
            how.push("nothing");
        }
        Bent { how, content_type, body }
    }

    /// An approved image.
    fn good(&self, dice: &mut Dice) -> String {
        let Self { repository, hub, digests, hub_digest, .. } = self;
        let digest = dice.one(digests);
        let path = repository.split_once('/').unwrap().1;
        let hub_name = hub.rsplit('/').next().unwrap();
        match dice.below(14) {
            0 => format!("{repository}@{digest}"),
            1 => format!("{repository}:another@{digest}"),
            2 => format!("REGISTRY.example/{path}@{digest}"),
            3 => format!("registry.example:443/{path}:1.0@{digest}"),
            4 => format!("{hub_name}@{hub_digest}"),
            5 => format!("library/{hub_name}:1.4@{hub_digest}"),
            6 => format!("docker.io/{hub_name}@{hub_digest}"),
            7 => format!("index.docker.io/library/{hub_name}@{hub_digest}"),
            8 => format!("{repository}:1.{}", dice.below(2)),
            9 => format!("{hub_name}:1.4"),
            _ => format!("{repository}:1.0@{digest}"),
        }
    }

    /// An image that is not approved, or none at all.
    fn bad(&self, dice: &mut Dice) -> String {
        let Self { repository, namespace, digests, hub_digest, revoked, unlisted, withdrawn, .. } = self;
        let digest = dice.one(digests);
        let good = format!("{repository}@{digest}");
        let evil = self.evil();
        let path = repository.split_once('/').unwrap().1;
        let hex = digest.trim_start_matches("sha256:");
        let choices = [
            evil.clone(),
            format!("{repository}@{revoked}"),
            format!("{repository}@{unlisted}"),
            format!("{repository}@{withdrawn}"),
            format!("{repository}:1.2"),
            format!("{repository}:1.3"),
            repository.clone(),
            format!("{repository}:latest"),
            format!("{repository}:1.00"),
            format!("registry.example/{namespace}/other@{digest}"),
            format!("{repository}x@{digest}"),
            format!("{repository}/cart@{digest}"),
            format!("registry.example:5000/{path}@{digest}"),
            format!("registry.example.evil/{path}@{digest}"),
            format!("registry.example./{path}@{digest}"),
            format!("registry.example:0443/{path}@{digest}"),
            format!("registry.example:80443/{path}@{digest}"),
            format!("docker.io/{namespace}@{digest}"),
            format!("docker.io/library/{namespace}@{digest}"),
            format!("docker.io/{path}@{digest}"),
            format!("localhost/{path}@{digest}"),
            path.to_owned(),
            format!("{path}@{digest}"),
            format!("{repository}@{hub_digest}"),
            format!("{repository}@sha256:{}", hex.to_uppercase()),
            format!("{repository}@SHA256:{hex}"),
            format!("{repository}@sha512:{hex}{hex}"),
            format!("{repository}@sha256:{}", &hex[1..]),
            format!("{repository}@sha256:{hex}0"),
            format!("{repository}@md5:{hex}"),
            format!("{good}@{unlisted}"),
            format!("{evil}@{digest}"),
            format!("{repository}:1.0:1.0@{digest}"),
            format!("{good}#{evil}"),
            format!("{good}?x=1"),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}\t{evil}"),
            format!("{good}\u{a0}"),
            format!("{good}\u{200b}"),
            format!("{good}\u{0}"),
            format!("{evil}\u{0}{good}"),
            good.replace("cart", "c\u{430}rt"),
            good.replace("cart", "Cart"),
            good.replace('/', "//"),
            good.replace("/cart", "/./cart"),
            good.replace("/cart", "/evil/../cart"),
            good.replace("/cart", "%2fcart"),
            good.replace('@', "@@"),
            format!("https://{good}"),
            format!("docker://{good}"),
            format!("user:pass@{good}"),
            format!("[::1]:5000/{path}@{unlisted}"),
            format!("{repository}:{}", "t".repeat(128)),
            format!("{repository}:{}", "t".repeat(5000)),
            format!("registry.example/{}@{digest}", "a/".repeat(200) + "b"),
            digest.clone(),
            hex.to_owned(),
            "*".to_owned(),
            "null".to_owned(),
            "@".to_owned(),
        ];
        if dice.chance(40) { evil } else { dice.one(&choices) }
    }

    fn image(&self, dice: &mut Dice) -> String {
        if dice.chance(45) { self.good(dice) } else { self.bad(dice) }
    }

    fn entry(&self, dice: &mut Dice, list: &str) -> Value {
        let names = ["app", "first", "sidecar", "debug", "model", "more", "APP", "app ", "*"];
        let name = if dice.chance(60) { "more" } else { dice.one(&names) };
        let place = Place::ALL.into_iter().find(|place| place.list() == list).unwrap_or(Place::Container);
        let mut entry = place.entry(name, &self.image(dice));
        if list == "initContainers" && dice.chance(50) {
            entry["restartPolicy"] = "Always".into();
        }
        if list == "ephemeralContainers" && dice.chance(50) {
            entry["targetContainerName"] = "app".into();
        }
        entry
    }

    /// A part of an object: one list with an entry that is there or is not.
    fn partial(&self, dice: &mut Dice, row: &Row, part: &str) -> Value {
        let debug = part == "/ephemeralcontainers";
        let place = if debug { Place::Ephemeral } else { dice.one(&Place::ALL) };
        let mut entries = vec![place.entry(place.name(), &self.image(dice))];
        if dice.chance(20) {
            entries.push(self.entry(dice, place.list()));
        }
        if dice.chance(10) {
            entries.push(entries[0].clone());
        }
        let pointer = format!("{}/{}", row.spec, place.list());
        let parts = pointer.rsplit('/').filter(|part| !part.is_empty());
        parts.fold(Value::Array(entries), |value, part| json!({part: value}))
    }

    fn put(&self, dice: &mut Dice, row: &Row, part: &str, live: &Value) -> Value {
        let mut object = live.clone();
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("managedFields");
        if !row.is_custom() {
            metadata.remove("resourceVersion");
        }
        if part == "/ephemeralcontainers" || row.is_custom() || dice.chance(5) {
            let entry = self.entry(dice, "ephemeralContainers");
            object.pointer_mut(row.spec).unwrap()["ephemeralContainers"] = json!([entry]);
        } else {
            self.another_image(dice, &mut object);
        }
        object
    }

    fn json_patch(&self, dice: &mut Dice, row: &Row, live: &Value) -> Value {
        let images: Vec<String> = pointers(live, &|key, value| is_image(key, value))
            .into_iter()
            .filter(|at| at.starts_with(row.spec))
            .collect();
        let evil = "/metadata/annotations/evil";
        let (spec, count) = (row.spec, dice.one(&[1, 1, 1, 2, 3]));
        let mut operations = Vec::new();
        for _ in 0..count {
            let (one, other) = (dice.one(&images), dice.one(&images));
            let list = dice.one(&LISTS).0;
            let entry = self.entry(dice, list);
            operations.push(match dice.below(20) {
                0 => json!({"op": "copy", "from": evil, "path": one}),
                1 => json!({"op": "move", "from": evil, "path": one}),
                2 => json!({"op": "copy", "from": one, "path": other}),
                3 => json!({"op": "move", "from": one, "path": other}),
                4 => json!({"op": "add", "path": format!("{spec}/{list}/-"), "value": entry}),
                5 => json!({"op": "add", "path": format!("{spec}/{list}"), "value": [entry]}),
                6 => json!({"op": "copy", "from": format!("{spec}/containers/0"), "path": format!("{spec}/{list}/0")}),
                7 => json!({"op": "remove", "path": format!("{spec}/{list}")}),
                8 => json!({"op": "test", "path": one, "value": self.good(dice)}),
                9 => json!({"op": "add", "path": format!("{spec}/containers/-1/image"), "value": self.image(dice)}),
                10 => json!({"op": "replace", "path": format!("{spec}/containers/00/image"), "value": self.image(dice)}),
                11 => json!({"op": "replace", "path": "", "value": self.put(dice, row, "", live)}),
                12 => json!({"op": "replace", "path": spec, "value": at(&self.put(dice, row, "", live), spec)}),
                13 => json!({"op": "Replace", "path": one, "value": self.evil()}),
                14 => json!({"op": "add", "path": one.replace("image", "ima~2ge"), "value": self.evil()}),
                _ => json!({"op": "replace", "path": one, "value": self.image(dice)}),
            });
        }
        Value::Array(operations)
    }

    fn another_image(&self, dice: &mut Dice, value: &mut Value) {
        let image = self.image(dice);
        set(dice, value, &|key, value| is_image(key, value), |slot| *slot = image.into());
    }

    fn one_more_entry(&self, dice: &mut Dice, value: &mut Value) {
        let Some(at) = some(dice, value, &|key, value| is_list(key) && value.is_array()) else { return };
        let entry = self.entry(dice, at.rsplit('/').next().unwrap_or_default());
        let list = value.pointer_mut(&at).and_then(Value::as_array_mut).unwrap();
        list.insert(dice.below(list.len() + 1), entry);
    }

    fn one_more_list(&self, dice: &mut Dice, value: &mut Value) {
        let list = dice.one(&LISTS).0;
        let entry = self.entry(dice, list);
        let beside = |key: &str, value: &Value| {
            matches!(key, "spec" | "template") && LISTS.iter().any(|(list, _)| value.get(list).is_some())
        };
        set(dice, value, &beside, |spec| spec[list] = json!([entry]));
    }

    fn no_image(&self, dice: &mut Dice, value: &mut Value) {
        let evil = self.evil();
        let instead = [json!(null), json!(5), json!(true), json!([evil]), json!({"image": evil}), json!("")];
        let instead = dice.one(&instead);
        set(dice, value, &|key, value| is_image(key, value), |slot| *slot = instead);
    }

    /// An entry that nobody can call by its name.
    fn no_name(&self, dice: &mut Dice, value: &mut Value) {
        let instead =
            dice.one(&[json!(null), json!(5), json!(""), json!(["app"]), json!("app"), json!("\u{0}")]);
        let image = self.image(dice);
        let is_entry = |_: &str, value: &Value| value.get("name").is_some() && value.get("image").is_some();
        let gone = dice.chance(20);
        set(dice, value, &is_entry, |entry| {
            match entry["image"].get_mut("reference") {
                Some(reference) => *reference = image.into(),
                None => entry["image"] = image.into(),
            }
            let fields = entry.as_object_mut().unwrap();
            if gone { drop(fields.remove("name")) } else { drop(fields.insert("name".into(), instead)) }
        });
    }

    /// A field that a sloppy reader takes for another: cases, folded letters, blanks.
    fn look_alike(&self, dice: &mut Dice, value: &mut Value) {
        let fields =
            ["image", "reference", "containers", "initContainers", "ephemeralContainers", "volumes", "spec"];
        let known = |_: &str, value: &Value| {
            value
                .as_object()
                .is_some_and(|fields_of| fields.iter().any(|field| fields_of.contains_key(*field)))
        };
        let Some(at) = some(dice, value, &known) else { return };
        let object = value.pointer_mut(&at).and_then(Value::as_object_mut).unwrap();
        let there: Vec<&str> = fields.into_iter().filter(|field| object.contains_key(*field)).collect();
        let field = dice.one(&there);
        let mut upper = field.to_owned();
        upper[..1].make_ascii_uppercase();
        let alike = [
            upper,
            field.to_uppercase(),
            field.to_lowercase(),
            // What folds to an s and to a k, and what does not quite to an i.
            field.replace('s', "\u{17f}"),
            field.replace('e', "\u{435}"),
            field.replace('i', "\u{131}"),
            format!("{field} "),
            format!(" {field}"),
            format!("{field}\u{0}"),
            format!("\u{feff}{field}"),
            format!("f:{field}"),
            format!("{field},omitempty"),
        ];
        let mut evil = object[field].clone();
        if evil.is_string() {
            evil = self.evil().into();
        } else {
            set_all(&mut evil, &self.evil());
        }
        object.insert(dice.one(&alike), evil);
    }

    fn unknown_field(&self, dice: &mut Dice, value: &mut Value) {
        let container = json!([{"name": "more", "image": self.evil()}]);
        let fields = [
            ("podSpec", json!({"containers": container})),
            ("template", json!({"spec": {"containers": container}})),
            ("sidecars", container.clone()),
            ("containers", container.clone()),
            ("dockerImage", json!(self.evil())),
            ("imageID", json!(self.evil())),
            ("__proto__", json!({"containers": container})),
            ("", json!({"containers": container})),
            ("metadata.name", json!("x")),
        ];
        let (field, inside) = dice.one(&fields);
        set(dice, value, &|_, value| value.is_object(), |object| object[field] = inside);
    }

    fn metadata(&self, dice: &mut Dice, value: &mut Value) {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true}]);
        let applied =
            format!("{{\"spec\":{{\"containers\":[{{\"name\":\"app\",\"image\":\"{}\"}}]}}}}", self.evil());
        let over = [
            json!({"generateName": "fuzz-"}),
            json!({"generateName": "fuzz-", "name": null}),
            json!({"name": null}),
            json!({"namespace": "kube-system"}),
            json!({"namespace": "countersign-system"}),
            json!({"namespace": self.namespace}),
            json!({"labels": {"app": "cart", "countersign.dev/paused": "yes", "kubernetes.io/metadata.name": "kube-system"}}),
            json!({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied}}),
            json!({"annotations": {"countersign.dev/paused": "yes", "countersign.dev/release-hold": "yes"}}),
            json!({"annotations": {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file"}}),
            json!({"ownerReferences": owner}),
            json!({"finalizers": ["example.com/kept"]}),
            json!({"managedFields": [{"manager": "countersign", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]}),
            json!({"managedFields": []}),
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
            json!({"uid": "x"}),
            json!({"selfLink": "/x"}),
            json!({"creationTimestamp": null}),
        ];
        let over = dice.one(&over);
        if value.is_object() {
            json_patch::merge(value, &json!({"metadata": over}));
        }
    }

    fn status(&self, value: &mut Value) {
        if value.is_object() {
            value["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "app", "image": self.evil(), "imageID": self.evil(), "ready": true, "restartCount": 0}]});
        }
    }

    fn very_long(&self, dice: &mut Dice, value: &mut Value) {
        let Some(at) = some(dice, value, &|key, value| is_list(key) && value.is_array()) else { return };
        let place = Place::ALL.into_iter().find(|place| at.ends_with(place.list())).unwrap();
        let good = format!("{}@{}", self.repository, self.digests[0]);
        let list = value.pointer_mut(&at).and_then(Value::as_array_mut).unwrap();
        list.extend((0..300).map(|n| place.entry(&format!("c{n}"), &good)));
        if dice.chance(50) {
            list.push(place.entry("last", &self.image(dice)));
        }
    }
}

fn no_list(dice: &mut Dice, value: &mut Value) {
    let instead = [json!(null), json!([]), json!({}), json!("text"), json!([null]), json!([[]]), json!([{}])];
    let instead = dice.one(&instead);
    set(dice, value, &|key, _| is_list(key), |slot| *slot = instead);
}

fn api_version(dice: &mut Dice, value: &mut Value) {
    let over = [
        json!({"apiVersion": "V1"}),
        json!({"apiVersion": "v1 "}),
        json!({"apiVersion": "/v1"}),
        json!({"apiVersion": "core/v1"}),
        json!({"apiVersion": "apps/v1beta1"}),
        json!({"apiVersion": null}),
        json!({"apiVersion": 1}),
        json!({"kind": "pod"}),
        json!({"kind": "PodList"}),
        json!({"kind": "Node"}),
        json!({"kind": null}),
        json!({"kind": null, "apiVersion": null}),
    ];
    if value.is_object() {
        json_patch::merge(value, &dice.one(&over));
    }
}

fn swapped(dice: &mut Dice, value: &mut Value) {
    let images = pointers(value, &|key, value| is_image(key, value));
    if images.len() < 2 {
        return;
    }
    let (one, other) = (dice.one(&images), dice.one(&images));
    let (first, second) = (at(value, &one).clone(), at(value, &other).clone());
    *value.pointer_mut(&one).unwrap() = second;
    *value.pointer_mut(&other).unwrap() = first;
}

fn wrapped(dice: &mut Dice, value: &mut Value) {
    let inside = value.take();
    *value = match dice.below(3) {
        0 => json!({"apiVersion": "v1", "kind": "List", "items": [inside]}),
        1 => json!([inside]),
        _ => json!({"object": inside.clone(), "spec": inside}),
    };
}

/// What means something in a strategic merge patch.
fn directive(dice: &mut Dice, value: &mut Value) {
    let fields = [
        ("$patch", json!("replace")),
        ("$patch", json!("delete")),
        ("$patch", json!("merge")),
        ("$retainKeys", json!(["name", "image"])),
        ("$setElementOrder/containers", json!([{"name": "more"}, {"name": "app"}])),
        ("$setElementOrder/initContainers", json!([{"name": "sidecar"}, {"name": "first"}])),
        ("$deleteFromPrimitiveList/finalizers", json!(["x"])),
    ];
    let (field, means) = dice.one(&fields);
    set(dice, value, &|_, value| value.is_object(), |object| object[field] = means);
}

fn is_list(key: &str) -> bool {
    LISTS.iter().any(|(list, _)| *list == key)
}

fn is_image(key: &str, value: &Value) -> bool {
    matches!(key, "image" | "reference") && value.is_string()
}

/// Where fields or entries stand that are of some kind; the whole is one, without a key.
fn pointers(value: &Value, is: &dyn Fn(&str, &Value) -> bool) -> Vec<String> {
    fn walk(at: &str, key: &str, value: &Value, is: &dyn Fn(&str, &Value) -> bool, found: &mut Vec<String>) {
        if is(key, value) {
            found.push(at.to_owned());
        }
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    let part = key.replace('~', "~0").replace('/', "~1");
                    walk(&format!("{at}/{part}"), key, value, is, found);
                }
            }
            Value::Array(entries) => {
                for (index, value) in entries.iter().enumerate() {
                    walk(&format!("{at}/{index}"), "", value, is, found);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = Vec::new();
    walk("", "", value, is, &mut found);
    found
}

fn some(dice: &mut Dice, value: &Value, is: &dyn Fn(&str, &Value) -> bool) -> Option<String> {
    let all = pointers(value, is);
    (!all.is_empty()).then(|| dice.one(&all))
}

fn set(dice: &mut Dice, value: &mut Value, is: &dyn Fn(&str, &Value) -> bool, to: impl FnOnce(&mut Value)) {
    if let Some(slot) = some(dice, value, is).and_then(|at| value.pointer_mut(&at)) {
        to(slot);
    }
}

fn set_all(value: &mut Value, image: &str) {
    for at in pointers(value, &is_image) {
        *value.pointer_mut(&at).unwrap() = image.into();
    }
}
