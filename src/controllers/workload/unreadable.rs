//! A workload whose history cannot be read.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use super::{decide, said, tell::alarm};
use crate::{
    adapters::cluster::Error,
    controllers::{Ctx, queue::Next, trail},
    domain::workload::WorkloadId,
};

/// How long until it is looked at again, if nothing changes before.
const AGAIN: Duration = Duration::from_mins(1);

/// Nothing of it moves until its history can be read again; that, and what runs revoked for it, is said.
pub(super) async fn look(ctx: &Ctx, id: &WorkloadId, now: Timestamp) -> Result<Next, Error> {
    let plan = decide(ctx, id, &BTreeSet::new(), now);
    let uid = ctx.memory.read().live.get(id).map(|live| live.uid.clone());
    alarm(ctx, id, uid.as_deref(), &plan);
    trail::say(ctx, id, said(&plan)).await?;
    Ok(Next::After(AGAIN))
}
