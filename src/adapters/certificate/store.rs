//! Where all replicas find the same certificates: a Secret of the root namespace.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{CURRENT, Error, NEXT, Pair, Parts, read_all};
use crate::{
    adapters::cluster::{self, Cluster},
    domain::inventory::ObjectId,
};

/// The name of the Secret.
pub const SECRET: &str = "countersign-webhook";
const FORMER: &str = "former-ca.crt";
const FORMER_SINCE: &str = "former-since";

/// The certificates that there are.
#[derive(Clone, Debug, Default)]
pub struct Shelf {
    /// What is served.
    pub current: Option<Pair>,
    /// What will be served.
    pub next: Option<Pair>,
    /// The authority of what was served before.
    pub former: Option<Former>,
}

/// An authority that is trusted a while longer.
#[derive(Clone, Debug)]
pub struct Former {
    /// As PEM.
    pub authority: String,
    /// Since when its certificate is served no more.
    pub since: Timestamp,
}

impl Shelf {
    /// What clients must trust, as PEM; none where nothing is served.
    pub fn bundle(&self) -> Option<String> {
        let current = self.current.as_ref()?;
        let former = self.former.as_ref().map(|former| former.authority.as_str());
        let next = self.next.as_ref().map(Pair::authority);
        Some([former, Some(current.authority()), next].into_iter().flatten().collect())
    }
}

/// What is stored, as it was seen.
#[derive(Debug)]
pub struct Stored {
    /// What could be read of it.
    pub shelf: Shelf,
    /// What could not.
    pub unreadable: Vec<Error>,
    /// Its version.
    pub version: String,
}

/// The Secret.
#[derive(Clone)]
pub struct Store {
    cluster: Cluster,
    id: ObjectId,
}

impl Store {
    /// The one of this namespace.
    pub fn new(cluster: Cluster, namespace: &str) -> Self {
        let [api_version, kind, name] = ["v1", "Secret", SECRET].map(str::to_owned);
        Self { cluster, id: ObjectId { api_version, kind, namespace: namespace.to_owned(), name } }
    }

    /// What is stored, if it exists.
    pub async fn read(&self) -> Result<Option<Stored>, cluster::Error> {
        Ok(self.cluster.get(&self.id).await?.map(|object| stored(&object)))
    }

    /// Stores it, on the version that was seen (none: it did not exist). Answers whether it was: else another was faster.
    pub async fn write(&self, shelf: &Shelf, seen: Option<&str>) -> Result<bool, cluster::Error> {
        let data = data(shelf);
        let Some(version) = seen else {
            let ObjectId { api_version, kind, namespace, name } = &self.id;
            return self
                .cluster
                .create(&json!({
                    "apiVersion": api_version,
                    "kind": kind,
                    "metadata": {
                        "name": name,
                        "namespace": namespace,
                        "labels": {"app.kubernetes.io/name": "countersign"},
                    },
                    "data": data,
                }))
                .await;
        };
        let operations = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/data", "value": data},
        ]);
        match self.cluster.json_patch(&self.id, operations).await {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(false),
            // The answer to a failed test, and to more.
            Err(error) if error.code() == Some(422) => match self.read().await? {
                Some(now) if now.version == version => Err(error),
                Some(_) | None => Ok(false),
            },
            Err(error) => Err(error),
        }
    }
}

fn stored(object: &Value) -> Stored {
    let mut unreadable = Vec::new();
    let shelf = Shelf {
        current: pair(object, CURRENT, &mut unreadable),
        next: pair(object, NEXT, &mut unreadable),
        former: text(object, FORMER).zip(text(object, FORMER_SINCE)).and_then(|(authority, since)| {
            read_all(authority.as_bytes(), FORMER).map_err(|error| unreadable.push(error)).ok()?;
            // Whatever cannot be read is long ago.
            Some(Former { authority, since: since.trim().parse().unwrap_or(Timestamp::UNIX_EPOCH) })
        }),
    };
    let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    Stored { shelf, unreadable, version }
}

/// None where none of its parts is there.
fn pair(object: &Value, parts: Parts, unreadable: &mut Vec<Error>) -> Option<Pair> {
    let read = |part| text(object, part);
    let found = [read(parts.authority), read(parts.certificate), read(parts.key)];
    if found.iter().all(Option::is_none) {
        return None;
    }
    let [authority, chain, key] = found.map(Option::unwrap_or_default);
    Pair::read(authority, chain, SecretString::from(key), parts).map_err(|error| unreadable.push(error)).ok()
}

fn text(object: &Value, key: &str) -> Option<String> {
    let encoded = object["data"][key].as_str().filter(|encoded| !encoded.is_empty())?;
    Some(STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default())
}

fn data(shelf: &Shelf) -> BTreeMap<&'static str, String> {
    let pairs = [(CURRENT, shelf.current.as_ref()), (NEXT, shelf.next.as_ref())];
    let of_pairs =
        pairs.into_iter().filter_map(|(parts, pair)| Some((parts, pair?))).flat_map(|(parts, pair)| {
            [
                (parts.authority, STANDARD.encode(&pair.authority)),
                (parts.certificate, STANDARD.encode(&pair.chain)),
                (parts.key, STANDARD.encode(pair.key.expose_secret())),
            ]
        });
    let of_former = shelf.former.iter().flat_map(|former| {
        [
            (FORMER, STANDARD.encode(&former.authority)),
            (FORMER_SINCE, STANDARD.encode(former.since.to_string())),
        ]
    });
    of_pairs.chain(of_former).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A shelf as it is read after it was stored, and somebody did something to it.
    pub(in super::super) fn round_trip(shelf: &Shelf, spoil: impl FnOnce(&mut Value)) -> Stored {
        let mut object = json!({"metadata": {"resourceVersion": "7"}, "data": data(shelf)});
        spoil(&mut object["data"]);
        stored(&object)
    }
}
