//! The reports of Trivy Operator (`aquasecurity.github.io/v1alpha1`).

use serde_json::{Map, Value};

use super::{About, Class, Finding, Scan, Severity, bounded, list, object, optional, required, severity};

/// Which list of which kind holds what.
struct Kind {
    class: Class,
    list: &'static str,
    id: &'static str,
    package: &'static str,
}

fn kind_of(name: &str) -> Option<Kind> {
    let kind = |class, list, id, package| Some(Kind { class, list, id, package });
    match name {
        "VulnerabilityReport" => kind(Class::Vulnerability, "vulnerabilities", "vulnerabilityID", "resource"),
        "ExposedSecretReport" => kind(Class::Secret, "secrets", "ruleID", "target"),
        "ConfigAuditReport" => kind(Class::Misconfiguration, "checks", "checkID", "title"),
        _ => None,
    }
}

/// The counts of a summary, all of which must be there.
const COUNTS: [(&str, Severity); 4] = [
    ("criticalCount", Severity::Critical),
    ("highCount", Severity::High),
    ("mediumCount", Severity::Medium),
    ("lowCount", Severity::Low),
];

/// A `ConfigAuditReport` is about a workload: it counts only where it was found by what runs the image (`bound`). An `SbomReport` lists
/// what is there and finds nothing.
pub(super) fn read(stored: &Map<String, Value>, about: &About<'_>) -> Result<Scan, String> {
    if !stored
        .get("apiVersion")
        .and_then(Value::as_str)
        .is_some_and(|v| v.starts_with("aquasecurity.github.io/"))
    {
        return Err("is of another API than aquasecurity.github.io".to_owned());
    }
    let report = object(stored.get("report").unwrap_or(&Value::Null), "report")?;
    let name = stored.get("kind").and_then(Value::as_str).unwrap_or_default();
    let digest = report.get("artifact").and_then(|artifact| artifact.get("digest")).and_then(Value::as_str);
    about.check(digest.into_iter())?;
    let at = about.time(report.get("updateTimestamp"))?;
    let scanner = report.get("scanner").and_then(|scanner| scanner.get("name")).and_then(Value::as_str);
    let scanner = scanner.unwrap_or("Trivy");
    if name == "SbomReport" {
        return Ok(about.scan(scanner, at, [], Vec::new()));
    }
    let kind = kind_of(name).ok_or("is of a kind of Trivy Operator that is not known")?;
    if !report.get(kind.list).is_some_and(Value::is_array) {
        return Err(format!("{} is no list", kind.list));
    }
    let mut findings = Vec::new();
    for found in list(report, kind.list)? {
        let found = object(found, "a finding")?;
        if kind.class == Class::Misconfiguration && found.get("success") == Some(&Value::Bool(true)) {
            continue;
        }
        findings.push(Finding {
            class: kind.class,
            severity: severity(found, "severity"),
            id: required(found, kind.id)?,
            package: optional(found, kind.package).unwrap_or_else(|| "the image".to_owned()),
            version: optional(found, "installedVersion"),
            fixed_version: optional(found, "fixedVersion"),
            vex: None,
        });
    }
    let more = missing(report, &kind, &findings)?;
    let mut covers = vec![kind.class];
    if let Some(system) = report.get("os").and_then(Value::as_object).filter(|os| !os.is_empty()) {
        covers.push(Class::Outdated);
        if system.get("eosl").is_some_and(|eosl| *eosl != Value::Bool(false)) {
            findings.push(Finding {
                class: Class::Outdated,
                severity: Severity::High,
                id: "end-of-life".to_owned(),
                package: optional(system, "family").unwrap_or_else(|| "the system".to_owned()),
                version: optional(system, "name"),
                fixed_version: None,
                vex: None,
            });
        }
    }
    Ok(Scan { more, ..about.scan(scanner, at, covers, bounded(findings)?) })
}

/// What the summary counts and the list does not hold.
fn missing(
    report: &Map<String, Value>,
    kind: &Kind,
    findings: &[Finding],
) -> Result<Vec<(Class, Severity, u64)>, String> {
    let summary = object(report.get("summary").unwrap_or(&Value::Null), "summary")?;
    let mut more = Vec::new();
    for (key, severity) in COUNTS {
        let count =
            summary.get(key).and_then(Value::as_u64).ok_or_else(|| format!("the summary has no {key}"))?;
        let listed = findings.iter().filter(|finding| finding.severity == severity).count();
        let lost = count.saturating_sub(u64::try_from(listed).unwrap_or(u64::MAX));
        if lost > 0 {
            more.push((kind.class, severity, lost));
        }
    }
    let unknown = summary.get("unknownCount").and_then(Value::as_u64).unwrap_or(0);
    let listed = findings.iter().filter(|finding| finding.severity == Severity::Unknown).count();
    let lost = unknown.saturating_sub(u64::try_from(listed).unwrap_or(u64::MAX));
    if lost > 0 {
        more.push((kind.class, Severity::Unknown, lost));
    }
    Ok(more)
}
