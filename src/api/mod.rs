//! The Kubernetes kinds of the API group `countersign.dev`, version `v1alpha1`.
//!
//! Reading has two strengths. What the API server hands out is read tolerantly: a field that a newer version stored is
//! passed over, and left as it is by [`status_patch`]. What comes through git or the command line is read by [`read_strict`], which holds it against the very
//! schema that [`crds`] installs and names the path of everything that is unknown, wrong or out of bounds.

pub mod approved_image;
pub mod condition;
pub mod convert;
mod fit;
pub mod git_source;
pub mod image_policy;
mod lean;
pub mod own;
pub mod release_history;
mod schema;
mod strict;
mod walk;
pub mod webhooks;
mod workload_kinds;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde::Serialize;
use serde_json::Value;

use crate::domain::manifest::{self, WriteError};

pub use approved_image::{ApprovedImage, ApprovedImageSpec, ApprovedImageStatus};
pub use fit::{fit_status, status_patch};
pub use git_source::{GitSource, GitSourceSpec, GitSourceStatus};
pub use image_policy::{ImagePolicy, ImagePolicySpec, ImagePolicyStatus};
pub use lean::lean;
pub use release_history::{ReleaseHistory, ReleaseHistorySpec, ReleaseHistoryStatus};
pub use strict::{Invalid, Problem, check_strict, check_update, read_strict};
pub use workload_kinds::read_workload_kinds;

/// The API group of every kind.
pub const GROUP: &str = "countersign.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";

/// Annotations by which people speak to the operator.
pub mod annotation {
    /// On any of our kinds, any value that was not there before: look at it now. Echoed in
    /// `status.lastHandledReconcileAt`.
    pub const RECONCILE_REQUESTED_AT: &str = "countersign.dev/reconcile-requested-at";
    /// On a GitSource: the commit that is held back and may be applied.
    pub const ACCEPT_COMMIT: &str = "countersign.dev/accept-commit";
    /// On an `ApprovedImage`: the digest whose revocation is let go.
    pub const FORGET_REVOCATION: &str = "countersign.dev/forget-revocation";
    /// On a `ReleaseHistory`: why the hold on a release whose rollout failed is released. Taken up once for each value.
    pub const RELEASE_HOLD: &str = "countersign.dev/release-hold";
    /// On a `ReleaseHistory`, any value that was not there before: what failed is tried once more.
    pub const RETRY: &str = "countersign.dev/retry";
    /// On the root Namespace: why nothing is moved for now.
    pub const PAUSED: &str = "countersign.dev/paused";
    /// On the webhook configurations, by `countersign uninstall`: they go, and are not to be put back.
    pub const UNINSTALLING: &str = "countersign.dev/uninstalling";
}

/// The field manager under which sources apply revocations, so that a later commit without one leaves it.
pub const REVOCATION_FIELD_MANAGER: &str = "countersign-revocation";

/// The definitions of all kinds, by name: what `countersign crds` prints and `crds/` holds.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [ApprovedImage::crd(), GitSource::crd(), ImagePolicy::crd(), ReleaseHistory::crd()]
        .into_iter()
        .map(schema::finish)
        .collect()
}

/// Writes a value as YAML that Go reads back exactly.
///
/// # Errors
/// When the value has no form in YAML, such as a map with keys that are not strings.
pub fn to_yaml(value: &impl Serialize) -> Result<String, WriteError> {
    let mut value = serde_json::to_value(value).map_err(WriteError::Json)?;
    whole_numbers(&mut value);
    manifest::to_yaml(&value)
}

/// The bounds in a definition are floating-point numbers; `0` reads better than `0.0` and means the same.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|_| number.is_f64()).map(|float| format!("{float:.0}"));
            if let Some(whole) = whole.and_then(|text| text.parse::<i64>().ok())
                && number.as_f64() == Value::from(whole).as_f64()
            {
                *value = Value::from(whole);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(object) => object.values_mut().for_each(whole_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
