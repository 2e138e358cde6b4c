//! Mirrors that are refused, and then have changed nothing.

use iotests_core::prelude::*;

use super::pair::{NODES, ONTO, Onto, Pair};
use super::{HELD, NEGATIVE_SPEED, null};

const NO_NODE: &str = "Cannot find device='nonexistent' nor node-name='nonexistent'";

/// A mirror of a node that does not exist is refused, and changes nothing.
#[case(upstream = "041::{onto}::test_device_not_found", rows = ONTO)]
async fn needs_a_source(t: &mut Test, onto: &Onto) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let job = pair.mirror(&vm).set("device", "nonexistent");
    job.refused(NO_NODE).await?;
    vm.shutdown().await?;
    pair.assert_source_unchanged()
}

rows! {
    COMMANDS: Onto { command, size: MIB };
    "drive" => "drive-mirror";
    "blockdev" => "blockdev-mirror";
}

/// An invalid argument.
struct Wrong {
    name: &'static str,
    value: fn() -> Value,
    text: &'static str,
}

const GRANULARITY: &str = "Parameter 'granularity' expects a value in range [512B, 64MB]";

rows! {
    ARGUMENTS: Wrong { name, value, text };
    "granularity-of-no-power-of-2" => "granularity", || 65537.into(),
        "Parameter 'granularity' expects a power of 2";
    "small-granularity" => "granularity", || 256.into(), GRANULARITY;
    "large-granularity" => "granularity", || (128 * MIB).into(), GRANULARITY;
    "negative-buffer" => "buf-size", || (-1).into(), "Invalid parameter 'buf-size'";
    "negative-speed" => "speed", || (-1).into(), NEGATIVE_SPEED;
    "incremental" => "sync", || "incremental".into(), "Sync mode 'incremental' not supported";
    "by-bitmap" => "sync", || "bitmap".into(), "Sync mode 'bitmap' not supported";
    "replaces-nobody" => "replaces", || "nonexistent".into(),
        "Failed to find node with node-name='nonexistent'";
    "unknown-policy" => "on-target-error", || "auto2".into(),
        "Parameter 'on-target-error' does not accept value 'auto2'";
}

/// A mirror with an invalid argument is refused, and changes nothing.
#[case(rows = (COMMANDS, ARGUMENTS))]
async fn needs_valid_arguments(t: &mut Test, onto: &Onto, wrong: &Wrong) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let job = pair.mirror(&vm).set(wrong.name, (wrong.value)());
    job.refused(wrong.text).await?;
    vm.shutdown().await?;
    pair.assert_source_unchanged()
}

rows! {
    TARGETS: (&str, &str);
    "itself" => ("top", "Can't mirror node into itself"), upstream = "test_mirror_to_self";
    "its-backing-node" => ("base",
        "Node 'base' is busy: node is used as backing hd of 'top'");
    "nowhere" => ("nonexistent", NO_NODE);
    "the-disk-of-a-guest" => ("guest", "Permission conflict on node 'guest'");
    "a-read-only-node" => ("read-only", "Block node is read-only");
    "the-target-of-another-job" => ("busy",
        "Node 'busy' is busy: block device is in use by block job: mirror");
}

/// A mirror to a node that something else uses is refused, and changes nothing.
#[case(
    upstream = "041::{onto}::{target}", needs = [Driver("null-co")], rows = (NODES, TARGETS)
)]
async fn needs_a_target_of_its_own(t: &mut Test, onto: &Onto, target: &(&str, &str)) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch_on(t.host().hotplug()).await?;
    for name in ["guest", "busy"] {
        vm.add_node(null(name, onto.size)).await?;
    }
    vm.add_node(null("read-only", onto.size).read_only(true)).await?;
    vm.plug("guest").await?;
    let other = vm.mirror("copy").to("busy").speed(HELD).start().await?;
    other.pause().await?;

    let (node, text) = *target;
    vm.mirror("top").to(node).refused(text).await?;

    other.force_cancel().await?;
    vm.shutdown().await?;
    pair.assert_source_unchanged()
}

rows! {
    DRIVES: Onto { command: "drive-mirror", size };
    "full" => MIB, upstream = "TestSingleDrive";
    "empty" => 0, upstream = "TestSingleDriveZeroLength";
    "unaligned" => 1025 * KIB, upstream = "TestSingleDriveUnalignedLength";
}

rows! {
    FILES: (&str, &str, &str);
    "a-file-that-is-not-there" => ("mode", "existing", "No such file or directory"),
        upstream = "test_image_not_found";
    "an-unknown-format" => ("format", "nonsense", "Unknown file format 'nonsense'");
    "a-node-name-in-use" => ("node-name", "base", "Duplicate nodes with node-name='base'");
    "a-folder" => ("target", "/", "Could not create '/': Is a directory");
}

/// A mirror to a file that cannot be opened is refused, and makes none.
#[case(upstream = "041::{onto}::{file}", rows = (DRIVES, FILES))]
async fn needs_a_file_to_copy_to(
    t: &mut Test,
    onto: &Onto,
    file: &(&str, &str, &str),
) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    let (argument, value, text) = *file;
    let job = pair.mirror(&vm).set(argument, value);
    job.refused(text).await?;
    vm.shutdown().await?;
    pair.assert_source_unchanged()
}

/// A drive without a medium has nothing to mirror.
#[case(
    upstream = "041::{onto}::test_medium_not_found", host = System, rows = ONTO,
    needs = [Device("ide-cd"), Driver("null-co")]
)]
async fn needs_a_medium(t: &mut Test, onto: &Onto) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = t.host().disk(&pair.top).drive(Drive::empty());
    let vm = vm.launch().await?;
    vm.add_node(null("nobody", onto.size)).await?;
    let target = if onto.command == "drive-mirror" {
        pair.copy.filename()
    } else {
        "nobody"
    };
    let job = json!({"device": "drive0", "target": target, "sync": "full"});
    let job = vm.job(onto.command, job);
    job.refused("Device 'drive0' has no medium").await?;
    vm.shutdown().await?;
    pair.assert_source_unchanged()
}

rows! {
    OTHERS: fn(u64) -> u64;
    "half-as-large" => |size| size / 2, upstream = "test_small_target";
    "twice-as-large" => |size| size * 2, upstream = "test_large_target";
    "a-sector-smaller" => |size| size - 512;
    "a-sector-larger" => |size| size + 512;
}

/// A mirror to a target of another size fails as soon as it runs, and the guest stays where it is.
#[case(
    upstream = "041::{onto}::{resized}", needs = [Driver("null-co")], rows = (NODES, OTHERS),
    excluded = [
        exclude(&["empty", "half-as-large"], "there is nothing smaller than nothing"),
        exclude(&["empty", "twice-as-large"], "it has the same size"),
        exclude(&["empty", "a-sector-smaller"], "there is nothing smaller than nothing"),
    ]
)]
async fn needs_a_target_of_the_same_size(
    t: &mut Test,
    onto: &Onto,
    resized: &fn(u64) -> u64,
) -> CaseResult {
    let pair = Pair::create(t, onto).await?;
    let vm = pair.launch(t).await?;
    vm.add_node(null("other", resized(onto.size))).await?;
    let before = vm.state().await?;

    let job = vm.mirror("top").to("other").start().await?;
    let why = "Source and target image have different sizes";
    job.wait().expect_error(exactly(why)).await?;

    vm.assert_unchanged_since(&before).await?;
    vm.disk("top").assert_reads(pair.before()).await?;
    vm.shutdown().await?;
    pair.assert_source_unchanged()
}
