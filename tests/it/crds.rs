//! The definitions in `crds/` are the ones the code has.

use std::{collections::BTreeSet, fs, path::Path};

use countersign::api;
use expect_test::expect_file;

fn crds_dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("crds")
}

/// Somebody installs from `crds/` and gets other rules than the operator has. `UPDATE_EXPECT=1 cargo test` renews them.
#[test]
fn the_files_in_crds_are_up_to_date() {
    for crd in api::crds() {
        let name = crd.metadata.name.clone().unwrap();
        expect_file![crds_dir().join(format!("{name}.yaml"))].assert_eq(&api::to_yaml(&crd).unwrap());
    }
}

/// A kind that went away is installed for ever.
#[test]
fn crds_holds_nothing_else() {
    let expected: BTreeSet<String> =
        api::crds().into_iter().map(|crd| format!("{}.yaml", crd.metadata.name.unwrap())).collect();
    let found: BTreeSet<String> = fs::read_dir(crds_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}
