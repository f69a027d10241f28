//! Conditions in the shape the API server knows, and as the domain thinks of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;

use crate::domain::condition::{Condition, Recorded, Status};

/// Reads a condition from an object's status.
pub fn from_api(condition: &meta::Condition) -> Recorded {
    Recorded {
        condition: Condition {
            type_: condition.type_.clone(),
            status: Status::read(&condition.status),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        },
        observed_generation: condition.observed_generation,
        last_transition: condition.last_transition_time.0,
    }
}

/// Writes a condition into an object's status.
pub fn to_api(recorded: &Recorded) -> meta::Condition {
    meta::Condition {
        type_: recorded.condition.type_.clone(),
        status: recorded.condition.status.as_str().to_owned(),
        reason: recorded.condition.reason.clone(),
        message: recorded.condition.message.clone(),
        observed_generation: recorded.observed_generation,
        last_transition_time: meta::Time(recorded.last_transition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_survives_the_way_to_the_api_server_and_back() {
        let recorded = Recorded {
            condition: Condition::new("Ready", Status::False, "HeldBack", "the head does not descend"),
            observed_generation: Some(7),
            last_transition: "2026-11-20T09:00:00Z".parse().unwrap(),
        };
        assert_eq!(from_api(&to_api(&recorded)), recorded);
    }
}
