//! Interventions, to the wire and back.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::release_history::{Intervention as Wire, InterventionEffect, InterventionWay},
    domain::intervention::{Effect, Intervention, Way},
};

pub(super) fn read(wire: &Wire) -> Intervention {
    Intervention {
        way: match wire.way {
            InterventionWay::ReleaseHold => Way::ReleaseHold,
            InterventionWay::Retry => Way::Retry,
        },
        value: wire.value.clone(),
        at: wire.at.0,
        effect: match wire.effect {
            InterventionEffect::Done => Effect::Done,
            InterventionEffect::NothingToDo => Effect::NothingToDo,
            InterventionEffect::StillRevoked => Effect::StillRevoked,
        },
        release: wire.release.clone(),
    }
}

pub(super) fn write(taken: &Intervention) -> Wire {
    Wire {
        way: match taken.way {
            Way::ReleaseHold => InterventionWay::ReleaseHold,
            Way::Retry => InterventionWay::Retry,
        },
        value: taken.value.clone(),
        at: Time(taken.at),
        effect: match taken.effect {
            Effect::Done => InterventionEffect::Done,
            Effect::NothingToDo => InterventionEffect::NothingToDo,
            Effect::StillRevoked => InterventionEffect::StillRevoked,
        },
        release: taken.release.clone(),
    }
}
