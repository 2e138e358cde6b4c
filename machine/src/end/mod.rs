//! The end of a process: what was done to bring it about, what it left, and whether that
//! is what was expected.

mod exit;
mod expected;

pub(crate) use exit::Judgement;
pub use exit::{DropReport, EndError, Exit, Stage, StageOutcome, StageRecord};
pub use expected::Expected;
