//! What is seen from outside: logs, metrics, probes.

pub mod http;
pub mod logs;
pub mod metrics;

pub use logs::{LogFormat, init_logs};
pub use metrics::Metrics;
