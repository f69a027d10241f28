//! The definitions in `crds/` are the ones the code has.

use std::{collections::BTreeSet, fs, path::Path};

use countersign::api;
use expect_test::expect_file;

fn crds_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")
}

/// Somebody installs from `crds/` and gets other rules than the operator has, or a kind that went away.
/// `UPDATE_EXPECT=1 cargo test` renews the files.
#[test]
fn crds_holds_what_the_code_has_and_nothing_else() {
    let mut expected = BTreeSet::new();
    for crd in api::crds() {
        let file = format!("{}.yaml", crd.metadata.name.as_deref().unwrap());
        expect_file![crds_dir().join(&file)].assert_eq(&api::to_yaml(&crd).unwrap());
        expected.insert(file);
    }
    // For kustomize, which takes no files from elsewhere but whole directories.
    let list = fs::read_to_string(crds_dir().join("kustomization.yaml")).unwrap();
    for file in &expected {
        assert!(list.contains(&format!("  - {file}\n")), "{file}");
    }
    expected.insert("kustomization.yaml".to_owned());
    let found: BTreeSet<String> = fs::read_dir(crds_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}
