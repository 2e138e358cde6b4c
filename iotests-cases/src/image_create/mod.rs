//! Making images with `blockdev-create`, one module for each format.

mod qcow2;

pub(crate) use qcow2::zeroes_take_place;
