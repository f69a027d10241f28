//! The decisions: pure values and functions, no clock, no I/O, no randomness, no unordered iteration.

pub mod bare;
pub mod blocked;
pub mod condition;
pub mod dependency;
pub mod destination;
pub mod drift;
pub mod duration;
pub mod guard;
pub mod image;
pub mod intervention;
pub mod inventory;
pub mod kustomization;
pub mod ledger;
pub mod manifest;
pub mod ownership;
pub mod pattern;
pub mod plan;
pub mod pods;
pub mod policy;
pub mod push;
pub mod reach;
pub mod release;
pub mod rollout;
pub mod version;
pub mod workload;
