//! The decisions: pure values and functions, no clock, no I/O, no randomness, no unordered iteration.

pub mod condition;
pub mod dependency;
pub mod drift;
pub mod duration;
pub mod guard;
pub mod image;
pub mod inventory;
pub mod ledger;
pub mod manifest;
pub mod ownership;
pub mod pattern;
pub mod plan;
pub mod policy;
pub mod push;
pub mod reach;
pub mod release;
pub mod rollout;
pub mod workload;
