//! The config of an image ([image-spec]).
//!
//! [image-spec]: https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Unreadable,
    json::{self, Object},
};
use crate::domain::image::Digest;

const LAYERS: usize = 1_000;

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The operating system.
    pub os: String,
    /// The processor.
    pub architecture: String,
    /// The kind of processor.
    pub variant: Option<String>,
    /// When it says that it was built.
    pub created: Option<Timestamp>,
    /// Of its layers, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
    /// Its labels: hints, which nobody vouches for.
    pub labels: BTreeMap<String, String>,
}

impl Config {
    /// Reads the config of an image.
    pub fn read(bytes: &[u8]) -> Result<Self, Unreadable> {
        let value = json::read(bytes)?;
        let known = [
            "created",
            "author",
            "architecture",
            "variant",
            "os",
            "os.version",
            "os.features",
            "config",
            "rootfs",
            "history",
        ];
        let object = Object::new(&value, "the config", &known)?;
        let rootfs = object.get("rootfs").ok_or_else(|| object.wrong("rootfs", "missing"))?;
        let rootfs = Object::new(rootfs, "the config's rootfs", &["type", "diff_ids"])?;
        if rootfs.text("type")? != Some("layers") {
            return Err(rootfs.wrong("type", "not \"layers\""));
        }
        let diff_ids = rootfs.required_items("diff_ids")?;
        if diff_ids.len() > LAYERS {
            return Err(rootfs.wrong("diff_ids", "longer than any image's"));
        }
        let diff_id = |item: &serde_json::Value| {
            let text = item.as_str().ok_or_else(|| rootfs.wrong("diff_ids", "not made of digests"))?;
            text.parse().map_err(|error| Unreadable::new(format!("{error}")))
        };
        let created = object.text("created")?.filter(|text| !text.is_empty());
        let created = created.map(|text| text.parse().map_err(|_| object.wrong("created", "no time")));
        let labels = object
            .get("config")
            .map(|config| Object::new(config, "the config's config", &["Labels"])?.texts("Labels"));
        Ok(Self {
            os: part(&object, "os")?.ok_or_else(|| object.wrong("os", "missing"))?,
            architecture: part(&object, "architecture")?
                .ok_or_else(|| object.wrong("architecture", "missing"))?,
            variant: part(&object, "variant")?,
            created: created.transpose()?,
            diff_ids: diff_ids.iter().map(diff_id).collect::<Result<_, _>>()?,
            labels: labels.transpose()?.unwrap_or_default(),
        })
    }

    /// `os/architecture` or `os/architecture/variant`.
    pub fn platform(&self) -> String {
        let variant = self.variant.as_ref().map_or_else(String::new, |variant| format!("/{variant}"));
        format!("{}/{}{variant}", self.os, self.architecture)
    }
}

/// A part of the platform's name.
fn part(object: &Object<'_>, name: &str) -> Result<Option<String>, Unreadable> {
    let Some(text) = object.text(name)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+');
    if text.len() > 64 || !text.bytes().all(plain) {
        return Err(object.wrong(name, "no name of a platform"));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config() -> Value {
        json!({
            "created": "2026-11-20T09:00:00.5Z",
            "architecture": "arm",
            "variant": "v7",
            "os": "linux",
            "config": {"Labels": {"a": "b"}, "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]},
            "history": [],
        })
    }

    #[test]
    fn what_an_image_says_of_itself_is_read() {
        let read = Config::read(config().to_string().as_bytes()).unwrap();
        assert_eq!(read.platform(), "linux/arm/v7");
        assert_eq!(read.created.unwrap().to_string(), "2026-11-20T09:00:00.5Z");
        assert_eq!((read.diff_ids.len(), read.labels["a"].as_str()), (1, "b"));
        for (name, value) in [("created", Value::Null), ("variant", json!("")), ("config", Value::Null)] {
            let mut less = config();
            less[name] = value;
            let read = Config::read(less.to_string().as_bytes()).unwrap();
            assert!(read.created.is_none() || read.variant.is_none() || read.labels.is_empty(), "{name}");
        }
    }

    /// If this fails, an image is taken for one on another base.
    #[test]
    fn what_is_no_config_is_refused() {
        for (name, value) in [
            ("os", json!("")),
            ("os", json!("linux/../x")),
            ("architecture", Value::Null),
            ("variant", json!("v 7")),
            ("created", json!("yesterday")),
            ("rootfs", Value::Null),
            ("rootfs", json!({"type": "other", "diff_ids": []})),
            ("rootfs", json!({"type": "layers"})),
            ("rootfs", json!({"type": "layers", "diff_ids": ["sha256:1"]})),
            ("rootfs", json!({"type": "layers", "diff_ids": [1]})),
            ("rootfs", json!({"type": "layers", "diff_ids": [], "Diff_IDs": []})),
            ("Rootfs", json!({})),
            ("config", json!({"labels": {}})),
            ("config", json!({"Labels": {"a": 1}})),
        ] {
            let mut broken = config();
            broken[name] = value;
            assert!(Config::read(broken.to_string().as_bytes()).is_err(), "{broken}");
        }
    }
}
