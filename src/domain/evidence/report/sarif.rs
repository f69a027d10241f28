//! SARIF 2.1: what `ClamAV` wrappers, secret scanners and linters write.
//!
//! The class comes from the tool's name (Trivy: from the tags of the rule). The severity comes from `security-severity` of the result
//! or its rule (CVSS: from 9 Critical, from 7 High, from 4 Medium, above 0 Low), else from the level of the result, else from the
//! rule's default, else `warning`, as SARIF says: error is High, warning Medium, note Low, none Negligible.

use serde_json::{Map, Value};

use super::{About, Class, Finding, Scan, Severity, bounded, list, object, optional};

/// Which tools look for what, by a part of their name in lower case.
const TOOLS: &[(&str, Class)] = &[
    ("clamav", Class::Malware),
    ("clamscan", Class::Malware),
    ("yara", Class::Malware),
    ("gitleaks", Class::Secret),
    ("trufflehog", Class::Secret),
    ("detect-secrets", Class::Secret),
    ("ggshield", Class::Secret),
    ("gitguardian", Class::Secret),
    ("whispers", Class::Secret),
    ("grype", Class::Vulnerability),
    ("snyk container", Class::Vulnerability),
    ("osv-scanner", Class::Vulnerability),
    ("clair", Class::Vulnerability),
    ("docker scout", Class::Vulnerability),
    ("checkov", Class::Misconfiguration),
    ("kics", Class::Misconfiguration),
    ("hadolint", Class::Misconfiguration),
    ("dockle", Class::Misconfiguration),
    ("kubescape", Class::Misconfiguration),
    ("kube-linter", Class::Misconfiguration),
];

/// The words that Trivy tags its rules with.
const TAGS: &[(&str, Class)] = &[
    ("vulnerability", Class::Vulnerability),
    ("secret", Class::Secret),
    ("misconfiguration", Class::Misconfiguration),
];

const MAX_RUNS: usize = 16;

pub(super) fn read(report: &Map<String, Value>, about: &About<'_>) -> Result<Vec<Scan>, String> {
    if !report.get("version").and_then(Value::as_str).is_some_and(|version| version.starts_with("2.1.")) {
        return Err("is of another version of SARIF than 2.1".to_owned());
    }
    let runs = list(report, "runs")?;
    if runs.is_empty() || runs.len() > MAX_RUNS {
        return Err(format!("has no run, or more than {MAX_RUNS}"));
    }
    runs.iter().map(|run| read_run(object(run, "a run")?, about)).collect()
}

fn read_run(run: &Map<String, Value>, about: &About<'_>) -> Result<Scan, String> {
    let driver = run.get("tool").and_then(|tool| tool.get("driver")).and_then(Value::as_object);
    let driver = driver.ok_or("names no tool")?;
    let name = optional(driver, "name").ok_or("names no tool")?;
    about.check(named(run).into_iter())?;
    let known = class_of(&name);
    let tagged = name.to_ascii_lowercase().contains("trivy");
    let only = about.covers.iter().copied().next().filter(|_| about.covers.len() == 1);
    // Rules of others may be tagged with anything.
    let fallback = if tagged { None } else { known.or(only) };
    if fallback.is_none() && !tagged {
        return Err(format!("is of {name}, a tool that is not known; say what it looks for"));
    }
    let mut at = None;
    for invocation in list(run, "invocations")? {
        let invocation = object(invocation, "an invocation")?;
        if invocation.get("executionSuccessful") == Some(&Value::Bool(false)) {
            return Err("says that the scan failed".to_owned());
        }
        at = at.or_else(|| invocation.get("endTimeUtc"));
    }
    let rules = rules(run, driver)?;
    // A run without results did not look for any.
    if !run.get("results").is_some_and(Value::is_array) {
        return Err("has a run without results".to_owned());
    }
    let mut findings = Vec::new();
    for result in list(run, "results")? {
        let result = object(result, "a result")?;
        if matches!(
            result.get("kind").and_then(Value::as_str),
            Some("pass" | "notApplicable" | "informational")
        ) {
            continue;
        }
        findings.push(found(result, &rules, fallback)?);
    }
    let tags = rules.iter().filter_map(|rule| tag_of(rule)).filter(|_| tagged);
    let covers: Vec<Class> = tags.chain(known.filter(|_| !tagged)).collect();
    Ok(about.scan(&name, about.time(at)?, covers, bounded(findings)?))
}

fn class_of(tool: &str) -> Option<Class> {
    let tool = tool.to_ascii_lowercase();
    TOOLS.iter().find(|(part, _)| tool.contains(part)).map(|(_, class)| *class)
}

fn tag_of(rule: &Map<String, Value>) -> Option<Class> {
    let tags = rule.get("properties").and_then(|properties| properties.get("tags")).and_then(Value::as_array);
    let mut tags = tags.into_iter().flatten().filter_map(Value::as_str);
    tags.find_map(|tag| TAGS.iter().find(|(word, _)| *word == tag)).map(|(_, class)| *class)
}

/// Where Trivy says what it looked at; others do not say it.
fn named(run: &Map<String, Value>) -> Vec<&str> {
    let Some(properties) = run.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let digests = properties.get("repoDigests").and_then(Value::as_array);
    let one = ["imageName", "imageID"].into_iter().filter_map(|key| properties.get(key));
    digests.into_iter().flatten().chain(one).filter_map(Value::as_str).collect()
}

fn rules<'r>(
    run: &'r Map<String, Value>,
    driver: &'r Map<String, Value>,
) -> Result<Vec<&'r Map<String, Value>>, String> {
    let mut rules: Vec<&Value> = list(driver, "rules")?.iter().collect();
    if let Some(tool) = run.get("tool").and_then(Value::as_object) {
        for extension in list(tool, "extensions")? {
            rules.extend(list(object(extension, "an extension")?, "rules")?);
        }
    }
    rules.into_iter().map(|rule| object(rule, "a rule")).collect()
}

fn found(
    result: &Map<String, Value>,
    rules: &[&Map<String, Value>],
    fallback: Option<Class>,
) -> Result<Finding, String> {
    let inner = result.get("rule").and_then(Value::as_object);
    let id = optional(result, "ruleId").or_else(|| inner.and_then(|rule| optional(rule, "id")));
    let index =
        result.get("ruleIndex").or_else(|| inner.and_then(|rule| rule.get("index"))).and_then(Value::as_u64);
    let by_id =
        id.as_ref().and_then(|id| rules.iter().find(|rule| optional(rule, "id").as_ref() == Some(id)));
    let by_index = || index.and_then(|index| rules.get(usize::try_from(index).ok()?));
    let rule = by_id.or_else(by_index).copied();
    let id = id.or_else(|| rule.and_then(|rule| optional(rule, "id"))).ok_or("a result has no rule")?;
    // One that nobody can place is counted where it weighs most.
    let class = fallback.or_else(|| rule.and_then(tag_of)).unwrap_or(Class::Malware);
    Ok(Finding {
        class,
        severity: severity(result, rule),
        id,
        package: place(result).unwrap_or_else(|| "the image".to_owned()),
        version: None,
        fixed_version: None,
        vex: None,
    })
}

fn place(result: &Map<String, Value>) -> Option<String> {
    let location = result.get("locations")?.as_array()?.first()?;
    let uri = location.pointer("/physicalLocation/artifactLocation/uri").and_then(Value::as_str);
    uri.map(|uri| super::text(uri, 200)).filter(|uri| !uri.is_empty())
}

fn severity(result: &Map<String, Value>, rule: Option<&Map<String, Value>>) -> Severity {
    let score =
        |of: &Map<String, Value>| of.get("properties").and_then(|all| all.get("security-severity")).cloned();
    if let Some(score) = score(result).or_else(|| rule.and_then(score)) {
        return by_score(&score);
    }
    let level = result.get("level").or_else(|| rule?.get("defaultConfiguration")?.get("level"));
    match level.map(Value::as_str) {
        None | Some(Some("warning")) => Severity::Medium,
        Some(Some("error")) => Severity::High,
        Some(Some("note")) => Severity::Low,
        Some(Some("none")) => Severity::Negligible,
        Some(_) => Severity::Unknown,
    }
}

fn by_score(score: &Value) -> Severity {
    let number = score.as_f64().or_else(|| score.as_str().and_then(|text| text.trim().parse().ok()));
    match number {
        Some(score) if (9.0..=10.0).contains(&score) => Severity::Critical,
        Some(score) if (7.0..9.0).contains(&score) => Severity::High,
        Some(score) if (4.0..7.0).contains(&score) => Severity::Medium,
        Some(score) if score > 0.0 && score < 4.0 => Severity::Low,
        Some(0.0) => Severity::Negligible,
        _ => Severity::Unknown,
    }
}
