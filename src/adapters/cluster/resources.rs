//! Which path of the API a kind has.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use super::{Cluster, Error};
use crate::domain::workload::Kind;

/// A kind as the API server serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its path.
    pub api: ApiResource,
    /// Whether its objects stand in namespaces.
    pub namespaced: bool,
}

pub(super) fn of_kind(kind: &Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    ApiResource::from_gvk_with_plural(&gvk, kind.plural)
}

/// Asks the API server. What it does not know is not remembered: its definition may still come.
pub(super) async fn discover(cluster: &Cluster, api_version: &str, kind: &str) -> Result<Resource, Error> {
    let no_such_kind = || Error::NoSuchKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    let valid = |part: &str| part.bytes().all(plain) && !part.starts_with('.');
    if !valid(group) || !valid(version) || version.is_empty() {
        return Err(no_such_kind());
    }
    let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let request = http::Request::get(path).body(Vec::new()).map_err(kube::core::request::Error::BuildRequest);
    let listed: Value = match cluster.send("look up the kinds of", api_version, request).await {
        Err(error) if error.code() == Some(404) => return Err(no_such_kind()),
        answer => answer?,
    };
    listed["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|resource| {
            resource["kind"] == kind && resource["name"].as_str().is_some_and(|name| !name.contains('/'))
        })
        .and_then(|resource| {
            let gvk = GroupVersionKind::gvk(group, version, kind);
            Some(Resource {
                api: ApiResource::from_gvk_with_plural(&gvk, resource["name"].as_str()?),
                namespaced: resource["namespaced"].as_bool()?,
            })
        })
        .ok_or_else(no_such_kind)
}
