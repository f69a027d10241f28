//! What the tests stand on.

pub mod guarded;
pub mod manifests;
pub mod operator;
pub mod raw;
pub mod registrar;
pub mod repo;
pub mod scene;
pub mod ssh;
pub mod story;
pub mod trap;
