//! Streams that are refused, and then have changed nothing.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};
use super::refusals::Refusal;
use crate::block_jobs::null;

use Layer::{Base, Mid, Top};

const NOT_BELOW: &str = "is not a backing image of 'top'";
const ENTIRE: &str = "backing file specified, but streaming the entire chain";
const BOTH: &str = "cannot be specified at the same time";

rows! {
    REFUSALS: Refusal { arguments, text };
    "unknown-device" => &[("device", "nonexistent")],
        "Cannot find device='nonexistent' nor node-name='nonexistent'",
        upstream = "030::TestSingleDrive::test_device_not_found";
    "unknown-base" => &[("base", "badfile")], "Can't find 'badfile' in the backing chain";
    "base-is-top" => &[("base", "{top}")], "Can't find '{top}' in the backing chain";
    "unknown-base-node" => &[("base-node", "none")],
        "Cannot find device='' nor node-name='none'",
        upstream = "030::TestParallelOps::test_stream_base_node_name";
    "base-node-elsewhere" => &[("base-node", "null")], NOT_BELOW,
        upstream = "030::TestParallelOps::test_stream_base_node_name";
    "base-node-is-top" => &[("base-node", "top")], NOT_BELOW,
        upstream = "030::TestParallelOps::test_stream_base_node_name";
    "base-node-above" => &[("device", "mid"), ("base-node", "top")],
        "'top' is not a backing image of 'mid'";
    "base-by-path-and-node" => &[("base", "{base}"), ("base-node", "base")], BOTH,
        upstream = "030::TestParallelOps::test_stream_base_node_name";
    "base-and-bottom" => &[("base-node", "base"), ("bottom", "mid")], BOTH;
    "bottom-and-backing-file" => &[("bottom", "mid"), ("backing-file", "x")], ENTIRE;
    "unknown-bottom" => &[("bottom", "none")],
        "Cannot find device='' nor node-name='none'";
    "bottom-elsewhere" => &[("bottom", "null")],
        "Node 'null' is not in a chain starting from 'top'";
    "backing-file-without-base" => &[("backing-file", "x")], ENTIRE;
    "filter-name-in-use" => &[("filter-node-name", "null")],
        "Duplicate nodes with node-name='null'";
    "unknown-policy" => &[("on-error", "retry")],
        "Parameter 'on-error' does not accept value 'retry'";
}

/// A stream that cannot be done is refused, and changes nothing.
#[case(needs = [Driver("null-co")], rows = REFUSALS)]
async fn changes_nothing(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let elsewhere = null("null", chain.size).set("read-zeroes", true);
    vm.add_node(elsewhere).await?;

    refusal.assert(vm.stream("top"), chain.names()).await?;

    chain.assert_guest_reads_each_layer(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

rows! {
    IDS: Option<&str>;
    "missing" => None, upstream = "030::TestSingleDrive::test_job_id_missing";
    "malformed" => Some("1 2");
}

/// A stream needs a job ID: without one it would get the name of the drive, and a node has none.
#[case(rows = IDS)]
async fn needs_a_job_id(t: &mut Test, id: &Option<&str>) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = chain.launch(t).await?;
    let mut arguments = json!({"device": "mid"});
    if let Some(id) = id {
        arguments["job-id"] = (*id).into();
    }
    let why = format!("Invalid job ID '{}'", id.unwrap_or_default());
    vm.cmd("block-stream", arguments).refused(why).await?;
    chain.assert_guest_reads_each_layer(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

/// Where there is nothing to be written to, nothing is streamed.
#[case(upstream = "030::TestSingleDrive::test_read_only")]
async fn a_read_only_file_is_left_alone(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let other = t.image("other").size(chain.size).create().await?;
    let vm = chain.launch(t).await?;
    let file = other.protocol_node().read_only(true);
    let node = other.node().read_only(true).file(file).backing("mid");
    vm.add_node(node).await?;
    vm.stream("other").base("base").refused("Block node is read-only").await?;
    vm.remove_node("other").await?;
    chain.assert_guest_reads_each_layer(&vm).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}

/// The middle layer, which is writable, and the top, which is not.
async fn writable_mid(t: &Test, chain: &Chain) -> CaseResult<Machine> {
    let mid = chain.mid.node().read_only(false);
    let top = chain.top.node().read_only(true).backing("mid");
    t.host().blockdev(mid).blockdev(top).launch().await
}

const CONFLICT: &str = "Permission conflict on node 'mid'";

/// A middle layer that a client may write to cannot be streamed away, and one that is streamed away
/// cannot be written to.
#[case]
async fn a_layer_that_is_written_to_stays(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = writable_mid(t, &chain).await?;
    let export = vm.export("mid").writable().await?;
    let client = export.open().await?;
    vm.stream("top").base("base").expect_error(CONFLICT).await?;
    vm.stream("top").expect_error(CONFLICT).await?;
    vm.assert_chain("top -> mid -> base").await?;
    vm.assert_read_only(&[("top", true), ("mid", false), ("base", true)]).await?;
    client.write(0x77, Chain::FREE).await?;
    export.remove().await?;

    let job = vm.stream("top").base("base").speed(HELD).start().await?;
    vm.export("mid").id("late").writable().expect_error(CONFLICT).await?;
    job.set_speed(0).await?;
    job.wait().await?;
    vm.assert_chain("top -> base").await?;
    vm.shutdown().await?;
    let mid = chain.content(Mid).clone().written(0x77, Chain::FREE);
    chain.mid.assert_layer(&mid).await?;
    chain.top.assert_layer(chain.content(Top).over(&mid)).await?;
    chain.assert_unchanged(&[Base])
}

const LEFT_BEHIND: KnownBug = known(
    "a stream that is refused because of a lower layer leaves a user of the upper one behind",
    "x-debug-query-block-graph shows a change",
    ALWAYS,
);

/// A stream that is refused because of a lower layer leaves no user of a node behind.
#[case(known_bugs = [LEFT_BEHIND])]
async fn leaves_no_user_behind(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let vm = writable_mid(t, &chain).await?;
    let _export = vm.export("mid").writable().await?;
    let before = vm.state().await?;
    vm.stream("top").expect_error(CONFLICT).await?;
    vm.assert_same_graph_as(&before).await?;
    vm.shutdown().await?;
    chain.assert_files_unchanged()
}
