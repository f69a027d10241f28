//! What `domain::manifest` reads is what kubectl reads: compared with kubectl's own Go packages, built from
//! `tests/goyaml`. The property is one-sided: what we accept, Go accepts and reads the same.

use std::{fs, path::Path};

use countersign::domain::manifest::{Limits, documents, parse, to_yaml};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};

mod generate;
mod go;

/// Random files; each seed is fixed, so the same ones in every run.
const GENERATED: usize = 6_000;
/// Random changes to good and generated files.
const MUTATED: usize = 12_000;
/// Random values for the writer.
const WRITTEN: usize = 3_000;

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifest");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

fn sample<T: std::fmt::Debug>(strategy: impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Compares files with Go and returns how many were read without an error.
fn compare(files: &[Vec<u8>]) -> usize {
    let answers = go::read(files);
    let mut differences: Vec<(String, String)> = Vec::new();
    let mut accepted = 0;
    for (file, answer) in files.iter().zip(&answers) {
        match go::compare(file, answer) {
            Ok(clean) => accepted += usize::from(clean),
            Err(difference) => differences.push((String::from_utf8_lossy(file).into_owned(), difference)),
        }
    }
    differences.sort_by_key(|(file, _)| file.len());
    let count = differences.len();
    for (file, difference) in differences.iter().take(12) {
        eprintln!("---- {difference}\n{file:?}");
    }
    assert_eq!(count, 0, "files that read differently in Go; the shortest are above");
    accepted
}

#[test]
fn fixtures_read_as_in_go() {
    let files = fixtures();
    compare(&files.iter().map(|(_, file)| file.clone()).collect::<Vec<_>>());
    for (name, file) in &files {
        let (documents, errors) = documents(name, file, &Limits::default());
        match name.split_once('-').unwrap().0 {
            "good" => assert!(errors.is_empty() && !documents.is_empty(), "{name}: {errors:?}"),
            "refused" => assert!(!errors.is_empty(), "{name} is accepted"),
            other => panic!("{name}: `{other}` is neither `good` nor `refused`"),
        }
    }
}

#[test]
fn every_odd_scalar_reads_as_in_go() {
    let accepted = compare(&generate::every_scalar());
    assert!(accepted > 500, "{accepted}");
}

#[test]
fn generated_files_read_as_in_go() {
    let accepted = compare(&sample(generate::file(), GENERATED));
    assert!(accepted > GENERATED / 6, "{accepted} of {GENERATED} accepted: the generator tests nothing");
}

#[test]
fn mutated_files_read_as_in_go() {
    let good: Vec<Vec<u8>> = fixtures().into_iter().map(|(_, file)| file).collect();
    let files = sample(generate::mutated(good), MUTATED);
    let accepted = compare(&files);
    assert!(accepted > MUTATED / 10, "{accepted} of {MUTATED} accepted: the generator tests nothing");
}

#[test]
fn what_we_write_reads_back_in_go() {
    let values = sample(generate::value(), WRITTEN);
    let texts: Vec<Vec<u8>> = values.iter().map(|value| to_yaml(value).unwrap().into_bytes()).collect();
    for ((value, text), answer) in values.iter().zip(&texts).zip(go::read(&texts)) {
        go::same(value, &answer).unwrap_or_else(|why| panic!("{why}\n{}", String::from_utf8_lossy(text)));
    }
}

#[test]
fn objects_of_the_fixtures_are_found() {
    let objects: usize = fixtures()
        .iter()
        .filter(|(name, _)| name.starts_with("good"))
        .map(|(name, file)| {
            let parsed = parse(name, file, &Limits::default());
            assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
            parsed.objects.len()
        })
        .sum();
    assert_eq!(objects, 14);
}
