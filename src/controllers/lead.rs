//! Who of several operators acts: the holder of a Lease in the root namespace.
//!
//! The clock of the one who holds it counts from before a renewal was sent, and that of the others from when they saw it: so
//! the fence of the holder is shut for [`DURATION`] less [`DEADLINE`] before anybody else may take the lease, however far apart their clocks are.

use std::{
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    adapters::cluster::{Fence, Moment},
    telemetry::Metrics,
};

/// The name of the Lease.
pub const LEASE: &str = "countersign";
/// A lease that was not renewed for this long may be taken.
const DURATION: Duration = Duration::from_secs(15);
/// Whoever could not renew it for this long stops writing. The rest of the time is for writes that have left.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(2);
/// How often those who wait look at it.
const LOOK: Duration = Duration::from_secs(1);
/// How long one request may take: an API server that hangs must leave time for another try.
const REQUEST: Duration = Duration::from_secs(4);

/// Somebody else has led, or may have: what this process knows may be out of date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lease {LEASE} was taken over by {by}; this process ends, to be started anew as one that waits")]
pub struct Lost {
    by: String,
}

/// A candidate.
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
    fence: Fence,
    metrics: Metrics,
}

impl Candidate {
    /// `client` must not be held by the fence: it is what opens it.
    pub fn new(client: Client, root: &str, fence: Fence, metrics: Metrics) -> Self {
        // The name of the pod is for people; two processes in one pod, one after the other, are two candidates.
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let random = std::hash::RandomState::new().build_hasher().finish();
        let identity = format!("{host}_{random:016x}");
        Self { leases: Api::namespaced(client, root), identity, fence, metrics }
    }

    /// Waits until this process leads.
    pub async fn acquire(&self) -> Lease {
        tracing::info!(identity = self.identity, "waiting to lead");
        let mut seen: Option<(String, Moment)> = None;
        let mut told = None;
        loop {
            match self.try_to_acquire(&mut seen).await {
                Ok(Some(lease)) => return lease,
                Ok(None) => told = None,
                Err(error) if told.as_ref() == Some(&error) => {}
                Err(error) => {
                    tracing::warn!(error, "the lease cannot be read or taken, and is tried again");
                    told = Some(error);
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn try_to_acquire(&self, seen: &mut Option<(String, Moment)>) -> Result<Option<Lease>, String> {
        let Some(lease) = bounded(self.leases.get_opt(LEASE)).await? else {
            let lease = Lease { metadata: name(), spec: Some(self.spec(None)) };
            let began = Moment::now();
            let made = bounded(self.leases.create(&PostParams::default(), &lease)).await?;
            return Ok(Some(self.led(made, began, "nobody")));
        };
        let version = lease.resource_version().unwrap_or_default();
        let since = match seen {
            Some((known, since)) if *known == version => *since,
            Some(_) | None => seen.insert((version, Moment::now())).1,
        };
        // It is this process's own when the answer to an earlier try was lost.
        if !is_free(&lease, since.elapsed()) && holder(&lease) != self.identity {
            return Ok(None);
        }
        let before = holder(&lease).to_owned();
        let began = Moment::now();
        match self.write(&lease, self.spec(lease.spec.as_ref())).await {
            Ok(taken) => Ok(Some(self.led(taken, began, &before))),
            // Another was faster.
            Err(Refused::Conflict) => Ok(None),
            Err(Refused::Failed(error)) => Err(error),
        }
    }

    fn led(&self, lease: Lease, began: Moment, before: &str) -> Lease {
        self.fence.open_until(began + DEADLINE);
        self.metrics.set_leader(true);
        tracing::info!(identity = self.identity, before, "leads");
        lease
    }

    /// Keeps the lease until the token is cancelled, and lets it go.
    ///
    /// # Guarantees
    /// While the API server does not answer, the fence shuts by itself and opens again once the lease is renewed, if nobody else held
    /// it in between.
    ///
    /// # Errors
    /// When somebody else holds it, or may have: then the fence stays shut.
    pub async fn keep(&self, mut lease: Lease, done: &CancellationToken) -> Result<(), Lost> {
        loop {
            tokio::select! {
                () = done.cancelled() => break,
                () = sleep(RENEW) => {}
            }
            match self.renew(&lease).await {
                Ok(renewed) => lease = renewed,
                Err(Renewal::Lost(lost)) => {
                    self.fence.close();
                    self.metrics.set_leader(false);
                    return Err(lost);
                }
                Err(Renewal::NotNow(error)) => {
                    let leads = self.fence.check().is_ok();
                    self.metrics.set_leader(leads);
                    tracing::warn!(error, leads, "the lease cannot be renewed and is tried again");
                }
            }
        }
        self.fence.close();
        self.metrics.set_leader(false);
        self.release(&lease).await;
        Ok(())
    }

    async fn renew(&self, lease: &Lease) -> Result<Lease, Renewal> {
        let began = Moment::now();
        let renewed = match self.write(lease, self.spec(lease.spec.as_ref())).await {
            Ok(renewed) => renewed,
            Err(Refused::Failed(error)) => return Err(Renewal::NotNow(error)),
            Err(Refused::Conflict) => {
                // Perhaps by our own renewal whose answer was lost. Nobody else writes this identity.
                let now = bounded(self.leases.get_opt(LEASE)).await.map_err(Renewal::NotNow)?;
                return match now {
                    // Its version is known now; the next renewal counts.
                    Some(now) if holder(&now) == self.identity => Ok(now),
                    Some(now) if !holder(&now).is_empty() => {
                        Err(Renewal::Lost(Lost { by: holder(&now).to_owned() }))
                    }
                    Some(_) | None => {
                        Err(Renewal::Lost(Lost { by: "somebody who is gone again".to_owned() }))
                    }
                };
            }
        };
        self.fence.open_until(began + DEADLINE);
        self.metrics.set_leader(true);
        Ok(renewed)
    }

    /// So that a successor need not wait until it runs out.
    async fn release(&self, lease: &Lease) {
        let spec = LeaseSpec { holder_identity: Some(String::new()), ..self.spec(lease.spec.as_ref()) };
        match self.write(lease, spec).await {
            Ok(_) => tracing::info!("the lease is let go"),
            Err(Refused::Conflict) => tracing::info!("the lease is another's already"),
            Err(Refused::Failed(error)) => tracing::warn!(error, "the lease cannot be let go; it runs out"),
        }
    }

    async fn write(&self, lease: &Lease, spec: LeaseSpec) -> Result<Lease, Refused> {
        let metadata = ObjectMeta { resource_version: lease.resource_version(), uid: lease.uid(), ..name() };
        let changed = Lease { metadata, spec: Some(spec) };
        let params = PostParams::default();
        match timeout(REQUEST, self.leases.replace(LEASE, &params, &changed)).await {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(Refused::Conflict),
            Ok(Err(error)) => Err(Refused::Failed(crate::adapters::chain(&error))),
            Err(_) => Err(Refused::Failed(no_answer())),
        }
    }

    /// Held by this process from now on.
    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = |spec: &&LeaseSpec| spec.holder_identity.as_deref() == Some(&self.identity);
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let kept = before.filter(ours);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: kept.map_or_else(|| Some(now.clone()), |spec| spec.acquire_time.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions.saturating_add(i32::from(kept.is_none()))),
            ..LeaseSpec::default()
        }
    }
}

/// Why a write of the lease changed nothing.
enum Refused {
    /// Its version is not the one that was known.
    Conflict,
    Failed(String),
}

enum Renewal {
    Lost(Lost),
    NotNow(String),
}

/// Whether a lease may be taken that has looked like this for so long.
fn is_free(lease: &Lease, unchanged: Duration) -> bool {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let duration =
        seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(DURATION, Duration::from_secs);
    holder(lease).is_empty() || unchanged >= duration
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn name() -> ObjectMeta {
    ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() }
}

async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(crate::adapters::chain(&error)),
        Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> String {
    format!("no answer from the API server within {} s", REQUEST.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, seconds: Option<i32>) -> Lease {
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[test]
    fn a_lease_is_free_when_it_was_let_go_or_ran_out_by_its_own_word() {
        let second = Duration::from_secs;
        assert!(is_free(&Lease::default(), second(0)));
        assert!(is_free(&lease(Some(""), Some(15)), second(0)));
        assert!(!is_free(&lease(Some("a"), Some(15)), second(14)));
        assert!(is_free(&lease(Some("a"), Some(15)), second(15)));
        assert!(!is_free(&lease(Some("a"), Some(60)), second(59)), "of a version with a longer one");
        assert!(!is_free(&lease(Some("a"), None), second(14)));
    }
}
