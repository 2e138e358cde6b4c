//! Making images with `blockdev-create`, one module for each format.

mod qcow2;
