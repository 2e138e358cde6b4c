//! One module per task.

pub(crate) mod bench;
pub(crate) mod codegen;
pub(crate) mod coverage;
pub(crate) mod dist;
mod fetch;
pub(crate) mod iotests;
mod libraries;
mod room;
pub(crate) mod sharpness;
mod skips;
pub(crate) mod test;
