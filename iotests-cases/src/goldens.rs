//! The goldens of this crate, embedded by its build script.

use iotests_core::author::golden::{GOLDENS, Golden};
use iotests_core::case::linkme;

#[linkme::distributed_slice(GOLDENS)]
#[linkme(crate = iotests_core::case::linkme)]
static TABLE: &[Golden] = include!(concat!(env!("OUT_DIR"), "/goldens.rs"));
