//! The Go side: built once, asked in batches.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use countersign::domain::manifest::{Document, Limits, documents};
use serde::Deserialize;
use serde_json::Value;

/// What Go makes of a file; see `tests/goyaml/main.go`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    stream: Vec<Value>,
    stream_error: Option<String>,
    chunks: Vec<Chunk>,
}

#[derive(Debug, Deserialize)]
struct Chunk {
    value: Value,
    error: Option<String>,
}

fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("goyaml");
        let built = Command::new("go")
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goyaml"))
            .output()
            .expect("`go` not found: these tests compare with kubectl's packages; install Go 1.26 or later");
        let errors = String::from_utf8_lossy(&built.stderr);
        assert!(
            built.status.success(),
            "`go build` in tests/goyaml (needs Go 1.26, and its modules once): {errors}"
        );
        program
    })
}

/// Asks Go about files.
pub fn read(files: &[Vec<u8>]) -> Vec<Answer> {
    let mut go = Command::new(program()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = go.stdin.take().unwrap();
    let lines: String = files.iter().map(|file| STANDARD.encode(file) + "\n").collect();
    let writer = thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let output = go.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "{output:?}");
    let answers: Vec<Answer> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(answers.len(), files.len());
    answers
}

/// Compares our reading of a file with Go's; true if we read all of it.
pub fn compare(file: &[u8], go: &Answer) -> Result<bool, String> {
    let (documents, errors) = documents("file", file, &Limits::default());
    for document in &documents {
        // What Go reads as JSON, it reads from the stream only.
        let json = document.index == 1 && file.trim_ascii_start().starts_with(b"{");
        let answer = if json { go.stream.first() } else { chunk(go, document)? };
        let answer = answer.ok_or_else(|| format!("Go has no document {}: {go:?}", document.index))?;
        equal(&document.value, answer, "")?;
    }
    if !errors.is_empty() {
        return Ok(false);
    }
    if let Some(error) = &go.stream_error {
        return Err(format!("we accept the file, Go says: {error}"));
    }
    if documents.len() != go.stream.len() {
        return Err(format!("{} documents, in Go {}", documents.len(), go.stream.len()));
    }
    documents.iter().zip(&go.stream).try_for_each(|(document, go)| equal(&document.value, go, ""))?;
    Ok(true)
}

fn chunk<'a>(go: &'a Answer, document: &Document) -> Result<Option<&'a Value>, String> {
    match go.chunks.get(document.index - 1) {
        Some(Chunk { error: Some(error), .. }) => {
            Err(format!("we accept document {} as {}, Go says: {error}", document.index, document.value))
        }
        other => Ok(other.map(|chunk| &chunk.value)),
    }
}

/// Whether Go read exactly this value.
pub fn same(value: &Value, go: &Answer) -> Result<(), String> {
    if value.is_null() && go.stream.is_empty() && go.stream_error.is_none() {
        return Ok(());
    }
    match (go.stream.as_slice(), &go.stream_error) {
        ([one], None) => equal(value, one, ""),
        _ => Err(format!("{value}: {go:?}")),
    }
}

/// Compares with Go's value, in which numbers are `n:` and text is `s:`.
fn equal(ours: &Value, go: &Value, at: &str) -> Result<(), String> {
    let same = match (ours, go) {
        (Value::Object(ours), Value::Object(go)) => {
            for (key, value) in ours {
                let other = go.get(key).ok_or_else(|| format!("{at}: only we have the key {key:?}"))?;
                equal(value, other, &format!("{at}/{key}"))?;
            }
            ours.len() == go.len()
        }
        (Value::Array(ours), Value::Array(go)) if ours.len() == go.len() => {
            return ours
                .iter()
                .zip(go)
                .enumerate()
                .try_for_each(|(i, (a, b))| equal(a, b, &format!("{at}/{i}")));
        }
        (Value::String(ours), Value::String(go)) => go.strip_prefix("s:") == Some(ours),
        (Value::Number(ours), Value::String(go)) => {
            go.strip_prefix("n:").is_some_and(|go| same_number(ours, go))
        }
        (ours, go) => ours == go,
    };
    if same { Ok(()) } else { Err(format!("{at}: we read {ours}, Go {go}")) }
}

/// Integers by their digits; floats by their bits, except that whole ones may be written as integers.
fn same_number(ours: &serde_json::Number, go: &str) -> bool {
    let ours_text = ours.to_string();
    if let (Ok(ours), Ok(go)) = (ours_text.parse::<i128>(), go.parse::<i128>()) {
        return ours == go;
    }
    match (ours_text.parse::<f64>(), go.parse::<f64>()) {
        (Ok(ours), Ok(go)) => ours.to_bits() == go.to_bits() || (ours == 0.0 && go == 0.0),
        _ => false,
    }
}
