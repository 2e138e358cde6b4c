//! qemu-img on images that nobody else has open.

mod converted;
mod created;
mod emptied;
mod grown;
mod info;
mod mapped;
mod measured;
mod rebased;
mod shrink;
mod untrusted;
