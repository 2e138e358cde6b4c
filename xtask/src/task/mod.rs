//! One module per task.

pub(crate) mod bench;
pub(crate) mod coverage;
pub(crate) mod iotests;
pub(crate) mod test;
