//! What registries say, read strictly: manifests and configs, challenges, pages, and which credentials belong to what.
//!
//! | file | what |
//! |---|---|
//! | `json.rs` | JSON that cannot be read in two ways |
//! | `manifest.rs`, `config.rs` | indexes, manifests and their descriptors; the config of an image |
//! | `answer.rs` | what refusals and headers of the distribution API mean |
//! | `challenge.rs` | how a registry asks who comes |
//! | `scope.rs` | what a pull secret is for, by Kubernetes' rules |
//! | `place.rs` | where a repository is really read: remaps and mirrors |

mod answer;
mod challenge;
mod config;
mod json;
mod manifest;
mod place;
mod scope;

pub use answer::{error_codes, next_page, retry_after, says_absent};
pub use challenge::{Challenge, challenges};
pub use config::Config;
pub use json::read as read_json;
pub use manifest::{Descriptor, Image, Index, MANIFEST_TYPES, Manifest, OnPlatform};
pub use place::{InvalidPlace, Mapping, Places, Route};
pub use scope::Scope;

/// Why something that a registry served cannot be used. Words of strangers in it are escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl Unreadable {
    fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}
