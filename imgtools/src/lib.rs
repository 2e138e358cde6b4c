//! qemu-img and qemu-io as typed Rust, and a process runner that leaves nothing behind.
//!
//! - [`process`] runs programs: drains pipes, enforces deadlines, redacts secrets, leaves nothing
//!   behind.
//! - [`tools`] finds QEMU's programs, and reports where it looked when it cannot.
#![cfg_attr(
    all(feature = "img", feature = "io"),
    doc = "- [`img`] and [`io`] are qemu-img and qemu-io, with the truth about their exit statuses, their
  output and their hangs; [`image`] is how images and secrets are named to them."
)]
#![cfg_attr(
    feature = "probe",
    doc = "- [`probe`] finds out what a set of tools can really do."
)]
#![cfg_attr(
    feature = "luks",
    doc = "- [`luks`] makes encrypted images with keys at once, where QEMU takes a second for each."
)]
#![cfg_attr(
    all(feature = "raw", feature = "qcow2"),
    doc = "- [`raw`] and [`qcow2`] make, verify and damage image files without any tool."
)]
//!
//! Each module but the first two is behind a feature of its name, apart from file names and options
//! in [`image`]; all but `luks` are on by default.
//!
//! Everything works inside and outside of async code: everything that waits is an `async fn`, with
//! a twin whose name ends in `_blocking`. No async runtime is required.

#[cfg_attr(
    not(any(feature = "img", feature = "io")),
    allow(dead_code, reason = "`img` and `io` use it")
)]
pub mod image;
#[cfg(feature = "img")]
pub mod img;
#[cfg(feature = "io")]
pub mod io;
#[cfg(feature = "luks")]
pub mod luks;
#[cfg(feature = "probe")]
pub mod probe;
pub mod process;
#[cfg(feature = "qcow2")]
pub mod qcow2;
#[cfg(feature = "raw")]
pub mod raw;
pub mod tools;

// The examples of the README are compiled as doc tests.
#[cfg(all(doctest, feature = "img"))]
#[doc = include_str!("../README.md")]
struct Readme;
