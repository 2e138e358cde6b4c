//! A binary's capabilities, determined by running it.
//!
//! [`probe`] launches it a few times (about 0.2 s for an emulator) and returns plain data that the
//! caller can cache, keyed by the identity of the file. The QMP schema, some 200 KiB, is returned
//! separately.

mod ask;
mod data;
mod help;

pub use crate::program::Program;
pub use ask::{ProbeError, Probed, probe};
pub use data::{AccelTrial, Capabilities, DeviceType, Formats, MachineType};
