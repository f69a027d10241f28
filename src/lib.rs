//! Countersign decides which container image digests may run in a cluster, and makes it so.
//!
//! The modules stand in levels, and a module uses only levels below its own (`tests/it/tidy.rs` checks it):
//!
//! | level | module | what |
//! |---|---|---|
//! | 0 | [`domain`] | the decisions: pure values and functions, no clock, no I/O, no randomness |
//! | 1 | [`api`] | the Kubernetes kinds and their conversion into domain values |
//! | 2 | [`adapters`], [`telemetry`] | the only I/O: git, the cluster; logs, metrics, probes |
//! | 3 | [`controllers`] | thin loops: observe, decide (in `domain`), act, record, report |
//! | 4 | [`cli`] | the command line |

pub mod adapters;
pub mod api;
pub mod cli;
pub mod controllers;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod domain;
pub mod telemetry;
