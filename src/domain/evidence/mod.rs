//! Evidence: what is known of a digest, apart from what any policy makes of it.
//!
//! Facts are small and outlive the process (they stand in the status of the `ApprovedImage`); what they were read from (bundles,
//! reports, statements) is kept elsewhere or fetched again. Whatever depends on what a policy names (a key, a trust root, an
//! expression) is a fact of its own, under the fingerprint of what was named, and [`Evidence::checked`] says which ones were looked
//! at: so every replica judges for itself, a policy that changes is judged at once, and "not looked at yet" is never "not there".

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::image::{Digest, Repository};

mod attestation;
pub mod expression;
mod finding;
mod kept;
pub mod pem;
pub mod report;
mod signer;
pub mod statement;
mod trust;

pub use attestation::{Attestation, Condition};
pub use finding::{Class, Finding, Scan, Severity, Vex};
pub use kept::EvidenceOf;
pub use signer::{Fingerprint, Signer};
pub use trust::{Holder, Place, Trust};

/// What could be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// It is this.
    Known(T),
    /// It is not there.
    Absent,
    /// Nobody could look, and why.
    Unavailable(String),
}

/// All that is known of one digest in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Where it was looked for.
    pub repository: Repository,
    /// Of what.
    pub digest: Digest,
    /// The images of an index, or the one that a manifest describes.
    pub platforms: Fact<Vec<Platform>>,
    /// The signatures that were found valid.
    pub signatures: Fact<Vec<Signature>>,
    /// The attestations about it whose signature was found valid, or that stand beside the approval in git.
    pub attestations: Fact<Vec<Attestation>>,
    /// What scanners said of it; of each scanner the newest report.
    pub scans: Fact<Vec<Scan>>,
    /// The keys, trust roots and expressions that signatures and attestations were checked against.
    pub checked: BTreeSet<Fingerprint>,
}

/// One image for one platform, as its manifest and its config say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `os/architecture` or `os/architecture/variant`.
    pub name: String,
    /// Of its manifest.
    pub manifest: Digest,
    /// Of its config: what some runtimes report as the image's id.
    pub config: Digest,
    /// Of its layers, uncompressed, the lowest first (`rootfs.diff_ids`).
    pub diff_ids: Vec<Digest>,
    /// When it says that it was built.
    pub created: Option<Timestamp>,
}

/// A signature that was found valid, for this digest in this repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// By whom.
    pub signer: Signer,
    /// The trust root that what follows was checked against, and the certificate, where there is one; none where only a key was.
    pub root: Option<Fingerprint>,
    /// When, by a log or a timestamp authority that the trust root names.
    pub at: Option<Timestamp>,
    /// Whether a transparency log of the trust root has it.
    pub logged: bool,
    /// Whether a certificate log of the trust root promised to have the certificate (SCT).
    pub sct: bool,
    /// What the signature says besides (cosign's `optional`), as text; signed, too.
    pub annotations: Vec<(String, String)>,
}
