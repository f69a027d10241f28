//! The two webhook configurations: written as they should be, watched, and put right at once when somebody else changed or
//! deleted them. Only the one that leads does this.

use std::{sync::Arc, time::Duration};

use kube::{
    Api,
    core::{ApiResource, GroupVersionKind},
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    memory::Memory,
    watch::{Seen, watch_named},
};
use crate::{
    adapters::cluster::{Cluster, Error, Raw, id_of},
    api::{
        annotation::UNINSTALLING,
        webhooks::{self, Endpoint, NAME, Registration},
    },
    domain::{inventory::ObjectId, ownership::MANAGER, workload::Kind},
    telemetry::{Metrics, http::Readiness, metrics::Meddling},
};

/// The kinds, in the order in which [`webhooks::configurations`] makes them, and their resources.
const KINDS: [(&str, &str); 2] = [
    ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
];
/// How often everything is looked at without news.
const AT_LEAST: Duration = Duration::from_secs(30);
/// How long after a write that failed there is another.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the watch may take to show a write.
const SHOWN: Duration = Duration::from_secs(10);
/// So many repairs within [`QUARREL`] are done at once; then somebody else insists, and each waits longer than the last.
const AT_ONCE: u32 = 5;
/// See [`AT_ONCE`]; and how long a repair waits at most.
const QUARREL: Duration = Duration::from_mins(1);

/// What registering takes.
pub struct Registrar {
    /// The cluster, as the one that leads writes to it.
    pub cluster: Cluster,
    /// Where the policies are known, and where it is said that admission is not asked.
    pub memory: Memory,
    /// What is counted.
    pub metrics: Metrics,
    /// The operator's own namespace.
    pub root: String,
    /// The workload kinds.
    pub kinds: Vec<&'static Kind>,
    /// Where the operator is reached.
    pub endpoint: Endpoint,
    /// The authorities that the API server is to trust, as PEM. Through the Service nothing is registered without any.
    pub ca: watch::Receiver<Option<String>>,
    /// Told at each look which authorities every entry holds that is stored, as PEM.
    pub stored: Box<dyn Fn(Vec<String>) + Send + Sync>,
}

/// What the watch showed of one configuration.
#[derive(Clone, Debug, Default)]
struct Sight {
    object: Option<Value>,
    /// `countersign uninstall` said that it goes.
    uninstalling: bool,
    /// How often something was shown.
    changes: u64,
}

/// What is remembered of one configuration.
#[derive(Debug, Default)]
struct Record {
    /// What was wanted when it was last seen to be right.
    right: Option<Value>,
    /// What was sent last, and what the API server made of its webhooks.
    answered: Option<(Value, Value)>,
    /// When that was, and how often the watch had shown something before.
    wrote: Option<(Instant, u64)>,
    /// Nothing is written before, and why.
    pause: Option<(Instant, String)>,
    /// The last repair, and how many came before it without a rest.
    repaired: Option<(Instant, u32)>,
}

/// Who this process is, and what it belongs to.
struct Identity {
    user: String,
    owner: Option<Value>,
}

/// It is not registered: why, and when to look again.
struct Unregistered(String, Duration);

/// Keeps both configurations as they should be, until the token is cancelled.
pub async fn run(registrar: Registrar, stop: CancellationToken) {
    let changed = Arc::new(Notify::new());
    let loaded = Readiness::default();
    let mut watches = JoinSet::new();
    let sights = KINDS.map(|(kind, plural)| {
        let gvk = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<Raw> = Api::all_with(registrar.cluster.client(), &resource);
        let sight = Arc::new(Mutex::new(Sight::default()));
        let (at, news) = (Arc::clone(&sight), Arc::clone(&changed));
        let see = move |seen| {
            at.lock().see(seen);
            news.notify_one();
        };
        watches.spawn(watch_named(api, NAME, loaded.part(plural), stop.clone(), see));
        sight
    });
    let (news, began) = (registrar.memory.news(), Instant::now());
    let mut keeper = Keeper { registrar, sights, records: <[Record; 2]>::default(), identity: None };
    loop {
        // From here on: what changes during a look belongs to the next.
        let notified = news.notified();
        let next = if loaded.is_ready() {
            keeper.look().await
        } else {
            if began.elapsed() > SHOWN {
                keeper.tell(Some("the webhook configurations cannot be listed and watched".to_owned()));
            }
            Duration::from_millis(20)
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed.notified() => {}
            () = notified => {}
            () = renewed(&mut keeper.registrar.ca) => {}
            () = sleep(next) => {}
        }
    }
}

/// Waits for other authorities.
async fn renewed(ca: &mut watch::Receiver<Option<String>>) {
    if ca.changed().await.is_err() {
        // Whoever made them has ended, and so will this process.
        std::future::pending::<()>().await;
    }
}

impl Sight {
    fn see(&mut self, seen: Seen<Raw>) {
        self.changes += 1;
        match seen {
            Seen::There(object) => {
                let object = object.into_value();
                self.uninstalling = object["metadata"]["annotations"].get(UNINSTALLING).is_some();
                self.object = Some(object);
            }
            // That it was to go was said before.
            Seen::Gone(_) => self.object = None,
        }
    }
}

impl Record {
    /// How long the next repair has to wait, once one is done now.
    fn repaired(&mut self, now: Instant) -> Duration {
        let before = self.repaired.filter(|(last, _)| now.duration_since(*last) < 2 * QUARREL);
        let count = before.map_or(1, |(_, count)| count + 1);
        self.repaired = Some((now, count));
        match count.checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => Duration::from_secs(1 << more.min(6)).min(QUARREL),
        }
    }
}

struct Keeper {
    registrar: Registrar,
    sights: [Arc<Mutex<Sight>>; 2],
    records: [Record; 2],
    identity: Option<Identity>,
}

impl Keeper {
    /// Looks at both, puts right what is not as it should be, and answers when to look again without news.
    async fn look(&mut self) -> Duration {
        let ca = self.registrar.ca.borrow_and_update().clone();
        let kept = self.keep(ca.as_deref()).await;
        self.registrar.metrics.set_webhook_registered(kept.is_ok());
        let seen =
            self.sights.iter().filter_map(|sight| sight.lock().object.as_ref().map(webhooks::authorities));
        (self.registrar.stored)(seen.flatten().collect());
        let (why, next) = match kept {
            Ok(()) => (None, AT_LEAST),
            Err(Unregistered(why, next)) => (Some(why), next),
        };
        self.tell(why);
        next
    }

    /// Says why the API server does not ask, or that it does.
    fn tell(&self, why: Option<String>) {
        let mut memory = self.registrar.memory.write();
        if memory.unguarded == why {
            return;
        }
        if let Some(why) = &why {
            tracing::warn!(why, "the API server does not ask admission as it should");
        } else {
            tracing::info!("the API server asks admission");
        }
        memory.unguarded = why;
        drop(memory);
        self.registrar.memory.news().notify_waiters();
    }

    async fn keep(&mut self, ca: Option<&str>) -> Result<(), Unregistered> {
        if ca.is_none() && self.registrar.endpoint == Endpoint::Service {
            return Err(Unregistered("there is no certificate yet".to_owned(), AT_LEAST));
        }
        if self.identity.is_none() {
            let failed = |error: Error| Unregistered(error.explain(), AGAIN);
            let user = self.registrar.cluster.user().await.map_err(failed)?;
            let owner = self.owner().await.map_err(failed)?;
            self.identity = Some(Identity { user, owner });
        }
        let mut kept = Ok(());
        for (index, wanted) in self.wanted(ca).iter().enumerate() {
            // One that cannot be registered is no reason to leave the other alone.
            let one = self.keep_one(index, wanted).await;
            kept = kept.and(one);
        }
        kept
    }

    fn wanted(&self, ca: Option<&str>) -> [Value; 2] {
        let Registrar { memory, root, kinds, endpoint, .. } = &self.registrar;
        let identity = self.identity.as_ref();
        webhooks::configurations(&Registration {
            root,
            kinds,
            endpoint,
            ca_bundle: ca,
            left_out: &webhooks::left_out(memory.read().policies.iter()),
            operator: identity.map_or("", |identity| &identity.user),
            owner: identity.and_then(|identity| identity.owner.as_ref()),
        })
    }

    async fn keep_one(&mut self, index: usize, wanted: &Value) -> Result<(), Unregistered> {
        let sight = self.sights[index].lock().clone();
        let record = &mut self.records[index];
        let now = Instant::now();
        if record.wrote.is_some_and(|(at, changes)| changes == sight.changes && now - at < SHOWN) {
            return Ok(());
        }
        record.wrote = None;
        let answered = record.answered.as_ref().filter(|(sent, _)| sent == wanted).map(|(_, made)| made);
        if sight.object.as_ref().is_some_and(|stored| webhooks::stands(stored, wanted, answered)) {
            record.right = Some(wanted.clone());
            return Ok(());
        }
        if let Some((until, why)) = record.pause.clone().filter(|(until, _)| *until > now) {
            return Err(Unregistered(why, until - now));
        }
        let written = match &sight.object {
            Some(stored) => {
                let patch = replacement(stored, wanted);
                self.registrar.cluster.merge_patch(&id_of(wanted), &patch).await
            }
            None if sight.uninstalling => {
                return Err(Unregistered("countersign uninstall took it away".to_owned(), AT_LEAST));
            }
            None => {
                self.still_belongs().await?;
                self.registrar.cluster.apply(wanted, MANAGER).await
            }
        };
        let cause = if sight.object.is_some() { Meddling::Changed } else { Meddling::Deleted };
        self.note(index, wanted, written, cause, sight.changes)
    }

    /// Keeps what came of a write.
    fn note(
        &mut self,
        index: usize,
        wanted: &Value,
        written: Result<Value, Error>,
        cause: Meddling,
        changes: u64,
    ) -> Result<(), Unregistered> {
        let (kind, record, now) = (KINDS[index].0, &mut self.records[index], Instant::now());
        let answer = match written {
            Ok(answer) => answer,
            // It is not any more what was seen: the watch is about to say so.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                return Err(Unregistered(error.explain(), Duration::from_secs(1)));
            }
            Err(error) => {
                record.pause = Some((now + AGAIN, error.explain()));
                return Err(Unregistered(error.explain(), AGAIN));
            }
        };
        if record.right.as_ref() == Some(wanted) {
            let wait = record.repaired(now);
            record.pause = Some((now + wait, format!("somebody else keeps changing the {kind} {NAME}")));
            self.registrar.metrics.webhook_repair(cause);
            tracing::warn!(
                kind,
                cause = cause.as_str(),
                "a webhook configuration was meddled with, and is put right"
            );
        } else {
            tracing::info!(kind, "a webhook configuration is registered");
        }
        record.wrote = Some((now, changes));
        record.answered = Some((wanted.clone(), answer["webhooks"].clone()));
        Ok(())
    }

    /// Whether what takes the configurations along is still there, before one is made.
    async fn still_belongs(&mut self) -> Result<(), Unregistered> {
        let found = self.owner().await.map_err(|error| Unregistered(error.explain(), AGAIN))?;
        let Some(identity) = &mut self.identity else { return Ok(()) };
        if identity.owner == found {
            return Ok(());
        }
        if found.is_none() {
            let why = format!("the ClusterRole {NAME} is gone: the operator is being uninstalled");
            return Err(Unregistered(why, AT_LEAST));
        }
        identity.owner = found;
        Err(Unregistered(format!("the ClusterRole {NAME} is another"), Duration::ZERO))
    }

    /// The role of the installation, which takes the configurations along when it is deleted without the operator's help.
    async fn owner(&self) -> Result<Option<Value>, Error> {
        let api_version = "rbac.authorization.k8s.io/v1";
        let id = ObjectId {
            api_version: api_version.to_owned(),
            kind: "ClusterRole".to_owned(),
            namespace: String::new(),
            name: NAME.to_owned(),
        };
        let found = match self.registrar.cluster.get(&id).await {
            // An operator that runs with other rights belongs to nothing.
            Err(error) if error.code() == Some(403) => None,
            found => found?,
        };
        let ours = |role: &Value| role["metadata"]["labels"]["app.kubernetes.io/part-of"] == NAME;
        Ok(found.filter(ours).map(|role| {
            json!({
                "apiVersion": api_version, "kind": id.kind, "name": NAME, "uid": role["metadata"]["uid"],
            })
        }))
    }
}

/// The patch that makes a stored configuration what is wanted. A server-side apply would leave in what others added.
fn replacement(stored: &Value, wanted: &Value) -> Value {
    let mut metadata = wanted["metadata"].clone();
    metadata["resourceVersion"] = stored["metadata"]["resourceVersion"].clone();
    json!({"metadata": metadata, "webhooks": wanted["webhooks"]})
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, two that want different things write as fast as they can, for ever.
    #[test]
    fn who_insists_is_answered_ever_more_slowly() {
        let mut record = Record::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..14 {
            let wait = record.repaired(now);
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
        now += 3 * QUARREL;
        assert_eq!(record.repaired(now), Duration::ZERO);
    }
}
