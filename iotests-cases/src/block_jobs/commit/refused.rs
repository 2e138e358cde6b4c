//! Commits that are refused, and then have changed nothing.

use iotests_core::prelude::*;

use super::chain::{Chain, Size};
use super::completed::SIZES;
use super::refusals::Refusal;

pub(super) const UNKNOWN_DEVICE: Refusal = Refusal {
    class: "DeviceNotFound",
    ..Refusal::new(
        &[("device", "nonexistent"), ("top", "{mid}")],
        "'nonexistent' not found",
    )
};
const TOP_IS_BASE: Refusal = Refusal::new(
    &[("top", "{base}"), ("base", "{base}")],
    "Can't find '{base}' in the backing chain",
);
pub(super) const MID_TO_MID: Refusal = Refusal::new(
    &[("top", "{mid}"), ("base", "{mid}")],
    "Can't find '{mid}' in the backing chain",
);
pub(super) const UNKNOWN_TOP: Refusal = Refusal::new(
    &[("top", "badfile"), ("base", "{base}")],
    "Top image file badfile not found",
);
pub(super) const UNKNOWN_BASE: Refusal = Refusal::new(
    &[("top", "{mid}"), ("base", "badfile")],
    "Can't find 'badfile' in the backing chain",
);
const UNKNOWN_TOP_NODE: Refusal = Refusal::new(
    &[("top-node", "badfile"), ("base-node", "base")],
    "Cannot find device='' nor node-name='badfile'",
);
const UNKNOWN_BASE_NODE: Refusal = Refusal::new(
    &[("top-node", "mid"), ("base-node", "badfile")],
    "Cannot find device='' nor node-name='badfile'",
);
const TOP_TWICE: Refusal = Refusal::new(
    &[("top-node", "mid"), ("base-node", "base"), ("top", "{mid}")],
    "'top-node' and 'top' are mutually exclusive",
);
const BASE_TWICE: Refusal = Refusal::new(
    &[
        ("top-node", "mid"),
        ("base-node", "base"),
        ("base", "{base}"),
    ],
    "'base-node' and 'base' are mutually exclusive",
);
pub(super) const REVERSED: Refusal = Refusal::new(
    &[("top", "{base}"), ("base", "{mid}")],
    "Can't find '{mid}' in the backing chain",
);
const REVERSED_NODES: Refusal = Refusal::new(
    &[("top-node", "base"), ("base-node", "top")],
    "'top' is not in this backing file chain",
);
const SAME_NODE: Refusal = Refusal::new(
    &[("top-node", "mid"), ("base-node", "mid")],
    "cannot commit an image into itself",
);
const HEADER_OF_ACTIVE: Refusal = Refusal::new(
    &[("base-node", "base"), ("backing-file", "{base}")],
    "'backing-file' specified, but 'top' is the active layer",
);
const TOP_ELSEWHERE: Refusal = Refusal::new(
    &[("top-node", "null"), ("base-node", "base")],
    "'null' is not in this backing file chain",
);

rows! {
    REFUSALS: Refusal;
    "unknown-device" => UNKNOWN_DEVICE, upstream = "test_device_not_found";
    "top-is-base" => TOP_IS_BASE, upstream = "test_top_same_base";
    "unknown-top" => UNKNOWN_TOP, upstream = "test_top_invalid";
    "unknown-base" => UNKNOWN_BASE, upstream = "test_base_invalid";
    "unknown-top-node" => UNKNOWN_TOP_NODE, upstream = "test_top_node_invalid";
    "unknown-base-node" => UNKNOWN_BASE_NODE, upstream = "test_base_node_invalid";
    "top-by-path-and-node" => TOP_TWICE, upstream = "test_top_path_and_node";
    "base-by-path-and-node" => BASE_TWICE, upstream = "test_base_path_and_node";
    "reversed" => REVERSED, upstream = "test_top_and_base_reversed";
    "reversed-nodes" => REVERSED_NODES, upstream = "test_top_and_base_node_reversed";
    "same-node" => SAME_NODE;
    "backing-file-of-active" => HEADER_OF_ACTIVE;
    "top-in-another-chain" => TOP_ELSEWHERE, upstream = "test_top_node_in_wrong_chain";
}

/// A commit between layers that are not a chain is refused, and changes nothing.
#[case(
    upstream = "040::{size}::{refusal}", needs = [Driver("null-co")], rows = (SIZES, REFUSALS)
)]
async fn changes_nothing(t: &mut Test, size: &Size, refusal: &Refusal) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let elsewhere = json!({"driver": "null-co", "node-name": "null", "read-zeroes": true});
    vm.cmd("blockdev-add", elsewhere).await?;

    refusal.assert(vm.commit("top"), chain.names()).await?;

    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}
