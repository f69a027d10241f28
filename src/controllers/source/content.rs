//! What a commit says: its files read into objects, with everything that is wrong named by file and line.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use base64::Engine as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::{overlay, revocation::revocation};
use crate::{
    adapters::{
        cluster::id_of,
        git::{self, BlobId, CommitId, Mirror},
        kustomize::Kustomize,
    },
    api::{GROUP, check_strict},
    domain::{
        inventory::{Identity, Inventory, ObjectId},
        manifest::{self, Limits},
        packed::Packed,
        plan::Manifest,
        workload::{Kind, WorkloadId},
    },
};

/// One object of a commit, as it is to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What it is.
    pub id: ObjectId,
    /// The object.
    pub value: Packed,
    /// Whether it carries a revocation.
    pub revokes: bool,
    /// The file.
    pub path: String,
    /// The document in it, from 1; none where an overlay was built.
    pub document: Option<usize>,
    /// The line in it where the object begins; none where an overlay was built.
    pub line: Option<usize>,
}

impl Item {
    /// An object that stands in a file.
    pub fn new(value: &Value, path: &str, document: Option<usize>, line: Option<usize>) -> Self {
        let (id, revokes) = (id_of(value), revocation(value).is_some());
        Self { id, value: Packed::new(value), revokes, path: path.to_owned(), document, line }
    }

    /// Where it stands, for people.
    fn place(&self) -> String {
        self.line.map_or_else(|| self.path.clone(), |line| format!("{}:{line}", self.path))
    }

    /// The directory of the overlay that it was built by, if it was.
    pub(super) fn overlay(&self) -> Option<&str> {
        self.document.is_none().then(|| self.path.rsplit_once('/').map_or("", |(directory, _)| directory))
    }
}

/// Something in a source that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file.
    pub path: String,
    /// The line.
    pub line: Option<usize>,
    /// The document in the file, from 1.
    pub document: Option<usize>,
    /// The object.
    pub object: Option<String>,
    /// What is wrong, what was expected, what to do.
    pub message: String,
}

impl Problem {
    /// Something wrong that no file is the place of.
    pub fn general(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { path: String::new(), line: None, document: None, object: None, message }
    }

    /// Something wrong with an object.
    pub fn about(item: &Item, message: impl Into<String>) -> Self {
        Self {
            path: item.path.clone(),
            line: item.line,
            document: item.document,
            object: Some(item.id.to_string()),
            message: message.into(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.line.map_or_else(String::new, |line| format!(":{line}"));
        let place = Some(format!("{}{line}", self.path)).filter(|place| !place.is_empty());
        let document = self.document.map(|document| format!("document {document}"));
        for part in [place, document, self.object.clone()].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// How many objects one source may hold. What is beyond is named, not read; and then nothing is pruned.
const OBJECTS: usize = 50_000;

/// Everything that a commit says.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// The objects, each once.
    pub items: Vec<Arc<Item>>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Revocations on objects that stand twice. The first of the two counts, but a revocation counts wherever it stands.
    pub more_revocations: Vec<Arc<Item>>,
    /// What stands in it where it cannot be, or is of a kind that is not known now. An object like it, in whatever namespace,
    /// may be what is meant, and is not gone.
    pub unplaced: HashSet<Anywhere>,
    /// Documents that are no Kubernetes objects.
    pub skipped: usize,
    /// Some file could not be read whole: what is absent may only be unreadable.
    pub partial: bool,
}

/// An object in whatever namespace and version: group, kind, name.
pub type Anywhere = (String, String, String);

/// The same object in whatever namespace.
pub fn anywhere(id: &ObjectId) -> Anywhere {
    (id.group().to_owned(), id.kind.clone(), id.name.clone())
}

impl Content {
    /// Every object, also where it stands once more and revokes.
    pub fn all(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().chain(&self.more_revocations).map(AsRef::as_ref)
    }

    /// The objects that carry a revocation.
    pub fn revoking(&self) -> Vec<&Item> {
        self.all().filter(|item| item.revokes).collect()
    }

    /// What of an inventory is not said any more.
    pub fn gone<'a>(&self, inventory: &'a Inventory) -> Vec<&'a ObjectId> {
        let said: HashSet<_> = self.items.iter().map(|item| item.id.identity()).collect();
        let is_gone =
            |id: &&ObjectId| !said.contains(&id.identity()) && !self.unplaced.contains(&anywhere(id));
        inventory.iter().filter(is_gone).collect()
    }

    /// Whether a workload that is not among the objects is gone: it could be unreadable, or meant by one without a place.
    pub fn lacks(&self, id: &WorkloadId) -> bool {
        let like_it = (id.kind.group.to_owned(), id.kind.kind.to_owned(), id.name.clone());
        !self.partial && !self.unplaced.contains(&like_it)
    }

    /// What the objects are.
    pub fn inventory(&self) -> Inventory {
        self.items.iter().map(|item| item.id.clone()).collect()
    }
}

/// What one file says, or one overlay.
#[derive(Debug)]
pub(super) struct File {
    pub items: Vec<Arc<Item>>,
    pub problems: Vec<Problem>,
    pub skipped: usize,
    pub unreadable: bool,
}

/// Files that were read before, by path and content: one changed file among ten thousand costs one file.
#[derive(Clone, Debug, Default)]
pub struct Files {
    plain: Arc<Mutex<ByContent>>,
    built: Arc<Mutex<overlay::Built>>,
    whole: Arc<Mutex<Vec<Whole>>>,
}

/// A commit as it was read. Two of them: while a commit is held back, two are read in turns.
#[derive(Debug)]
struct Whole {
    commit: CommitId,
    paths: Vec<String>,
    content: Arc<Content>,
}

type ByContent = BTreeMap<String, (BlobId, Arc<File>)>;

impl Files {
    /// A plain file of the commit that was read last, if it was read from this content.
    pub(super) fn plain(&self, path: &str, blob: BlobId) -> Option<Arc<File>> {
        let plain = self.plain.lock();
        plain.get(path).filter(|(known, _)| *known == blob).map(|(_, file)| Arc::clone(file))
    }

    /// Reads a commit. Blocks.
    pub fn read(
        &self,
        mirror: &Mirror,
        commit: CommitId,
        paths: &[String],
        kustomize: &Kustomize,
    ) -> Result<Arc<Content>, git::Error> {
        let same = |whole: &&Whole| whole.commit == commit && whole.paths == paths;
        if let Some(known) = self.whole.lock().iter().find(same) {
            return Ok(Arc::clone(&known.content));
        }
        let tree = mirror.tree(commit, paths)?;
        let overlays = overlay::read(kustomize, &mut self.built.lock(), (mirror, commit), &tree, paths)?;
        let mut content = Content::default();
        for refused in tree.refused.iter().filter(|refused| !overlays.own(&refused.path)) {
            content.refuse(&refused.path, refused.reason.to_string());
        }
        let mut now = ByContent::new();
        let mut before = self.plain.lock();
        for entry in tree.entries.into_iter().filter(|entry| !overlays.own(&entry.path)) {
            let file = match before.remove(&entry.path) {
                Some((blob, file)) if blob == entry.blob => file,
                Some(_) | None => Arc::new(read_file(&entry.path, &mirror.blob(entry.blob)?)),
            };
            now.insert(entry.path, (entry.blob, file));
        }
        let plain = now.iter().map(|(path, (_, file))| (path, file));
        content.fold(plain.chain(overlays.files.iter().map(|(path, file)| (path, file))));
        *before = now;
        drop(before);
        let content = Arc::new(content);
        if !overlays.passing {
            let mut whole = self.whole.lock();
            whole.truncate(1);
            whole.insert(0, Whole { commit, paths: paths.to_vec(), content: Arc::clone(&content) });
        }
        Ok(content)
    }
}

impl Content {
    fn refuse(&mut self, path: &str, message: String) {
        self.partial = true;
        self.problems.push(Problem { path: path.to_owned(), ..Problem::general(message) });
    }

    /// Puts the files of a commit together.
    fn fold<'a>(&mut self, files: impl Iterator<Item = (&'a String, &'a Arc<File>)>) {
        let mut seen: HashMap<Identity<'a>, &'a Item> = HashMap::new();
        for (path, file) in files {
            self.skipped += file.skipped;
            self.partial |= file.unreadable;
            self.problems.extend(file.problems.iter().cloned());
            if self.items.len() + file.items.len() > OBJECTS {
                let many =
                    format!("the source holds more than {OBJECTS} objects; split it into several sources");
                self.refuse(path, many);
                break;
            }
            for item in &file.items {
                // Two versions of one object are one.
                match seen.entry(item.id.identity()) {
                    Entry::Vacant(slot) => {
                        slot.insert(item);
                        self.items.push(Arc::clone(item));
                    }
                    Entry::Occupied(first) => {
                        let place = first.get().place();
                        let message = format!("the same object stands in {place}, which counts; remove one");
                        self.problems.push(Problem::about(item, message));
                        self.more_revocations.extend(Some(item).filter(|item| item.revokes).cloned());
                    }
                }
            }
        }
    }
}

/// A workload as its item says it.
pub fn manifest_of(item: &Item, commit: CommitId, time: Timestamp) -> Manifest<Packed> {
    Manifest {
        object: item.value.clone(),
        commit: commit.to_string(),
        committed_at: Timestamp::from_second(time.as_second()).unwrap_or(time),
        path: item.place(),
    }
}

/// The workload that an object is, if it is of a workload kind.
pub fn workload_id(id: &ObjectId) -> Option<WorkloadId> {
    let kind = Kind::find(&id.api_version, &id.kind)?;
    Some(WorkloadId { kind, namespace: id.namespace.clone(), name: id.name.clone() })
}

pub(super) fn read_file(path: &str, bytes: &[u8]) -> File {
    let parsed = manifest::parse(path, bytes, &Limits::default());
    let mut file = File {
        items: Vec::new(),
        problems: Vec::new(),
        skipped: parsed.skipped,
        unreadable: !parsed.errors.is_empty(),
    };
    for error in parsed.errors {
        file.problems.push(Problem {
            path: error.path,
            line: error.line,
            document: error.document,
            object: None,
            message: error.message,
        });
    }
    for object in parsed.objects {
        let (line, document) = (object.line(), object.index());
        let value = appliable(object.into_value());
        let item = Item::new(&value, path, Some(document), Some(line));
        match check(&item, &value) {
            Ok(()) => file.items.push(Arc::new(item)),
            Err(message) => {
                file.unreadable = true;
                file.problems.push(Problem::about(&item, message));
            }
        }
    }
    file
}

/// Our own kinds are held against their schema here: the API server would drop what it does not know in silence.
fn check(item: &Item, value: &Value) -> Result<(), String> {
    if item.id.group() != GROUP {
        return Ok(());
    }
    if item.id.kind == "ReleaseHistory" {
        return Err("histories are written by the operator alone; remove it from the repository".to_owned());
    }
    check_strict(value).map_err(|invalid| invalid.to_string())
}

/// The object without what belongs to the API server, and with `stringData` as the `data` it becomes (or its drift could
/// not be seen).
fn appliable(mut value: Value) -> Value {
    let is_secret = value["apiVersion"] == "v1" && value["kind"] == "Secret";
    let Some(object) = value.as_object_mut() else { return value };
    object.remove("status");
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in
            ["creationTimestamp", "resourceVersion", "uid", "generation", "selfLink", "managedFields"]
        {
            metadata.remove(field);
        }
    }
    if is_secret && let Some(Value::Object(plain)) = object.remove("stringData") {
        let data = object.entry("data").or_insert_with(|| Value::Object(Map::new()));
        if let Some(data) = data.as_object_mut() {
            for (key, value) in plain {
                let text = value.as_str().unwrap_or_default();
                data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
            }
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_named_and_the_rest_goes_on() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x, uid: u, managedFields: []}\nstatus: {}\n---\nno: object\n---\napiVersion: countersign.dev/v1alpha1\nkind: ImagePolicy\nmetadata: {name: p, namespace: x}\nspec: {mode: Enforce, signatures: []}\n---\napiVersion: countersign.dev/v1alpha1\nkind: ReleaseHistory\nmetadata: {name: h, namespace: x}\n---\n{broken\n";
        let file = read_file("a.yaml", text.as_bytes());
        assert_eq!(file.items.len(), 1);
        assert_eq!(
            file.items[0].value.open(),
            serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x"}})
        );
        assert_eq!(file.skipped, 1);
        assert!(file.unreadable);
        let problems: Vec<String> = file.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 3, "{problems:#?}");
        assert!(
            problems.iter().any(|p| p.starts_with("a.yaml:8: document 3: ImagePolicy x/p: spec.signatures")
                && p.contains("signatures")),
            "{problems:#?}"
        );
        assert!(
            problems.iter().any(|p| p.contains("histories are written by the operator alone")),
            "{problems:#?}"
        );
    }

    #[test]
    fn string_data_becomes_the_data_it_is_stored_as() {
        let file = read_file("s.yaml", b"apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: x}\ndata: {a: YQ==}\nstringData: {b: b}\n");
        assert_eq!(file.items[0].value.open()["data"], serde_json::json!({"a": "YQ==", "b": "Yg=="}));
        assert_eq!(file.items[0].value.open().get("stringData"), None);
    }
}
