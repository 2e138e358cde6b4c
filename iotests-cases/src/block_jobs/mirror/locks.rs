//! Who else may write to an image while it is mirrored: nobody, if its user does not share it. A guest's device
//! does not. An export does, so that on a storage daemon a blkdebug node stands for the device.

use iotests_core::prelude::*;

use super::null;

defaults! {
    formats = [RAW], needs = [Driver("null-co")],
    upstream = ["mirror-top-perms::TestMirrorTopPerms::test_cancel"],
}

/// While its disk is mirrored, an image stays locked against other processes, so that the machine still
/// has it when the mirror is cancelled.
#[case(host = System)]
async fn nobody_else_gets_the_image(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(MIB).fill(0x11).create().await?;
    let vm = t.host().disk(&source).blockdev(null("null", MIB));
    let vm = vm.launch().await?;
    let mut job = vm.mirror("source").to("null").start().await?;
    job.wait_ready().await?;

    let file = source.protocol_node().node_name("other");
    let other = Disk::of(file).property("share-rw", true);
    let other = t.vm().name("other").disk(other);
    other.expect_launch_error("Is another process using the image").await?;
    check!(job.cancel().await?.outcome == Outcome::Completed);

    vm.disk("source").assert_node("source").await?;
    vm.disk("source").write(0x22, 0..CLUSTER).await?;
    vm.shutdown().await?;
    source.assert_pattern(0x22, 0..CLUSTER).await?;
    source.assert_pattern(0x11, CLUSTER..MIB).await
}

/// What a node above a mirror does not share stays locked against other processes, while the mirror runs and
/// when it has gone.
#[case(needs = [Driver("blkdebug")])]
async fn a_user_above_keeps_others_out(t: &mut Test) -> CaseResult {
    let source = t.image("source").size(MIB).fill(0x11).create().await?;
    let vm = t.host().blockdev(&source).blockdev(null("null", MIB));
    let vm = vm.launch().await?;
    let job = vm.mirror("source").to("null");
    let mut job = job.set("filter-node-name", "filter").start().await?;
    job.wait_ready().await?;
    source.io(["write -P 0x22 0 64k"]).await?;

    let user = Node::new("blkdebug").node_name("user");
    let user = user.child("image", "filter");
    let user = user.set("take-child-perms", ["write"]);
    vm.add_node(user.set("unshare-child-perms", ["write"])).await?;
    let why = "Failed to get \"write\" lock";
    let write = ["write -P 0x33 0 64k"];
    source.io(write).expect_error(why).await?;
    check!(job.cancel().await?.outcome == Outcome::Completed);
    vm.assert_block_path("user", "/image", "source").await?;
    source.io(write).expect_error(why).await?;

    vm.remove_node("user").await?;
    source.io(["write -P 0x44 64k 64k"]).await?;
    vm.shutdown().await?;
    let written = Content::nothing().written(0x11, 0..MIB);
    let written = written.written(0x22, clusters(0..1));
    source.assert_reads(written.written(0x44, clusters(1..2))).await
}
