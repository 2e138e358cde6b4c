//! Explaining a machine: what it does, or why it does nothing.
//!
//! Each step has its own deadline, and a step that would only wait is left out: a process
//! that is stopped is not asked over QMP, and after one QMP command without an answer no
//! other is sent.

mod backtrace;
mod collect;
pub mod procfs;
mod report;

pub use collect::Diagnoser;
pub use report::{Backtrace, Diagnosis, QmpFact};
