//! cosign's vulnerability predicate: a record around the report of a scanner.
#![allow(clippy::needless_for_each, reason = "one line")]

use serde_json::{Map, Value};

use super::{About, Scan, object, read_value};

/// Its predicate type.
pub const VULN_PREDICATE: &str = "https://cosign.sigstore.dev/attestation/vuln/v1";

pub(super) fn read(predicate: &Map<String, Value>, about: &About<'_>) -> Result<Vec<Scan>, String> {
    let scanner = object(predicate.get("scanner").unwrap_or(&Value::Null), "scanner")?;
    let metadata = object(predicate.get("metadata").unwrap_or(&Value::Null), "metadata")?;
    let result = scanner.get("result").ok_or("holds no result")?;
    if result.get("scanner").is_some() && result.get("metadata").is_some() {
        return Err("holds itself".to_owned());
    }
    // The record says when; a report inside of it may be of another time format.
    let at = about.time(metadata.get("scanFinishedOn"))?;
    let inner = About { at: Some(at), ..about.clone() };
    let mut scans = read_value(result, &inner)?;
    // The older of both: a record does not make a report younger.
    scans.iter_mut().for_each(|scan| scan.at = scan.at.min(at));
    Ok(scans)
}
