//! What is seen from outside: logs, metrics, and what is served.

pub mod http;
pub mod https;
pub mod logs;
pub mod metrics;

pub use logs::{LogFormat, init_logs};
pub use metrics::Metrics;
