//! What a process leaves behind after a fault: reports of sanitizers and of
//! valgrind in its output, core files.

mod core_file;
mod reports;

pub use core_file::{CorePattern, find_core};
pub use reports::{Finding, FindingKind, find_reports};
