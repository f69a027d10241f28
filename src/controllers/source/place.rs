//! Puts the objects of a commit where their source may write, and names those that it may not.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Error,
    content::{Content, Item, Problem},
};
use crate::{
    adapters::cluster::{self, Account, Cluster},
    controllers::{Ctx, memory::Key},
    domain::reach::{Place, Reach},
};

/// The cluster as a source reaches it.
pub(super) fn cluster(ctx: &Ctx, key: &Key, reach: &Reach) -> Cluster {
    let cluster = match account(key, reach) {
        Some(account) => ctx.cluster.acting_as(account),
        None => ctx.cluster.clone(),
    };
    reach.only.iter().fold(cluster, |cluster, only| cluster.within(only))
}

/// The service account that a source applies as: always one of its own namespace.
pub(super) fn account(key: &Key, reach: &Reach) -> Option<Account> {
    reach.account.clone().map(|name| Account { namespace: key.0.clone(), name })
}

/// The content with every object where it goes; what may go nowhere is a problem, and is not applied.
pub(super) async fn placed(ctx: &Ctx, reach: &Reach, content: Arc<Content>) -> Result<Arc<Content>, Error> {
    if !reach.places() {
        return Ok(content);
    }
    let mut content = Arc::unwrap_or_clone(content);
    let defined = Defined::by(&content.items);
    for list in [&mut content.items, &mut content.more_revocations] {
        let mut kept = Vec::with_capacity(list.len());
        for item in std::mem::take(list) {
            let Some(namespaced) = defined.namespaced(ctx, &item).await? else {
                // No such kind: applying it says so.
                kept.push(item);
                continue;
            };
            match reach.place(&item.id.namespace, namespaced) {
                Place::AsSaid => kept.push(item),
                Place::Into(namespace) => kept.push(moved(item, &namespace)),
                Place::Refused(why) => content.problems.push(Problem::about(&item, why)),
            }
        }
        *list = kept;
    }
    Ok(Arc::new(content))
}

fn moved(mut shared: Arc<Item>, namespace: &str) -> Arc<Item> {
    let item = Arc::make_mut(&mut shared);
    let value = Arc::make_mut(&mut item.value);
    value["metadata"]["namespace"] = Value::from(namespace);
    namespace.clone_into(&mut item.id.namespace);
    shared
}

/// Kinds that the commit itself defines: the API server may not know them yet.
struct Defined(Vec<(String, String, bool)>);

impl Defined {
    fn by(items: &[Arc<Item>]) -> Self {
        let definition = |item: &Item| {
            let text = |pointer: &str| item.value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            let is = item.id.kind == "CustomResourceDefinition" && item.id.group() == "apiextensions.k8s.io";
            is.then(|| {
                Some((text("/spec/group")?, text("/spec/names/kind")?, text("/spec/scope")? == "Namespaced"))
            })?
        };
        Self(items.iter().filter_map(|item| definition(item)).collect())
    }

    async fn namespaced(&self, ctx: &Ctx, item: &Item) -> Result<Option<bool>, Error> {
        let own =
            |(group, kind, _): &&(String, String, bool)| group == item.id.group() && *kind == item.id.kind;
        if let Some((_, _, namespaced)) = self.0.iter().find(own) {
            return Ok(Some(*namespaced));
        }
        match ctx.cluster.resource(&item.id.api_version, &item.id.kind).await {
            Ok(resource) => Ok(Some(resource.namespaced)),
            Err(cluster::Error::NoSuchKind { .. }) => Ok(None),
            Err(error) => Err(Error::Cluster(error)),
        }
    }
}
