//! What others may and may not do to the layers of a stream while it runs.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};
use super::refusals::Attempt;

use Layer::{Base, Mid, Top};

const BUSY: &str = "is in use by block job: stream";
/// The filter of the job uses it.
const NO_ROOT: &str = "Need a root block node";

rows! {
    ATTEMPTS: Attempt { command, arguments, error };
    "stream-again" => "block-stream", again, BUSY;
    "stream-below" => "block-stream", below, BUSY;
    "commit" => "block-commit", commit, NO_ROOT;
    "resize-top" => "block_resize", |_| json!({"node-name": "top", "size": 4 * MIB}), BUSY;
    "resize-mid" => "block_resize", |_| json!({"node-name": "mid", "size": 4 * MIB}), BUSY;
    "reopen" => "blockdev-reopen", without_backing,
        "Cannot change frozen 'backing' link from 'top' to 'mid'";
    "rename-mid" => "change-backing-file", rename, NO_ROOT;
    "remove-top" => "blockdev-del", |_| json!({"node-name": "top"}), BUSY;
    "same-id" => "block-stream", |_| json!({"job-id": "job", "device": "other"}),
        "Job ID 'job' already in use";
    "same-filter" => "block-stream", same_filter, "Duplicate nodes with node-name='named'";
}

fn again(_: &Chain) -> Value {
    json!({"job-id": "more", "device": "top"})
}

fn below(_: &Chain) -> Value {
    json!({"job-id": "more", "device": "mid"})
}

fn commit(_: &Chain) -> Value {
    json!({"job-id": "more", "device": "top", "top-node": "mid", "base-node": "base"})
}

fn without_backing(chain: &Chain) -> Value {
    json!({"options": [chain.top.node().no_backing()]})
}

fn rename(chain: &Chain) -> Value {
    json!({"device": "top", "image-node-name": "mid", "backing-file": chain.base})
}

fn same_filter(_: &Chain) -> Value {
    json!({"job-id": "more", "device": "other", "filter-node-name": "named"})
}

/// While a stream runs, nobody else may change its layers; whoever tries changes nothing, and the
/// stream goes on.
#[case(needs = [Command("blockdev-reopen")], rows = ATTEMPTS)]
async fn are_kept_away(t: &mut Test, row: &Attempt) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let other = t.image("other").size(MIB).create().await?;
    let vm = t.host().blockdev(&chain.top).blockdev(&other).launch().await?;
    let _server = vm.nbd_server().start().await?;
    let job = vm.stream("top").id("job").set("filter-node-name", "named");
    let job = job.speed(HELD).start().await?;
    vm.assert_block_path("named", "/file", "top").await?;
    vm.assert_chain("top -> mid -> base").await?;
    row.assert_refused(&vm, &chain).await?;

    job.set_speed(0).await?;
    job.wait().await?;
    vm.assert_no_nodes(&["named", "mid", "base"]).await?;
    vm.assert_chain("top").await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    chain.top.assert_reads(chain.merged(Top, Base)).await
}

/// A layer that is streamed into may be written to in the meantime, and those above it be read.
#[case]
async fn may_write_to_the_layer(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let mid = chain.mid.node().read_only(false);
    let top = chain.top.node().read_only(true).backing("mid");
    let vm = t.host().blockdev(mid).blockdev(top).hotplug();
    let vm = vm.launch().await?;
    let writer = vm.plug(Disk::of("mid").id("writer")).await?;

    let job = vm.stream("mid").speed(HELD).start().await?;
    writer.write(0x77, Chain::FREE).await?;
    job.set_speed(0).await?;
    job.wait().await?;
    writer.write(0x78, clusters(0..1)).await?;

    vm.assert_chain("top -> mid").await?;
    vm.assert_read_only(&[("mid", false), ("top", true)]).await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Top])?;
    let merged = chain.merged(Mid, Base).written(0x77, Chain::FREE);
    let merged = merged.written(0x78, clusters(0..1));
    chain.mid.assert_reads(&merged).await?;
    chain.top.assert_reads(chain.content(Top).over(&merged)).await
}
