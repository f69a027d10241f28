//! Puts the objects of a commit where their source may write, and names those that it may not.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use serde_json::Value;
use tokio::time::timeout;

use super::{
    apply::CONCURRENCY,
    content::{Content, Item, Problem, anywhere},
};
use crate::{
    adapters::cluster::{Account, Cluster},
    controllers::{Ctx, memory::Key},
    domain::{
        inventory::ObjectId,
        packed::Packed,
        reach::{Place, Reach},
    },
};

/// How long the API server may take to tell of a kind: revocations wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

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
pub(super) async fn placed(ctx: &Ctx, reach: &Reach, content: Arc<Content>) -> Arc<Content> {
    let scopes = Scopes::of(ctx, &content).await;
    let place =
        |item: &Item| scopes.namespaced(item).map(|namespaced| reach.place(&item.id.namespace, namespaced));
    if content.all().all(|item| place(item) == Some(Place::AsSaid)) {
        return content;
    }
    let mut placed = Content::clone(&content);
    for list in [&mut placed.items, &mut placed.more_revocations] {
        let mut kept = Vec::with_capacity(list.len());
        for item in std::mem::take(list) {
            match place(&item) {
                Some(Place::AsSaid) => kept.push(item),
                Some(Place::Into(namespace)) => kept.push(moved(item, &namespace)),
                Some(Place::Refused(why)) => {
                    placed.problems.push(Problem::about(&item, why));
                    placed.unplaced.insert(anywhere(&item.id));
                }
                None => {
                    // Applying it says why.
                    placed.unplaced.insert(anywhere(&item.id));
                    kept.push(item);
                }
            }
        }
        *list = kept;
    }
    Arc::new(placed)
}

fn moved(mut shared: Arc<Item>, namespace: &str) -> Arc<Item> {
    let item = Arc::make_mut(&mut shared);
    let mut value = item.value.open();
    value["metadata"]["namespace"] = Value::from(namespace);
    item.value = Packed::new(&value);
    namespace.clone_into(&mut item.id.namespace);
    shared
}

/// Which kinds have objects that stand in namespaces, by version and kind; what is not known now is absent.
struct Scopes<'a>(HashMap<(&'a str, &'a str), bool>);

impl<'a> Scopes<'a> {
    /// One kind that is not there, or that the API server does not tell of, stops none of the others.
    async fn of(ctx: &Ctx, content: &'a Content) -> Self {
        // What the commit itself defines the API server may not know yet.
        let defined: HashMap<_, _> = content.items.iter().filter_map(|item| defined(item)).collect();
        let kinds: HashMap<_, _> = content.all().map(|item| (kind_of(item), &item.id)).collect();
        let known: Vec<_> = kinds
            .into_iter()
            .map(|(kind, id)| {
                let defined = defined.get(&(id.group().to_owned(), id.kind.clone())).copied();
                async move {
                    let namespaced = match defined {
                        Some(namespaced) => Some(namespaced),
                        None => namespaced(ctx, id).await,
                    };
                    Some((kind, namespaced?))
                }
            })
            .collect();
        let known: Vec<_> = stream::iter(known).buffer_unordered(CONCURRENCY).collect().await;
        Self(known.into_iter().flatten().collect())
    }

    fn namespaced<'b>(&'b self, item: &'b Item) -> Option<bool> {
        let known: &HashMap<(&'b str, &'b str), bool> = &self.0;
        known.get(&kind_of(item)).copied()
    }
}

fn kind_of(item: &Item) -> (&str, &str) {
    (&item.id.api_version, &item.id.kind)
}

async fn namespaced(ctx: &Ctx, id: &ObjectId) -> Option<bool> {
    let resource = timeout(PATIENCE, ctx.cluster.resource(&id.api_version, &id.kind)).await.ok()?;
    resource.ok().map(|resource| resource.namespaced)
}

/// The kind that an object defines, if it does: group and kind, and whether its objects stand in namespaces.
fn defined(item: &Item) -> Option<((String, String), bool)> {
    if item.id.kind != "CustomResourceDefinition" || item.id.group() != "apiextensions.k8s.io" {
        return None;
    }
    let value = item.value.open();
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let kind = (text("/spec/group")?, text("/spec/names/kind")?);
    Some((kind, text("/spec/scope")? == "Namespaced"))
}
