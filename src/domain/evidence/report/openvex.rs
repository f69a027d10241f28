//! `OpenVEX`: what somebody says of vulnerabilities in an image, or in its packages.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{About, Class, Finding, MAX_BYTES, MAX_DEPTH, MAX_NODES, Scan, list, object, text};
use crate::domain::{evidence::Vex, manifest::read_json};

/// What one statement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Says {
    /// The names of the vulnerability.
    ids: Vec<String>,
    /// The packages it is about; none: the image, whatever package.
    packages: Vec<Package>,
    status: Vex,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Package {
    name: String,
    version: Option<String>,
}

/// Reads a document, and of it the statements about this image: its products are the image, by its digest, or packages.
///
/// # Errors
/// With what is wrong with the document. A statement that is not valid, such as `not_affected` without a reason, is left out: then
/// the vulnerability counts.
pub fn read_vex(bytes: &[u8], about: &About<'_>) -> Result<Vec<Says>, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("is larger than {MAX_BYTES} bytes"));
    }
    let json = std::str::from_utf8(bytes).map_err(|_| "is no text".to_owned())?;
    read_vex_value(&read_json(json, MAX_DEPTH, MAX_NODES).map_err(|error| text(&error, 200))?, about)
}

/// Reads a document that was read as JSON, strictly, such as the predicate of a statement of the type `https://openvex.dev/ns`.
///
/// # Errors
/// As [`read_vex`].
pub fn read_vex_value(document: &Value, about: &About<'_>) -> Result<Vec<Says>, String> {
    let document = object(document, "the document")?;
    let context = document.get("@context").and_then(Value::as_str).unwrap_or_default();
    if !context.starts_with("https://openvex.dev/ns") {
        return Err("is no OpenVEX".to_owned());
    }
    let of_document = document.get("timestamp").and_then(Value::as_str);
    let mut says = Vec::new();
    for statement in list(document, "statements")? {
        says.extend(read_statement(object(statement, "a statement")?, of_document, about));
    }
    Ok(says)
}

fn read_statement(
    statement: &Map<String, Value>,
    of_document: Option<&str>,
    about: &About<'_>,
) -> Option<Says> {
    let said = |key: &str| statement.get(key).and_then(Value::as_str).filter(|said| !said.trim().is_empty());
    let status = match said("status")? {
        "not_affected" if said("justification").or(said("impact_statement")).is_some() => Vex::NotAffected,
        "affected" => Vex::Affected,
        "fixed" => Vex::Fixed,
        "under_investigation" => Vex::UnderInvestigation,
        _ => return None,
    };
    let at = said("timestamp").or(of_document)?.parse().ok()?;
    let ids = match statement.get("vulnerability")? {
        Value::String(id) => vec![id.clone()],
        Value::Object(of) => {
            let aliases = of.get("aliases").and_then(Value::as_array).into_iter().flatten();
            [of.get("name"), of.get("@id")]
                .into_iter()
                .flatten()
                .chain(aliases)
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        }
        _ => return None,
    };
    let mut packages = Vec::new();
    let mut ours = false;
    for product in statement.get("products")?.as_array()? {
        if is_image(product, about) {
            let parts = product.get("subcomponents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            if parts.is_empty() {
                return Some(Says { ids, packages: Vec::new(), status, at });
            }
            ours = true;
            packages.extend(parts.iter().flat_map(names).filter_map(|name| package(&name)));
        } else if product.get("subcomponents").is_none() {
            let found: Vec<Package> = names(product).iter().filter_map(|name| package(name)).collect();
            ours |= !found.is_empty();
            packages.extend(found);
        }
    }
    (ours && !packages.is_empty()).then_some(Says { ids, packages, status, at })
}

/// Every name of a product or a part of one.
fn names(of: &Value) -> Vec<String> {
    if let Value::String(name) = of {
        return vec![name.clone()];
    }
    let purl = of.pointer("/identifiers/purl");
    [of.get("@id"), purl].into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether a product is this image, by its digest: another image of the same name is another product.
fn is_image(product: &Value, about: &About<'_>) -> bool {
    let by_hash = product.pointer("/hashes/sha-256").and_then(Value::as_str);
    by_hash.is_some_and(|hash| about.is(&format!("sha256:{hash}")))
        || names(product).iter().any(|name| {
            let name = unescaped(name);
            let digest = name.rsplit_once('@').map_or("", |(_, digest)| digest);
            let digest = digest.split(['?', '#']).next().unwrap_or_default();
            (name.starts_with("pkg:oci/") || name.starts_with("pkg:docker/") || !name.starts_with("pkg:"))
                && about.is(digest)
        })
}

/// `pkg:type/namespace/name@version?qualifiers#path`
fn package(purl: &str) -> Option<Package> {
    let rest = purl.strip_prefix("pkg:")?.split(['?', '#']).next()?;
    let (kind, rest) = rest.split_once('/')?;
    if matches!(kind, "oci" | "docker") {
        return None;
    }
    let (path, version) = match rest.rsplit_once('@') {
        Some((path, version)) if !path.is_empty() => (path, Some(unescaped(version))),
        _ => (rest, None),
    };
    // Go modules, npm scopes and the like are known by their whole path, packages of systems by their name.
    let name = match kind {
        "apk" | "deb" | "rpm" => path.rsplit('/').next()?,
        _ => path,
    };
    let name = if kind == "maven" { unescaped(name).replace('/', ":") } else { unescaped(name) };
    (!name.is_empty()).then_some(Package { name, version })
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Says {
    fn is_about(&self, finding: &Finding) -> bool {
        let package = |of: &Package| {
            of.name == finding.package
                && of.version.as_ref().is_none_or(|version| finding.version.as_ref() == Some(version))
        };
        finding.class == Class::Vulnerability
            && self.ids.contains(&finding.id)
            && (self.packages.is_empty() || self.packages.iter().any(package))
    }
}

impl Scan {
    /// Writes to each vulnerability what the newest statement about it says; of several of one moment the one that helps least.
    pub fn apply_vex(&mut self, says: &[Says]) {
        let cautious = |status: Vex| match status {
            Vex::Affected => 3,
            Vex::UnderInvestigation => 2,
            Vex::Fixed => 1,
            Vex::NotAffected => 0,
        };
        for finding in &mut self.findings {
            let about = says.iter().filter(|says| says.is_about(finding));
            let newest = about.max_by_key(|says| (says.at, cautious(says.status)));
            if let Some(newest) = newest {
                finding.vex = Some(newest.status);
            }
        }
    }
}
