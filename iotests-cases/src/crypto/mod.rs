//! Encrypted images.

mod key_management;
