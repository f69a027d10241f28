//! What a commit changes in place is applied before the commit is read whole. Reading it, and holding it against all that was
//! applied, takes time that grows with the repository; this does not. Everything is looked at afterwards all the same.

use std::sync::Arc;

use super::{
    Reading,
    apply::{self, Memo, Stage},
    content::{Content, File, Files, Item, read_file},
    hold::waits,
    inventory::reserved,
    kept, place, time_for,
};
use crate::{
    adapters::git::{self, CommitId, Head, Mirror},
    api::GitSource,
    controllers::memory::Key,
};

/// Files that are new versions of others, at most.
const FEW: usize = 100;

/// An object as a commit said it, and as the next one does.
pub(super) struct Changed {
    was: Arc<Item>,
    is: Arc<Item>,
}

/// Applies what the head says anew, where that is all it does: other values in objects that this process applied before, which
/// nothing else of the commit relies on. Answers how many were written. What goes wrong here is met again, and told, when
/// everything is looked at.
///
/// Nothing a guard looks at can change by it: the same objects stand in the same files, none of them a policy, an approval or a
/// workload; the head descends from what was applied last; and nothing is waited for.
pub(super) async fn apply_in_place(
    read: &Reading<'_>,
    key: &Key,
    source: &GitSource,
    head: &Head,
    last: Option<CommitId>,
) -> usize {
    let memo = kept(read.ctx, key).memo;
    let Some(last) = last.filter(|last| *last != head.commit && !memo.is_empty()) else { return 0 };
    if waits(read.ctx, key).is_some() {
        return 0;
    }
    match read.news(source, head, last, &memo).await {
        Ok(Some(said)) => {
            let items: Vec<&Item> = said.items.iter().map(AsRef::as_ref).collect();
            apply::apply_news(&read.cluster(key), key, &items, &memo).await
        }
        Ok(None) => 0,
        Err(error) => {
            tracing::debug!(source = key.1, %error, "what changed in place cannot be read");
            0
        }
    }
}

/// Whether the object is this source's, was in step as the commit before said it, and comes after all that others rely on.
fn stands_alone(root: &str, changed: &Changed, memo: &Memo) -> bool {
    let rest = [&changed.was, &changed.is].into_iter().all(|item| Stage::of(item) == Stage::Rest);
    rest && memo.news(&[&*changed.was]).is_empty()
        && reserved(root, &changed.is.id, &changed.is.value).is_none()
}

impl Reading<'_> {
    /// What may be applied at once.
    async fn news(
        &self,
        source: &GitSource,
        head: &Head,
        last: CommitId,
        memo: &Memo,
    ) -> Result<Option<Arc<Content>>, git::Error> {
        let Some(changed) = self.changed(last, head.commit).await? else { return Ok(None) };
        let alone = changed.iter().all(|changed| stands_alone(&self.ctx.root, changed, memo));
        let time = time_for(source);
        if !alone || !source.spec.allow_rewrite && !self.descends(head.commit, last, time).await? {
            return Ok(None);
        }
        let items = changed.into_iter().map(|changed| changed.is).collect();
        let said = Arc::new(Content { items, ..Content::default() });
        let placed = place::placed(self.ctx, self.reach, Arc::clone(&said)).await;
        Ok(Arc::ptr_eq(&said, &placed).then_some(said))
    }

    async fn changed(&self, from: CommitId, to: CommitId) -> Result<Option<Vec<Changed>>, git::Error> {
        let (files, paths) = (self.files.clone(), self.paths.to_vec());
        let read = move |mirror: &Mirror| files.changed(mirror, from, to, &paths);
        self.ctx.mirrors.read(self.name, self.remote, read).await
    }
}

impl Files {
    /// What differs between two commits, if it is but new versions of plain files that were read before, with the same objects.
    fn changed(
        &self,
        mirror: &Mirror,
        from: CommitId,
        to: CommitId,
        paths: &[String],
    ) -> Result<Option<Vec<Changed>>, git::Error> {
        let changes = mirror.changed(Some(from), to, paths)?;
        if changes.len() > FEW {
            return Ok(None);
        }
        let mut all = Vec::new();
        for change in changes {
            // What belongs to overlays, or says what is read at all, is no plain file.
            let known = change.old.and_then(|old| self.plain(&change.path, old));
            let (Some(before), Some(new)) = (known, change.new) else { return Ok(None) };
            let after = read_file(&change.path, &mirror.blob(new)?);
            if !after.has_the_objects_of(&before) {
                return Ok(None);
            }
            let pairs = before.items.iter().cloned().zip(after.items);
            all.extend(pairs.filter(|(was, is)| was.value != is.value).map(|(was, is)| Changed { was, is }));
        }
        Ok(Some(all))
    }
}

impl File {
    /// Whether both are in order, and say the same objects in the same order.
    fn has_the_objects_of(&self, other: &Self) -> bool {
        let in_order = |file: &Self| file.problems.is_empty() && !file.unreadable;
        let ids = |file: &Self| file.items.iter().map(|item| item.id.clone()).collect::<Vec<_>>();
        in_order(self) && in_order(other) && ids(self) == ids(other)
    }
}
