//! The qtest protocol (system/qtest.c): a line based request-reply protocol by which a
//! test moves the virtual clock, and reads and writes ports and memory in place of a CPU.
//!
//! A qtest socket can be opened under any accelerator, but only `-accel qtest` has a clock
//! that stands still and can be moved; elsewhere the clock commands fail with
//! [`QtestError::NoVirtualClock`].

mod client;
mod codec;

pub use client::{Qtest, QtestError};
pub use codec::{Irq, Line, LineError, Request, Width};
