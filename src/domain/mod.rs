//! The decisions: pure values and functions.

pub mod manifest;
