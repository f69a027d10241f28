//! Thin loops: observe, decide, act, record, report.
