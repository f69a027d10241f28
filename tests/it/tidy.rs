//! The rules of ARCHITECTURE.md that no compiler checks, checked on the text of the sources.
//!
//! A rule is a function from text to violations, so that each can be seen failing: on a bad snippet, in `bad`.

mod bad;
mod source;

use std::{collections::BTreeMap, fs, path::Path};

use self::source::{CodePath, Source, files, sources};

/// A violation, as a person reads it: where, and what to do instead.
type Violations = Vec<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn modules_use_only_lower_levels() {
    let lib = read("src/lib.rs");
    let levels = levels(&lib);
    let sources = sources(root(), "src");
    assert!(levels.len() > 3 && sources.len() > levels.len(), "the rule looks at something");
    none(&modules_without_level(&levels, &Source::new("src/lib.rs", &lib)));
    none(&sources.iter().flat_map(|source| upward_uses(&levels, source)).collect::<Vec<_>>());
}

#[test]
fn the_domain_is_pure() {
    let crates = dependencies(&read("Cargo.toml"));
    assert!(crates.iter().any(|name| name == "kube"), "the manifest is read");
    none(&sources(root(), "src/domain").iter().flat_map(|s| impure_uses(&crates, s)).collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    none(&sources(root(), "src").iter().filter_map(too_long).collect::<Vec<_>>());
}

#[test]
fn status_has_one_writer() {
    none(&status_writers(&sources(root(), "src")));
}

#[test]
fn yaml_crates_stay_where_they_are() {
    none(&sources(root(), "src").iter().flat_map(yaml_uses).collect::<Vec<_>>());
}

#[test]
fn tests_wait_for_conditions() {
    let all = ["src", "tests"].into_iter().flat_map(|dir| sources(root(), dir));
    none(&all.flat_map(|source| sleeps(&source)).collect::<Vec<_>>());
}

#[test]
fn documents_name_paths_that_exist() {
    let exists = |path: &str| root().join(path).exists();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"] {
        none(&missing_paths(document, &read(document), exists));
    }
}

#[test]
fn metrics_are_named_in_one_file_and_as_documented() {
    none(&sources(root(), "src").iter().flat_map(metric_literals).collect::<Vec<_>>());
    let list = read(METRICS_PAGE);
    assert!(list.contains("`countersign_build_info`"), "the list is read");
    let root_documents = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];
    let mut documents: Vec<(String, String)> =
        root_documents.into_iter().map(|path| (path.to_owned(), read(path))).collect();
    for (dir, extension) in [("docs", "md"), ("deploy", "md"), ("deploy", "yaml"), ("deploy", "json")] {
        documents.extend(files(root(), dir, extension));
    }
    none(&documents.iter().flat_map(|(path, text)| unknown_metrics(&list, path, text)).collect::<Vec<_>>());
}

/// The table in the documentation of the library is the rule: module to level.
fn levels(lib: &str) -> BTreeMap<String, u32> {
    let mut levels = BTreeMap::new();
    for line in lib.lines().filter_map(|line| line.strip_prefix("//! |")) {
        let mut cells = line.split('|').map(str::trim);
        let Some(level) = cells.next().and_then(|cell| cell.parse().ok()) else { continue };
        let modules = cells.next().unwrap_or_default().split(',');
        levels.extend(modules.map(|m| (m.trim().trim_matches(['[', ']', '`']).to_owned(), level)));
    }
    levels
}

fn modules_without_level(levels: &BTreeMap<String, u32>, lib: &Source) -> Violations {
    let declared = lib.declared_modules();
    declared
        .iter()
        .filter(|name| !levels.contains_key(*name))
        .map(|name| format!("{}: the module {name} has no row in the table of levels", lib.path))
        .collect()
}

fn upward_uses(levels: &BTreeMap<String, u32>, source: &Source) -> Violations {
    let Some(own) = source.module().first().cloned() else { return Vec::new() };
    let Some(own_level) = levels.get(&own) else {
        return vec![format!("{}: {own} has no level", source.path)];
    };
    let mut violations = Vec::new();
    for path in source.paths() {
        let Some(target) = from_crate_root(levels, source, &path) else { continue };
        let allowed = target == own || levels.get(target).is_some_and(|level| level < own_level);
        if !allowed {
            violations.push(format!(
                "{}:{}: {own} (level {own_level}) may use only lower levels, not crate::{target}",
                source.path, path.line
            ));
        }
    }
    violations
}

/// The first segment under the crate's root, if the path starts there: by `crate`, or by climbing with `super`.
fn from_crate_root<'p>(
    levels: &BTreeMap<String, u32>,
    source: &Source,
    path: &'p CodePath,
) -> Option<&'p str> {
    let segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    let climbed = segments.iter().take_while(|segment| **segment == "super").count();
    if segments[0] == "crate" {
        return segments.get(1).copied();
    }
    // Modules inside the file start lower: there the same climb stays inside. Only names of top modules are taken.
    let reached = climbed > 0 && climbed >= source.module().len();
    segments.get(climbed).copied().filter(|name| reached && levels.contains_key(*name))
}

/// What the decisions may be made of: values, and the formats of values.
const DOMAIN_CRATES: &[&str] = &[
    "serde",
    "serde_json",
    "jiff",
    "thiserror",
    "globset",
    "regex",
    "cel",
    "sha2",
    "hmac",
    "hex",
    "base64",
    "flate2",
    "semver",
    "ipnet",
];
const YAML_CRATES: &[&str] =
    &["serde_saphyr", "granit_parser", "saphyr_parser", "serde_yaml", "yaml_serde", "yaml_rust2"];
const MANIFEST: &str = "src/domain/manifest";
/// What runs on a deeper stack, on a thread that is waited for: nothing of it is seen outside.
const DEEP: &str = "src/domain/evidence/expression.rs";
const IMPURE_STD: &[&str] = &["env", "fs", "net", "os", "process", "thread"];

fn impure_uses(crates: &[String], source: &Source) -> Violations {
    // Its tests read stories from files; purity is about what is shipped.
    if source.is_test() {
        return Vec::new();
    }
    let manifest = source.path.starts_with(MANIFEST);
    let mut violations = Vec::new();
    for CodePath { line, segments } in source.paths() {
        let name = segments[0].as_str();
        let allowed = match name {
            "std" if source.path == DEEP && segments.get(1).is_some_and(|module| module == "thread") => true,
            "std" => !segments.get(1).is_some_and(|module| IMPURE_STD.contains(&module.as_str())),
            _ if DOMAIN_CRATES.contains(&name) => true,
            _ if YAML_CRATES.contains(&name) => manifest,
            _ => !crates.iter().any(|dependency| dependency == name),
        };
        if !allowed {
            let path = segments.join("::");
            violations.push(format!("{}:{line}: the domain is pure and may not use {path}", source.path));
        }
    }
    violations
}

/// The names of the normal dependencies, as code writes them.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(header) = line.strip_prefix('[') {
            inside = header.starts_with("dependencies]");
            names.extend(header.strip_prefix("dependencies.").map(|name| name.trim_end_matches(']')));
        } else if inside && line.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            names.extend(line.split_once('=').map(|(name, _)| name.trim()));
        }
    }
    names.into_iter().map(|name| name.replace('-', "_")).collect()
}

const MAX_LINES: usize = 500;

fn too_long(source: &Source) -> Option<String> {
    let lines = source.shipped_lines();
    let long = lines > MAX_LINES && !source.is_test();
    long.then(|| {
        format!("{}: {lines} lines without tests; cut it below {MAX_LINES}, better 300", source.path)
    })
}

/// Two writers of one status lose each other's updates.
fn status_writers(sources: &[Source]) -> Violations {
    let is_writer = |source: &&Source| {
        ["patch_status", "replace_status"]
            .iter()
            .any(|name| source.uses(name).iter().any(|found| !found.in_test))
    };
    let writers: Vec<&str> = sources.iter().filter(is_writer).map(|source| source.path.as_str()).collect();
    if writers.len() > 1 {
        vec![format!("status has one writer, not {}", writers.join(" and "))]
    } else {
        Vec::new()
    }
}

/// Beside the manifests, only what prints YAML.
const YAML_PRINTERS: &[&str] = &["src/api/", "src/cli/"];

fn yaml_uses(source: &Source) -> Violations {
    if source.is_test()
        || source.path.starts_with(MANIFEST)
        || YAML_PRINTERS.iter().any(|dir| source.path.starts_with(dir))
    {
        return Vec::new();
    }
    let uses = YAML_CRATES
        .iter()
        .flat_map(|name| source.uses(name).into_iter().map(move |found| (name, found.line)));
    uses.map(|(name, line)| format!("{}:{line}: {name} is used in {MANIFEST} only", source.path)).collect()
}

/// The one place where tests wait, for a condition and with an end.
const WAITING: &str = "tests/controlplane/wait.rs";

fn sleeps(source: &Source) -> Violations {
    if source.path == WAITING {
        return Vec::new();
    }
    ["sleep", "sleep_until", "sleep_ms"]
        .iter()
        .flat_map(|name| source.uses(name))
        .filter(|found| found.in_test)
        .map(|found| {
            format!("{}:{}: wait for a condition ({WAITING}), do not sleep", source.path, found.line)
        })
        .collect()
}

/// Where paths in documents begin.
const DIRECTORIES: &[&str] =
    &["src/", "tests/", "docs/", "deploy/", "examples/", "crds/", "charts/", ".ci/", ".github/"];

/// Code spans that begin like a path of this repository, names of files in its root, and links, must exist.
fn missing_paths(document: &str, text: &str, exists: impl Fn(&str) -> bool) -> Violations {
    let mut violations = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let spans = line.split('`').skip(1).step_by(2).filter(|span| {
            let root_file =
                !span.contains('/') && [".md", ".toml", ".lock"].iter().any(|end| span.ends_with(end));
            root_file || DIRECTORIES.iter().any(|dir| span.starts_with(dir))
        });
        let links = line.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
        let links = links.filter(|link| !link.is_empty() && !link.contains(':'));
        for path in spans.chain(links) {
            if !exists(path) {
                violations.push(format!("{document}:{}: {path} does not exist", number + 1));
            }
        }
    }
    violations
}

const METRICS_PAGE: &str = "docs/reference/metrics.md";

fn metric_literals(source: &Source) -> Violations {
    let elsewhere = source.strings.iter().filter(|_| !source.path.starts_with("src/telemetry/metrics"));
    elsewhere
        .filter(|(_, text)| !metric_names(text).is_empty())
        .map(|(line, text)| format!("{}:{line}: {text:?} belongs into src/telemetry/metrics.rs", source.path))
        .collect()
}

fn unknown_metrics(list: &str, document: &str, text: &str) -> Violations {
    let known = |name: &str| list.contains(&format!("`{name}`"));
    let mut violations = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for name in metric_names(line) {
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            if !known(name) && !series.is_some_and(known) {
                violations.push(format!("{document}:{}: {name} is not in {METRICS_PAGE}", number + 1));
            }
        }
    }
    violations
}

/// `countersign_` and what follows, where something does.
fn metric_names(text: &str) -> Vec<&str> {
    const PREFIX: &str = "countersign_";
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices(PREFIX)
        .filter(|(at, _)| !text[..*at].ends_with(is_part))
        .map(|(at, _)| {
            let rest = &text[at..];
            &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())]
        })
        .filter(|name| *name != PREFIX)
        .collect()
}

impl Source {
    /// The module this file is, from the root of the crate; none for the roots themselves.
    fn module(&self) -> Vec<String> {
        let path = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
    }
}
