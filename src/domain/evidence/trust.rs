//! What policies trust: keys, authorities and trust roots, written in the policy or standing elsewhere.

use std::{collections::BTreeSet, fmt};

use super::Fingerprint;

/// What kind of object holds what a policy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A `ConfigMap`.
    ConfigMap,
    /// A `Secret`.
    Secret,
}

/// A key of an object in the namespace of the policy that names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The object's kind.
    pub holder: Holder,
    /// Its namespace: the policy's own.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which of its keys.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holder = match self.holder {
            Holder::ConfigMap => "ConfigMap",
            Holder::Secret => "Secret",
        };
        write!(f, "key {} of {holder} {}/{}", self.key, self.namespace, self.name)
    }
}

/// Something that a policy trusts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It is written in the policy.
    Here {
        /// Its text, as PEM.
        text: String,
        /// Of each key or certificate in it.
        prints: BTreeSet<Fingerprint>,
    },
    /// It stands elsewhere, and [`EvidenceOf`](super::EvidenceOf) says what is there.
    At(Place),
}
