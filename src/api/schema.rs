//! Pieces of the schemas that a derive cannot say, and the last touch on each definition.

use std::borrow::Cow;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::domain::{condition::MESSAGE_MAX, duration};

/// A repository: an optional registry with an optional port, and a path; no tag, no digest. No wider than what
/// [`Repository`](crate::domain::image::Repository) reads: a record that cannot be read approves and revokes nothing.
pub(super) const REPOSITORY: &str = concat!(
    r"^(((",
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*",
    // An IPv6 address: eight groups, or fewer with one gap.
    r"|\[(([0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|([0-9A-Fa-f]{1,4}:){1,7}:|([0-9A-Fa-f]{1,4}:){1,6}(:[0-9A-Fa-f]{1,4})",
    r"|([0-9A-Fa-f]{1,4}:){1,5}(:[0-9A-Fa-f]{1,4}){1,2}|([0-9A-Fa-f]{1,4}:){1,4}(:[0-9A-Fa-f]{1,4}){1,3}",
    r"|([0-9A-Fa-f]{1,4}:){1,3}(:[0-9A-Fa-f]{1,4}){1,4}|([0-9A-Fa-f]{1,4}:){1,2}(:[0-9A-Fa-f]{1,4}){1,5}",
    r"|[0-9A-Fa-f]{1,4}:(:[0-9A-Fa-f]{1,4}){1,6}|:(:[0-9A-Fa-f]{1,4}){1,7}|::)\]",
    r")(:[0-9]{1,5})?",
    // On Docker Hub the first of several components has no dot, or it would be a registry.
    r"|[a-z0-9]+((_|__|-+)[a-z0-9]+)*)",
    r"(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)+",
    r"|[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)$",
);
/// Its length: a name on Docker Hub is written out with `docker.io/library/` to 255 characters.
pub(super) const REPOSITORY_MAX: usize = 237;
/// A glob on repositories. Without `@`: a pattern that names a digest would never match.
pub(super) const REPOSITORY_GLOB: &str = r"^[A-Za-z0-9._:/*?{},!\[\]-]+$";
/// A digest as registries write it.
pub(super) const DIGEST: &str = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$";
/// A tag as registries take it.
pub(super) const TAG: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$";
/// A whole commit hash, SHA-1 or SHA-256.
pub(super) const COMMIT: &str = "^([0-9a-f]{40}|[0-9a-f]{64})$";
/// The name of a namespace.
pub(super) const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

const TIMESTAMP: &str = r"^[0-8][0-9]{3}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-](0[0-9]|1[0-4]):[0-5][0-9])$";
const QUALIFIED_NAME: &str = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";
const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

impl JsonSchema for duration::Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 2, "maxLength": 28, "pattern": duration::PATTERN})
    }
}

/// The conditions of a status, as `metav1.Condition` prescribes them.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "description": "One thing that is said of this object.",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {
                    "type": "string", "maxLength": 316,
                    "pattern": QUALIFIED_NAME,
                    "description": "What is said, in CamelCase.",
                },
                "status": {
                    "type": "string", "enum": ["True", "False", "Unknown"],
                    "description": "Whether it holds: True, False or Unknown.",
                },
                "reason": {
                    "type": "string", "minLength": 1, "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                    "description": "Why, as one CamelCase word for machines.",
                },
                "message": {
                    "type": "string", "maxLength": MESSAGE_MAX,
                    "description": "Why, for people.",
                },
                "observedGeneration": {
                    "type": "integer", "format": "int64", "minimum": 0,
                    "description": "The metadata.generation of the object that this was said of.",
                },
                "lastTransitionTime": {
                    "type": "string", "format": "date-time", "maxLength": 35, "pattern": TIMESTAMP,
                    "description": "When the status of the condition last changed.",
                },
            },
        },
    })
}

/// A point in time, such as 2026-11-20T09:00:00Z.
///
/// The format alone lets through what cannot be read: offsets of 99 hours, ten digits of a second, the end of the
/// year 9999. One such object in anybody's namespace would stop the operator from listing any.
pub(super) fn timestamp(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time", "maxLength": 35, "pattern": TIMESTAMP})
}

/// A label selector, bounded and with what the API machinery would only find out when it is used.
pub(super) fn label_selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-map-type": "atomic",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 32,
                "description": "Labels that must be there with these values.",
                "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 32,
                "x-kubernetes-list-type": "atomic",
                "description": "Requirements on labels, all of which must hold.",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {
                            "type": "string", "minLength": 1, "maxLength": 317,
                            "pattern": QUALIFIED_NAME,
                            "description": "The label's key.",
                        },
                        "operator": {
                            "type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"],
                            "description": "How the label's value stands to the values: In, NotIn, Exists or DoesNotExist.",
                        },
                        "values": {
                            "type": "array", "maxItems": 64, "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
                            "description": "The values for In and NotIn; none for Exists and DoesNotExist.",
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "In and NotIn need values; Exists and DoesNotExist take none",
                    }],
                },
            },
        },
    })
}

/// Paths inside a repository.
pub(super) fn repository_paths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {
            "type": "string", "minLength": 1, "maxLength": 512,
            "pattern": r"^[^/\\\x00-\x1f][^\\\x00-\x1f]*$",
            "x-kubernetes-validations": [{
                "rule": r"!self.matches('(^|/)[.][.](/|$)')",
                "message": "a path stays inside the repository: no .. in it",
            }],
        },
    })
}

/// A pod template: kept as it was, whatever fields this cluster's version of it has.
pub(super) fn pod_template(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// For enums: where one is optional, its own description would take the place of the field's.
pub(super) fn without_description(schema: &mut Schema) {
    schema.remove("description");
}

/// Takes out of a derived definition what the API server would misread.
pub(super) fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        // The type has no walk over its parts; its JSON form has one.
        if let Ok(mut value) = serde_json::to_value(&*schema) {
            tidy(&mut value);
            if let Ok(tidied) = serde_json::from_value(value) {
                *schema = tidied;
            }
        }
    }
    crd
}

fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => tidy_object(object),
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn tidy_object(schema: &mut Map<String, Value>) {
    // A nullable field may be set to null, which counts as set in CEL and as absent in our types:
    // `revocation: null` would take a revocation back.
    if schema.get("nullable") == Some(&json!(true)) {
        schema.remove("nullable");
    }
    // A format of Rust's, unknown to the API server; a number that we could not read must not be stored.
    if schema.get("format") == Some(&json!("uint32")) {
        schema.remove("format");
        schema.entry("maximum").or_insert_with(|| json!(u32::MAX));
    }
    // Lines end where our source does; kubectl breaks them again, for its own width.
    if let Some(Value::String(description)) = schema.get_mut("description") {
        let paragraphs: Vec<String> =
            description.split("\n\n").map(|lines| lines.replace('\n', " ")).collect();
        *description = paragraphs.join("\n\n");
    }
    schema.values_mut().for_each(tidy);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::image::Repository;

    #[test]
    fn what_is_no_repository_is_refused_by_the_schema() {
        let (pattern, read) = (regex::Regex::new(REPOSITORY).unwrap(), str::parse::<Repository>);
        for good in
            ["a", "shop/cart", "registry.example:5000/a", "[::1]:5000/a", "[fe80::1:2]/a", "LOCALHOST/a"]
        {
            assert!(pattern.is_match(good) && read(good).is_ok(), "{good}");
        }
        for bad in
            ["registry..example/x", "a.-b/x", "a-.b/x", "[1]/x", "[:]/x", "[1:::2]/x", ".a/x", "a:1/", "a:x"]
        {
            assert!(!pattern.is_match(bad), "{bad}");
        }
    }

    /// A pattern that repeats parts so rarely that most of what it makes is short enough.
    fn few(pattern: &str) -> String {
        pattern
            .trim_matches(['^', '$'])
            .replace(")*", "){0,2}")
            .replace("]*", "]{0,3}")
            .replace("]+", "]{1,3}")
            .replace(")+", "){1,2}")
    }

    proptest! {
        /// A record that the API server took and we cannot read approves nothing, and its revocation stops nothing.
        #[test]
        fn what_the_schema_takes_for_a_repository_can_be_read(
            text in few(REPOSITORY).as_str()
        ) {
            prop_assume!(text.len() <= REPOSITORY_MAX);
            prop_assert!(text.parse::<Repository>().is_ok(), "{text}");
        }

        /// One object that the API server took and we cannot read blinds the operator for all of its kind.
        #[test]
        fn what_the_schema_takes_for_a_time_can_be_read(
            text in TIMESTAMP.trim_start_matches('^').trim_end_matches('$')
        ) {
            // The API server checks the day and the hour by the format.
            let by_format = text[..10].parse::<jiff::civil::Date>().is_ok() && &text[11..13] < "24";
            prop_assume!(by_format);
            prop_assert!(text.parse::<jiff::Timestamp>().is_ok(), "{text}");
        }
    }
}
