//! Indexes and manifests ([image-spec], and Docker's of the same shape), refused where they could be taken for something else.
//!
//! [image-spec]: https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Unreadable,
    json::{self, Object},
};
use crate::domain::image::Digest;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const INDEX_TYPES: [&str; 2] = [OCI_INDEX, DOCKER_LIST];
const IMAGE_TYPES: [&str; 2] = [OCI_MANIFEST, DOCKER_MANIFEST];
/// What is asked for when a manifest is: a header's value.
pub const MANIFEST_TYPES: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// The configs that say what an image is.
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// What servers say that do not know what they serve.
const UNTYPED: [&str; 4] = ["", "application/json", "application/octet-stream", "text/plain"];
/// Runtimes take up to 127.
const LAYERS: usize = 1_000;

/// What a digest or a tag names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// A list of others, mostly one for each platform.
    Index(Index),
    /// One image, or another artifact of the same shape.
    Image(Image),
}

/// A list of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// In their order.
    pub manifests: Vec<Descriptor>,
    /// As they stand there.
    pub annotations: BTreeMap<String, String>,
    /// What it is about, if it refers to something.
    pub subject: Option<Descriptor>,
    /// What it is, if it says so.
    pub artifact_type: Option<String>,
}

/// A manifest with a config and layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Of an image: what [`super::Config`] reads.
    pub config: Descriptor,
    /// The lowest first.
    pub layers: Vec<Descriptor>,
    /// As they stand there.
    pub annotations: BTreeMap<String, String>,
    /// What it is about, if it refers to something.
    pub subject: Option<Descriptor>,
    /// What it is, if it says so.
    pub artifact_type: Option<String>,
}

/// What one document says of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// What it is, where the media type says only how it is written.
    pub artifact_type: Option<String>,
    /// As they stand there.
    pub annotations: BTreeMap<String, String>,
    /// What it runs on, if it says so.
    pub platform: Option<OnPlatform>,
}

/// What an image runs on, as an index says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnPlatform {
    /// The operating system.
    pub os: String,
    /// The processor.
    pub architecture: String,
    /// The kind of processor.
    pub variant: Option<String>,
}

impl Manifest {
    /// Reads a manifest that was served with this `Content-Type`.
    ///
    /// *Errors*: what has neither shape or both, whose `mediaType`, `Content-Type` and shape are not the same, or whose JSON is not
    /// clear.
    pub fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Self, Unreadable> {
        let value = json::read(bytes)?;
        let known = [
            "schemaVersion",
            "mediaType",
            "artifactType",
            "manifests",
            "config",
            "layers",
            "subject",
            "annotations",
            "fsLayers",
            "history",
            "blobs",
        ];
        let object = Object::new(&value, "the manifest", &known)?;
        if object.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err(Unreadable::new(
                "its schemaVersion is not 2: it is no manifest, or of a kind that is no longer used",
            ));
        }
        let has = |name: &str| value.get(name).is_some();
        if has("fsLayers") || has("history") || has("blobs") {
            return Err(Unreadable::new("it has fields of another kind of manifest"));
        }
        let is_index = match (has("manifests"), has("config") || has("layers")) {
            (true, false) => true,
            (false, true) => false,
            (true, true) => {
                return Err(Unreadable::new(
                    "it has manifests beside config or layers: it could be taken for either",
                ));
            }
            (false, false) => return Err(Unreadable::new("it has neither manifests nor config and layers")),
        };
        check_types(object.text("mediaType")?, content_type, is_index)?;
        let annotations = object.texts("annotations")?;
        let subject = object.get("subject").map(Descriptor::read).transpose()?;
        let artifact_type = object.text("artifactType")?.filter(|text| !text.is_empty()).map(str::to_owned);
        if is_index {
            let manifests = object.required_items("manifests")?;
            let manifests = manifests.iter().map(Descriptor::read).collect::<Result<_, _>>()?;
            return Ok(Self::Index(Index { manifests, annotations, subject, artifact_type }));
        }
        let layers = object.required_items("layers")?;
        if layers.len() > LAYERS {
            return Err(Unreadable::new(format!("it has {} layers, more than {LAYERS}", layers.len())));
        }
        let layers = layers.iter().map(Descriptor::read).collect::<Result<_, _>>()?;
        let config = object.get("config").ok_or_else(|| object.wrong("config", "missing"))?;
        let config = Descriptor::read(config)?;
        Ok(Self::Image(Image { config, layers, annotations, subject, artifact_type }))
    }

    /// What it refers to, if to something.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Index(index) => index.subject.as_ref(),
            Self::Image(image) => image.subject.as_ref(),
        }
    }
}

impl Image {
    /// Whether it is a container image, as opposed to other artifacts.
    pub fn is_container(&self) -> bool {
        CONFIG_TYPES.contains(&self.config.media_type.as_str())
    }
}

fn check_types(stated: Option<&str>, served: Option<&str>, is_index: bool) -> Result<(), Unreadable> {
    let served = served.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let served = Some(served.as_str()).filter(|served| !UNTYPED.contains(served));
    if let (Some(stated), Some(served)) = (stated, served)
        && stated != served
    {
        return Err(Unreadable::new(format!("its mediaType is {stated:?}, but it is served as {served:?}")));
    }
    let Some(both) = stated.or(served) else { return Ok(()) };
    let (right, other) = if is_index { (INDEX_TYPES, IMAGE_TYPES) } else { (IMAGE_TYPES, INDEX_TYPES) };
    if right.contains(&both) {
        return Ok(());
    }
    let why =
        if other.contains(&both) { "which has another shape" } else { "which is no manifest that is known" };
    Err(Unreadable::new(format!("it is called {both:?}, {why}")))
}

impl Descriptor {
    fn read(value: &Value) -> Result<Self, Unreadable> {
        let known =
            ["mediaType", "digest", "size", "urls", "annotations", "data", "artifactType", "platform"];
        let object = Object::new(value, "a descriptor", &known)?;
        let digest = object.required_text("digest")?;
        let digest = digest.parse().map_err(|error| Unreadable::new(format!("{error}")))?;
        let size = object.get("size").and_then(Value::as_u64);
        Ok(Self {
            media_type: object.required_text("mediaType")?.to_owned(),
            digest,
            size: size.ok_or_else(|| object.wrong("size", "no number of bytes"))?,
            artifact_type: object.text("artifactType")?.filter(|text| !text.is_empty()).map(str::to_owned),
            annotations: object.texts("annotations")?,
            platform: object.get("platform").map(OnPlatform::read).transpose()?,
        })
    }

    /// Whether it names an index.
    pub fn is_index(&self) -> bool {
        INDEX_TYPES.contains(&self.media_type.as_str())
    }

    /// Whether it names a manifest of an image's shape.
    pub fn is_image(&self) -> bool {
        IMAGE_TYPES.contains(&self.media_type.as_str())
    }

    /// Whether it is what `BuildKit` says of an image beside it, which no runtime takes for an image.
    pub fn is_build_attestation(&self) -> bool {
        let nowhere = |platform: &OnPlatform| platform.os == "unknown" && platform.architecture == "unknown";
        self.platform.as_ref().is_some_and(nowhere)
            && self
                .annotations
                .get("vnd.docker.reference.type")
                .is_some_and(|is| is == "attestation-manifest")
    }
}

impl OnPlatform {
    fn read(value: &Value) -> Result<Self, Unreadable> {
        let known = ["os", "architecture", "variant", "os.version", "os.features", "features"];
        let object = Object::new(value, "a platform", &known)?;
        Ok(Self {
            os: object.text("os")?.unwrap_or_default().to_owned(),
            architecture: object.text("architecture")?.unwrap_or_default().to_owned(),
            variant: object.text("variant")?.filter(|text| !text.is_empty()).map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn digest(of: char) -> String {
        format!("sha256:{}", of.to_string().repeat(64))
    }

    fn descriptor(of: char) -> Value {
        json!({"mediaType": OCI_MANIFEST, "digest": digest(of), "size": 7})
    }

    fn image() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": CONFIG_TYPES[0], "digest": digest('c'), "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest('1'), "size": 3}],
            "annotations": {"a": "b"},
        })
    }

    fn index() -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor('1'), descriptor('2')]})
    }

    fn read(value: &Value, content_type: Option<&str>) -> Result<Manifest, Unreadable> {
        Manifest::read(value.to_string().as_bytes(), content_type)
    }

    fn with(mut value: Value, name: &str, field: Value) -> Value {
        value[name] = field;
        value
    }

    fn without(mut value: Value, name: &str) -> Value {
        value.as_object_mut().unwrap().remove(name);
        value
    }

    #[test]
    fn both_shapes_are_read() {
        let Manifest::Image(read_image) = read(&image(), Some(OCI_MANIFEST)).unwrap() else { panic!() };
        assert!(read_image.is_container());
        assert_eq!(read_image.layers[0].digest.as_str(), digest('1'));
        assert_eq!(read_image.annotations["a"], "b");
        let artifact = with(image(), "subject", descriptor('5'));
        let artifact = with(artifact, "artifactType", json!("application/x"));
        let Manifest::Image(artifact) = read(&artifact, None).unwrap() else { panic!() };
        assert_eq!(artifact.artifact_type.as_deref(), Some("application/x"));
        assert_eq!(artifact.subject.unwrap().digest.as_str(), digest('5'));

        let mut list = with(index(), "mediaType", json!(DOCKER_LIST));
        list["manifests"][0]["platform"] = json!({"os": "linux", "architecture": "arm", "variant": "v7"});
        list["manifests"][1]["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        list["manifests"][1]["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let Manifest::Index(list) = read(&list, Some(&format!("{DOCKER_LIST}; charset=utf-8"))).unwrap()
        else {
            panic!()
        };
        assert_eq!(list.manifests[0].platform.as_ref().unwrap().variant.as_deref(), Some("v7"));
        let attestations: Vec<bool> = list.manifests.iter().map(Descriptor::is_build_attestation).collect();
        assert_eq!(attestations, [false, true]);
    }

    /// CVE-2021-41190: one digest, two images.
    #[test]
    fn what_could_be_taken_for_something_else_is_refused() {
        for (manifest, says) in [
            (with(image(), "manifests", json!([])), "beside"),
            (with(image(), "manifests", Value::Null), "beside"),
            (with(index(), "layers", json!([])), "beside"),
            (with(index(), "config", json!({})), "beside"),
            (with(index(), "Layers", json!([])), "some readers"),
            (with(image(), "Manifests", json!([])), "some readers"),
            (with(image(), "manifeſts", json!([])), "some readers"),
            (with(image(), "fsLayers", json!([])), "another kind"),
            (with(index(), "blobs", json!([])), "another kind"),
            (with(image(), "mediaType", json!(OCI_INDEX)), "another shape"),
            (with(index(), "mediaType", json!(DOCKER_MANIFEST)), "another shape"),
            (with(image(), "mediaType", json!("application/x")), "no manifest"),
            (with(image(), "mediaType", json!(1)), "no text"),
            (with(image(), "schemaVersion", json!(1)), "schemaVersion"),
            (with(image(), "schemaVersion", json!("2")), "schemaVersion"),
            (without(image(), "schemaVersion"), "schemaVersion"),
            (without(image(), "config"), "config"),
            (without(image(), "layers"), "layers"),
            (without(index(), "manifests"), "neither"),
            (with(index(), "manifests", json!({})), "no list"),
            (with(image(), "annotations", json!({"a": 1})), "texts"),
            (with(image(), "layers", json!(vec![descriptor('1'); LAYERS + 1])), "more than"),
            (json!([image()]), "no object"),
        ] {
            let refused = read(&manifest, None).unwrap_err().to_string();
            assert!(refused.contains(says), "{manifest}: {refused}");
        }
        for (manifest, served) in [(image(), OCI_INDEX), (index(), OCI_MANIFEST), (image(), DOCKER_MANIFEST)]
        {
            let refused = read(&manifest, Some(served)).unwrap_err().to_string();
            assert!(refused.contains("served as"), "{refused}");
            let refused = read(&without(manifest, "mediaType"), Some(served));
            assert_eq!(refused.is_err(), served != DOCKER_MANIFEST, "{served}");
        }
        assert!(read(&image(), Some("text/html")).is_err());
        for untyped in UNTYPED {
            assert!(
                read(&image(), Some(untyped)).is_ok()
                    && read(&without(index(), "mediaType"), Some(untyped)).is_ok()
            );
        }
    }

    #[test]
    fn descriptors_are_strict() {
        let broken: [(&str, Value); 8] = [
            ("digest", json!("sha256:abc")),
            ("digest", json!(digest('A'))),
            ("digest", json!("../../etc/passwd")),
            ("size", json!(-1)),
            ("size", json!(1.5)),
            ("size", Value::Null),
            ("mediaType", Value::Null),
            ("platform", json!("linux")),
        ];
        for (name, value) in broken {
            let broken = with(descriptor('1'), name, value);
            assert!(read(&with(index(), "manifests", json!([broken])), None).is_err(), "{broken}");
            assert!(read(&with(image(), "config", broken.clone()), None).is_err(), "{broken}");
            assert!(read(&with(image(), "layers", json!([broken])), None).is_err(), "{broken}");
            assert!(read(&with(image(), "subject", broken.clone()), None).is_err(), "{broken}");
        }
        let twice = image().to_string().replace("\"layers\"", "\"annotations\":{},\"layers\"");
        assert!(Manifest::read(twice.as_bytes(), None).unwrap_err().to_string().contains("twice"));
    }

    proptest! {
        /// Whatever is added or taken away, no manifest is ever both.
        #[test]
        fn nothing_is_read_as_both(
            keys in prop::collection::btree_set(
                prop::sample::select(vec!["manifests", "layers", "config", "Manifests", "LAYERS", "Config", "blobs"]), 0..5),
            served in prop::sample::select(vec![None, Some(OCI_INDEX), Some(OCI_MANIFEST), Some("application/json")]),
        ) {
            let mut value = json!({"schemaVersion": 2});
            for key in &keys {
                value[*key] = if key.eq_ignore_ascii_case("config") { descriptor('c') } else { json!([]) };
            }
            let clear: [&[&str]; 2] = [&["manifests"], &["config", "layers"]];
            let clear = clear.iter().any(|names| keys.iter().copied().eq(names.iter().copied()));
            match read(&value, served) {
                Ok(Manifest::Index(_)) => prop_assert!(clear && keys.contains("manifests") && served != Some(OCI_MANIFEST)),
                Ok(Manifest::Image(_)) => prop_assert!(clear && keys.contains("layers") && served != Some(OCI_INDEX)),
                Err(_) => prop_assert!(!clear || served.is_some_and(|served| served.contains("oci"))),
            }
        }
    }
}
