//! What a binary can do, asked of the binary itself.
//!
//! [`probe`] launches it a few times (about 0.2 s for an emulator) and gives plain data that
//! can be cached by the caller, keyed by what identifies the file. The QMP schema, which is
//! some 200 KiB, stands beside it.

mod ask;
mod data;
mod help;

pub use crate::program::Program;
pub use ask::{ProbeError, Probed, probe};
pub use data::{AccelTrial, Capabilities, DeviceType, Formats, MachineType};
