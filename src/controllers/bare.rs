//! What belongs to no workload, on a clock: watching every pod of a cluster would cost its memory many times over, for a report.

use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Ctx, Shared, now};
use crate::{
    adapters::cluster::Error,
    domain::{
        bare::{BARE, Report, bare_images},
        policy::Judge,
    },
    telemetry::metrics::{Controller, Stage},
};

/// Looks every so often until the token is cancelled.
pub async fn run(ctx: Shared, every: Duration, stop: CancellationToken) {
    loop {
        // Nobody asks for it without policies.
        if !ctx.memory.read().policies.is_empty() {
            match look(&ctx).await {
                Ok(report) => keep(&ctx, report),
                Err(error) => {
                    ctx.metrics.reconcile_error(Controller::Policy, Stage::Observe);
                    tracing::warn!(error = %error.explain(), "what belongs to no workload cannot be looked at");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

async fn look(ctx: &Ctx) -> Result<Report, Error> {
    let mut report = Report::default();
    for (api_version, kind, template) in BARE {
        let resource = ctx.cluster.resource(api_version, kind).await?;
        let see = |object: Value| {
            let Some(images) = bare_images(&object, template) else { return };
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
            let memory = ctx.memory.read();
            let policies = memory.policies_for(text("namespace"), &ctx.root);
            let judge = Judge {
                policies: &policies,
                ledger: &memory.ledger,
                evidence: &memory.evidence,
                namespace: text("namespace"),
                now: now(),
            };
            report.add(kind, text("namespace"), text("name"), &images, &judge);
        };
        ctx.cluster.list_each(&resource, "", "", see).await?;
    }
    Ok(report)
}

fn keep(ctx: &Ctx, report: Report) {
    ctx.metrics.set_bare(report.permitted, report.not_permitted, report.revoked);
    let mut memory = ctx.memory.write();
    if memory.bare != report {
        memory.bare = report;
        ctx.memory.news().notify_waiters();
    }
}
