//! What somebody attests of a digest.

use jiff::Timestamp;

use super::{Fingerprint, Signature};

/// An in-toto statement about this digest whose signature was found valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The `predicateType` of the statement.
    pub predicate_type: String,
    /// Its signatures that were found valid; none where it stands beside the approval in git.
    pub signatures: Vec<Signature>,
    /// Who built the image, where it is a provenance that says so.
    pub builder: Option<String>,
    /// When it was made: by a log or a timestamp authority, else as the predicate itself says.
    pub at: Option<Timestamp>,
    /// What became of the expressions of the policies that name this type.
    pub conditions: Vec<Condition>,
}

/// What became of one expression.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Which expression.
    pub expression: Fingerprint,
    /// Whether it holds, or why that cannot be said.
    pub holds: Result<bool, String>,
}
