//! Looks at approved images in their registries, by whoever leads: facts for all policies, kept in the statuses of the approvals.
//!
//! What cannot be looked at changes nothing that is known: an outage neither revokes nor approves.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Shared, changes::Changes, memory::Key, queue::Next};
use crate::{
    adapters::registry::{Error, Format, Keychain},
    domain::{
        evidence::{Evidence, Fact},
        gate::Asks,
        image::Repository,
        inventory::ObjectId,
        ledger::{Record, Role},
        policy::Policy,
    },
    telemetry::metrics::{Controller, Stage},
};

/// What is to be found out about the image of one approval.
struct Wanted {
    record: Record,
    asks: Asks,
    /// The pull secrets that policies name, by namespace and name.
    secrets: BTreeSet<(String, String)>,
    known: Option<Arc<Evidence>>,
}

/// Looks at the image of one `ApprovedImage`, as far as anybody asks for it.
pub(super) async fn look(ctx: Shared, changes: Changes, key: Key) -> Next {
    let Some(wanted) = wanted(&ctx, &key) else { return Next::Wait };
    let Wanted { record, asks, secrets, known } = wanted;
    // What a digest names never changes.
    let settled = matches!(known.as_deref(), Some(Evidence { platforms: Fact::Known(_), .. }));
    if !asks.platforms || settled {
        return Next::Wait;
    }
    let _timer = ctx.metrics.time_reconcile(Controller::Approval);
    let (fact, next) = match keychain(&ctx, &secrets).await {
        Ok(keychain) => {
            let found = ctx.registry.platforms(&record.repository, &record.digest, &keychain).await;
            fact(found.map(|platforms| platforms.images))
        }
        Err(why) => (Fact::Unavailable(why), Next::Retry),
    };
    if let Fact::Unavailable(why) = &fact {
        ctx.metrics.reconcile_error(Controller::Approval, Stage::Observe);
        tracing::warn!(namespace = key.0, approval = key.1, why, "its image cannot be looked at");
    }
    let evidence =
        Evidence { platforms: fact, ..known.map_or_else(|| unseen(&record), |known| (*known).clone()) };
    let mut memory = ctx.memory.write();
    if memory.know(evidence) {
        ctx.memory.news().notify_waiters();
        drop(memory);
        if record.role == Role::Base {
            // What is built on it may stand anywhere.
            changes.everything();
        } else {
            changes.note(|changed| {
                changed.repositories.insert(record.repository);
                changed.digests.insert(record.digest);
            });
        }
    }
    next
}

fn wanted(ctx: &Shared, key: &Key) -> Option<Wanted> {
    let memory = ctx.memory.read();
    let record = memory.approvals.get(key)?.record(&ctx.root).ok()?;
    let covering: Vec<&Policy> =
        memory.policies.iter().filter(|policy| policy.covers(&record.repository)).collect();
    let mut asks = Asks::default();
    for gate in covering.iter().flat_map(|policy| &policy.gates) {
        asks = asks.and(gate.asks());
    }
    // Whether an image is built on a base that is revoked only its layers tell, whatever policies ask for.
    asks.platforms |= memory.ledger.bases().next().is_some();
    let secrets = covering
        .iter()
        .flat_map(|policy| policy.pull_secrets.iter().map(|name| (policy.key.0.clone(), name.clone())));
    let secrets = secrets.collect();
    let known = memory.evidence.iter().find(|known| is_of(known, &record.repository, &record)).cloned();
    Some(Wanted { record, asks, secrets, known })
}

fn is_of(known: &Evidence, repository: &Repository, record: &Record) -> bool {
    known.repository == *repository && known.digest == record.digest
}

/// Nothing is known of it yet.
fn unseen(record: &Record) -> Evidence {
    let later = || "nobody looked yet".to_owned();
    Evidence {
        repository: record.repository.clone(),
        digest: record.digest.clone(),
        platforms: Fact::Unavailable(later()),
        signatures: Fact::Unavailable(later()),
        attestations: Fact::Unavailable(later()),
        scans: Fact::Unavailable(later()),
        checked: BTreeSet::new(),
    }
}

/// What an answer of a registry is worth, and when to look again.
fn fact<T>(found: Result<T, Error>) -> (Fact<T>, Next) {
    match found {
        Ok(found) => (Fact::Known(found), Next::Wait),
        // It may come yet, as replication takes its time.
        Err(error) if error.is_absent() => (Fact::Absent, Next::Retry),
        Err(Error::RateLimited { after: Some(after), .. }) if !after.is_zero() => {
            let why = "the registry asks for fewer requests".to_owned();
            (Fact::Unavailable(why), Next::After(after.max(Duration::from_secs(1))))
        }
        Err(error) => (Fact::Unavailable(error.to_string()), Next::Retry),
    }
}

/// The credentials of the pull secrets that policies name; one that cannot be read is an error, or what it opens would seem closed.
async fn keychain(ctx: &Shared, secrets: &BTreeSet<(String, String)>) -> Result<Keychain, String> {
    let mut keychain = Keychain::default();
    for (namespace, name) in secrets {
        let id = ObjectId {
            api_version: "v1".to_owned(),
            kind: "Secret".to_owned(),
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let named = format!("{namespace}/{name}");
        let object = match ctx.cluster.get(&id).await {
            Ok(Some(object)) => object,
            Ok(None) => return Err(format!("the pull secret {named} does not exist")),
            Err(error) => return Err(format!("the pull secret {named} cannot be read: {}", error.explain())),
        };
        let formats = [(".dockerconfigjson", Format::DockerConfigJson), (".dockercfg", Format::DockerCfg)];
        let held =
            formats.into_iter().find_map(|(key, format)| Some((object["data"][key].as_str()?, format)));
        let Some((text, format)) = held else {
            return Err(format!("the pull secret {named} has neither .dockerconfigjson nor .dockercfg"));
        };
        let bytes = BASE64_STANDARD.decode(text);
        let bytes = bytes.map_err(|_| format!("the pull secret {named} cannot be decoded"))?;
        keychain.add(&named, format, &bytes).map_err(|error| error.to_string())?;
    }
    Ok(keychain)
}
