//! What others may not do to the layers of a commit while it runs.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};
use super::refusals::Attempt;

const BUSY: &str = "is in use by block job: commit";
/// The job uses it as well.
const NO_ROOT: &str = "Need a root block node";
const FROZEN: &str = "Cannot change frozen 'backing' link from 'mid' to 'base'";
const NO_WRITE: &str = "Permission conflict on node 'base': permissions 'write'";
const NO_READ: &str = "Permission conflict on node 'mid': permissions 'consistent read'";

rows! {
    TOPS: Layer;
    "mid" => Layer::Mid;
    "active" => Layer::Top;
}

rows! {
    ATTEMPTS: Attempt { command, arguments, error };
    "commit-again" => "block-commit", again, NO_ROOT;
    "commit-beside" => "block-commit", beside, BUSY;
    "stream" => "block-stream", stream, BUSY;
    "resize-base" => "block_resize", resize, BUSY;
    "write-base" => "block-export-add", write_base, NO_WRITE;
    "read-mid" => "block-export-add", read_mid, NO_READ;
    "reopen" => "blockdev-reopen", without_backing, FROZEN;
}

/// The target of an active commit is a part of the source's chain, which shares writing.
const SHARED: Exclusion = exclude(&["active", "write-base"], "its base may be written to");

fn again(_: &Chain) -> Value {
    json!({"job-id": "other", "device": "top", "top-node": "mid"})
}

/// By another way into the chain, whose first node is used by nothing else.
fn beside(_: &Chain) -> Value {
    json!({"job-id": "other", "device": "filter", "top-node": "mid", "base-node": "base"})
}

fn stream(_: &Chain) -> Value {
    json!({"job-id": "other", "device": "mid"})
}

fn resize(_: &Chain) -> Value {
    json!({"node-name": "base", "size": 4 * MIB})
}

fn write_base(_: &Chain) -> Value {
    json!({"type": "nbd", "id": "other", "node-name": "base", "writable": true})
}

fn read_mid(_: &Chain) -> Value {
    json!({"type": "nbd", "id": "other", "node-name": "mid"})
}

fn without_backing(chain: &Chain) -> Value {
    json!({"options": [chain.mid.node().no_backing()]})
}

/// While a commit runs, nobody else may change its layers, or read those that are no longer what they
/// were; whoever tries changes nothing, and the commit goes on.
#[case(
    needs = [Driver("throttle"), Command("blockdev-reopen")],
    rows = (TOPS, ATTEMPTS), excluded = [SHARED]
)]
async fn are_kept_away(t: &mut Test, top: &Layer, row: &Attempt) -> CaseResult {
    let chain = Chain::create(t, Size::Full).await?;
    let filter = Node::throttle("group", "mid").node_name("filter");
    let vm = t.host().throttle_group("group", json!({}));
    let vm = vm.blockdev(&chain.top).blockdev(filter).launch().await?;
    let _server = vm.nbd_server().start().await?;

    let job = vm.commit("top").top(chain.image(*top)).base(&chain.base).speed(HELD);
    let job = job.start().await?;
    row.assert_refused(&vm, &chain).await?;

    job.set_speed(0).await?;
    if *top == Layer::Top {
        job.complete().await?;
    } else {
        job.wait().await?;
        vm.assert_chain("top -> base").await?;
        vm.assert_read_only(&[("top", false), ("base", true)]).await?;
    }
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    chain.base.assert_layer(chain.merged(*top, Layer::Base)).await
}
