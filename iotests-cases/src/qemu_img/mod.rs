//! qemu-img on images that nobody else has open.

mod grown;
mod info;
mod shrink;
mod untrusted;
