//! qemu-img on images that nobody else has open.

mod info;
mod shrink;
