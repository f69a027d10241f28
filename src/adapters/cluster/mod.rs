//! The cluster, through the API server: reads, the writes that plans decide, and status.
//!
//! Every request has a time limit of its own: kube has none by default, and an API server that hangs must not stop the
//! others' work. Objects travel as `serde_json::Value`: what is applied are other people's manifests, of any kind.

mod account;
mod act;
mod evict;
mod fence;
mod live;
mod raw;
mod resources;

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Client, Config, Resource as _,
    api::{Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, Request, object::HasStatus},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub use account::Account;
pub use act::Done;
pub use evict::Evicted;
pub use fence::{Fence, Lapsed, Moment};
pub use live::{Seen, live};
pub use raw::Raw;
pub use resources::Resource;

use crate::{
    adapters::chain,
    api::status_patch,
    domain::{inventory::ObjectId, ownership::MANAGER, packed::Packed, workload::Kind},
};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(30);
/// How many objects one page of a list holds.
const PAGE: u32 = 500;

/// A client of one cluster. A clone is the same.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    /// In whose name requests go, where not in this process's own.
    account: Option<Account>,
    /// The one namespace that is written and read.
    only: Option<String>,
    /// Does not ask again where the answer is "not now".
    asks_once: Client,
    resources: std::sync::Arc<RwLock<BTreeMap<(String, String), Resource>>>,
}

/// What went wrong with a request.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("cannot {operation} {object}")]
    Request {
        operation: &'static str,
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{operation} {object}: no answer from the API server within {} s", REQUEST.as_secs())]
    TimedOut { operation: &'static str, object: String },
    #[error("the cluster has no kind {kind} in {api_version}: is its CustomResourceDefinition missing?")]
    NoSuchKind { api_version: String, kind: String },
    #[error("cannot {operation} {object}: it is outside of the namespace {namespace}")]
    Outside { operation: &'static str, object: String, namespace: String },
    #[error("the request to {operation} {object} cannot be made: {why}")]
    Malformed { operation: &'static str, object: String, why: String },
}

impl Error {
    /// The answer of the API server, if it gave one.
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::TimedOut { .. }
            | Self::NoSuchKind { .. }
            | Self::Outside { .. }
            | Self::Malformed { .. } => None,
        }
    }

    /// The status code of the answer.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    /// Whether there is an answer. Without one, nothing is known of the API server.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Request { .. } => self.code().is_some(),
            Self::NoSuchKind { .. } | Self::Outside { .. } | Self::Malformed { .. } => true,
            Self::TimedOut { .. } => false,
        }
    }

    /// Whether the same request may well succeed later.
    pub fn passes(&self) -> bool {
        !self.is_answer() || self.code().is_some_and(|code| matches!(code, 409 | 429 | 500..))
    }

    /// The message of the API server for people, or ours.
    pub fn explain(&self) -> String {
        let said = match (self, self.status()) {
            (_, Some(status)) => status.message.clone(),
            (Self::Request { source, .. }, None) => chain(source.as_ref()),
            (
                Self::TimedOut { .. }
                | Self::NoSuchKind { .. }
                | Self::Outside { .. }
                | Self::Malformed { .. },
                None,
            ) => String::new(),
        };
        if said.is_empty() { self.to_string() } else { format!("{self}: {said}") }
    }
}

impl Cluster {
    /// A cluster behind a client.
    pub fn new(client: Client) -> Self {
        Self {
            asks_once: client.clone(),
            client,
            account: None,
            only: None,
            resources: std::sync::Arc::default(),
        }
    }

    /// The cluster that a configuration leads to; a fence holds its writes.
    pub fn connect(config: Config, fence: &Fence) -> kube::Result<Self> {
        let mut asks_once = config.clone();
        asks_once.default_retry = false;
        Ok(Self { asks_once: fence.client(asks_once)?, ..Self::new(fence.client(config)?) })
    }

    /// The client, for watches and events.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A full, forced server-side apply; answers with the object as stored.
    pub async fn apply(&self, object: &Value, manager: &str) -> Result<Value, Error> {
        let id = id_of(object);
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let request = self.request_for("apply", &resource, &id)?;
        let patch = Patch::Apply(object);
        let http = request.patch(&id.name, &PatchParams::apply(manager).force(), &patch);
        self.send("apply", &id.to_string(), http).await
    }

    /// An object, if it exists.
    pub async fn get(&self, id: &ObjectId) -> Result<Option<Value>, Error> {
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let http = self.request_for("get", &resource, id)?.get(&id.name, &kube::api::GetParams::default());
        absent(self.send("get", &id.to_string(), http).await)
    }

    /// Whether an object exists; its content is not read.
    pub async fn exists(&self, id: &ObjectId) -> Result<bool, Error> {
        // The name may come from a pod template, where nothing checks it; what could not be a name names nothing.
        if !id.is_addressable() {
            return Ok(false);
        }
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let request = self.request_for("get", &resource, id)?;
        let http = request.get_metadata(&id.name, &kube::api::GetParams::default());
        Ok(absent(self.send::<Value>("get", &id.to_string(), http).await)?.is_some())
    }

    /// Every object of a kind, in one namespace or (empty) all, that a label selector matches.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<Value>, Error> {
        let mut found = Vec::new();
        self.list_each(resource, namespace, selector, |item| found.push(item)).await?;
        Ok(found)
    }

    /// The same, one after the other: of what there may be many, only a page is held at once.
    pub async fn list_each(
        &self,
        resource: &Resource,
        namespace: &str,
        selector: &str,
        mut see: impl FnMut(Value),
    ) -> Result<(), Error> {
        let all = ObjectId {
            api_version: resource.api.api_version.clone(),
            kind: resource.api.kind.clone(),
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        self.allow("list", resource.namespaced, &all)?;
        let scope = (!namespace.is_empty()).then_some(namespace);
        let request = Request::new(DynamicObject::url_path(&resource.api, scope));
        let mut params = kube::api::ListParams::default().labels(selector).limit(PAGE);
        loop {
            let page: Result<Page, _> = self.send("list", &resource.api.plural, request.list(&params)).await;
            if page.as_ref().is_err_and(|error: &Error| error.code() == Some(404)) {
                // The kind went, or is served elsewhere by now: it is looked up anew.
                let (api_version, kind) = (&resource.api.api_version, &resource.api.kind);
                self.resources.write().remove(&(api_version.clone(), kind.clone()));
            }
            let Page { metadata, items } = page?;
            for item in items.into_iter().flatten() {
                let mut item = item.open();
                // The items of a list do not say what they are.
                item["apiVersion"] = Value::from(resource.api.api_version.as_str());
                item["kind"] = Value::from(resource.api.kind.as_str());
                see(item);
            }
            match metadata.next.as_deref() {
                Some(token) if !token.is_empty() => params = params.continue_token(token),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Deletes an object if it is still the one with this UID.
    pub async fn delete(&self, id: &ObjectId, uid: &str) -> Result<(), Error> {
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let preconditions = kube::api::Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = kube::api::DeleteParams {
            preconditions: Some(preconditions),
            propagation_policy: Some(kube::api::PropagationPolicy::Background),
            ..kube::api::DeleteParams::default()
        };
        let http = self.request_for("delete", &resource, id)?.delete(&id.name, &params);
        absent(self.send::<Value>("delete", &id.to_string(), http).await).map(drop)
    }

    /// Creates an object that must not exist, or answers `false` when it does.
    pub async fn create(&self, object: &Value) -> Result<bool, Error> {
        let id = id_of(object);
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let bytes = serde_json::to_vec(object).map_err(|error| Error::Malformed {
            operation: "create",
            object: id.to_string(),
            why: error.to_string(),
        })?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let http = self.request_for("create", &resource, &id)?.create(&params, bytes);
        match self.send::<Value>("create", &id.to_string(), http).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A JSON patch; answers with the object as stored.
    pub async fn json_patch(&self, id: &ObjectId, operations: Value) -> Result<Value, Error> {
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let patch: json_patch::Patch = serde_json::from_value(operations).map_err(|error| {
            Error::Malformed { operation: "patch", object: id.to_string(), why: error.to_string() }
        })?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let http =
            self.request_for("patch", &resource, id)?.patch(&id.name, &params, &Patch::<()>::Json(patch));
        self.send("patch", &id.to_string(), http).await
    }

    /// A merge patch: lists are replaced as a whole. Answers with the object as stored.
    pub async fn merge_patch(&self, id: &ObjectId, patch: &Value) -> Result<Value, Error> {
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let http = self.request_for("patch", &resource, id)?.patch(&id.name, &params, &Patch::Merge(patch));
        self.send("patch", &id.to_string(), http).await
    }

    /// Writes a whole status, as far as this version knows it.
    pub async fn report<K>(&self, namespace: &str, name: &str, status: &K::Status) -> Result<(), Error>
    where
        K: kube::Resource<DynamicType = ()> + HasStatus,
        K::Status: Serialize,
    {
        self.report_on::<K>(namespace, name, &status_patch::<K>(status), None).await.map(drop)
    }

    /// Patches a status, on a version of the object if one is expected; answers with the object as stored. The only place that
    /// writes one. It is a merge patch and no apply: that would remove what a newer version put there under the same manager.
    pub async fn report_on<K>(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
        version: Option<&str>,
    ) -> Result<Value, Error>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        let mut body = json!({"status": patch});
        if let Some(version) = version {
            body["metadata"] = json!({"resourceVersion": version});
        }
        let request = Request::new(K::url_path(&(), Some(namespace)));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let object = format!("the status of {} {namespace}/{name}", K::kind(&()));
        let http = request.patch_subresource("status", name, &params, &Patch::Merge(&body));
        self.send("write", &object, http).await
    }

    /// The resource of a kind: from the table of workload kinds, else asked of the API server once.
    pub async fn resource(&self, api_version: &str, kind: &str) -> Result<Resource, Error> {
        if let Some(row) = Kind::find(api_version, kind) {
            return Ok(Resource { api: resources::of_kind(row), namespaced: true });
        }
        let key = (api_version.to_owned(), kind.to_owned());
        if let Some(known) = self.resources.read().get(&key) {
            return Ok(known.clone());
        }
        let found = resources::discover(self, api_version, kind).await?;
        self.resources.write().insert(key, found.clone());
        Ok(found)
    }

    /// The one way from the name of an object to a path of the API: names come from manifests and templates of strangers.
    fn request_for(
        &self,
        operation: &'static str,
        resource: &Resource,
        id: &ObjectId,
    ) -> Result<Request, Error> {
        if !id.is_addressable() || resource.namespaced == id.namespace.is_empty() {
            let why = "its name and namespace do not name one object".to_owned();
            return Err(Error::Malformed { operation, object: id.to_string(), why });
        }
        self.allow(operation, resource.namespaced, id)?;
        let namespace = resource.namespaced.then_some(id.namespace.as_str());
        Ok(Request::new(DynamicObject::url_path(&resource.api, namespace)))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        object: &str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Error> {
        let malformed = |why| Error::Malformed { operation, object: object.to_owned(), why };
        let mut request = request.map_err(|error| malformed(error.to_string()))?;
        self.sign(&mut request).map_err(malformed)?;
        send_by(&self.client, operation, object, Ok(request)).await
    }
}

async fn send_by<T: DeserializeOwned>(
    client: &Client,
    operation: &'static str,
    object: &str,
    request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
) -> Result<T, Error> {
    let request = request.map_err(|error| Error::Malformed {
        operation,
        object: object.to_owned(),
        why: error.to_string(),
    })?;
    match tokio::time::timeout(REQUEST, client.request::<T>(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => {
            Err(Error::Request { operation, object: object.to_owned(), source: Box::new(source) })
        }
        Err(_) => Err(Error::TimedOut { operation, object: object.to_owned() }),
    }
}

/// Part of a list. Its objects are texts until they are looked at: as trees they would take many times as much.
#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    /// `null` where there are none.
    #[serde(default)]
    items: Option<Vec<Packed>>,
}

#[derive(Deserialize)]
struct PageMeta {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

/// What an object is, from its own words.
pub fn id_of(object: &Value) -> ObjectId {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    ObjectId {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    }
}

/// The API resource of a row of the table of workload kinds.
pub fn api_resource(kind: &Kind) -> ApiResource {
    resources::of_kind(kind)
}

fn absent<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a moment's trouble waits for a whole interval, or what is refused for good is sent again and again.
    #[test]
    fn what_passes_is_told_from_what_stays() {
        let object = || "a".to_owned();
        let answered = |code: u16| {
            let status = kube::core::Status { code, ..kube::core::Status::default() };
            Error::Request {
                operation: "apply",
                object: object(),
                source: Box::new(kube::Error::Api(Box::new(status))),
            }
        };
        for code in [409, 429, 500, 503, 504] {
            assert!(answered(code).passes() && answered(code).is_answer(), "{code}");
        }
        for code in [400, 403, 404, 405, 422] {
            assert!(!answered(code).passes() && answered(code).is_answer(), "{code}");
        }
        let away = kube::Error::Service("connection refused".into());
        let away = Error::Request { operation: "apply", object: object(), source: Box::new(away) };
        let late = Error::TimedOut { operation: "apply", object: object() };
        for error in [away, late] {
            assert!(error.passes() && !error.is_answer(), "{error}");
        }
    }

    /// If this fails, a name in somebody's manifest chooses which object the operator reads, writes or deletes.
    #[tokio::test]
    async fn no_name_leads_to_another_path() {
        let resource = |kind: &str, namespaced| {
            let gvk = kube::core::GroupVersionKind::gvk("", "v1", kind);
            Resource { api: ApiResource::from_gvk(&gvk), namespaced }
        };
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let cluster = Cluster::new(Client::try_from(config).unwrap());
        let asked = |namespaced, namespace: &str, name: &str| {
            let (api_version, kind) = ("v1".to_owned(), "Thing".to_owned());
            let id = ObjectId { api_version, kind, namespace: namespace.into(), name: name.into() };
            cluster.request_for("get", &resource("Thing", namespaced), &id).map(|request| request.url_path)
        };
        assert_eq!(asked(true, "shop", "a.b:c_d-1").unwrap(), "/api/v1/namespaces/shop/things");
        assert_eq!(asked(false, "", "system:node").unwrap(), "/api/v1/things");
        for name in ["", ".", "..", "a?b", "a#b", "a/b", "a%2fb", "a\\b", "a;b", "a b", "é"] {
            assert!(matches!(asked(true, "shop", name), Err(Error::Malformed { .. })), "{name}");
        }
        for namespace in ["", "..", "kube-system?x=", "a/b", "a.b", "A", "-a", "a-", "a#"] {
            assert!(matches!(asked(true, namespace, "a"), Err(Error::Malformed { .. })), "{namespace}");
        }
        assert!(asked(false, "shop", "a").is_err(), "what stands in no namespace has none");
    }
}
