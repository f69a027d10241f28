//! The integration tests: one binary, one module per subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]
#![allow(
    clippy::default_trait_access,
    clippy::float_cmp,
    clippy::needless_pass_by_value,
    clippy::too_many_lines,
    clippy::type_complexity,
    reason = "a story reads from top to bottom"
)]

mod admission;
mod admission_away;
mod admission_faults;
mod admission_forged;
mod admission_fuzz;
mod admission_goes_on;
mod admission_killed;
mod admission_matrix;
mod admission_undo;
mod beside_argo;
mod beside_flux;
mod beside_helm;
mod certify;
#[path = "../controlplane/mod.rs"]
mod controlplane;
#[path = "controlplane.rs"]
mod controlplane_tests;
mod crds;
mod denied;
mod deploy;
mod destinations;
mod faults;
mod git;
mod git_private;
mod guards;
mod https;
mod ignored;
mod install;
mod installed;
mod kinds;
mod leader;
mod lifecycle;
mod loop_closed;
mod manifest;
mod metrics;
mod mounted;
mod outside;
mod overlays;
mod probes;
mod quickstart;
mod registration;
mod registry;
mod registry_hostile;
mod registry_trust;
mod rules;
mod story_away;
mod story_bare;
mod story_base;
mod story_config;
mod story_counts;
mod story_custom;
mod story_drift;
mod story_failed;
mod story_hold;
mod story_left;
mod story_order;
mod story_overlay;
mod story_pinning;
mod story_place;
mod story_private;
mod story_proof;
mod story_prune;
mod story_push;
mod story_revocation;
mod story_safe;
mod story_tags;
mod story_tenant;
mod story_unlisted;
mod story_withdrawal;
mod support;
mod tidy;
mod unowned;
mod versions;
