//! The only I/O: git and the cluster.

pub mod cluster;
pub mod git;
