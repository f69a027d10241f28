//! The integration tests: one binary, one module per subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod crds;
mod metrics;
mod probes;
mod tidy;
mod manifest;
#[path = "../controlplane/mod.rs"]
mod controlplane;
#[path = "controlplane.rs"]
mod controlplane_tests;
mod kinds;
mod git;
mod support;
