//! The end of a process: the steps that led to it, what it left behind, and whether it was
//! expected.

mod exit;
mod expected;

pub(crate) use exit::Judgement;
pub use exit::{DropReport, EndError, Exit, Stage, StageOutcome, StageRecord};
pub use expected::Expected;
