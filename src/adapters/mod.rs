//! The only I/O: git, kustomize and the cluster.

pub mod certificate;
pub mod cluster;
pub mod git;
pub mod kustomize;
pub mod registry;

/// An error with everything that caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
