//! Where inventories are kept: in ConfigMaps of the root namespace, compressed and split.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    adapters::cluster::{Cluster, Error, id_of},
    controllers::memory::Key,
    domain::{
        inventory::{Inventory, decode, encode},
        ownership::MANAGER,
    },
};

/// The label of every ConfigMap that holds a part of an inventory.
pub const LABEL: &str = "countersign.dev/inventory";
/// The annotation that says whose it is.
const SOURCE: &str = "countersign.dev/source";

/// Every inventory that is stored, and what cannot be read.
pub async fn load(cluster: &Cluster, root: &str) -> Result<(Vec<(Key, Inventory)>, Vec<String>), Error> {
    let resource = cluster.resource("v1", "ConfigMap").await?;
    let mut parts: std::collections::BTreeMap<Key, Vec<(u64, Vec<u8>)>> = std::collections::BTreeMap::new();
    let mut problems = Vec::new();
    for object in cluster.list(&resource, root, LABEL).await? {
        let name = id_of(&object).name;
        match read_part(&object) {
            Some((key, number, bytes)) => parts.entry(key).or_default().push((number, bytes)),
            None => problems.push(format!("ConfigMap {root}/{name} is labelled as an inventory and is none")),
        }
    }
    let mut found = Vec::new();
    for (key, mut parts) in parts {
        parts.sort();
        let parts: Vec<Vec<u8>> = parts.into_iter().map(|(_, bytes)| bytes).collect();
        match decode(&parts) {
            Ok(inventory) => found.push((key, inventory)),
            Err(error) => problems.push(format!("the inventory of GitSource {}/{}: {error}", key.0, key.1)),
        }
    }
    Ok((found, problems))
}

fn read_part(object: &Value) -> Option<(Key, u64, Vec<u8>)> {
    let source = object.pointer("/metadata/annotations")?.get(SOURCE)?.as_str()?;
    let (namespace, name) = source.split_once('/')?;
    let number = object.pointer("/data/part")?.as_str()?.parse().ok()?;
    let bytes = STANDARD.decode(object.pointer("/binaryData/inventory")?.as_str()?).ok()?;
    Some(((namespace.to_owned(), name.to_owned()), number, bytes))
}

/// Whether an object is a part of an inventory that can be read.
pub fn is_part(object: &Value) -> bool {
    object.pointer("/metadata/labels").is_some_and(|labels| labels.get(LABEL).is_some())
        && read_part(object).is_some()
}

/// Stores the inventory of a source; parts that are not needed any more go.
pub async fn store(cluster: &Cluster, root: &str, key: &Key, inventory: &Inventory) -> Result<(), Error> {
    let malformed = |error: std::io::Error| Error::Malformed {
        operation: "encode",
        object: format!("the inventory of {}/{}", key.0, key.1),
        why: error.to_string(),
    };
    let parts = encode(inventory).map_err(malformed)?;
    for (number, bytes) in parts.iter().enumerate() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": part_name(key, number), "namespace": root, "labels": {LABEL: label(key)},
                "annotations": {SOURCE: format!("{}/{}", key.0, key.1)},
            },
            "data": {"part": number.to_string()},
            "binaryData": {"inventory": STANDARD.encode(bytes)},
        });
        cluster.apply(&object, MANAGER).await?;
    }
    remove_from(cluster, root, key, parts.len()).await
}

/// Removes the inventory of a source that is gone. What it applied stays.
pub async fn remove(cluster: &Cluster, root: &str, key: &Key) -> Result<(), Error> {
    remove_from(cluster, root, key, 0).await
}

async fn remove_from(cluster: &Cluster, root: &str, key: &Key, first: usize) -> Result<(), Error> {
    let resource = cluster.resource("v1", "ConfigMap").await?;
    for object in cluster.list(&resource, root, &format!("{LABEL}={}", label(key))).await? {
        let beyond = read_part(&object).is_none_or(|(_, number, _)| number >= first as u64);
        if let (true, Some(uid)) = (beyond, object.pointer("/metadata/uid").and_then(Value::as_str)) {
            cluster.delete(&id_of(&object), uid).await?;
        }
    }
    Ok(())
}

fn label(key: &Key) -> String {
    hex::encode(Sha256::digest(format!("{}/{}", key.0, key.1))).chars().take(16).collect()
}

fn part_name(key: &Key, number: usize) -> String {
    format!("countersign-inventory-{}-{number}", label(key))
}
