//! A guest's write that is on its way while its node is reopened.

use super::*;
use crate::served::Served;
use crate::threads::with_disk;

/// A reopening of `other`, why it is refused, and the chain and the file that it then has.
struct Change {
    change: fn(Node) -> Node,
    refused: Option<&'static str>,
    chain: &'static str,
    file: &'static str,
}

rows! {
    CHANGES: Change { change, refused, chain, file };
    "gets-a-backing-node" => |node| node.backing("base"), None, "other -> base", BELOW;
    "gets-a-filter-above-its-file" => |node| node.file(FILTER), None, "other", FILTER,
        needs = [Driver("throttle")];
    "gets-another-option" => |node| node.set("detect-zeroes", "on"), None, "other", BELOW;
    "gets-smaller-caches" => |node| node.set("cache-size", 2 * CLUSTER), None, "other", BELOW;
    "stays-as-it-is" => |node| node, None, "other", BELOW;
    "is-to-be-read-only" => |node| node.read_only(true), Some(READ_ONLY), "other", BELOW;
    "is-to-get-an-unknown-file" => |node| node.file("nowhere"),
        Some("Cannot find device='' nor node-name='nowhere'"), "other", BELOW;
}

const BELOW: &str = "other-file";
const FILTER: &str = "limit";
const READ_ONLY: &str = "cannot support read-write users";

rows! {
    THREADS: bool;
    "and-is-in-the-main-thread" => false;
    "and-is-in-an-iothread" => true, host = System;
}

/// Where there is data already.
const WRITTEN: std::ops::Range<u64> = clusters(30..31);

/// See docs/qemu-findings.md.
const NO_GROUP: KnownBug = known(
    "a throttle filter that is opened over a node in an iothread leaves a group before it is in one",
    "died of SIGSEGV",
    ALWAYS,
)
.only(&[&["gets-a-filter-above-its-file", "and-is-in-an-iothread"]]);

/// A write that a guest has sent and that is not done yet goes where the guest sent it, and so does the
/// next one.
#[case(rows = (CHANGES, THREADS), known_bugs = [NO_GROUP])]
async fn a_write_is_not_lost_when_its_node(
    t: &mut Test,
    Change {
        change,
        refused,
        chain,
        file,
    }: &Change,
    threaded: &bool,
) -> CaseResult {
    let images = Images::create(t).await?;
    let (served, at) = Served::holding_cluster(t, &images.other, WRITTEN.start).await?;
    let node = images.other.node().no_backing().file(served.node().node_name(BELOW));
    let limit = Node::throttle("limits", BELOW).node_name(FILTER);
    let vm = t.host().throttle_group("limits", json!({"iops-total": 1000}));
    let vm = vm.blockdev(alone(&images.base));
    let vm = with_disk(vm, node, *threaded);
    let vm = vm.launch().await?;
    if *file == FILTER {
        vm.add_node(limit).await?;
    }
    let before = vm.state().await?;

    let disk = vm.disk("other");
    let write = format!("aio_write -P 0x77 {} {CLUSTER}", WRITTEN.start);
    let write = disk.io(&write);
    let reopened = async {
        served.wait_write(at).await?;
        let reopen = vm.reopen("other", *change);
        match refused {
            None => vm.while_in_flight(reopen, || served.release()).await,
            Some(why) => {
                vm.while_in_flight(reopen.expect_error(*why), || served.release()).await?;
                vm.assert_same_graph_as(&before).await
            }
        }
    };
    tokio::try_join!(write, reopened)?;

    vm.assert_chain(chain).await?;
    vm.assert_block_path("other", "/file", *file).await?;
    let own = own("other").written(0x77, WRITTEN);
    let seen = match *chain {
        "other" => own.clone(),
        _ => own.over(&self::own("base")),
    };
    disk.assert_reads(&seen).await?;
    disk.write(0x78, clusters(31..32)).await?;
    vm.shutdown().await?;
    served.finish().await?;
    images.base.assert_layer(self::own("base")).await?;
    images.other.assert_layer(own.written(0x78, clusters(31..32))).await?;
    images.other.assert_clean().await
}
