//! Reads Kubernetes manifests from untrusted YAML, as kubectl would, or refuses them.
//!
//! kubectl reads YAML 1.1 with go-yaml v2, after cutting the file at lines that start with `---`. A reader of another
//! dialect sees another image than kubectl applies, and so another image than the cluster runs: `yes`, `017`, `<<`,
//! duplicate keys, text after `...`. This module therefore has one rule: **a document that it accepts reads in Go as
//! it does here**; whatever it can't promise that for, it refuses by name and line. `tests/it/manifest.rs` holds it to
//! the rule with the real Go packages.
//!
//! | file | what |
//! |---|---|
//! | `split` | bytes to documents, as `k8s.io/apimachinery/pkg/util/yaml.YAMLReader` cuts them |
//! | `tree` | one document to nodes with lines; refuses notations that YAML 1.1 and 1.2 scanners read differently |
//! | `gap`, `scalar` | the notations that pass, between two scalars and in one |
//! | `resolve` | plain scalars to values: go-yaml's `resolve.go` |
//! | `decode` | nodes to JSON: aliases, merge keys, keys; go-yaml's `decode.go` and `sigs.k8s.io/yaml` |
//! | `json` | a file that starts with `{`: kubectl reads JSON first |
//! | `object` | documents to objects, lists to their items |
//! | `write` | the one writer of Kubernetes YAML |

use std::{error::Error, fmt};

mod decode;
mod gap;
mod json;
mod object;
mod resolve;
mod scalar;
mod split;
mod tree;
mod write;

#[cfg(test)]
mod tests;

pub use json::read_json;
pub use object::Object;
use serde_json::Value;
pub use write::{WriteError, to_yaml};

use self::{split::Chunk, tree::Tree};

/// What a file may cost. Everything is bounded before or while it is read, never after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Size of the file, and of the text in one document, aliases expanded.
    pub file_bytes: usize,
    /// Documents in the file, empty ones included.
    pub documents: usize,
    /// Nesting of maps and lists in one document, aliases expanded.
    pub depth: usize,
    /// Keys and values in one document, aliases expanded.
    pub nodes: usize,
    /// Aliases met while one document is expanded.
    pub aliases: usize,
}

impl Default for Limits {
    /// Wide enough for the largest CRD bundles (some MB in a few thousand documents), and small enough that a hostile
    /// file of 200 KB costs milliseconds.
    fn default() -> Self {
        Self { file_bytes: 8 << 20, documents: 10_000, depth: 100, nodes: 500_000, aliases: 5_000 }
    }
}

/// One document of a file, as kubectl would hand it to the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// First line of the document's content, from 1.
    pub line: usize,
    /// Number of the document in its file, from 1; empty documents count.
    pub index: usize,
    /// The content.
    pub value: Value,
}

/// Why a file, or one document of it, was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    /// The file.
    pub path: String,
    /// The document in the file, from 1; none when the whole file is refused.
    pub document: Option<usize>,
    /// The line in the file, from 1.
    pub line: Option<usize>,
    /// What is wrong; what was expected; what to do.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, document, line, message } = self;
        f.write_str(path)?;
        if let Some(line) = line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = document {
            write!(f, ": document {document}")?;
        }
        write!(f, ": {message}")
    }
}

impl Error for ManifestError {}

/// What [`parse`] found in a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parsed {
    /// The objects, in the order of the file, lists expanded.
    pub objects: Vec<Object>,
    /// Documents that aren't Kubernetes objects: neither `apiVersion` nor `kind`. Empty documents don't count.
    pub skipped: usize,
    /// Documents, or the file, that were refused.
    pub errors: Vec<ManifestError>,
}

/// Reads the objects of a file.
///
/// A document that can't be read is named in `errors`; the others are still returned, unless the bounds between the
/// documents are themselves in doubt.
///
/// ```
/// use countersign::domain::manifest::{Limits, parse};
///
/// let file = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {on: 'yes'}\n---\nreplicas: 2\n";
/// let parsed = parse("deploy/settings.yaml", file, &Limits::default());
/// assert_eq!((parsed.objects.len(), parsed.skipped, parsed.errors.len()), (1, 1, 0));
/// assert_eq!(parsed.objects[0].value()["data"]["true"], "yes"); // `on` is a boolean to kubectl
/// ```
pub fn parse(path: &str, bytes: &[u8], limits: &Limits) -> Parsed {
    let mut parsed = Parsed::default();
    each(path, bytes, limits, &mut |read| match read {
        Ok(Read { document, tree }) => object::collect(path, document, tree.as_ref(), &mut parsed),
        Err(error) => parsed.errors.push(error),
    });
    parsed
}

/// Reads the documents of a file without asking what they are: the part of [`parse`] that is compared with Go.
pub fn documents(path: &str, bytes: &[u8], limits: &Limits) -> (Vec<Document>, Vec<ManifestError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    each(path, bytes, limits, &mut |read| match read {
        Ok(read) => documents.push(read.document),
        Err(error) => errors.push(error),
    });
    (documents, errors)
}

/// Something wrong at a line of the file.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    line: usize,
    message: String,
}

impl Problem {
    fn new(line: usize, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// A document with its nodes, which know their lines.
struct Read<'a> {
    document: Document,
    tree: Option<Tree<'a>>,
}

fn each(
    path: &str,
    bytes: &[u8],
    limits: &Limits,
    with: &mut dyn for<'a> FnMut(Result<Read<'a>, ManifestError>),
) {
    let error = |document, problem: Problem| ManifestError {
        path: path.to_owned(),
        document,
        line: Some(problem.line),
        message: problem.message,
    };
    let chunks = match split::split(bytes, limits) {
        Ok(chunks) => chunks,
        Err(problem) => return with(Err(error(None, problem))),
    };
    for chunk in &chunks {
        match read(chunk, limits) {
            Ok(Some(read)) => with(Ok(read)),
            Ok(None) => {}
            Err(problem) => with(Err(error(Some(chunk.index), problem))),
        }
    }
}

fn read<'a>(chunk: &'a Chunk, limits: &Limits) -> Result<Option<Read<'a>>, Problem> {
    let document = |line, value| Document { line, index: chunk.index, value };
    if chunk.may_be_json
        && let Some(value) = json::read(chunk, limits)?
    {
        return Ok(Some(Read { document: document(chunk.first_content_line(), value), tree: None }));
    }
    let Some(tree) = tree::build(chunk, limits)? else { return Ok(None) };
    let value = decode::decode(&tree, limits)?;
    // kubectl steps over documents that read as null.
    if value.is_null() {
        return Ok(None);
    }
    Ok(Some(Read { document: document(tree.line(tree.root), value), tree: Some(tree) }))
}
