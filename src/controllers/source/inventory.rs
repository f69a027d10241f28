//! Where inventories are kept: in ConfigMaps of the root namespace, compressed and split.
//!
//! Every time one is stored its parts get new names, and the older ones go last: a crash in between leaves the older whole.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    adapters::cluster::{Cluster, Error, id_of},
    controllers::memory::Key,
    domain::{
        inventory::{Inventory, ObjectId, Part, newest, parts},
        ownership::MANAGER,
        packed::Packed,
    },
};

/// The label of every ConfigMap that holds a part of an inventory.
pub const LABEL: &str = "countersign.dev/inventory";
/// The annotation that says whose it is.
const SOURCE: &str = "countersign.dev/source";
/// How the names of these ConfigMaps begin.
const NAME: &str = "countersign-inventory-";

/// What is stored.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The inventories that can be read.
    pub inventories: BTreeMap<Key, Inventory>,
    /// Sources of which none can be read.
    pub lost: Vec<String>,
}

/// Every inventory that is stored. What is no part of one, or of none that is whole, is told on and passed over.
pub async fn load(cluster: &Cluster, root: &str) -> Result<Loaded, Error> {
    let resource = cluster.resource("v1", "ConfigMap").await?;
    let mut found: BTreeMap<Key, Vec<Part>> = BTreeMap::new();
    let mut strange = Vec::new();
    for object in cluster.list(&resource, root, LABEL).await? {
        match read_part(&object) {
            Some((key, part)) => found.entry(key).or_default().push(part),
            None => strange.push(object),
        }
    }
    let mut loaded = Loaded::default();
    for (key, parts) in found {
        let of = format!("the inventory of GitSource {}/{}", key.0, key.1);
        match newest(parts) {
            Ok((inventory, wrong)) => {
                for error in wrong {
                    tracing::warn!(%error, "{of}: a newer generation is not whole, and does not count");
                }
                loaded.inventories.insert(key, inventory);
            }
            Err(wrong) => loaded.lost.extend(wrong.iter().map(|error| format!("{of}: {error}"))),
        }
    }
    for object in strange {
        let name = id_of(&object).name;
        let known = loaded.inventories.keys().any(|key| name.starts_with(&prefix(key)));
        if name.starts_with(NAME) && !known {
            loaded.lost.push(format!("ConfigMap {root}/{name} was a part of an inventory and is none"));
        } else {
            tracing::warn!(config_map = name, "it is labelled as an inventory, is none, and does not count");
        }
    }
    Ok(loaded)
}

fn read_part(object: &Value) -> Option<(Key, Part)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let source = object.pointer("/metadata/annotations")?.get(SOURCE)?.as_str()?;
    let (namespace, name) = source.split_once('/')?;
    let key = (namespace.to_owned(), name.to_owned());
    let part = Part {
        generation: text("/data/generation")?.parse().ok()?,
        number: text("/data/part")?.parse().ok()?,
        count: text("/data/parts")?.parse().ok()?,
        bytes: STANDARD.decode(text("/binaryData/inventory")?).ok()?,
    };
    // Copied under another name it would count twice.
    (text("/metadata/name")? == part_name(&key, &part)).then_some((key, part))
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
    let older = stored(cluster, root, key).await?;
    let newest = older.iter().filter_map(read_part).map(|(_, part)| part.generation).max();
    let mut written = BTreeSet::new();
    for part in parts(inventory, newest.unwrap_or(0) + 1).map_err(malformed)? {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": part_name(key, &part), "namespace": root, "labels": {LABEL: label(key)},
                "annotations": {SOURCE: format!("{}/{}", key.0, key.1)},
            },
            "data": {
                "generation": part.generation.to_string(),
                "part": part.number.to_string(), "parts": part.count.to_string(),
            },
            "binaryData": {"inventory": STANDARD.encode(&part.bytes)},
        });
        cluster.apply(&object, MANAGER).await?;
        written.insert(part_name(key, &part));
    }
    delete(cluster, key, &older, &written).await
}

/// Removes the inventory of a source that is gone. What it applied stays.
pub async fn remove(cluster: &Cluster, root: &str, key: &Key) -> Result<(), Error> {
    delete(cluster, key, &stored(cluster, root, key).await?, &BTreeSet::new()).await
}

async fn stored(cluster: &Cluster, root: &str, key: &Key) -> Result<Vec<Value>, Error> {
    let resource = cluster.resource("v1", "ConfigMap").await?;
    cluster.list(&resource, root, &format!("{LABEL}={}", label(key))).await
}

/// Deletes what is named like a part and is not among `kept`.
async fn delete(
    cluster: &Cluster,
    key: &Key,
    objects: &[Value],
    kept: &BTreeSet<String>,
) -> Result<(), Error> {
    for object in objects {
        let id = id_of(object);
        let ours = id.name.starts_with(&prefix(key)) && !kept.contains(&id.name);
        if let Some(uid) = object.pointer("/metadata/uid").and_then(Value::as_str).filter(|_| ours) {
            cluster.delete(&id, uid).await?;
        }
    }
    Ok(())
}

/// Why git may not say an object: it would be read as an inventory, or take the place of one.
pub fn reserved(root: &str, id: &ObjectId, object: &Packed) -> Option<&'static str> {
    let labelled =
        || object.open().pointer("/metadata/labels").is_some_and(|labels| labels.get(LABEL).is_some());
    let among_them = id.api_version == "v1" && id.kind == "ConfigMap" && id.namespace == root;
    (among_them && (id.name.starts_with(NAME) || labelled())).then_some(
        "ConfigMaps like this one hold the inventories of sources, which the operator alone writes; rename it, and take \
         off the label countersign.dev/inventory",
    )
}

fn label(key: &Key) -> String {
    hex::encode(Sha256::digest(format!("{}/{}", key.0, key.1))).chars().take(16).collect()
}

fn prefix(key: &Key) -> String {
    format!("{NAME}{}-", label(key))
}

fn part_name(key: &Key, part: &Part) -> String {
    format!("{}{}-{}", prefix(key), part.generation, part.number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_says_no_inventories() {
        let said = |namespace: &str, name: &str, labels: Value| {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace, "labels": labels}});
            reserved("root", &id_of(&object), &Packed::new(&object)).is_some()
        };
        assert!(
            said("root", "a", json!({LABEL: ""})) && said("root", "countersign-inventory-x-1-0", json!({}))
        );
        assert!(!said("root", "a", json!({})) && !said("shop", "a", json!({LABEL: ""})));
    }
}
