//! What a [`Registry`](super::Registry) is told once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::domain::{destination::PrivateHosts, registry::Places};

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Certificates to trust besides the system's, each text with one or more in PEM form.
    pub ca: Vec<String>,
    /// Registries (`host` or `host:port`, as in image names) that are spoken to without encryption. Credentials do not go there, but on
    /// this machine.
    pub plain_http: BTreeSet<String>,
    /// Hosts and addresses that may be connected to although they are not public. Images are named by whoever may write a workload.
    pub private: PrivateHosts,
    /// Remaps and mirrors.
    pub places: Places,
    /// Who hands out the tokens of a registry, besides itself: `registry.gitlab.com` to `gitlab.com`. Docker Hub's is known.
    pub realms: BTreeMap<String, BTreeSet<String>>,
    /// How much is read at most.
    pub bounds: Bounds,
}

/// How much is read at most, and for how long. Beyond a bound nothing is cut off in silence: it is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a manifest, of a config, of one page of referrers.
    pub document_bytes: u64,
    /// Pages of referrers.
    pub pages: usize,
    /// Referrers that are looked at.
    pub listed: usize,
    /// Referrers of the type that is asked for.
    pub referrers: usize,
    /// Manifests below an index.
    pub children: usize,
    /// Redirects for one request.
    pub redirects: usize,
    /// To connect.
    pub connect: Duration,
    /// Between two pieces of an answer.
    pub read: Duration,
    /// For one call, whatever it takes.
    pub total: Duration,
}

/// The specification has registries take manifests up to 4 MiB.
impl Default for Bounds {
    fn default() -> Self {
        Self {
            document_bytes: 4 << 20,
            pages: 50,
            listed: 20_000,
            referrers: 1_000,
            children: 200,
            redirects: 5,
            connect: Duration::from_secs(10),
            read: Duration::from_secs(20),
            total: Duration::from_mins(1),
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// A bundle without certificates.
    #[error("a CA bundle for registries must hold certificates in PEM form, and number {number} does not")]
    Ca {
        /// Which, from 1.
        number: usize,
    },
    /// A host that is none.
    #[error("{host:?} is no registry: expected a host, perhaps with a port, as in names of images")]
    Host {
        /// As it was given.
        host: String,
    },
    /// No client could be made.
    #[error(
        "no connection to registries can be set up; if the machine has no CA certificates, name a file with some in SSL_CERT_FILE"
    )]
    Client {
        /// What the library said.
        source: reqwest::Error,
    },
}
