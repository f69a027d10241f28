//! Trivy's own JSON (`trivy image --format json`, schema version 2).

use serde_json::{Map, Value};

use super::{About, Class, Finding, Scan, Severity, bounded, list, object, optional, required, severity};

/// Trivy does not say which scanners ran. Vulnerabilities are covered where packages were found, secrets and misconfigurations where
/// there is a result of their class, outdated systems where an image was analysed.
pub(super) fn read(report: &Map<String, Value>, about: &About<'_>) -> Result<Scan, String> {
    if report.get("SchemaVersion").and_then(Value::as_u64) != Some(2) {
        return Err("is of another schema version of Trivy than 2".to_owned());
    }
    let metadata = report.get("Metadata").and_then(Value::as_object);
    about.check(named(report, metadata).into_iter())?;
    let mut covers = Vec::new();
    let mut findings = Vec::new();
    for result in list(report, "Results")? {
        let result = object(result, "a result")?;
        match result.get("Class").and_then(Value::as_str) {
            Some("os-pkgs" | "lang-pkgs") => covers.push(Class::Vulnerability),
            Some("secret") => covers.push(Class::Secret),
            Some("config") => covers.push(Class::Misconfiguration),
            _ => {}
        }
        let target = optional(result, "Target").unwrap_or_else(|| "the image".to_owned());
        for found in list(result, "Vulnerabilities")? {
            findings.push(vulnerability(object(found, "a vulnerability")?)?);
        }
        for found in list(result, "Secrets")? {
            findings.push(plain(Class::Secret, object(found, "a secret")?, "RuleID", &target)?);
        }
        for found in list(result, "Misconfigurations")? {
            let found = object(found, "a misconfiguration")?;
            match found.get("Status").and_then(Value::as_str) {
                Some("PASS" | "EXCEPTION") => {}
                _ => findings.push(plain(Class::Misconfiguration, found, "ID", &target)?),
            }
        }
    }
    if let Some(metadata) = metadata {
        let system = metadata.get("OS").filter(|os| !os.is_null()).map(|os| object(os, "OS")).transpose()?;
        let analysed = metadata.contains_key("ImageID") || metadata.contains_key("DiffIDs");
        if system.is_some() || analysed {
            covers.push(Class::Outdated);
        }
        findings.extend(system.and_then(end_of_life));
    }
    let at = about.time(report.get("CreatedAt"))?;
    Ok(about.scan("Trivy", at, covers, bounded(findings)?))
}

/// Every digest by which it says what it looked at.
fn named<'r>(report: &'r Map<String, Value>, metadata: Option<&'r Map<String, Value>>) -> Vec<&'r str> {
    let texts = |key: &str| {
        let list = metadata.and_then(|metadata| metadata.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str)
    };
    let id = metadata.and_then(|metadata| metadata.get("ImageID")).and_then(Value::as_str);
    texts("RepoDigests").chain(report.get("ArtifactName").and_then(Value::as_str)).chain(id).collect()
}

fn vulnerability(found: &Map<String, Value>) -> Result<Finding, String> {
    Ok(Finding {
        class: Class::Vulnerability,
        severity: severity(found, "Severity"),
        id: required(found, "VulnerabilityID")?,
        package: required(found, "PkgName")?,
        version: optional(found, "InstalledVersion"),
        fixed_version: optional(found, "FixedVersion"),
        vex: None,
    })
}

fn plain(class: Class, found: &Map<String, Value>, id: &str, target: &str) -> Result<Finding, String> {
    Ok(Finding {
        class,
        severity: severity(found, "Severity"),
        id: required(found, id)?,
        package: target.to_owned(),
        version: None,
        fixed_version: None,
        vex: None,
    })
}

/// `EOSL`: end of service life. A system that says it in a way that is not known counts.
fn end_of_life(system: &Map<String, Value>) -> Option<Finding> {
    if matches!(system.get("EOSL"), None | Some(Value::Bool(false) | Value::Null)) {
        return None;
    }
    Some(Finding {
        class: Class::Outdated,
        severity: Severity::High,
        id: "end-of-life".to_owned(),
        package: optional(system, "Family").unwrap_or_else(|| "the system".to_owned()),
        version: optional(system, "Name"),
        fixed_version: None,
        vex: None,
    })
}
