//! Goldens: the expected text output of a case, kept in a file beside the case.
//!
//! The golden of the case `nbd::block_status::map` is `src/nbd/block_status.map.golden`. A variant
//! has its conditions in its name: `…map@raw.golden`, `…map@qcow2+nbd.golden`, `…map@8.0.golden`
//! (from QEMU 8.0 on). The files are embedded in the binary, which therefore works alone.
//!
//! A text that differs or has no golden fails the case. Blessing never changes a golden: it writes
//! a pending file, which a person accepts after reviewing the diff. If `CI` is set, nothing is
//! blessed: a machine would only accept its own mistakes.

mod diff;
mod review;
mod store;

pub use diff::{Style, diff};
pub use review::{Answer, Pending, ReviewError, Summary, pending, review};
pub use store::{
    BlessError, GOLDENS, Golden, GoldenError, Goldens, Selection, golden_name, is_ci, write_pending,
};
