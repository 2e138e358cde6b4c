//! Commits that are refused, and then have changed nothing.

use iotests_core::prelude::*;

use super::chain::{Chain, Size};
use super::completed::SIZES;
use super::refusals::Refusal;
use crate::block_jobs::null;

rows! {
    REFUSALS: Refusal { arguments, text };
    "top-is-base" => &[("top", "{base}"), ("base", "{base}")],
        "Can't find '{base}' in the backing chain", upstream = "test_top_same_base";
    "unknown-top" => &[("top", "badfile"), ("base", "{base}")],
        "Top image file badfile not found", upstream = "test_top_invalid";
    "unknown-base" => &[("top", "{mid}"), ("base", "badfile")],
        "Can't find 'badfile' in the backing chain", upstream = "test_base_invalid";
    "unknown-top-node" => &[("top-node", "badfile"), ("base-node", "base")],
        "Cannot find device='' nor node-name='badfile'", upstream = "test_top_node_invalid";
    "unknown-base-node" => &[("top-node", "mid"), ("base-node", "badfile")],
        "Cannot find device='' nor node-name='badfile'", upstream = "test_base_node_invalid";
    "top-by-path-and-node" => &[("top-node", "mid"), ("base-node", "base"), ("top", "{mid}")],
        "'top-node' and 'top' are mutually exclusive", upstream = "test_top_path_and_node";
    "base-by-path-and-node" => &[("top-node", "mid"), ("base-node", "base"), ("base", "{base}")],
        "'base-node' and 'base' are mutually exclusive", upstream = "test_base_path_and_node";
    "reversed" => &[("top", "{base}"), ("base", "{mid}")],
        "Can't find '{mid}' in the backing chain", upstream = "test_top_and_base_reversed";
    "reversed-nodes" => &[("top-node", "base"), ("base-node", "top")],
        "'top' is not in this backing file chain", upstream = "test_top_and_base_node_reversed";
    "same-node" => &[("top-node", "mid"), ("base-node", "mid")],
        "cannot commit an image into itself";
    "backing-file-of-active" => &[("base-node", "base"), ("backing-file", "{base}")],
        "'backing-file' specified, but 'top' is the active layer";
    "top-in-another-chain" => &[("top-node", "null"), ("base-node", "base")],
        "'null' is not in this backing file chain", upstream = "test_top_node_in_wrong_chain";
}

/// A commit between layers that are not a chain is refused, and changes nothing.
#[case(
    upstream = "040::{size}::{refusal}", needs = [Driver("null-co")], rows = (SIZES, REFUSALS)
)]
async fn changes_nothing(t: &mut Test, size: &Size, refusal: &Refusal) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let elsewhere = null("null", chain.size).set("read-zeroes", true);
    vm.add_node(elsewhere).await?;

    refusal.assert(vm.commit("top"), chain.names()).await?;

    chain.assert_guest_reads_each_layer(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

/// A commit of a device that does not exist is refused, and changes nothing.
#[case(upstream = "040::{size}::test_device_not_found", rows = SIZES)]
async fn needs_a_device(t: &mut Test, size: &Size) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    assert_no_such_device(&vm, chain.mid.filename()).await?;
    chain.assert_guest_reads_each_layer(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

/// A commit of a device that does not exist, down from this layer, is refused.
pub(super) async fn assert_no_such_device(vm: &Machine, top: &str) -> CaseResult {
    let why = exactly("Device 'nonexistent' not found");
    let job = vm.commit("nonexistent").set("top", top);
    job.refused_class("DeviceNotFound", why).await
}
