//! Test cases of QEMU's block layer, by area.
//!
//! A case is a plain `async fn` with `#[case(…)]` above it; its name is the path of its module and
//! its own, its doc line is its description. Text that is itself under test lies beside the case in
//! a `.golden` file.

mod bitmaps;
mod block_jobs;
mod crypto;
mod damaged;
mod goldens;
mod graph;
mod image_create;
mod json;
mod migration;
mod nbd;
mod qcow2;
mod qemu_img;
mod requests;
mod served;
mod shorter;
mod threads;
mod walk;

/// Upstream's tests, for the ids that cases declare.
#[iotests_core::case::linkme::distributed_slice(iotests_core::case::UPSTREAM)]
#[linkme(crate = iotests_core::case::linkme)]
static UPSTREAM: &str = include_str!("../../data/upstream-methods.tsv");
