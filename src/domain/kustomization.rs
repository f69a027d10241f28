//! What a kustomization names, and what of it is refused: nothing may reach outside of the repository or run a program.
//!
//! Everything that kustomize knows is listed here; what is not, is refused by name. So a newer kustomize with a new way of
//! reaching out cannot be asked for it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The names that kustomize looks for in a directory.
pub const FILE_NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Fields that hold values only.
const VALUES: [&str; 16] = [
    "apiVersion",
    "kind",
    "metadata",
    "namePrefix",
    "nameSuffix",
    "namespace",
    "commonLabels",
    "labels",
    "commonAnnotations",
    "images",
    "imageTags",
    "replicas",
    "vars",
    "sortOptions",
    "generatorOptions",
    "buildMetadata",
];
const PATCH: [&str; 4] = ["path", "patch", "target", "options"];
const GENERATOR: [&str; 9] =
    ["namespace", "name", "behavior", "literals", "files", "envs", "env", "options", "type"];
/// kustomize's own plugins, which run inside of it.
const BUILTIN: [&str; 18] = [
    "AnnotationsTransformer",
    "ConfigMapGenerator",
    "HashTransformer",
    "IAMPolicyGenerator",
    "ImageTagTransformer",
    "LabelTransformer",
    "NamespaceTransformer",
    "PatchJson6902Transformer",
    "PatchStrategicMergeTransformer",
    "PatchTransformer",
    "PrefixTransformer",
    "PrefixSuffixTransformer",
    "ReplacementTransformer",
    "ReplicaCountTransformer",
    "SecretGenerator",
    "SortOrderTransformer",
    "SuffixTransformer",
    "ValueAddTransformer",
];

/// Something that a kustomization takes from elsewhere in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The field that names it.
    pub field: String,
    /// From the root of the repository; empty: the root itself.
    pub path: String,
    /// What it may be.
    pub what: What,
}

/// What a reference may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A file.
    File,
    /// A directory with a kustomization.
    Directory,
    /// Either.
    Either,
    /// A file with the settings of plugins.
    Plugins,
}

/// A kustomization, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kustomization {
    /// A component is a part of others, and is not built on its own.
    pub component: bool,
    /// What it takes from the repository.
    pub references: Vec<Reference>,
    /// Why it is not built: the field, what is wrong, and what to do.
    pub refused: Vec<String>,
}

/// Reads a kustomization that stands in `directory`.
pub fn read(directory: &str, object: &Value) -> Kustomization {
    let mut reader = Reader { directory, read: Kustomization::default() };
    let Some(fields) = object.as_object() else {
        reader.refuse("it is no map of fields; write a kustomization".to_owned());
        return reader.read;
    };
    reader.read.component = fields.get("kind").is_some_and(|kind| kind == "Component");
    for (name, value) in fields {
        reader.field(name, value);
    }
    reader.read
}

/// Reads the settings of a plugin, which the file of a kustomization in `directory` names in `field`.
pub fn read_plugin(directory: &str, field: &str, object: &Value) -> Kustomization {
    let mut reader = Reader { directory, read: Kustomization::default() };
    reader.plugin(field, object);
    reader.read
}

struct Reader<'a> {
    directory: &'a str,
    read: Kustomization,
}

impl Reader<'_> {
    fn refuse(&mut self, why: String) {
        self.read.refused.push(why);
    }

    fn field(&mut self, name: &str, value: &Value) {
        match name {
            "resources" | "bases" => self.each(name, value, What::Either),
            "components" => self.each(name, value, What::Directory),
            "crds" | "configurations" => self.each(name, value, What::File),
            "patchesStrategicMerge" => self.each_or_inline(name, value),
            "generators" | "transformers" | "validators" => self.plugins(name, value),
            "configMapGenerator" | "secretGenerator" => self.entries(name, value, &GENERATOR),
            "patches" | "patchesJson6902" => self.entries(name, value, &PATCH),
            "helmCharts" | "helmChartInflationGenerator" | "helmGlobals" => self.refuse(format!(
                "{name}: Helm charts are not rendered; commit what `helm template` makes of them, or leave them to Flux or Argo CD"
            )),
            "replacements" => self.entries(name, value, &["path", "source", "targets"]),
            "openapi" => self.entry(name, value, &["path", "version"]),
            name if VALUES.contains(&name) => {}
            _ => self.refuse(format!("{name}: the field is unknown; is it misspelt?")),
        }
    }

    fn each(&mut self, field: &str, value: &Value, what: What) {
        for text in self.texts(field, value) {
            self.refer(field, &text, what);
        }
    }

    /// A list of texts (an absent one is null).
    fn texts(&mut self, field: &str, value: &Value) -> Vec<String> {
        let texts: Option<Vec<String>> = match value {
            Value::Null => Some(Vec::new()),
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
        };
        texts.unwrap_or_else(|| {
            self.refuse(format!("{field}: expected a list of texts"));
            Vec::new()
        })
    }

    /// Paths, or patches as text.
    fn each_or_inline(&mut self, field: &str, value: &Value) {
        for text in self.texts(field, value) {
            // What kustomize cannot read as a patch it loads as a path, or as a URL.
            let url = text.trim_start().to_ascii_lowercase().starts_with("http");
            if text.contains('\n') && !url {
                continue;
            }
            self.refer(field, &text, What::File);
        }
    }

    /// A list of maps with known keys: kustomize takes keys in any case, so a near miss could name a path, too.
    fn entries(&mut self, field: &str, value: &Value, known: &[&str]) {
        match value {
            Value::Null => {}
            Value::Array(items) => {
                for item in items {
                    self.entry(field, item, known);
                }
            }
            _ => self.refuse(format!("{field}: expected a list")),
        }
    }

    fn entry(&mut self, field: &str, value: &Value, known: &[&str]) {
        let Some(fields) = value.as_object() else {
            self.refuse(format!("{field}: expected a map"));
            return;
        };
        for (key, value) in fields {
            if known.contains(&key.as_str()) {
                self.paths(&format!("{field}.{key}"), key, value);
            } else {
                self.refuse(format!("{field}.{key}: the field is unknown; is it misspelt?"));
            }
        }
    }

    /// The paths in a field of an entry, if it holds any.
    fn paths(&mut self, field: &str, key: &str, value: &Value) {
        match key {
            "path" | "paths" | "envs" | "env" => self.each(field, value, What::File),
            "files" => {
                for text in self.texts(field, value) {
                    let path = text.split_once('=').map_or(text.as_str(), |(_, path)| path);
                    self.refer(field, path, What::File);
                }
            }
            _ => {}
        }
    }

    /// Paths of settings, or settings as text.
    fn plugins(&mut self, field: &str, value: &Value) {
        for text in self.texts(field, value) {
            if !text.contains('\n') && !text.trim_start().starts_with('{') {
                self.refer(field, &text, What::Plugins);
                continue;
            }
            let limits = super::manifest::Limits::default();
            let (documents, errors) = super::manifest::documents(field, text.as_bytes(), &limits);
            for error in errors {
                self.refuse(format!("{field}: {}", error.message));
            }
            for document in documents {
                self.plugin(field, &document.value);
            }
        }
    }

    fn plugin(&mut self, field: &str, object: &Value) {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion") != "builtin" || !BUILTIN.contains(&text("kind")) {
            let named = format!("{} {}", text("apiVersion"), text("kind"));
            self.refuse(format!(
                "{field}: {:?} is a plugin that would run a program or a container (or Helm); only kustomize's own (apiVersion: builtin) are run",
                named.trim()
            ));
        }
        let annotations = object.pointer("/metadata/annotations").and_then(Value::as_object);
        if annotations.into_iter().flatten().any(|(key, _)| key.ends_with("/function")) {
            self.refuse(format!("{field}: an annotation asks for a function, which would run a program"));
        }
        self.plugin_paths(field, object);
    }

    /// Plugins read their settings with keys in any case.
    fn plugin_paths(&mut self, field: &str, value: &Value) {
        for (key, value) in value.as_object().into_iter().flatten() {
            match key.to_lowercase().as_str() {
                lower @ ("path" | "paths" | "files" | "envs" | "env") => {
                    self.paths(&format!("{field}: {key}"), lower, value);
                }
                "targetfilepath" => self.each(&format!("{field}: {key}"), value, What::File),
                "replacements" => {
                    for item in value.as_array().into_iter().flatten() {
                        self.plugin_paths(&format!("{field}: {key}"), item);
                    }
                }
                _ => {}
            }
        }
    }

    fn refer(&mut self, field: &str, text: &str, what: What) {
        match resolve(self.directory, text) {
            Ok(path) => self.read.references.push(Reference { field: field.to_owned(), path, what }),
            Err(why) => self.refuse(format!("{field}: {text:?} {why}")),
        }
    }
}

/// The path from the root of the repository that a kustomization in `directory` means.
pub fn resolve(directory: &str, text: &str) -> Result<String, String> {
    if let Some(why) = remote(text) {
        return Err(format!("{why}; overlays are built without network: copy it into the repository"));
    }
    if text.starts_with('/') {
        return Err("is absolute; name it relative to its kustomization".to_owned());
    }
    if text.is_empty() {
        return Err("names nothing".to_owned());
    }
    let mut names: Vec<&str> = directory.split('/').filter(|name| !name.is_empty()).collect();
    for name in text.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop().ok_or("leaves the repository; only what is in it can be used")?;
            }
            name => names.push(name),
        }
    }
    Ok(names.join("/"))
}

/// Why a text would be fetched from elsewhere, as kustomize reads it or some release of it did.
fn remote(text: &str) -> Option<&'static str> {
    let lower = text.trim().to_ascii_lowercase();
    let first = lower.split('/').next().unwrap_or_default();
    if lower.contains("://") || lower.starts_with("git::") {
        Some("is a URL")
    } else if first.contains(':') {
        Some("names another host")
    } else if lower.contains("//") || lower.contains('?') {
        Some("is written like a remote one (`//`, `?ref=`)")
    } else if matches!(first, "github.com" | "www.github.com") || lower.contains("_git/") {
        Some("names a repository on another host")
    } else {
        None
    }
}

/// Which of the kustomizations of a source are built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Their directories.
    pub built: BTreeSet<String>,
    /// Those that may be the base of one that nobody could read yet.
    pub doubtful: BTreeSet<String>,
}

/// What a kustomization reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// These directories of kustomizations, its own among them.
    Known(BTreeSet<String>),
    /// It is a component, which others take.
    Component,
    /// It, or one that it takes, is wrong, and always was.
    Unknown,
}

/// Of the outermost directories with a kustomization, those are built that `named` paths are, and those that no other
/// one reaches: a base is built as a part of its overlays only. `before` are those that were built before.
pub fn roots(named: &BTreeSet<String>, before: &BTreeSet<String>, reach: &BTreeMap<String, Reach>) -> Roots {
    let reaches = |from: &str, to: &str| match reach.get(from) {
        Some(Reach::Known(all)) => all.contains(to),
        Some(Reach::Component | Reach::Unknown) | None => false,
    };
    // Two that reach each other are a mistake that kustomize names.
    let is_base = |directory: &String| {
        reach.keys().any(|other| reaches(other, directory) && !reaches(directory, other))
    };
    let in_doubt = reach.values().any(|reach| *reach == Reach::Unknown);
    let mut roots = Roots::default();
    for (directory, own) in reach {
        let built = match own {
            _ if named.contains(directory) => &mut roots.built,
            Reach::Component => continue,
            Reach::Known(_) if is_base(directory) => continue,
            // Applied as it stands, a base would overwrite what its overlay made.
            Reach::Known(_) if in_doubt && !before.contains(directory) => &mut roots.doubtful,
            Reach::Known(_) | Reach::Unknown => &mut roots.built,
        };
        built.insert(directory.clone());
    }
    roots
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(object: &Value) -> Vec<String> {
        read("overlays/prod", object).refused
    }

    #[test]
    fn what_a_kustomization_takes_is_found_by_its_path_from_the_root() {
        let read = read(
            "overlays/prod",
            &json!({
                "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namePrefix": "a-",
                "resources": ["../../base", "./extra.yaml"], "components": ["../../parts/tls/"],
                "patches": [{"path": "a.yaml", "target": {"kind": "Deployment"}}, {"patch": "- op: remove\n"}],
                "patchesStrategicMerge": ["b.yaml", "kind: Deployment\nmetadata: {name: x}\n"],
                "configMapGenerator": [{"name": "c", "files": ["c.txt", "key=d.txt"], "envs": ["e.env"], "literals": ["u=https://a"]}],
                "replacements": [{"path": "r.yaml"}], "openapi": {"path": "schema.json"}, "crds": ["crd.json"],
                "transformers": ["t.yaml", "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npath: p.yaml\n"],
            }),
        );
        assert_eq!(read.refused, [] as [String; 0]);
        let found: Vec<String> =
            read.references.iter().map(|r| format!("{} {} {:?}", r.field, r.path, r.what)).collect();
        let expected = [
            "components parts/tls Directory",
            "configMapGenerator.envs overlays/prod/e.env File",
            "configMapGenerator.files overlays/prod/c.txt File",
            "configMapGenerator.files overlays/prod/d.txt File",
            "crds overlays/prod/crd.json File",
            "openapi.path overlays/prod/schema.json File",
            "patches.path overlays/prod/a.yaml File",
            "patchesStrategicMerge overlays/prod/b.yaml File",
            "replacements.path overlays/prod/r.yaml File",
            "resources base Either",
            "resources overlays/prod/extra.yaml Either",
            "transformers overlays/prod/t.yaml Plugins",
            "transformers: path overlays/prod/p.yaml File",
        ];
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted, expected);
    }

    /// If this fails a commit makes the operator fetch from, or leave the repository for, wherever it likes.
    #[test]
    fn nothing_is_taken_from_outside_of_the_repository() {
        let remote = [
            "https://example.com/base",
            "HTTPS://example.com/a.yaml",
            "http://10.0.0.1/a.yaml",
            "ssh://git@example.com/a",
            "file:///etc/passwd",
            "git::https://example.com/a",
            "git@example.com:org/repo.git",
            "example.com:org/repo",
            "github.com/org/repo",
            "GitHub.com/org/repo?ref=v1",
            "org/repo//base",
            "base?ref=main",
            "dev.azure/_git/repo",
            " https://example.com/base",
            "/etc/base",
            "../../../etc",
            "../../x/../../y",
            "",
        ];
        for text in remote {
            for field in [
                "resources",
                "bases",
                "components",
                "crds",
                "configurations",
                "patchesStrategicMerge",
                "generators",
            ] {
                let refused = refused(&json!({field: [text]}));
                assert_eq!(refused.len(), 1, "{field}: {text}: {refused:?}");
                assert!(refused[0].starts_with(&format!("{field}: {text:?}")), "{refused:?}");
            }
            for (field, value) in [
                ("patches", json!([{"path": text}])),
                ("patchesJson6902", json!([{"path": text}])),
                ("replacements", json!([{"path": text}])),
                ("configMapGenerator", json!([{"files": [format!("key={text}")]}])),
                ("secretGenerator", json!([{"envs": [text]}])),
                ("openapi", json!({"path": text})),
            ] {
                assert_eq!(refused(&json!({field: value})).len(), 1, "{field}: {text}");
            }
            let inline = format!(
                "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {{name: p}}\nPATH: {text:?}\n"
            );
            assert_eq!(refused(&json!({"transformers": [inline]})).len(), 1, "{text}");
        }
    }

    /// If this fails a commit runs programs with the operator's rights.
    #[test]
    fn nothing_that_runs_a_program_is_taken() {
        for field in ["helmCharts", "helmChartInflationGenerator", "helmGlobals"] {
            let refused = refused(&json!({field: []}));
            assert!(refused[0].contains("Helm charts are not rendered"), "{refused:?}");
        }
        let plugins = [
            "apiVersion: someteam.example/v1\nkind: SedTransformer\nmetadata: {name: a}\n",
            "apiVersion: builtin\nkind: HelmChartInflationGenerator\nmetadata: {name: a}\n",
            "apiVersion: builtin\nkind: LabelTransformer\nmetadata: {name: a, annotations: {config.kubernetes.io/function: 'exec: {path: /bin/sh}'}}\n",
            "{apiVersion: v1, kind: X}",
        ];
        for plugin in plugins {
            for field in ["generators", "transformers", "validators"] {
                let refused = refused(&json!({field: [plugin]}));
                assert!(!refused.is_empty(), "{field}: {plugin}");
            }
        }
    }

    /// kustomize takes keys in any case: what is checked must be what it reads.
    #[test]
    fn unknown_and_oddly_written_fields_are_refused() {
        for object in [
            json!({"Resources": ["https://example.com"]}),
            json!({"futureField": 1}),
            json!({"patches": [{"Path": "https://example.com"}]}),
            json!({"configMapGenerator": [{"Files": ["x"]}]}),
            json!({"openapi": {"PATH": "x"}}),
            json!({"resources": {"a": "b"}}),
            json!({"resources": [1]}),
            json!({"generators": ["a: b: c\n"]}),
            json!([]),
        ] {
            assert!(!refused(&object).is_empty(), "{object}");
        }
    }

    #[test]
    fn a_base_is_built_as_a_part_of_its_overlays_only() {
        let known = |all: &[&str]| Reach::Known(all.iter().map(|name| (*name).to_owned()).collect());
        let set = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let reach: BTreeMap<String, Reach> = [
            ("base", known(&["base"])),
            ("overlays/prod", known(&["overlays/prod", "base", "parts/tls"])),
            ("overlays/test", known(&["overlays/test", "base"])),
            ("parts/tls", Reach::Component),
            ("a", known(&["a", "b"])),
            ("b", known(&["a", "b"])),
        ]
        .map(|(name, reach)| (name.to_owned(), reach))
        .into();
        let none = BTreeSet::new();
        let built = |named: &[&str], before, reach| roots(&set(named), before, reach).built;
        assert_eq!(built(&[""], &none, &reach), set(&["a", "b", "overlays/prod", "overlays/test"]));
        assert_eq!(
            built(&["base"], &none, &reach),
            set(&["a", "b", "base", "overlays/prod", "overlays/test"])
        );
        // Whose base `base` is, is not known: it must not be applied as it stands. What was built before is no base.
        let mut broken = reach.clone();
        broken.insert("overlays/prod".to_owned(), Reach::Unknown);
        broken.remove("overlays/test");
        let roots = roots(&set(&[""]), &set(&["a"]), &broken);
        assert_eq!((roots.built, roots.doubtful), (set(&["a", "overlays/prod"]), set(&["b", "base"])));
    }
}
