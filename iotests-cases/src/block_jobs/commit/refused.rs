//! Commits that are refused, and then have changed nothing.

use iotests_core::prelude::*;

use super::chain::{Chain, Size, UNSUPPORTED, commit};

use Size::{Full, Zero};

/// A commit that must not start.
pub(super) struct Refusal {
    /// What is asked for. `{base}`, `{mid}` and `{top}` stand for the names of the files.
    arguments: &'static [(&'static str, &'static str)],
    class: &'static str,
    text: &'static str,
}

impl Refusal {
    const fn new(arguments: &'static [(&'static str, &'static str)], text: &'static str) -> Self {
        Refusal {
            arguments,
            class: "GenericError",
            text,
        }
    }

    /// The job is refused, and the machine is as it was. `names` are those of the files of base, mid
    /// and top.
    pub(super) async fn assert(&self, mut job: JobBuilder, names: [&str; 3]) -> CaseResult {
        let [base, mid, top] = names;
        let expand = |text: &str| {
            let text = text.replace("{base}", base).replace("{mid}", mid);
            text.replace("{top}", top)
        };
        for (name, value) in self.arguments {
            job = job.set(name, expand(value));
        }
        job.refused_class(self.class, &*expand(self.text)).await
    }
}

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
const REFUSALS: &[Row<(Size, Refusal)>] = &[
    Row::new("unknown-device", (Full, UNKNOWN_DEVICE))
        .upstream("040::TestSingleDrive::test_device_not_found"),
    Row::new("top-is-base", (Full, TOP_IS_BASE))
        .upstream("040::TestSingleDrive::test_top_same_base"),
    Row::new("unknown-top", (Full, UNKNOWN_TOP)).upstream("040::TestSingleDrive::test_top_invalid"),
    Row::new("unknown-base", (Full, UNKNOWN_BASE))
        .upstream("040::TestSingleDrive::test_base_invalid"),
    Row::new("unknown-top-node", (Full, UNKNOWN_TOP_NODE))
        .upstream("040::TestSingleDrive::test_top_node_invalid"),
    Row::new("unknown-base-node", (Full, UNKNOWN_BASE_NODE))
        .upstream("040::TestSingleDrive::test_base_node_invalid"),
    Row::new("top-by-path-and-node", (Full, TOP_TWICE))
        .upstream("040::TestSingleDrive::test_top_path_and_node"),
    Row::new("base-by-path-and-node", (Full, BASE_TWICE))
        .upstream("040::TestSingleDrive::test_base_path_and_node"),
    Row::new("reversed", (Full, REVERSED))
        .upstream("040::TestSingleDrive::test_top_and_base_reversed"),
    Row::new("reversed-nodes", (Full, REVERSED_NODES))
        .upstream("040::TestSingleDrive::test_top_and_base_node_reversed"),
    Row::new("same-node", (Full, SAME_NODE)),
    Row::new("backing-file-of-active", (Full, HEADER_OF_ACTIVE)),
    Row::new("top-in-another-chain", (Full, TOP_ELSEWHERE))
        .upstream("040::TestSingleDrive::test_top_node_in_wrong_chain"),
    Row::new("empty-unknown-device", (Zero, UNKNOWN_DEVICE))
        .upstream("040::TestActiveZeroLengthImage::test_device_not_found"),
    Row::new("empty-top-is-base", (Zero, TOP_IS_BASE))
        .upstream("040::TestActiveZeroLengthImage::test_top_same_base"),
    Row::new("empty-unknown-top", (Zero, UNKNOWN_TOP))
        .upstream("040::TestActiveZeroLengthImage::test_top_invalid"),
    Row::new("empty-unknown-base", (Zero, UNKNOWN_BASE))
        .upstream("040::TestActiveZeroLengthImage::test_base_invalid"),
    Row::new("empty-unknown-top-node", (Zero, UNKNOWN_TOP_NODE))
        .upstream("040::TestActiveZeroLengthImage::test_top_node_invalid"),
    Row::new("empty-unknown-base-node", (Zero, UNKNOWN_BASE_NODE))
        .upstream("040::TestActiveZeroLengthImage::test_base_node_invalid"),
    Row::new("empty-top-by-path-and-node", (Zero, TOP_TWICE))
        .upstream("040::TestActiveZeroLengthImage::test_top_path_and_node"),
    Row::new("empty-base-by-path-and-node", (Zero, BASE_TWICE))
        .upstream("040::TestActiveZeroLengthImage::test_base_path_and_node"),
    Row::new("empty-reversed", (Zero, REVERSED))
        .upstream("040::TestActiveZeroLengthImage::test_top_and_base_reversed"),
    Row::new("empty-reversed-nodes", (Zero, REVERSED_NODES))
        .upstream("040::TestActiveZeroLengthImage::test_top_and_base_node_reversed"),
    Row::new("empty-top-in-another-chain", (Zero, TOP_ELSEWHERE))
        .upstream("040::TestActiveZeroLengthImage::test_top_node_in_wrong_chain"),
];

/// A commit that names no chain of layers is refused, and changes nothing.
#[case(formats = [QCOW2, QED], groups = [RW, AUTO, JOB, BACKING], unsupported_imgopts = UNSUPPORTED, needs = [Driver("null-co")], host = Host::Any, rows = REFUSALS)]
async fn changes_nothing(t: &mut Test, (size, refusal): &(Size, Refusal)) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let elsewhere = json!({"driver": "null-co", "node-name": "null", "read-zeroes": true});
    vm.cmd("blockdev-add", elsewhere).await?;

    refusal.assert(commit(&vm), chain.names()).await?;

    chain.assert_nodes_unchanged(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}
