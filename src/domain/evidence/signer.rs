//! Who signed.

use std::fmt;

/// The sha256, in lower-case hex, of what a policy names: the DER of a public key (`SubjectPublicKeyInfo`) or of a
/// certificate, the bytes of a trust root, the text of an expression.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(hex::encode(sha2::Sha256::digest(bytes)))
    }

    /// One that was stored; nothing but 64 lower-case hex digits.
    pub fn stored(text: &str) -> Option<Self> {
        let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        (text.len() == 64 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who made a signature that was found valid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signer {
    /// The holder of a key.
    Key(Fingerprint),
    /// Somebody for whom an authority of the trust root vouched when it was signed (Fulcio).
    Identity {
        /// Who vouched for the identity to the authority (the OIDC issuer).
        issuer: String,
        /// Whom: an address, or the URI of a workflow.
        subject: String,
        /// The trust root under which it was verified.
        root: Fingerprint,
    },
    /// The holder of a certificate of a Notation trust store.
    Certificate {
        /// The subject, as an RFC 4514 name.
        subject: String,
        /// The authority in the trust store that its chain ends in.
        authority: Fingerprint,
    },
}
