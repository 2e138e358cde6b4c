//! qemu-img and qemu-io as typed Rust, and the process runner of the harness.
//!
//! - [`process`] runs programs: pipes drained, deadlines kept, secrets hidden, nothing left behind.
//! - [`tools`] finds QEMU's programs, and says where it looked when it does not.
//! - [`img`] and [`io`] are qemu-img and qemu-io, with the truth about their exit statuses, their
//!   output and their hangs; [`image`] is how images and secrets are named to them.
//! - [`probe`] finds out what a set of tools can really do.
//! - [`raw`] and [`qcow2`] make, verify and damage image files without any tool.
//!
//! Everything works inside and outside of async code: what waits is an `async fn`, and has a twin
//! whose name ends in `_blocking`. No particular runtime is needed, nor any at all.
#![deny(unsafe_code)]

pub mod image;
pub mod img;
pub mod io;
pub mod probe;
pub mod process;
pub mod qcow2;
pub mod raw;
pub mod tools;
