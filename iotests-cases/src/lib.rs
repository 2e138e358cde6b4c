//! Test cases of QEMU's block layer, by area.
//!
//! A case is a plain `async fn` with `#[case(…)]` above it; its name is the path of its module and
//! its own, its doc line is its description. Text that is itself under test lies beside the case in
//! a `.golden` file.

mod bitmaps;
mod block_jobs;
mod crypto;
mod goldens;
mod image_create;
mod migration;
mod nbd;
mod qemu_img;
