//! Jobs, as handles that track their state.
//!
//! A job is followed from before its command is sent, so no event is missed. It has its own event
//! queue: two jobs, or a case that waits for other events, do not take events from each other.
//! Nothing here depends on an order of events that QEMU does not guarantee.

mod builder;
mod handle;
mod number;
mod run;
#[cfg(test)]
mod tests;
mod transaction;

pub use builder::JobBuilder;
pub use handle::{Ended, Ending, Job, Outcome};
pub(super) use number::Numbers;
pub use run::Run;
pub use transaction::Transaction;
