//! Mirrors of nodes that neither a drive nor an export has.

use iotests_core::prelude::*;

defaults! { formats = [RAW], needs = [Driver("null-co")] }

fn null(name: &str) -> Node {
    super::null(name, MIB)
}

/// A machine with a source that nobody uses and two targets, one of them read-only.
async fn orphans(t: &Test) -> CaseResult<Machine> {
    let read_only = null("dest-ro").read_only(true);
    let vm = t.host().blockdev(null("src")).blockdev(null("dest"));
    let vm = vm.tolerate("Permission conflict on node 'dest'");
    vm.blockdev(read_only).launch().await
}

/// Mirroring a node without a drive needs a job ID.
#[case(upstream = "041::TestOrphanedSource::test_no_job_id")]
async fn a_node_without_a_drive_needs_a_job_id(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    let arguments = json!({"device": "src", "target": "dest", "sync": "full"});
    let nameless = vm.cmd("blockdev-mirror", arguments.clone());
    nameless.refused("Invalid job ID ''").await?;
    let named = vm.job("blockdev-mirror", arguments).id("");
    named.refused("Invalid job ID ''").await?;
    vm.shutdown().await?;
    Ok(())
}

/// An unused node can be mirrored, and stays as unused as it was.
#[case(upstream = "041::TestOrphanedSource::test_success")]
async fn an_unused_node_is_mirrored(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    let before = vm.state().await?;
    vm.mirror("src").to("dest").start().await?.complete().await?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    Ok(())
}

/// A target that cannot be written to is refused.
#[case(upstream = "041::TestOrphanedSource::test_failing_permissions")]
async fn a_read_only_target_is_refused(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    let job = vm.mirror("src").to("dest-ro");
    job.refused("Block node is read-only").await?;
    vm.shutdown().await?;
    Ok(())
}

/// When the users of the source and those of the target have conflicting permissions, a mirror fails when it
/// completes, and everything is as before but for its own node, which is gone.
#[case(
    upstream = "041::TestOrphanedSource::test_failing_permission_in_complete",
    needs = [Driver("blkdebug")]
)]
async fn conflicting_permissions_fail_completion(t: &mut Test) -> CaseResult {
    let vm = orphans(t).await?;
    // This does not conflict with the mirror, whose target need not be consistent.
    let user = |name: &str, on: &str| {
        let node = Node::new("blkdebug").node_name(name);
        node.child("image", on)
    };
    let read = json!(["consistent-read"]);
    let on_target = user("dest-perm", "dest").set("unshare-child-perms", read.clone());
    vm.add_node(on_target).await?;
    let job = vm.mirror("src").to("dest");
    let mut job = job.set("filter-node-name", "mirror-filter").start().await?;
    vm.add_node(user("src-perm", "src").set("take-child-perms", read)).await?;
    job.wait_ready().await?;
    job.complete().expect_error("Operation not permitted").await?;

    vm.assert_no_jobs().await?;
    vm.assert_no_nodes(&["mirror-filter"]).await?;
    for (user, used) in [("src-perm", "src"), ("dest-perm", "dest")] {
        vm.assert_block_path(user, "/image", used).await?;
    }
    vm.shutdown().await?;
    Ok(())
}
