//! Children that a node gets or loses while it is in use (`x-blockdev-change`).

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], groups = [RW, QUICK], host = Any,
    needs = [Driver("quorum"), Command("x-blockdev-change")],
}

struct Refusal {
    arguments: fn() -> Value,
    error: &'static str,
}

rows! {
    REFUSALS: Refusal { arguments, error };
    "parent-that-is-not-there" => || json!({"parent": "nobody", "node": "spare"}),
        "Cannot find device='nobody' nor node-name='nobody'";
    "node-that-is-not-there" => || json!({"parent": "three", "node": "nobody"}),
        "Node 'nobody' not found";
    "neither-child-nor-node" => || json!({"parent": "three"}),
        "Either child or node must be specified";
    "child-and-node" => || json!({"parent": "three", "child": "children.0", "node": "spare"}),
        "The parameters child and node are in conflict";
    "parent-without-children" => || json!({"parent": "spare", "node": "one"}),
        "does not support adding a child";
    "parent-that-compares-two" => || json!({"parent": "two", "node": "spare"}),
        "Cannot add a child to a quorum in blkverify mode";
    "last-but-threshold" => || json!({"parent": "two", "child": "children.1"}),
        "The number of children cannot be lower than the vote threshold 2";
    "child-that-is-not-there" => || json!({"parent": "three", "child": "children.9"}),
        "Node 'three' does not have child 'children.9'";
    "child-that-has-it" => || json!({"parent": "three", "node": "three"}),
        "Making 'three' a children.3 child of 'three' would create a cycle";
}

/// Adding or removing an invalid child is refused and changes nothing; both quorums work as before.
#[case(rows = REFUSALS)]
async fn are_refused(t: &mut Test, refusal: &Refusal) -> CaseResult {
    let image = |name: &str| t.image(name).size(MIB).fill(0x11).create();
    let (a, b) = (image("a").await?, image("b").await?);
    let (one, other) = (image("one").await?, image("other").await?);
    let (third, spare) = (image("third").await?, image("spare").await?);
    let two = Node::quorum(2, [a.node(), b.node()]).node_name("two");
    let three = Node::quorum(2, [one.node(), other.node(), third.node()]).node_name("three");
    let host = t.host().blockdev(two.set("blkverify", true));
    let vm = host.blockdev(three).blockdev(&spare).launch().await?;

    vm.cmd("x-blockdev-change", (refusal.arguments)()).refused(refusal.error).await?;

    for quorum in ["two", "three"] {
        vm.node(quorum).write(0x22, 0..CLUSTER).await?;
        vm.node(quorum).assert_pattern(0x22, 0..CLUSTER).await?;
        vm.node(quorum).assert_pattern(0x11, CLUSTER..MIB).await?;
    }
    vm.shutdown().await?;
    for image in [a, b, one, other, third] {
        image.assert_reads(&[(0x22, 0..CLUSTER), (0x11, CLUSTER..MIB)]).await?;
    }
    spare.assert_fill(0x11).await
}
