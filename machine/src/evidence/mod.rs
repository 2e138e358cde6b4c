//! Evidence of a fault: sanitizer and valgrind reports in the output, core files.

mod core_file;
mod reports;

pub use core_file::{CorePattern, find_core};
pub use reports::{Finding, FindingKind, find_reports};
