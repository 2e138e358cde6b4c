//! Diagnosing a machine: what it is doing, or why it hangs.
//!
//! Each step has its own deadline, and a step that would only block is skipped: a stopped process
//! is not queried over QMP, and after one QMP command without an answer no other is sent.

mod backtrace;
mod collect;
pub mod procfs;
mod report;

pub use collect::Diagnoser;
pub use report::{Backtrace, Diagnosis, QmpFact};
