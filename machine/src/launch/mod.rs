//! From a builder to a running machine.
//!
//! Ready means: the greeting was received and the capabilities negotiated. The end of the
//! stream and the end of the process are watched meanwhile; nothing is polled.

mod detached;
mod failure;
mod monitor;
mod prepare;
mod run;

pub(crate) use detached::launch_detached;
pub(crate) use prepare::Cleanup;
pub(crate) use run::launch;
