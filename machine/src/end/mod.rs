//! The end of a process: the steps that led to it, what it left behind, and whether it was
//! expected.

mod exit;
mod expected;

use std::time::Duration;

pub(crate) use exit::Judgement;
pub use exit::{DropReport, EndError, Exit, Stage, StageOutcome, StageRecord};
pub use expected::Expected;

/// Sends SIGTERM until the process has exited, ten times within the budget, which the caller
/// enforces: a storage daemon misses one that comes just before it begins to wait.
pub(crate) async fn terminate<E, X: Future>(
    budget: Duration,
    send: impl Fn() -> Result<(), E>,
    exited: impl Fn() -> X,
) -> Result<(), E> {
    loop {
        send()?;
        if tokio::time::timeout(budget / 10, exited()).await.is_ok() {
            return Ok(());
        }
    }
}
