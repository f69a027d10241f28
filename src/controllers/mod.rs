//! Thin loops: observe, decide (in `domain`), act, record, report.

pub mod queue;
