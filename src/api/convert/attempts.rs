//! What a policy denied, to the wire and back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::image_policy::{DeniedAttempt, PolicyDenied},
    domain::admission::{Attempt, Attempts, Tried},
};

impl PolicyDenied {
    /// What a status says of these.
    pub fn of(attempts: &Attempts) -> Self {
        Self { total: attempts.total(), recent: attempts.listed().iter().map(write).collect() }
    }

    /// What it says.
    pub fn attempts(&self) -> Attempts {
        Attempts::stored(self.total, self.recent.iter().map(read).collect())
    }
}

fn read(wire: &DeniedAttempt) -> Attempt {
    Attempt {
        tried: Tried {
            namespace: wire.namespace.clone(),
            kind: wire.kind.clone(),
            image: wire.image.clone(),
            user: wire.user.clone(),
            reason: wire.reason.clone(),
        },
        name: wire.name.clone().unwrap_or_default(),
        count: wire.count,
        first: wire.first_seen.0,
        last: wire.last_seen.0,
    }
}

fn write(attempt: &Attempt) -> DeniedAttempt {
    let Tried { namespace, kind, image, user, reason } = attempt.tried.clone();
    let name = Some(attempt.name.clone()).filter(|name| !name.is_empty());
    let (count, first_seen, last_seen) = (attempt.count, Time(attempt.first), Time(attempt.last));
    DeniedAttempt { namespace, kind, name, image, user, reason, count, first_seen, last_seen }
}
