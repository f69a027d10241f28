//! Grype's own JSON (`grype -o json`).

use serde_json::{Map, Value};

use super::{About, Class, Finding, Scan, bounded, list, object, optional, required, severity};

pub(super) fn read(report: &Map<String, Value>, about: &About<'_>) -> Result<Scan, String> {
    let source = report.get("source").and_then(Value::as_object).ok_or("does not say what it is about")?;
    if source.get("type").and_then(Value::as_str) != Some("image") {
        return Err("is not about an image".to_owned());
    }
    let target = source.get("target").map(|target| object(target, "target")).transpose()?;
    let text = |key: &str| target.and_then(|target| target.get(key)).and_then(Value::as_str);
    let repo_digests = target.and_then(|target| target.get("repoDigests")).and_then(Value::as_array);
    let named = repo_digests.into_iter().flatten().filter_map(Value::as_str);
    about.check(named.chain(["manifestDigest", "userInput", "imageID"].into_iter().filter_map(text)))?;
    if !report.get("matches").is_some_and(Value::is_array) {
        return Err("matches is no list".to_owned());
    }
    let findings = list(report, "matches")?.iter().map(found).collect::<Result<Vec<_>, _>>()?;
    let descriptor = report.get("descriptor").and_then(Value::as_object);
    let at = about.time(descriptor.and_then(|descriptor| descriptor.get("timestamp")))?;
    Ok(about.scan("Grype", at, [Class::Vulnerability], bounded(findings)?))
}

fn found(found: &Value) -> Result<Finding, String> {
    let found = object(found, "a match")?;
    let part =
        |key: &str| found.get(key).and_then(Value::as_object).ok_or_else(|| format!("a match has no {key}"));
    let (vulnerability, artifact) = (part("vulnerability")?, part("artifact")?);
    let fix = vulnerability.get("fix").and_then(Value::as_object);
    let versions = fix.and_then(|fix| fix.get("versions")).and_then(Value::as_array);
    let first = versions.and_then(|versions| versions.first()).and_then(Value::as_str);
    Ok(Finding {
        class: Class::Vulnerability,
        severity: severity(vulnerability, "severity"),
        id: required(vulnerability, "id")?,
        package: required(artifact, "name")?,
        version: optional(artifact, "version"),
        fixed_version: first.map(|version| super::text(version, 200)).filter(|version| !version.is_empty()),
        vex: None,
    })
}
