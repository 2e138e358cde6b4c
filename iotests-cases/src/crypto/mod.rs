//! Encrypted images.

mod key_management;
mod sharing;
