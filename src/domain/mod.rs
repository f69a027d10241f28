//! The decisions: pure values and functions.

pub mod condition;
pub mod duration;
pub mod manifest;
