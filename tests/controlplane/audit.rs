//! What the API server was asked to do, from its audit log.

use std::borrow::Cow;
use std::fs::{self, File};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

/// One request that the API server answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvent {
    #[serde(rename = "auditID")]
    pub id: String,
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub user: AuditUser,
    /// In whose name the user asked, if not its own.
    pub impersonated_user: Option<AuditUser>,
    #[serde(default)]
    pub user_agent: String,
    /// None for paths that are not objects, such as `/readyz`.
    pub object_ref: Option<AuditObject>,
    pub response_status: Option<AuditStatus>,
    /// Writes of the groups `apps` and `batch`, with [`Audit::RequestBodies`](super::Audit::RequestBodies)
    /// only.
    pub request_object: Option<Value>,
    pub request_received_timestamp: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditUser {
    pub username: String,
    pub groups: Vec<String>,
}

/// Empty texts where the request had none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditObject {
    pub api_group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct AuditStatus {
    #[serde(default)]
    pub code: u16,
    /// Why it was refused, if it was.
    #[serde(default)]
    pub message: String,
}

impl AuditEvent {
    /// A request that asked for a change, not as a dry run, and was answered with success.
    pub fn is_successful_write(&self) -> bool {
        let writes =
            matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        let real = !self.request_uri.contains("dryRun=");
        writes
            && real
            && self.response_status.as_ref().is_some_and(|status| (200..300).contains(&status.code))
    }

    /// Whether the request concerns such an object itself, not a subresource of it.
    pub fn is_about(&self, resource: &str, namespace: &str) -> bool {
        self.object_ref.as_ref().is_some_and(|object| {
            object.resource == resource && object.namespace == namespace && object.subresource.is_empty()
        })
    }

    /// The container images in the request's body, in the order of the body. An image that was sent unchanged
    /// counts as well.
    pub fn images(&self) -> Vec<&str> {
        let mut found = Vec::new();
        if let Some(body) = &self.request_object {
            collect_images(body, &mut found);
        }
        found
    }
}

fn collect_images<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(image) if name == "image" => found.push(image),
                    // A JSON patch names the field in its path.
                    Value::String(image)
                        if name == "value"
                            && fields
                                .get("path")
                                .and_then(Value::as_str)
                                .is_some_and(|path| path.ends_with("/image")) =>
                    {
                        found.push(image);
                    }
                    _ => collect_images(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_images(item, found)),
        _ => {}
    }
}

/// The events of a log. A last line without its end is still being written, and left for the next reading.
pub(super) fn parse(log: &str) -> serde_json::Result<Vec<AuditEvent>> {
    let whole = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    whole.map(|line| serde_json::from_str(&as_go_reads(line))).collect()
}

/// JSON with a replacement character instead of each half of a surrogate pair: what Go reads there, and what the log copies from
/// requests as it stands.
fn as_go_reads(line: &str) -> Cow<'_, str> {
    if !line.contains("\\ud") && !line.contains("\\uD") {
        return Cow::Borrowed(line);
    }
    let unit = |at: usize| {
        let hex = line.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(hex, 16).ok()
    };
    let (mut read, mut at) = (String::with_capacity(line.len()), 0);
    while let Some(escape) = line[at..].find('\\').map(|next| at + next) {
        let length = match (unit(escape), unit(escape + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => 0,
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        read.push_str(&line[at..escape + length]);
        if length == 0 {
            read.push_str("\\ufffd");
        }
        at = escape + if length == 0 { 6 } else { length };
    }
    read.push_str(&line[at..]);
    Cow::Owned(read)
}

/// After the server was killed in the middle of a line: what comes next begins on a new one.
pub(super) fn remove_torn_end(log: &Path) -> anyhow::Result<()> {
    let text = fs::read(log)?;
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    File::options().write(true).open(log)?.set_len(u64::try_from(whole)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    /// If this fails, one odd request makes the log unreadable, or is read otherwise than it was asked.
    #[test]
    fn halves_of_pairs_are_read_as_go_does() {
        // In here, as benches have no tests.
        use super::as_go_reads;
        for (written, read) in [
            (r"a\ud800", r"a\ufffd"),
            (r"\\ud800\ud83d\ude00", r"\\ud800\ud83d\ude00"),
            (r"\ud800\u0041\udc00\n", r"\ufffd\u0041\ufffd\n"),
            (r"\uD83D\uD83D\uDE00", r"\ufffd\uD83D\uDE00"),
            (r"\u00e9 \udfff", r"\u00e9 \ufffd"),
        ] {
            let written = format!("\"{written}\"");
            assert_eq!(as_go_reads(&written), format!("\"{read}\""));
            serde_json::from_str::<String>(&as_go_reads(&written)).unwrap();
        }
    }
}
