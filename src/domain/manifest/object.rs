//! Documents to objects: the fields that every object needs, and lists to their items.

use serde_json::Value;

use super::{
    Document, ManifestError, Parsed, Problem,
    tree::{Id, Tree},
};
use crate::domain::inventory::{is_name, is_namespace};

/// A Kubernetes object of a manifest: its `apiVersion`, `kind` and `metadata.name` are known to be text.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    document: Document,
}

impl Object {
    /// `apps/v1`.
    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    /// `Deployment`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// `metadata.namespace`, unless absent or empty.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First line of the document, or of the item of a list, from 1.
    pub fn line(&self) -> usize {
        self.document.line
    }

    /// Number of the document in its file, from 1.
    pub fn index(&self) -> usize {
        self.document.index
    }

    /// The whole object.
    pub fn value(&self) -> &Value {
        &self.document.value
    }

    /// The whole object.
    pub fn into_value(self) -> Value {
        self.document.value
    }
}

/// Where a value came from, to name lines.
struct Place<'t, 'a> {
    tree: Option<&'t Tree<'a>>,
    root: Option<Id>,
    line: usize,
}

impl Place<'_, '_> {
    /// The line of a field, or of the deepest one on the way to it that exists.
    fn line(&self, path: &[&str]) -> usize {
        let (Some(tree), Some(mut at)) = (self.tree, self.root) else { return self.line };
        for key in path {
            let Some(next) = tree.get(at, key) else { break };
            at = next;
        }
        tree.line(at)
    }
}

/// Adds what a document holds to `parsed`.
pub(super) fn collect(path: &str, document: Document, tree: Option<&Tree<'_>>, parsed: &mut Parsed) {
    let index = document.index;
    if absent(&document.value, "apiVersion") && absent(&document.value, "kind") {
        parsed.skipped += 1;
        return;
    }
    for found in found(document, tree) {
        match found {
            Ok(object) => parsed.objects.push(object),
            Err(Problem { line, message }) => parsed.errors.push(ManifestError {
                path: path.to_owned(),
                document: Some(index),
                line: Some(line),
                message,
            }),
        }
    }
}

/// The object of a document, or those of its list.
fn found(document: Document, tree: Option<&Tree<'_>>) -> Vec<Result<Object, Problem>> {
    let place = Place { tree, root: tree.map(|tree| tree.root), line: document.line };
    let header = match header(&document.value, &place) {
        Ok(header) => header,
        Err(problem) => return vec![Err(problem)],
    };
    if document.value.get("items").is_none() && header.kind != "List" {
        return vec![object(header, document, &place)];
    }
    let Document { line, index, value } = document;
    let items = match items(value, &header, &place) {
        Ok(items) => items,
        Err(problem) => return vec![Err(problem)],
    };
    let one = |(number, value)| {
        let root = tree.and_then(|tree| tree.item(tree.get(tree.root, "items")?, number));
        let line = root.and_then(|root| tree.map(|tree| tree.line(root))).unwrap_or(line);
        item(&header, Document { line, index, value }, &Place { tree, root, line }).map_err(
            |Problem { line, message }| Problem::new(line, format!("item {}: {message}", number + 1)),
        )
    };
    items.into_iter().enumerate().map(one).collect()
}

/// To kubectl, whatever has `items` is a list; a kind that doesn't say so would be applied as something else.
fn items(mut value: Value, header: &Header, place: &Place<'_, '_>) -> Result<Vec<Value>, Problem> {
    let wrong = |message| Err(Problem::new(place.line(&["items"]), message));
    if !header.kind.ends_with("List") {
        let kind = &header.kind;
        return wrong(format!(
            "`items` in a `{kind}`; kubectl reads a list there; expected a kind that ends in `List`"
        ));
    }
    match value.get_mut("items").map(Value::take) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => wrong("`items` isn't a list; expected a list of objects; correct it".to_owned()),
    }
}

fn item(list: &Header, mut document: Document, place: &Place<'_, '_>) -> Result<Object, Problem> {
    // kubectl gives items of a typed list (`PodList`) their type where they have none.
    if let Some(kind) = list.kind.strip_suffix("List").filter(|kind| !kind.is_empty())
        && absent(&document.value, "apiVersion")
        && absent(&document.value, "kind")
        && let Value::Object(map) = &mut document.value
    {
        map.insert("apiVersion".to_owned(), list.api_version.as_str().into());
        map.insert("kind".to_owned(), kind.into());
    }
    let header = header(&document.value, place)?;
    if document.value.get("items").is_some() {
        let line = place.line(&["items"]);
        return Err(Problem::new(line, "a list inside a list; expected an object; lift its items out"));
    }
    object(header, document, place)
}

/// What every object says first.
struct Header {
    api_version: String,
    kind: String,
}

fn header(value: &Value, place: &Place<'_, '_>) -> Result<Header, Problem> {
    let api_version = text(value, &["apiVersion"], place)?;
    let kind = text(value, &["kind"], place)?;
    Ok(Header { api_version, kind })
}

fn object(header: Header, document: Document, place: &Place<'_, '_>) -> Result<Object, Problem> {
    let value = &document.value;
    if absent(&value["metadata"], "name") && !absent(&value["metadata"], "generateName") {
        let line = place.line(&["metadata", "generateName"]);
        let message = "`metadata.generateName` without `metadata.name`; expected a fixed name; give it one";
        return Err(Problem::new(line, message));
    }
    let name = text(value, &["metadata", "name"], place)?;
    let namespace = match &value["metadata"]["namespace"] {
        Value::Null => None,
        Value::String(empty) if empty.is_empty() => None,
        _ => Some(text(value, &["metadata", "namespace"], place)?),
    };
    let Header { api_version, kind } = header;
    Ok(Object { api_version, kind, namespace, name, document })
}

fn absent(value: &Value, key: &str) -> bool {
    value.get(key).is_none_or(Value::is_null)
}

/// A field that must be text, of a form that the API server could take for a part of a path.
fn text(value: &Value, path: &[&str], place: &Place<'_, '_>) -> Result<String, Problem> {
    let field = path.join(".");
    let wrong = |message: String| Err(Problem::new(place.line(path), message));
    let found = path.iter().try_fold(value, |value, key| value.get(key)).unwrap_or(&Value::Null);
    match found {
        Value::String(text) if text.is_empty() => {
            wrong(format!("`{field}` is empty; expected text; fill it in"))
        }
        Value::String(text) if !is_well_formed(text, &field) => wrong(format!(
            "`{field}` has characters that no such field may have; expected a name; correct it"
        )),
        Value::String(text) => Ok(text.clone()),
        Value::Null => wrong(format!("`{field}` is missing; expected text; add it")),
        Value::Bool(_) | Value::Number(_) => {
            wrong(format!("`{field}` reads as `{found}` in kubectl; expected text; quote it"))
        }
        Value::Array(_) | Value::Object(_) => {
            wrong(format!("`{field}` isn't text; expected text; correct it"))
        }
    }
}

/// Whether the text can be what its field says. A name becomes a part of a path, and must not become another path.
fn is_well_formed(text: &str, field: &str) -> bool {
    match field {
        "metadata.namespace" => is_namespace(text),
        "apiVersion" => text.len() <= 253 && text.split('/').all(is_name),
        _ => is_name(text),
    }
}
