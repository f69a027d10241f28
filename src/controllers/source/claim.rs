//! One object has one source: the first that claimed it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Error,
    content::{Content, Item, Problem},
    inventory, kept,
};
use crate::{
    controllers::{
        Ctx,
        memory::{Key, State},
    },
    domain::inventory::Inventory,
};

/// What a source may apply of a commit.
#[derive(Debug, Default)]
pub(super) struct Share<'a> {
    pub items: Vec<&'a Item>,
    /// What it may not apply.
    pub refused: Vec<&'a Item>,
    /// Why not.
    pub problems: Vec<Problem>,
}

impl Share<'_> {
    /// What the objects are.
    pub fn inventory(&self) -> Inventory {
        self.items.iter().map(|item| item.id.clone()).collect()
    }
}

/// What of a commit is neither another source's nor the operator's own.
pub(super) fn share<'a>(memory: &State, root: &str, key: &Key, content: &'a Content) -> Share<'a> {
    let mut theirs: BTreeMap<_, &Key> = BTreeMap::new();
    let others: Vec<_> =
        memory.inventories.iter().filter(|(other, ids)| *other != key && !ids.is_empty()).collect();
    if !others.is_empty() {
        let own: BTreeSet<_> = content.items.iter().map(|item| item.id.identity()).collect();
        let all =
            others.into_iter().flat_map(|(other, ids)| ids.iter().map(move |id| (id.identity(), other)));
        theirs.extend(all.filter(|(identity, _)| own.contains(identity)));
    }
    let mut share = Share::default();
    for item in &content.items {
        let owned = theirs.get(&item.id.identity()).map(|owner| {
            format!(
                "GitSource {}/{} applies this object already; remove it from one of the two",
                owner.0, owner.1
            )
        });
        let why = owned.or_else(|| inventory::reserved(root, &item.id, &item.value).map(str::to_owned));
        match why {
            Some(why) => {
                share.problems.push(Problem::about(item, why));
                share.refused.push(item);
            }
            None => share.items.push(item),
        }
    }
    share
}

/// The same, and no other source gets it from now on. Answers also with all that is the source's now: what it had before is
/// its own until it is pruned.
pub(super) fn claim<'a>(
    memory: &mut State,
    root: &str,
    key: &Key,
    content: &'a Content,
) -> (Share<'a>, Arc<Inventory>) {
    let share = share(memory, root, key, content);
    let claimed = memory.inventories.entry(key.clone()).or_default();
    let new: Vec<_> = share.items.iter().map(|item| &item.id).filter(|id| !claimed.contains(id)).collect();
    if !new.is_empty() {
        Arc::make_mut(claimed).extend(new.into_iter().cloned());
    }
    (share, Arc::clone(claimed))
}

/// Stores what a source has, if that is not what is stored.
pub(super) async fn keep_inventory(ctx: &Ctx, key: &Key, inventory: Arc<Inventory>) -> Result<(), Error> {
    let is = |stored: Arc<Inventory>| Arc::ptr_eq(&stored, &inventory) || stored == inventory;
    if !kept(ctx, key).stored.is_some_and(is) {
        inventory::store(&ctx.cluster, &ctx.root, key, &inventory).await.map_err(Error::Cluster)?;
    }
    ctx.memory.write().inventories.insert(key.clone(), Arc::clone(&inventory));
    if let Some(kept) = ctx.source_state.kept.lock().get_mut(key) {
        kept.stored = Some(inventory);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(names: &[&str]) -> Content {
        let item = |name: &&str| -> Arc<Item> {
            let value: Value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "x"}});
            Item::new(&value, "a.yaml", Some(1), Some(1)).into()
        };
        Content { items: names.iter().map(item).collect(), ..Content::default() }
    }

    /// If this fails, two sources that begin at once both take an object, and fight over it for ever.
    #[test]
    fn what_one_source_claimed_is_no_others_before_anything_is_stored() {
        let (mut memory, key) = (State::default(), |name: &str| ("root".to_owned(), name.to_owned()));
        let (one, other) = (said(&["a", "b"]), said(&["b", "c"]));
        let (first, claimed) = claim(&mut memory, "root", &key("one"), &one);
        assert_eq!((first.items.len(), claimed.len()), (2, 2));
        let (second, claimed) = claim(&mut memory, "root", &key("other"), &other);
        assert_eq!((second.items.len(), second.refused.len(), claimed.len()), (1, 1, 1));
        assert!(second.problems[0].message.contains("root/one applies this object"), "{:?}", second.problems);
        // What it had before stays its own, and claiming again changes nothing.
        let less = said(&["a"]);
        let (again, claimed) = claim(&mut memory, "root", &key("one"), &less);
        assert_eq!((again.items.len(), claimed.len()), (1, 2));
    }
}
