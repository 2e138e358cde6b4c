//! Accelerators, and how to keep a guest from running.
//!
//! Most block-layer tests want a machine whose guest does nothing. Upstream uses `-accel qtest`,
//! which distribution builds lack and the help never lists; [`Mode`] says what a test needs, and
//! [`Mode::plan`] finds the arguments that provide it on this binary.

mod plan;
mod rom;

pub use plan::{Accel, Mode, NoPlan, Plan};
pub use rom::idle_rom;
