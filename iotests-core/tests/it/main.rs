//! Integration tests, in one binary.

mod author;
mod runner;
mod script;

/// Upstream's tests, for the ids that the cases in here declare.
#[iotests_core::case::linkme::distributed_slice(iotests_core::case::UPSTREAM)]
#[linkme(crate = iotests_core::case::linkme)]
static UPSTREAM: &str = include_str!("../../../data/upstream-methods.tsv");
