//! What the tests stand on.

pub mod beside;
pub mod configured;
pub mod distribution;
pub mod flux;
pub mod guarded;
pub mod manifests;
pub mod operator;
pub mod pods;
pub mod raw;
pub mod registrar;
pub mod registry;
pub mod repo;
pub mod scene;
pub mod service;
pub mod ssh;
pub mod story;
pub mod trap;
pub mod way;
