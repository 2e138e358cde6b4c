//! What cannot be changed, and that trying it changes nothing.

use super::*;

type Change = fn(Node) -> Node;

/// A node that is reopened, and with what it cannot be.
struct Setup {
    /// The images whose nodes are there before it.
    below: &'static [&'static str],
    node: fn(&Images) -> Node,
    wrong: &'static [(Change, &'static str)],
    /// Other ways to say the options that it has.
    same: &'static [Change],
}

rows! {
    SETUPS: Setup { below, node, wrong, same };
    "an-image" => &[], |images| alone(&images.base).without("backing"), IMAGE,
        &[|node| node.file("base-file"), |node| node.without("file.node-name")],
        upstream = "test_incorrect_parameters_single_file";
    "an-image-without-its-recorded-backing" => &[], |images| recorded(&images.top), RECORDED, &[],
        upstream = "test_incorrect_parameters_backing_file";
    "an-image-with-its-backing" => &[], |images| alone(&images.top).backing(alone(&images.base)),
        OVERLAY, &[|node| node.backing("base"), |node| node.without("backing.node-name")],
        upstream = "test_incorrect_parameters_backing_file";
    "the-options-of-qcow2" => &[], |images| alone(&images.base), QCOW2_OPTIONS, &[],
        upstream = "test_reopen";
    "a-file-without-locks" => &[], |images| locking(&images.base, "off"), WITHOUT_LOCKS, &[],
        upstream = "test_reset_default_values";
    "a-file-with-locks" => &[], |images| locking(&images.base, "on"), WITH_LOCKS, &[],
        upstream = "test_misc_drivers";
    "the-file-itself" => &[], |images| part(&locking(&images.base, "on"), "file"), FILE_ITSELF, &[],
        upstream = "test_misc_drivers";
    "blkdebug" => &[], |images| blkdebug(alone(&images.base)), BLKDEBUG, &[],
        needs = [Driver("blkdebug")], upstream = "test_misc_drivers";
    "null" => &[], |_| Node::new("null-co").node_name("null").set("size", SIZE), NULL, &[],
        needs = [Driver("null-co")], upstream = "test_misc_drivers";
    "quorum" => &["base", "top"], |_| Node::quorum(1, ["base", "top"]).node_name("all"),
        QUORUM, &[], needs = [Driver("quorum")], upstream = "test_misc_drivers";
    "blkverify" => &["base", "top"], |_| blkverify(), BLKVERIFY, &[],
        needs = [Driver("blkverify")], upstream = "test_graph_cycles";
}

const NO_NODE: &str = "Cannot find device='' nor node-name='nowhere'";
const NO_NAME: &str = "Cannot find device='' nor node-name=''";
const NOT_A_STRING: &str = ".driver', expected: string";
const NOT_A_NAME: &str = ".node-name', expected: string";

const IMAGE: &[(Change, &str)] = &[
    (
        |node| node.node_name("nowhere"),
        "Failed to find node with node-name='nowhere'",
    ),
    (
        |node| node.node_name(""),
        "Failed to find node with node-name=''",
    ),
    (|node| node.set("node-name", ()), NOT_A_NAME),
    (|node| node.without("node-name"), "node-name not specified"),
    (
        |node| node.set("driver", "raw"),
        "Cannot change the option 'driver'",
    ),
    (|node| node.set("driver", ""), "does not accept value ''"),
    (|node| node.set("driver", ()), NOT_A_STRING),
    (|node| node.file("nowhere"), NO_NODE),
    (|node| node.file(""), NO_NAME),
    (|node| node.set("file", ()), "'file', expected: BlockdevRef"),
    (
        |node| node.set("file.node-name", "base-file2"),
        "Cannot change the option 'node-name'",
    ),
    (
        |node| node.set("file.driver", "host_device"),
        "Cannot change the option 'driver'",
    ),
    (
        |node| node.set("file.filename", "/dev/null"),
        "Cannot change the option 'filename'",
    ),
    (
        |node| node.set("file.filename", ()),
        "file.filename', expected: string",
    ),
    (
        |node| node.set("file.aio", "native"),
        "Cannot change the option 'aio'",
    ),
    (
        |node| node.set("file.locking", "off"),
        "Cannot change the option 'locking'",
    ),
    (|node| node.backing("nowhere"), NO_NODE),
    (
        |node| node.backing("base"),
        "Making 'base' a backing child of 'base' would create a cycle",
    ),
];

const RECORDED: &[(Change, &str)] = &[
    (|node| node, "backing is missing for 'top'"),
    (|node| node.backing("nowhere"), NO_NODE),
    (|node| node.backing(""), NO_NAME),
];

const OVERLAY: &[(Change, &str)] = &[
    (
        |node| node.set("backing.node-name", "base2"),
        "Cannot change the option 'node-name'",
    ),
    (|node| raw(node), "Cannot change the option 'driver'"),
    (
        |node| node.set("backing.file.node-name", "f2"),
        "Cannot change the option 'node-name'",
    ),
    (
        |node| node.set("backing.file.driver", "host_device"),
        "Cannot change the option 'driver'",
    ),
    (
        |node| node.set("backing.file.locking", "off"),
        "Cannot change the option 'locking'",
    ),
    // What is above it could be changed.
    (
        |node| raw(node).set("detect-zeroes", "on"),
        "Cannot change the option 'driver'",
    ),
];

const QCOW2_OPTIONS: &[(Change, &str)] = &[
    (
        |node| node.set("force-share", true),
        "Cannot change the option 'force-share'",
    ),
    (
        |node| node.set("l2-cache-entry-size", 128 * KIB),
        "must be a power of two between 512",
    ),
    (
        |node| node.set("l2-cache-size", MIB).set("cache-size", 512 * KIB),
        "l2-cache-size may not exceed cache-size",
    ),
    (
        |node| node.set("detect-zeroes", "unmap"),
        "without setting discard operation to unmap",
    ),
    (
        |node| node.read_only(true).set("overlap-check", "x"),
        "does not accept value 'x'",
    ),
];

const NO_LOCKING: &str = "Cannot change the option 'locking'";
const NO_DEFAULT: &str = "Option 'locking' cannot be reset to its default value";

const WITHOUT_LOCKS: &[(Change, &str)] = &[
    (|node| node.set("file.locking", "on"), NO_LOCKING),
    (|node| node.without("file.locking"), NO_DEFAULT),
];

const WITH_LOCKS: &[(Change, &str)] = &[
    (|node| node.set("file.locking", "off"), NO_LOCKING),
    (|node| node.without("file.locking"), NO_DEFAULT),
];

const FILE_ITSELF: &[(Change, &str)] = &[
    (|node| node.set("locking", "off"), NO_LOCKING),
    (|node| node.without("locking"), NO_DEFAULT),
];

const BLKDEBUG_IMAGE: &str = "Cannot change the option 'image'";

const BLKDEBUG: &[(Change, &str)] = &[
    (|node| node.child("image", "other"), BLKDEBUG_IMAGE),
    (
        |node| node.set("align", 32 * MIB),
        "Cannot change the option 'align'",
    ),
    (
        |node| node.set("config", "/nowhere"),
        "Cannot change the option 'config'",
    ),
    (
        |node| node.without("config"),
        "Option 'config' cannot be reset to its default value",
    ),
];

const NULL: &[(Change, &str)] = &[
    (
        |node| node.set("size", 1_u64 << 30),
        "Cannot change the option 'size'",
    ),
    (
        |node| node.without("size"),
        "Option 'size' cannot be reset to its default value",
    ),
];

const QUORUM: &[(Change, &str)] = &[
    (
        |node| node,
        "'quorum' used by node 'all' does not support reopening files",
    ),
    (
        |_| cycle("all"),
        "Making 'all' a backing child of 'base' would create a cycle",
    ),
];

const BLKVERIFY: &[(Change, &str)] = &[
    (
        |node| node,
        "'blkverify' used by node 'both' does not support reopening files",
    ),
    (
        |_| cycle("both"),
        "Making 'both' a backing child of 'base' would create a cycle",
    ),
];

fn locking(image: &Image, mode: &str) -> Node {
    alone(image).set("file.locking", mode)
}

/// A raw node has no backing node.
fn raw(node: Node) -> Node {
    node.set("backing.driver", "raw").without("backing.backing")
}

fn blkdebug(image: Node) -> Node {
    let node = Node::new("blkdebug").node_name("debug");
    node.set("config", "/dev/null").child("image", image)
}

fn blkverify() -> Node {
    let verify = Node::new("blkverify").node_name("both");
    verify.child("test", "base").child("raw", "top")
}

/// The base on top of what stands on it.
fn cycle(user: &str) -> Node {
    let base = Node::new("qcow2").node_name("base").file("base-file");
    base.backing(user)
}

/// An invalid change is refused as a whole: no node changes. Repeating the current options is accepted.
#[case(upstream = "245::TestBlockdevReopen::{setup}", rows = SETUPS)]
async fn changes_nothing(t: &mut Test, setup: &Setup) -> CaseResult {
    let images = Images::create(t).await?;
    let node = (setup.node)(&images);
    let vm = t.host().disk(Disk::of(alone(&images.other)));
    let below = [&images.base, &images.top].into_iter();
    let below = below.filter(|image| setup.below.contains(&image.name()));
    let vm = below.fold(vm, |vm, image| vm.blockdev(alone(image)));
    let vm = vm.blockdev(&node).launch().await?;
    let before = vm.state().await?;
    let good = alone(&images.other).set("detect-zeroes", "on");

    vm.disk("other").io("aio_write -P 0x11 1920k 64k").await?;
    for (change, says) in setup.wrong {
        let wrong = change(node.clone());
        for nodes in [vec![&wrong], vec![&good, &wrong], vec![&wrong, &good]] {
            let refusal = vm.reopen_all(nodes).refused(*says).await;
            refusal.context(wrong.to_string())?;
        }
    }
    for change in setup.same {
        vm.reopen_all([change(node.clone())]).await?;
    }

    vm.assert_unchanged_since(&before).await?;
    let written = own("other").written(0x11, clusters(30..31));
    vm.disk("other").assert_reads(&written).await?;
    vm.shutdown().await?;
    images.other.assert_layer(written).await?;
    images.base.assert_layer(own("base")).await?;
    images.top.assert_layer(own("top")).await
}
