//! The cluster, through the API server: reads, the writes that plans decide, and status.
//!
//! Every request has a time limit of its own: kube has none by default, and an API server that hangs must not stop the
//! others' work. Objects travel as `serde_json::Value`: what is applied are other people's manifests, of any kind.

mod act;
mod evict;
mod live;
mod raw;
mod resources;

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use kube::{
    Client, Config, Resource as _,
    api::{Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, Request},
};
use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub use act::Done;
pub use evict::Evicted;
pub use live::{Seen, live};
pub use raw::Raw;
pub use resources::Resource;

use crate::{
    adapters::chain,
    domain::{inventory::ObjectId, ownership::MANAGER, workload::Kind},
};

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(30);
/// How many objects one page of a list holds.
const PAGE: u32 = 500;

/// A client of one cluster. A clone is the same.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
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
            Self::TimedOut { .. } | Self::NoSuchKind { .. } | Self::Malformed { .. } => None,
        }
    }

    /// The status code of the answer.
    pub fn code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    /// The message of the API server for people, or ours.
    pub fn explain(&self) -> String {
        let said = match (self, self.status()) {
            (_, Some(status)) => status.message.clone(),
            (Self::Request { source, .. }, None) => chain(source.as_ref()),
            (Self::TimedOut { .. } | Self::NoSuchKind { .. } | Self::Malformed { .. }, None) => String::new(),
        };
        if said.is_empty() { self.to_string() } else { format!("{self}: {said}") }
    }
}

impl Cluster {
    /// The cluster that a configuration leads to.
    pub fn connect(config: Config) -> kube::Result<Self> {
        let mut asks_once = config.clone();
        asks_once.default_retry = false;
        Ok(Self {
            client: Client::try_from(config)?,
            asks_once: Client::try_from(asks_once)?,
            resources: std::sync::Arc::default(),
        })
    }

    /// The client, for watches and events.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A full, forced server-side apply; answers with the object as stored.
    pub async fn apply(&self, object: &Value, manager: &str) -> Result<Value, Error> {
        let id = id_of(object);
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let request = request_for(&resource, &id);
        let patch = Patch::Apply(object);
        let http = request.patch(&id.name, &PatchParams::apply(manager).force(), &patch);
        self.send("apply", &id.to_string(), http).await
    }

    /// An object, if it exists.
    pub async fn get(&self, id: &ObjectId) -> Result<Option<Value>, Error> {
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let http = request_for(&resource, id).get(&id.name, &kube::api::GetParams::default());
        absent(self.send("get", &id.to_string(), http).await)
    }

    /// Whether an object exists; its content is not read.
    pub async fn exists(&self, id: &ObjectId) -> Result<bool, Error> {
        // The name may come from a pod template, where nothing checks it; what could not be a name names nothing.
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if !id.name.bytes().all(plain) || !id.name.bytes().any(|b| b.is_ascii_alphanumeric()) {
            return Ok(false);
        }
        let resource = self.resource(&id.api_version, &id.kind).await?;
        let http = request_for(&resource, id).get_metadata(&id.name, &kube::api::GetParams::default());
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
        let scope = (!namespace.is_empty()).then_some(namespace);
        let request = Request::new(DynamicObject::url_path(&resource.api, scope));
        let mut params = kube::api::ListParams::default().labels(selector).limit(PAGE);
        loop {
            let mut page: Value = self.send("list", &resource.api.plural, request.list(&params)).await?;
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                for mut item in items {
                    // The items of a list do not say what they are.
                    item["apiVersion"] = Value::from(resource.api.api_version.as_str());
                    item["kind"] = Value::from(resource.api.kind.as_str());
                    see(item);
                }
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
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
        let http = request_for(&resource, id).delete(&id.name, &params);
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
        let http = request_for(&resource, &id).create(&params, bytes);
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
        let http = request_for(&resource, id).patch(&id.name, &params, &Patch::<()>::Json(patch));
        self.send("patch", &id.to_string(), http).await
    }

    /// Writes a whole status. The only place that writes one.
    pub async fn report<K, S>(&self, namespace: &str, name: &str, status: &S) -> Result<(), Error>
    where
        K: kube::Resource<DynamicType = ()>,
        S: Serialize + Debug,
    {
        #[derive(Debug, Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a, S> {
            api_version: &'a str,
            kind: &'a str,
            metadata: Value,
            status: &'a S,
        }
        let body = Body {
            api_version: &K::api_version(&()),
            kind: &K::kind(&()),
            metadata: json!({"name": name, "namespace": namespace}),
            status,
        };
        let request = Request::new(K::url_path(&(), Some(namespace)));
        let params = PatchParams::apply(MANAGER).force();
        let object = format!("the status of {} {namespace}/{name}", K::kind(&()));
        let http = request.patch_subresource("status", name, &params, &Patch::Apply(&body));
        self.send::<Value>("write", &object, http).await.map(drop)
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

    async fn send<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        object: &str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Error> {
        send_by(&self.client, operation, object, request).await
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

fn request_for(resource: &Resource, id: &ObjectId) -> Request {
    let namespace = resource.namespaced.then_some(id.namespace.as_str());
    Request::new(DynamicObject::url_path(&resource.api, namespace))
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
