//! The qtest protocol (system/qtest.c): a line-based request-reply protocol with which a test
//! advances the virtual clock, and accesses ports and memory in place of a CPU.
//!
//! A qtest socket can be opened under any accelerator, but only `-accel qtest` has a clock under
//! the test's control; elsewhere the clock commands fail with [`QtestError::NoVirtualClock`].

mod client;
mod codec;

pub use client::{Qtest, QtestError};
pub use codec::{Irq, Line, LineError, Request, Width};
