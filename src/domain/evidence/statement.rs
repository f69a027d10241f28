//! in-toto statements: what an attestation says, and of what.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    Attestation, Signature,
    expression::{About, Program},
};
use crate::domain::{
    image::{Digest, ImageRef, PinnedImage, Repository},
    manifest::read_json,
};

/// The only type of a payload that is read.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The predicate type of a verification summary.
pub const VSA: &str = "https://slsa.dev/verification_summary/v1";
/// How large a statement may be, in bytes.
pub const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 2_000_000;
const MAX_SUBJECTS: usize = 1024;
const STATEMENTS: [&str; 2] = ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];

/// What somebody attests, of one digest among others.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// What kind of thing it says.
    pub predicate_type: String,
    /// All that it is about.
    pub subject: Value,
    /// What it says.
    pub predicate: Value,
}

impl Statement {
    /// Reads a payload that was signed, if it is about a digest.
    ///
    /// # Errors
    /// When it is no statement, is about something else or about nothing, or is a verification summary that did not pass.
    pub fn read(payload_type: &str, payload: &[u8], image: &PinnedImage) -> Result<Self, String> {
        if payload_type != PAYLOAD_TYPE {
            return Err(format!("the payload is of another type than {PAYLOAD_TYPE}"));
        }
        if payload.len() > MAX_BYTES {
            return Err(format!("is larger than {MAX_BYTES} bytes"));
        }
        let text = std::str::from_utf8(payload).map_err(|_| "is no text".to_owned())?;
        let value = read_json(text, MAX_DEPTH, MAX_NODES)
            .map_err(|error| error.chars().filter(|c| !c.is_control()).take(200).collect::<String>())?;
        let Value::Object(mut statement) = value else { return Err("is no JSON object".to_owned()) };
        let said = |key: &str| statement.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if !STATEMENTS.contains(&said("_type").as_str()) {
            return Err("is no in-toto statement v0.1 or v1".to_owned());
        }
        let predicate_type = said("predicateType");
        if predicate_type.is_empty() || predicate_type.len() > 256 {
            return Err("has no predicateType".to_owned());
        }
        let subject = statement.remove("subject").unwrap_or_default();
        is_about(&subject, &image.digest)?;
        let predicate = statement.remove("predicate").unwrap_or_default();
        if predicate_type == VSA {
            check_summary(&predicate, image)?;
        }
        Ok(Self { predicate_type, subject, predicate })
    }

    /// What it attests, where its signatures were found valid. `signatures` may be empty where it stands beside the approval in git.
    pub fn attestation(
        &self,
        signatures: &[Signature],
        programs: &[&Program],
        image: &PinnedImage,
    ) -> Attestation {
        let about = About {
            predicate: &self.predicate,
            subject: &self.subject,
            repository: &image.repository,
            digest: &image.digest,
        };
        let logged = signatures.iter().filter_map(|signature| signature.at).min();
        Attestation {
            predicate_type: self.predicate_type.clone(),
            signatures: signatures.to_vec(),
            builder: self.builder(),
            at: logged.or_else(|| self.finished()),
            conditions: programs.iter().map(|program| program.evaluate(&about)).collect(),
        }
    }

    /// Who built, by SLSA provenance v1, v0.2 and v0.1.
    fn builder(&self) -> Option<String> {
        let at = match self.slsa()? {
            "v1" => "/runDetails/builder/id",
            _ => "/builder/id",
        };
        let id = self.predicate.pointer(at)?.as_str()?.trim();
        (!id.is_empty() && id.len() <= 1024).then(|| id.to_owned())
    }

    /// When it says itself that it was finished.
    fn finished(&self) -> Option<Timestamp> {
        let at = match self.predicate_type.as_str() {
            VSA => "/timeVerified",
            _ => match self.slsa()? {
                "v1" => "/runDetails/metadata/finishedOn",
                _ => "/metadata/buildFinishedOn",
            },
        };
        self.predicate.pointer(at)?.as_str()?.parse().ok()
    }

    fn slsa(&self) -> Option<&str> {
        self.predicate_type
            .strip_prefix("https://slsa.dev/provenance/")
            .filter(|version| ["v1", "v0.2", "v0.1"].contains(version))
    }
}

fn is_about(subject: &Value, digest: &Digest) -> Result<(), String> {
    let subjects = subject.as_array().filter(|subjects| !subjects.is_empty()).ok_or("has no subject")?;
    if subjects.len() > MAX_SUBJECTS {
        return Err(format!("has more than {MAX_SUBJECTS} subjects"));
    }
    let (algorithm, hex) = digest.as_str().split_once(':').unwrap_or_default();
    let ours = |subject: &Value| {
        subject.get("digest").and_then(|of| of.get(algorithm)).and_then(Value::as_str) == Some(hex)
    };
    if subjects.iter().any(ours) { Ok(()) } else { Err(format!("is not about {digest}")) }
}

/// A summary counts where it says that this image passed.
fn check_summary(predicate: &Value, image: &PinnedImage) -> Result<(), String> {
    let said = |key: &str| predicate.get(key).and_then(Value::as_str).unwrap_or_default();
    if said("verificationResult") != "PASSED" {
        return Err("the summary does not say PASSED".to_owned());
    }
    let resource = said("resourceUri");
    let is_ours = if let Some(purl) = resource.strip_prefix("pkg:oci/") {
        let (name, rest) = purl.split_once('@').unwrap_or((purl, ""));
        let digest =
            rest.split(['?', '#']).next().unwrap_or_default().replace("%3A", ":").replace("%3a", ":");
        digest == image.digest.as_str() && image.repository.as_str().rsplit('/').next() == Some(name)
    } else {
        let plain =
            ["oci://", "docker://", "https://"].iter().find_map(|scheme| resource.strip_prefix(scheme));
        plain.unwrap_or(resource).parse::<ImageRef>().is_ok_and(|of| {
            of.repository == image.repository && of.digest.is_none_or(|digest| digest == image.digest)
        })
    };
    if is_ours { Ok(()) } else { Err("the summary is about another resource".to_owned()) }
}

/// A verdict of ours, for others to read.
#[derive(Clone, Debug)]
pub struct Summary<'a> {
    /// Of which image.
    pub image: &'a PinnedImage,
    /// When it was reached.
    pub at: Timestamp,
    /// Which policy it was held against, as a URI.
    pub policy: &'a str,
    /// The sha256 of the policy, in hex.
    pub policy_sha256: &'a str,
    /// Whether every gate passed.
    pub passed: bool,
    /// The version of Countersign.
    pub version: &'a str,
}

/// The verdict as an in-toto statement of the type [`VSA`]. It claims no SLSA level: that is the policy's business.
pub fn summary(of: &Summary<'_>) -> Value {
    let (algorithm, hex) = of.image.digest.as_str().split_once(':').unwrap_or_default();
    let digest = Map::from_iter([(algorithm.to_owned(), Value::from(hex))]);
    let repository: &Repository = &of.image.repository;
    json!({
        "_type": STATEMENTS[0],
        "subject": [{"name": repository.as_str(), "digest": digest}],
        "predicateType": VSA,
        "predicate": {
            "verifier": {"id": "https://countersign.dev/verify", "version": {"countersign": of.version}},
            "timeVerified": of.at.to_string(),
            "resourceUri": format!("oci://{repository}@{}", of.image.digest),
            "policy": {"uri": of.policy, "digest": {"sha256": of.policy_sha256}},
            "verificationResult": if of.passed { "PASSED" } else { "FAILED" },
            "verifiedLevels": [],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::evidence::{Fingerprint, Signer};

    fn image() -> PinnedImage {
        format!("registry.example/shop/cart@sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    fn statement(predicate_type: &str, predicate: &Value) -> Value {
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "other", "digest": {"sha256": "cd".repeat(32)}}, {"name": "cart", "digest": {"sha256": "ab".repeat(32)}}],
            "predicateType": predicate_type,
            "predicate": predicate,
        })
    }

    fn read(value: &Value) -> Result<Statement, String> {
        Statement::read(PAYLOAD_TYPE, value.to_string().as_bytes(), &image())
    }

    /// If this fails, what was attested of one image counts for another.
    #[test]
    fn a_statement_counts_for_its_own_subjects() {
        let good = statement("https://spdx.dev/Document", &json!({"spdxVersion": "SPDX-2.3"}));
        assert_eq!(read(&good).unwrap().predicate["spdxVersion"], "SPDX-2.3");
        for (pointer, value, why) in [
            ("/subject", json!([]), "no subject"),
            ("/subject", Value::Null, "no subject"),
            ("/subject", json!({"digest": {"sha256": "ab".repeat(32)}}), "no subject"),
            ("/subject/1/digest/sha256", json!("AB".repeat(32)), "not about"),
            ("/subject/1/digest/sha256", json!("ef".repeat(32)), "not about"),
            ("/subject/1/digest", json!({"sha512": "ab".repeat(32)}), "not about"),
            ("/subject", json!(vec![json!({}); MAX_SUBJECTS + 1]), "more than"),
            ("/_type", json!("https://in-toto.io/Statement/v2"), "no in-toto"),
            ("/predicateType", json!(""), "predicateType"),
            ("/predicateType", json!(7), "predicateType"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value;
            let told = read(&bad).unwrap_err();
            assert!(told.contains(why), "{pointer}: {told}");
        }
        let text = good.to_string();
        let other_type = Statement::read("application/json", text.as_bytes(), &image());
        assert!(other_type.unwrap_err().contains("another type"));
        let twice = text.replacen('{', "{\"predicateType\": \"x\",", 1);
        assert!(Statement::read(PAYLOAD_TYPE, twice.as_bytes(), &image()).unwrap_err().contains("twice"));
    }

    #[test]
    fn provenance_says_who_built_and_when() {
        let signature = Signature {
            signer: Signer::Key(Fingerprint::of(b"key")),
            root: None,
            at: Some("2026-01-02T00:00:00Z".parse().unwrap()),
            logged: true,
            sct: false,
            annotations: Vec::new(),
        };
        let v1 = json!({"runDetails": {"builder": {"id": "https://ci.example/b"}, "metadata": {"finishedOn": "2026-01-01T00:00:00Z"}}});
        let v02 = json!({"builder": {"id": "https://ci.example/b"}, "metadata": {"buildFinishedOn": "2026-01-01T00:00:00Z"}});
        let program =
            Program::new("predicate.runDetails.builder.id == 'https://ci.example/b' && size(subject) == 2")
                .unwrap();
        for (version, predicate) in [("v1", &v1), ("v0.2", &v02)] {
            let read =
                read(&statement(&format!("https://slsa.dev/provenance/{version}"), predicate)).unwrap();
            let of = read.attestation(&[], &[&program], &image());
            assert_eq!(of.builder.as_deref(), Some("https://ci.example/b"), "{version}");
            assert_eq!(of.at, Some("2026-01-01T00:00:00Z".parse().unwrap()), "{version}");
            assert_eq!(of.conditions[0].holds == Ok(true), version == "v1");
            let signed = read.attestation(std::slice::from_ref(&signature), &[], &image());
            assert_eq!((signed.at, signed.signatures.len()), (signature.at, 1), "a log knows better");
        }
        let other = read(&statement("https://example.com/x", &v1)).unwrap().attestation(&[], &[], &image());
        assert_eq!((other.builder, other.at), (None, None));
    }

    /// If this fails, nobody can build on our verdicts, or one that did not pass counts.
    #[test]
    fn a_summary_counts_where_it_says_that_this_image_passed() {
        let image = image();
        let of = |passed| {
            summary(&Summary {
                image: &image,
                at: "2026-01-01T00:00:00Z".parse().unwrap(),
                policy: "file:policy.yaml",
                policy_sha256: "00",
                passed,
                version: "0.1.0",
            })
        };
        let passed = read(&of(true)).unwrap().attestation(&[], &[], &image);
        assert_eq!(passed.at, Some("2026-01-01T00:00:00Z".parse().unwrap()));
        assert!(read(&of(false)).unwrap_err().contains("PASSED"));
        for (resource, good) in [
            ("registry.example/shop/cart", true),
            ("pkg:oci/cart@sha256%3AHEX?repository_url=registry.example/shop/cart", true),
            ("pkg:oci/cart?repository_url=x", false),
            ("pkg:oci/other@sha256%3AHEX", false),
            ("registry.example/shop/other", false),
            ("git+https://github.com/shop/cart", false),
            ("", false),
        ] {
            let mut summary = of(true);
            summary["predicate"]["resourceUri"] = json!(resource.replace("HEX", &"ab".repeat(32)));
            assert_eq!(read(&summary).is_ok(), good, "{resource}");
        }
        let mut elsewhere = of(true);
        elsewhere["predicate"]["resourceUri"] =
            json!(format!("oci://registry.example/shop/cart@sha256:{}", "cd".repeat(32)));
        assert!(read(&elsewhere).is_err());
    }
}
