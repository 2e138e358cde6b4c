//! Jobs as handles that know their state.
//!
//! A job is followed from before its command is sent, so no event is missed, and its events are its
//! own: two jobs, or a case that waits for other events, do not take them from each other. Nothing
//! here depends on the order of events that QEMU does not promise.

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
