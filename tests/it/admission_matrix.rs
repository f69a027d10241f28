//! The whole matrix, on a real API server that asks the real operator: where an image stands, in which kind, how it is asked
//! for, and what the ledger says of it. What is expected says `Stage::verdict` alone, which asks nothing of the product.

use std::fmt;

use anyhow::ensure;
use futures::{StreamExt as _, future::join_all, stream};
use serde_json::{Value, json};

use crate::{
    admission_away::{ROWS, Row},
    controlplane::{self, eventually},
    support::{
        guarded::guarding_operator,
        manifests::{at, with},
        operator::ROOT,
        raw::{Answer, Outcome, Raw, Request, images_in},
        scene::{SOON, Scene},
    },
};

/// Where an image stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Container,
    Init,
    Sidecar,
    /// Of a Pod that is there it is asked for at `pods/ephemeralcontainers`.
    Ephemeral,
    Volume,
}

impl Place {
    pub const ALL: [Self; 5] = [Self::Container, Self::Init, Self::Sidecar, Self::Ephemeral, Self::Volume];

    /// The list of the pod spec.
    pub fn list(self) -> &'static str {
        match self {
            Self::Container => "containers",
            Self::Init | Self::Sidecar => "initContainers",
            Self::Ephemeral => "ephemeralContainers",
            Self::Volume => "volumes",
        }
    }

    /// The name of the entry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Container => "app",
            Self::Init => "first",
            Self::Sidecar => "sidecar",
            Self::Ephemeral => "debug",
            Self::Volume => "model",
        }
    }

    /// The image in an entry.
    fn pointer(self) -> &'static str {
        if self == Self::Volume { "/image/reference" } else { "/image" }
    }

    pub fn entry(self, name: &str, image: &str) -> Value {
        match self {
            Self::Container | Self::Init | Self::Ephemeral => json!({"name": name, "image": image}),
            Self::Sidecar => json!({"name": name, "image": image, "restartPolicy": "Always"}),
            Self::Volume => json!({"name": name, "image": {"reference": image}}),
        }
    }
}

/// The kinds that the guarded control plane serves.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| !matches!(row.kind, "CloneSet" | "Service"))
}

impl Row {
    pub fn is_pod(&self) -> bool {
        self.kind == "Pod"
    }

    pub fn is_custom(&self) -> bool {
        self.kind == "Rollout"
    }

    /// The path of the kind, of an object, of a part of it.
    pub fn path(&self, namespace: &str, rest: &str) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/namespaces/{namespace}/{}{rest}", self.api_version, self.plural)
    }

    /// An object with all lists that its kind may have: at one place an entry of the caller's, else one with `image`. Nothing
    /// starts by it, but of a Pod.
    pub fn full(&self, name: &str, image: &str, at: Option<(Place, Value)>) -> Value {
        let mut lists = json!({});
        if self.kind == "DaemonSet" {
            lists["nodeSelector"] = json!({"nowhere": "yes"});
        }
        for place in Place::ALL {
            let own = at.clone().filter(|(at, _)| *at == place).map(|(_, entry)| entry);
            if place == Place::Ephemeral && !self.is_custom() && own.is_none() {
                continue;
            }
            let entry = own.unwrap_or_else(|| place.entry(place.name(), image));
            match lists[place.list()].as_array_mut() {
                Some(list) => list.push(entry),
                None => lists[place.list()] = json!([entry]),
            }
        }
        // Controllers take along what has the labels that they select.
        let own = format!("{name}-{}", self.plural);
        let object = with(self.object(&own, &lists), json!({"metadata": {"name": name}}));
        let scales = object.pointer("/spec/replicas").is_some();
        if scales { with(object, json!({"spec": {"replicas": 0}})) } else { object }
    }
}

/// How it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Create,
    ApplyNew,
    Put,
    Merge,
    Strategic,
    Json,
    Apply,
}

impl Verb {
    pub const ALL: [Self; 7] =
        [Self::Create, Self::ApplyNew, Self::Put, Self::Merge, Self::Strategic, Self::Json, Self::Apply];

    pub fn is_new(self) -> bool {
        matches!(self, Self::Create | Self::ApplyNew)
    }

    pub fn method(self) -> &'static str {
        match self {
            Self::Create => "POST",
            Self::Put => "PUT",
            Self::ApplyNew | Self::Merge | Self::Strategic | Self::Json | Self::Apply => "PATCH",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Create | Self::Put => "application/json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
            Self::ApplyNew | Self::Apply => "application/apply-patch+yaml",
        }
    }
}

/// What the ledger says of an image, and how it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    Approved,
    /// By a record of the namespace itself.
    ApprovedHere,
    ApprovedTag,
    Unlisted,
    UnlistedTag,
    Revoked,
    RevokedTag,
    /// A revocation reaches every repository.
    RevokedUnderAnotherName,
    Expired,
    ExpiredTag,
    /// An approval reaches its own.
    ApprovedUnderAnotherName,
    /// By a record of another namespace.
    ApprovedElsewhere,
    FromTheFuture,
}

impl Named {
    /// Those that are asked for in earnest, too.
    const MAIN: [Self; 7] = [
        Self::Approved,
        Self::ApprovedTag,
        Self::Unlisted,
        Self::Revoked,
        Self::Expired,
        Self::ApprovedUnderAnotherName,
        Self::ApprovedElsewhere,
    ];

    const ALL: [Self; 13] = [
        Self::Approved,
        Self::ApprovedHere,
        Self::ApprovedTag,
        Self::Unlisted,
        Self::UnlistedTag,
        Self::Revoked,
        Self::RevokedTag,
        Self::RevokedUnderAnotherName,
        Self::Expired,
        Self::ExpiredTag,
        Self::ApprovedUnderAnotherName,
        Self::ApprovedElsewhere,
        Self::FromTheFuture,
    ];

    /// As a manifest writes it.
    fn text(self, scene: &Scene) -> String {
        let other = |n| format!("registry.example/{}/other:1.{n}@{}", scene.namespace, scene.digest(n));
        match self {
            Self::Approved => scene.pin(1),
            Self::ApprovedHere => scene.pin(2),
            Self::ApprovedTag => scene.tag(3),
            Self::Unlisted => scene.pin(8),
            Self::UnlistedTag => scene.tag(9),
            Self::Revoked => scene.pin(4),
            Self::RevokedTag => scene.tag(4),
            Self::RevokedUnderAnotherName => other(4),
            Self::Expired => scene.pin(5),
            Self::ExpiredTag => scene.tag(5),
            Self::ApprovedUnderAnotherName => other(1),
            Self::ApprovedElsewhere => scene.pin(6),
            Self::FromTheFuture => scene.pin(7),
        }
    }
}

/// One cell of the matrix.
#[derive(Clone, Copy)]
struct Cell {
    row: &'static Row,
    place: Place,
    verb: Verb,
    named: Named,
    dry: bool,
    number: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { row, place, verb, named, dry, .. } = self;
        let dry = if *dry { ", dry" } else { "" };
        write!(f, "{} {place:?} {verb:?} {named:?}{dry}", row.kind)
    }
}

impl Cell {
    /// Those of one kind, each with a number of its own.
    fn of(row: &'static Row, named: &[Named], dry: bool) -> Vec<Self> {
        let mut cells = Vec::new();
        for place in Place::ALL {
            for verb in Verb::ALL {
                for named in named.iter().copied() {
                    let cell = Self { row, place, verb, named, dry, number: cells.len() };
                    // What is impossible is so for every image.
                    if cell.is_impossible().is_none() || matches!(named, Named::Approved | Named::Unlisted) {
                        cells.push(cell);
                    }
                }
            }
        }
        cells
    }

    fn is_debug(&self) -> bool {
        self.row.is_pod() && self.place == Place::Ephemeral
    }

    /// The name of the entry. What is once among the ephemeral containers of a Pod stays.
    fn name(&self) -> String {
        let name = self.place.name();
        if self.is_debug() && !self.dry { format!("{name}-{}", self.number) } else { name.to_owned() }
    }

    /// The path of the entry, as kubectl writes it.
    fn path(&self) -> String {
        let spec = self.row.spec.trim_start_matches('/').replace('/', ".");
        format!("{spec}.{}[{}]", self.place.list(), self.name())
    }

    /// The image that an object names there.
    fn image_in(&self, object: &Value) -> Option<String> {
        let list = at(object, &format!("{}/{}", self.row.spec, self.place.list()));
        let entry = list.as_array()?.iter().find(|entry| entry["name"] == self.name().as_str())?;
        entry.pointer(self.place.pointer())?.as_str().map(str::to_owned)
    }

    /// What the API server refuses by itself, with a part of what it says.
    fn is_impossible(&self) -> Option<&'static str> {
        let Self { row, place, verb, .. } = *self;
        match (row.kind, place, verb) {
            ("Pod", Place::Ephemeral, Verb::Create | Verb::ApplyNew) => Some("cannot be set on create"),
            ("Pod", Place::Volume, _) if !verb.is_new() => {
                Some("pod updates may not change fields other than")
            }
            ("Rollout", _, Verb::Strategic) => Some("the body of the request was in an unknown format"),
            ("Pod", Place::Ephemeral, _) | ("Rollout", ..) => None,
            ("Job", ..) if !verb.is_new() => Some("field is immutable"),
            (_, Place::Ephemeral, _) => Some("ephemeral containers not allowed in pod template"),
            _ => None,
        }
    }
}

/// What a cell is expected to come to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is let in, and names this image then.
    In(String),
    /// The same, and the client is told what is wrong with it.
    Warned(String, &'static str),
    /// The operator refuses it, for this.
    Denied(&'static str),
    /// The API server refuses it itself, and says this.
    Impossible(&'static str),
}

/// What the policy of a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Enforce, and tags of Pods are rewritten.
    Pins,
    /// Enforce, and they are not.
    Digests,
    Warns,
    Audits,
}

/// A namespace with a policy, and records of every standing.
struct Stage {
    scene: Scene,
    raw: Raw,
    asks: Asks,
}

impl Stage {
    async fn new(name: &str, asks: Asks) -> Self {
        let scene = Scene::guarded(name).await;
        let mode = match asks {
            Asks::Pins | Asks::Digests => "Enforce",
            Asks::Warns => "Warn",
            Asks::Audits => "Audit",
        };
        let mut policy = scene.policy(mode).replace("from: [Root]", "from: [Root, Namespace]");
        if asks == Asks::Digests {
            policy.push_str("  admission: {pinPods: false}\n");
        }
        scene.write("policy.yaml", &policy);
        scene.file_approvals([0, 1, 3]);
        scene.file_revocation(4, "CVE-2026-0001");
        let file =
            |n: u8, over: Value| scene.put(&format!("approvals/{n}.yaml"), &scene.approval_with(n, over));
        file(5, json!({"expiresAt": "2026-01-02T00:00:00Z"}));
        file(7, json!({"approvedAt": "2099-01-01T00:00:00Z"}));
        scene.push("every standing").await;
        let elsewhere = controlplane::shared_guarded().namespace("elsewhere").await;
        for (n, namespace) in [(2, &scene.namespace), (6, &elsewhere)] {
            let approval = scene.approval_with(n, json!({}));
            scene.apply(&with(approval, json!({"metadata": {"namespace": namespace}}))).await;
        }
        let raw = Raw::new(scene.client.clone());
        let stage = Self { scene, raw, asks };
        stage.is_known().await;
        stage
    }

    /// Waits until what the ledger and the policy say is known to admission.
    async fn is_known(&self) {
        let pod = rows().find(|row| row.is_pod()).unwrap();
        eventually("all records are known", SOON, async || {
            for cell in Cell::of(pod, &Named::ALL, true) {
                if (cell.place, cell.verb) == (Place::Container, Verb::Create) {
                    let answer = self.raw.send(&self.request(&cell, &Value::Null)).await;
                    let problem = self.problem(&cell, &answer);
                    ensure!(problem.is_none(), "{problem:?}");
                }
            }
            Ok(())
        })
        .await;
    }

    /// The table of what is expected.
    fn verdict(&self, cell: &Cell) -> Verdict {
        if let Some(says) = cell.is_impossible() {
            return Verdict::Impossible(says);
        }
        let image = cell.named.text(&self.scene);
        let against = match cell.named {
            Named::Approved | Named::ApprovedHere => None,
            Named::ApprovedTag if !cell.row.is_pod() => None,
            Named::ApprovedTag => match self.asks {
                Asks::Pins => return Verdict::In(self.scene.pin(3)),
                Asks::Digests => Some("DigestRequired"),
                Asks::Warns | Asks::Audits => None,
            },
            Named::Unlisted
            | Named::UnlistedTag
            | Named::ApprovedUnderAnotherName
            | Named::ApprovedElsewhere
            | Named::FromTheFuture => Some("Unlisted"),
            Named::Revoked | Named::RevokedTag | Named::RevokedUnderAnotherName => Some("Revoked"),
            Named::Expired | Named::ExpiredTag => Some("Expired"),
        };
        match (against, self.asks) {
            (Some(code), Asks::Pins | Asks::Digests) => Verdict::Denied(code),
            (Some(code), Asks::Warns) => Verdict::Warned(image, code),
            (None, _) | (_, Asks::Audits) => Verdict::In(image),
        }
    }

    fn base(dry: bool) -> &'static str {
        if dry { "base-dry" } else { "base" }
    }

    /// What asks for a cell; `live` is the object that an update changes.
    fn request(&self, cell: &Cell, live: &Value) -> Request {
        let Cell { row, place, verb, dry, number, .. } = *cell;
        let image = cell.named.text(&self.scene);
        let entry = place.entry(&cell.name(), &image);
        let name = if verb.is_new() { format!("cell-{number}") } else { Self::base(dry).to_owned() };
        let whole = || row.full(&name, &self.scene.pin(0), Some((place, entry.clone())));
        let list = format!("{}/{}", row.spec, place.list());
        let mut entries = at(live, &list).as_array().cloned().unwrap_or_default();
        let index = entries.iter().position(|found| found["name"] == entry["name"]);
        match index {
            Some(index) => *entries[index].pointer_mut(place.pointer()).unwrap() = image.clone().into(),
            None => entries.push(entry.clone()),
        }
        let body = match verb {
            Verb::Apply if cell.is_debug() => json!({
                "apiVersion": row.api_version, "kind": row.kind, "metadata": {"name": name},
                "spec": {place.list(): entries},
            }),
            Verb::Create | Verb::ApplyNew | Verb::Apply => whole(),
            Verb::Put => replacing(row, with(live.clone(), nested(&list, Value::Array(entries)))),
            Verb::Merge => nested(&list, Value::Array(entries)),
            Verb::Strategic => nested(&list, json!([entry])),
            Verb::Json => match (index, at(live, &list).is_array()) {
                (Some(index), _) => {
                    let path = format!("{list}/{index}{}", place.pointer());
                    json!([{"op": "replace", "path": path, "value": image}])
                }
                (None, true) => json!([{"op": "add", "path": format!("{list}/-"), "value": entry}]),
                (None, false) => json!([{"op": "add", "path": list, "value": [entry]}]),
            },
        };
        let at = match verb {
            Verb::Create => String::new(),
            _ if cell.is_debug() && !verb.is_new() => format!("/{name}/ephemeralcontainers"),
            _ => format!("/{name}"),
        };
        let force = if verb.content_type().contains("apply") { "&force=true" } else { "" };
        let dry = if dry { "&dryRun=All" } else { "" };
        Request {
            method: verb.method(),
            path: row.path(&self.scene.namespace, &format!("{at}?fieldManager=matrix{force}{dry}")),
            content_type: verb.content_type(),
            body: body.to_string().into_bytes(),
        }
    }

    /// What is wrong with an answer.
    fn problem(&self, cell: &Cell, answer: &Answer) -> Option<String> {
        let verdict = self.verdict(cell);
        let wrong = |what: &str| {
            let (code, text, told) = (answer.code, answer.text(), answer.told());
            Some(format!("{cell}: expected {verdict:?}; {what}: {code} {text} {told:?}"))
        };
        let policy = format!("{ROOT}/{}", self.scene.namespace);
        let missing = |text: &str, parts: &[&str]| {
            parts.iter().find(|part| !text.contains(*part)).map(|part| format!("{part} is not said"))
        };
        match (&verdict, answer.outcome()) {
            (Verdict::In(image) | Verdict::Warned(image, _), Outcome::Accepted) => {
                let found = cell.image_in(&answer.body);
                if found.as_ref() != Some(image) {
                    return wrong(&format!("it names {found:?}"));
                }
                match (&verdict, answer.told().as_slice()) {
                    (Verdict::Warned(_, code), [told]) => {
                        missing(told, &[&policy, &cell.path(), &format!("({code})")])
                            .and_then(|what| wrong(&what))
                    }
                    (Verdict::In(_), []) => None,
                    _ => wrong("warnings"),
                }
            }
            (Verdict::Denied(code), Outcome::Denied) => {
                let image = cell.named.text(&self.scene);
                let code = format!("({code})");
                let digest = image.split_once('@').map_or("sha256:…", |(_, digest)| digest);
                let repository = image.split(':').next().unwrap();
                let mut parts = vec![policy.as_str(), &image, &code];
                let path = format!("{}: ", cell.path());
                parts.push(&path);
                if code == "(Unlisted)" {
                    parts.extend(["kind: ApprovedImage", ROOT, digest, repository]);
                }
                if answer.code != 403 {
                    return wrong("another code");
                }
                missing(answer.text(), &parts).and_then(|what| wrong(&what))
            }
            (Verdict::Impossible(says), Outcome::Refused) => {
                missing(answer.text(), &[says]).and_then(|what| wrong(&what))
            }
            _ => wrong("it is not so"),
        }
    }

    /// Makes an object of every kind with approved images, for updates; answers with each.
    async fn bases(&self, dry: bool) -> Vec<(&'static Row, Value)> {
        let make = async |row: &'static Row| {
            let object = row.full(Self::base(dry), &self.scene.pin(0), None);
            (row, self.create(row, &object).await)
        };
        join_all(rows().map(make)).await
    }

    /// Makes an object; answers with it once it changes no more.
    async fn create(&self, row: &Row, object: &Value) -> Value {
        let created = self
            .raw
            .send(&Request {
                method: "POST",
                path: row.path(&self.scene.namespace, ""),
                content_type: "application/json",
                body: object.to_string().into_bytes(),
            })
            .await;
        assert_eq!(created.code, 201, "{} {}", row.kind, created.text());
        if !row.is_pod() {
            return created.body;
        }
        eventually("the pod runs", SOON, async || {
            let name = object["metadata"]["name"].as_str().unwrap();
            let live = self.raw.get(row.path(&self.scene.namespace, &format!("/{name}"))).await;
            ensure!(live["status"]["phase"] == "Running", "{}", live["status"]);
            Ok(live)
        })
        .await
    }

    /// Asks for the cells without an effect, many at once; answers with what is wrong.
    async fn dry(&self, named: &[Named]) -> Vec<String> {
        let bases = self.bases(true).await;
        let cells = bases
            .iter()
            .flat_map(|(row, live)| Cell::of(row, named, true).into_iter().map(move |cell| (cell, live)));
        let problems = stream::iter(cells).map(async |(cell, live)| {
            let answer = self.raw.send(&self.request(&cell, live)).await;
            self.problem(&cell, &answer)
        });
        problems.buffer_unordered(AT_ONCE).filter_map(async |problem| problem).collect().await
    }

    /// Asks for the cells in earnest, of each kind one after the other; answers with what is wrong.
    async fn real(&self, named: &[Named]) -> Vec<String> {
        let lane = async |(row, mut live): (&'static Row, Value)| {
            let mut problems = Vec::new();
            for cell in Cell::of(row, named, false) {
                let answer = self.raw.send(&self.request(&cell, &live)).await;
                problems.extend(self.problem(&cell, &answer));
                if answer.outcome() == Outcome::Accepted && !cell.verb.is_new() {
                    live = answer.body;
                }
            }
            problems
        };
        join_all(self.bases(false).await.into_iter().map(lane)).await.concat()
    }
}

/// How many requests are on their way.
const AT_ONCE: usize = 16;

/// A field at a pointer, and nothing else.
fn nested(pointer: &str, value: Value) -> Value {
    pointer.rsplit('/').filter(|part| !part.is_empty()).fold(value, |value, part| json!({part: value}))
}

/// An object as it is sent to take the place of another; custom kinds ask for the version that was seen.
fn replacing(row: &Row, mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    if !row.is_custom() {
        metadata.remove("resourceVersion");
    }
    object
}

#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} cells are wrong:\n{}", problems.len(), problems.join("\n"));
}

/// If this fails, there is a way past admission, or something that is approved does not start.
#[tokio::test(flavor = "multi_thread")]
async fn every_image_is_judged_wherever_it_stands_and_however_it_is_asked_for() {
    assert_eq!(rows().count(), 10);
    let stage = Stage::new("matrix", Asks::Pins).await;
    let mut problems = stage.dry(&Named::ALL).await;
    problems.extend(stage.real(&Named::MAIN).await);
    none(problems);
    // Whatever was asked for: what is stored names nothing that is not permitted.
    let permitted = [0, 1, 3].map(|n| stage.scene.pin(n));
    let mut objects = 0;
    for row in rows() {
        let all = stage.raw.get(row.path(&stage.scene.namespace, "")).await;
        for object in all["items"].as_array().unwrap() {
            objects += 1;
            let tags = if row.is_pod() { None } else { Some(stage.scene.tag(3)) };
            for (list, name, image) in images_in(object) {
                let place = format!("{} {} {list}[{name}]: {image}", row.kind, object["metadata"]["name"]);
                assert!(permitted.contains(&image) || tags == Some(image), "{place}");
            }
        }
    }
    assert!(objects > 150, "{objects}");
}

/// If this fails, a Pod starts by a tag although its policy asks for the digest, or a workload that names one cannot.
#[tokio::test(flavor = "multi_thread")]
async fn where_tags_are_not_rewritten_pods_must_name_digests() {
    let stage = Stage::new("digests", Asks::Digests).await;
    none(stage.dry(&[Named::Approved, Named::ApprovedTag, Named::UnlistedTag, Named::RevokedTag]).await);
}

/// If this fails, a policy that is tried out stops people, or does not tell them what it would do.
#[tokio::test(flavor = "multi_thread")]
async fn who_tries_a_policy_out_is_told_or_counted_and_never_stopped() {
    let named = [Named::Approved, Named::ApprovedTag, Named::Unlisted, Named::RevokedTag, Named::Expired];
    none(Stage::new("warns", Asks::Warns).await.dry(&named).await);

    let stage = Stage::new("audits", Asks::Audits).await;
    let operator = guarding_operator().await;
    let count = async |verdict: &str| {
        let series = format!("countersign_admission_verdicts_total{{mode=\"audit\",verdict=\"{verdict}\"}}");
        operator.metric(&series).await.unwrap()
    };
    let before = (count("permitted").await, count("not_permitted").await);
    none(stage.dry(&named).await);
    let judged: Vec<Cell> = rows()
        .flat_map(|row| Cell::of(row, &named, true))
        .filter(|cell| cell.is_impossible().is_none())
        .collect();
    let is_fine = |cell: &&Cell| matches!(cell.named, Named::Approved | Named::ApprovedTag);
    let fine = judged.iter().filter(is_fine).count();
    let counted = (count("permitted").await - before.0, count("not_permitted").await - before.1);
    // Other stories may try policies out at the same time.
    let number = |count: usize| f64::from(u32::try_from(count).unwrap());
    assert!(counted.0 >= number(fine) && counted.1 >= number(judged.len() - fine), "{counted:?}");
}

/// If this fails, an object whose image is not permitted any more can be neither labelled nor scaled.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_image_passes_whatever_became_of_the_image() {
    let scene = Scene::guarded("neutral").await;
    // A commit that withdraws all would wait for a person.
    scene.approve(&[0, 2]).await;
    let stage = Stage { raw: Raw::new(scene.client.clone()), scene, asks: Asks::Pins };
    let Stage { scene, raw, .. } = &stage;
    eventually("the image is approved", SOON, async || {
        scene.asks_for_pod("probe", &scene.pin(0)).await.map_err(anyhow::Error::msg)
    })
    .await;
    let bases = stage.bases(false).await;
    let pod = rows().find(|row| row.is_pod()).unwrap();
    let app = json!({"name": "app", "image": scene.pin(0), "resources": {"requests": {"cpu": "1m"}}});
    stage.create(pod, &pod.object("small", &json!({"containers": [app]}))).await;
    scene.remove("approvals/0.yaml");
    scene.push("withdraw").await;
    let send = async |row: &Row, method, rest: &str, content_type, body: &Value| {
        let path = row.path(&scene.namespace, rest);
        raw.send(&Request { method, path, content_type, body: body.to_string().into_bytes() }).await
    };
    let (merge, strategic) = ("application/merge-patch+json", "application/strategic-merge-patch+json");
    let deployment = rows().find(|row| row.kind == "Deployment").unwrap();
    eventually("the image is not approved any more", SOON, async || {
        let new = deployment.full("new", &scene.pin(0), None);
        let answer = send(deployment, "POST", "?dryRun=All", "application/json", &new).await;
        ensure!(answer.outcome() == Outcome::Denied, "{}", answer.text());
        Ok(())
    })
    .await;

    let mut problems = Vec::new();
    for (row, live) in &bases {
        let mut asked = vec![
            ("label", "", merge, json!({"metadata": {"labels": {"more": "1"}}})),
            ("annotation", "", merge, json!({"metadata": {"annotations": {"more": "1"}}})),
        ];
        if live.pointer("/spec/replicas").is_some() {
            asked.push(("replicas", "", merge, json!({"spec": {"replicas": 2}})));
            if !row.is_custom() {
                asked.push(("scale", "/scale", merge, json!({"spec": {"replicas": 3}})));
            }
        }
        for (what, part, content_type, body) in asked {
            let answer = send(row, "PATCH", &format!("/base{part}?dryRun=All"), content_type, &body).await;
            if answer.outcome() != Outcome::Accepted {
                problems.push(format!("{} {what}: {}", row.kind, answer.text()));
            }
        }
        let apply = json!({"apiVersion": row.api_version, "kind": row.kind, "metadata": {"name": "base", "labels": {"applied": "1"}}});
        let applied = send(row, "PATCH", "/base?fieldManager=neutral", Verb::Apply.content_type(), &apply);
        let put = with(live.clone(), json!({"metadata": {"labels": {"put": "1"}}}));
        let mut put = replacing(row, put);
        let applied = applied.await;
        put["metadata"]["resourceVersion"] =
            if row.is_custom() { applied.body["metadata"]["resourceVersion"].clone() } else { Value::Null };
        let put = send(row, "PUT", "/base?dryRun=All", "application/json", &put).await;
        for (what, answer) in [("apply", applied), ("put", put)] {
            if answer.outcome() != Outcome::Accepted {
                problems.push(format!("{} {what}: {}", row.kind, answer.text()));
            }
        }
        // While another image of them is refused.
        let path = format!("{}/containers/0/image", row.spec);
        let other = json!([{"op": "replace", "path": path, "value": scene.pin(1)}]);
        let answer = send(row, "PATCH", "/base?dryRun=All", Verb::Json.content_type(), &other).await;
        let expected = if row.kind == "Job" { Outcome::Refused } else { Outcome::Denied };
        if answer.outcome() != expected {
            problems.push(format!("{} another image: {}", row.kind, answer.text()));
        }
    }
    none(problems);

    // What a kubelet writes that can resize.
    let able = json!([{"op": "add", "path": "/status/containerStatuses/0/resources", "value": {"requests": {"cpu": "1m"}}}]);
    let answer = send(pod, "PATCH", "/small/status", Verb::Json.content_type(), &able).await;
    assert_eq!(answer.code, 200, "{}", answer.text());
    let larger = |image: Option<String>| {
        let app = json!({"name": "app", "resources": {"requests": {"cpu": "2m"}}});
        let image = image.map_or_else(|| json!({}), |image| json!({"image": image}));
        json!({"spec": {"containers": [with(app, image)]}})
    };
    // The API server itself takes nothing but sizes there.
    for image in [None, Some(scene.pin(1)), Some(scene.tag(1))] {
        let answer = send(pod, "PATCH", "/small/resize", strategic, &larger(image.clone())).await;
        assert_eq!(answer.code, 200, "{image:?}: {}", answer.text());
        let app = at(&answer.body, "/spec/containers/0");
        assert_eq!(app["resources"]["requests"]["cpu"], "2m");
        assert_eq!(app["image"], scene.pin(0).as_str(), "{image:?}");
    }
}
