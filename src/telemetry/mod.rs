//! What is seen from outside: logs, metrics, probes.

pub mod logs;

pub use logs::{LogFormat, init_logs};
