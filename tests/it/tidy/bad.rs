//! Each rule fails on something bad, and lets the good neighbour of it pass.

use std::fmt::Write as _;

use super::*;

fn example_levels() -> BTreeMap<String, u32> {
    levels(
        "//! | level | module |\n//! |---|---|\n//! | 0 | [`domain`] | x |\n//! | 2 | [`adapters`], [`telemetry`] | y |\n",
    )
}

fn upward(path: &str, text: &str) -> usize {
    upward_uses(&example_levels(), &Source::new(path, text)).len()
}

#[test]
fn the_level_table_is_read() {
    let expected = [("adapters", 2), ("domain", 0), ("telemetry", 2)];
    assert_eq!(example_levels(), BTreeMap::from(expected.map(|(name, level)| (name.to_owned(), level))));
}

#[test]
fn uses_of_a_higher_or_the_same_level_are_found() {
    assert_eq!(upward("src/domain/plan.rs", "use crate::adapters::git;"), 1);
    assert_eq!(upward("src/domain/plan.rs", "use crate::{domain::image, adapters::{self, git}};"), 2);
    assert_eq!(upward("src/domain/plan.rs", "fn f() { crate::telemetry::init() }"), 1);
    assert_eq!(upward("src/domain/plan.rs", "use super::super::adapters::git;"), 1);
    assert_eq!(upward("src/domain/mod.rs", "use super::adapters;"), 1);
    assert_eq!(upward("src/adapters/git.rs", "use crate::telemetry::Metrics;"), 1);
    assert_eq!(upward("src/adapters/git.rs", "use crate::unheard_of::X;"), 1);
    assert_eq!(upward("src/unheard_of.rs", ""), 1);
    assert_eq!(upward("src/domain/plan.rs", "#[cfg(test)]\nmod tests { use crate::adapters::git; }"), 1);
}

#[test]
fn uses_of_lower_levels_and_of_the_own_module_pass() {
    assert_eq!(
        upward("src/adapters/git.rs", "use crate::{domain::image, adapters::cluster}; use super::cluster;"),
        0
    );
    assert_eq!(upward("src/domain/plan.rs", "pub(crate) fn f() {} // use crate::adapters::git;"), 0);
    assert_eq!(upward("src/domain/plan.rs", "const X: &str = \"crate::adapters\"; use super::image;"), 0);
    assert_eq!(
        upward("src/domain/plan.rs", "#[cfg(test)]\nmod tests { use super::super::image; use super::*; }"),
        0
    );
}

#[test]
fn a_module_without_a_level_is_found() {
    let lib = Source::new("src/lib.rs", "pub mod domain;\nmod webhook;\nmod inline {}");
    let found = modules_without_level(&example_levels(), &lib);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("webhook") && found[1].contains("inline"));
}

fn impure(path: &str, text: &str) -> usize {
    let manifest = "[dependencies]\nkube = \"5\"\n# url = 1\njson-patch = { version = \"4\" }\n[dependencies.git2]\nversion = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
    let crates = dependencies(manifest);
    assert_eq!(crates, ["kube", "json_patch", "git2"]);
    impure_uses(&crates, &Source::new(path, text)).len()
}

#[test]
fn impure_uses_in_the_domain_are_found() {
    let path = "src/domain/plan.rs";
    for text in [
        "use kube::Api;",
        "use kube;",
        "use std::{collections::BTreeMap, fs};",
        "fn f() { std::env::var(\"X\") }",
        "fn f(r: ::git2::Repository) {}",
        "#[derive(json_patch::X)] struct Y;",
        "use serde_saphyr::from_str;",
    ] {
        assert_eq!(impure(path, text), 1, "{text}");
    }
    assert_eq!(impure("src/domain/manifest.rs", "use serde_saphyr::from_str; use kube::Api;"), 1);
    assert_eq!(impure("src/domain/evidence/expression.rs", "use std::thread; use std::fs;"), 1);
}

#[test]
fn pure_uses_in_the_domain_pass() {
    let text = "use std::{collections::BTreeMap, io::Read, time::Duration};\nuse jiff::Timestamp;\nuse super::kube_like;";
    assert_eq!(impure("src/domain/plan.rs", text), 0);
    assert_eq!(
        impure("src/domain/manifest/tree.rs", "use serde_saphyr::from_str; use granit_parser::Parser;"),
        0
    );
    assert_eq!(impure("src/domain/plan.rs", "#[cfg(test)]\nmod tests { use proptest::prelude::*; }"), 0);
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let lines = |n| "fn f() {}\n".repeat(n);
    assert!(too_long(&Source::new("src/domain/plan.rs", &lines(501))).is_some());
    assert!(too_long(&Source::new("src/domain/plan.rs", &lines(500))).is_none());
    assert!(too_long(&Source::new("src/domain/plan/tests.rs", &lines(501))).is_none());
    let mut with_tests = lines(400);
    write!(with_tests, "#[cfg(test)]\nmod tests {{\n{}}}\n", lines(400)).unwrap();
    assert!(too_long(&Source::new("src/domain/plan.rs", &with_tests)).is_none());
}

#[test]
fn a_second_writer_of_status_is_found() {
    let writer = |path: &str| Source::new(path, "fn f() { api.patch_status(x) }");
    assert_eq!(
        status_writers(&[writer("src/a.rs"), Source::new("src/b.rs", "api.replace_status(x)")]).len(),
        1
    );
    let test = Source::new("src/c.rs", "#[cfg(test)]\nmod tests { fn f() { api.patch_status(x) } }");
    assert_eq!(
        status_writers(&[writer("src/a.rs"), Source::new("src/b.rs", "// patch_status"), test]).len(),
        0
    );
}

#[test]
fn a_yaml_crate_elsewhere_is_found() {
    let text = "use serde_yaml::Value;";
    assert_eq!(yaml_uses(&Source::new("src/adapters/git.rs", text)).len(), 1);
    assert_eq!(yaml_uses(&Source::new("src/domain/plan.rs", "use serde_saphyr as y;")).len(), 1);
    assert_eq!(yaml_uses(&Source::new("src/domain/manifest/write.rs", text)).len(), 0);
    assert_eq!(yaml_uses(&Source::new("src/cli/crds.rs", text)).len(), 0);
}

#[test]
fn a_sleep_in_a_test_is_found() {
    let text = "async fn f() { tokio::time::sleep(PAUSE).await }";
    assert_eq!(sleeps(&Source::new("tests/it/cluster.rs", text)).len(), 1);
    assert_eq!(sleeps(&Source::new("src/a.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}"))).len(), 1);
    assert_eq!(sleeps(&Source::new("src/a.rs", text)).len(), 0);
    assert_eq!(sleeps(&Source::new(WAITING, text)).len(), 0);
}

#[test]
fn a_path_in_a_document_that_does_not_exist_is_found() {
    let exists = |path: &str| ["src/lib.rs", "deny.toml", "docs/reference/"].contains(&path);
    let missing = |text: &str| missing_paths("README.md", text, exists).len();
    assert_eq!(missing("See `src/lib.rs`, `docs/reference/` and `deny.toml`, [here](docs/reference/)."), 0);
    assert_eq!(missing("See `src/gone.rs`."), 1);
    assert_eq!(missing("See `Gone.toml`."), 1);
    assert_eq!(missing("See [here](GONE.md#part) and [there](https://example.org/x.md)."), 1);
    assert_eq!(missing("Run `cargo test`, send `application/json`."), 0);
}

#[test]
fn a_metric_elsewhere_or_unknown_is_found() {
    let name = "countersign_actions_total";
    let literals = |path: &str, text: &str| metric_literals(&Source::new(path, text)).len();
    assert_eq!(literals("src/controllers/mod.rs", &format!("count(\"{name}\")")), 1);
    assert_eq!(literals("src/telemetry/metrics.rs", &format!("count(\"{name}\")")), 0);
    assert_eq!(
        literals("src/controllers/mod.rs", &format!("// {name}\nf(\"countersign_\", \"xcountersign_y\")")),
        0
    );

    let unknown = |text: &str| {
        unknown_metrics(&format!("| `{name}` | `countersign_x_seconds` |"), "README.md", text).len()
    };
    assert_eq!(unknown(&format!("rate({name}[5m]) and countersign_x_seconds_bucket")), 0);
    assert_eq!(unknown("rate(countersign_actions[5m])"), 1);
    assert_eq!(unknown("all begin with `countersign_`"), 0);
}
