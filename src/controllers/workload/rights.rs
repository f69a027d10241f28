//! With whose rights an action is done.

use crate::{
    adapters::cluster::{Account, Done, Error},
    controllers::Ctx,
    domain::{
        plan::{Action, Change},
        workload::WorkloadId,
    },
};

/// Does what a plan decided. What a source asks for is applied as its service account; what puts a release back is written
/// with the operator's own rights, and then the pod template alone: nobody stops a rollback or a hold by taking a role away,
/// and nobody has a field written by it that his own account may not write.
pub(super) async fn act(ctx: &Ctx, id: &WorkloadId, action: &Action) -> Result<Done, Error> {
    let Some(account) = account(ctx, id) else { return ctx.cluster.act(id, action).await };
    match (&action.change, &action.instead) {
        (Change::Apply { .. }, Some(instead)) => {
            let alone = Action { change: instead.clone(), instead: None, ..action.clone() };
            Ok(match ctx.cluster.act(id, &alone).await? {
                Done::Applied(stored) => Done::Instead(stored),
                done @ (Done::Instead(_) | Done::Stale) => done,
            })
        }
        (Change::Apply { .. }, None) => {
            ctx.cluster.acting_as(account).within(&id.namespace).act(id, action).await
        }
        (Change::Images(_) | Change::Template(_) | Change::DropEntry, _) => ctx.cluster.act(id, action).await,
    }
}

fn account(ctx: &Ctx, id: &WorkloadId) -> Option<Account> {
    ctx.memory.read().desired.get(id)?.account.clone()
}
