//! Streams in chains with filters, and in graphs that are no chains.

use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer};

use Layer::{Base, Mid, Top};

/// `top-filter -> top -> mid-filter -> mid -> base-filter -> base`, and a stream in it.
struct Stream {
    base: Option<&'static str>,
    /// The chain afterwards, as paths from the filter on top.
    line: &'static [&'static str],
    gone: &'static [&'static str],
}

rows! {
    STREAMS: Stream { base, line, gone };
    "all" => None, &["top"],
        &["mid-filter", "mid", "base-filter", "base"];
    "down-to-a-filter" => Some("base-filter"), &["top", "base-filter", "base"],
        &["mid-filter", "mid"];
    "through-a-filter" => Some("base"), &["top", "base"],
        &["mid-filter", "mid", "base-filter"];
    "only-a-filter" => Some("mid"), &["top", "mid", "base-filter", "base"], &["mid-filter"];
}

/// A stream takes out the filters between its layers, and leaves those above and below.
#[case(needs = [Driver("throttle")], rows = STREAMS)]
async fn between_the_layers_go(t: &mut Test, row: &Stream) -> CaseResult {
    // A recorded backing file could not be replaced by a filter.
    let contents = Chain::contents(2 * MIB);
    let image = |name, number: usize| t.image(name).size(2 * MIB).content(&contents[number]);
    let base = image("base", 0).format(RAW).create().await?;
    let (mid, top) = (
        image("mid", 1).create().await?,
        image("top", 2).create().await?,
    );
    let chain = Chain::of([base, mid, top], contents).await?;
    let filter = |name: &str, file: Node| Node::throttle("group", file).node_name(name);
    let base = filter("base-filter", chain.base.node());
    let mid = filter("mid-filter", chain.mid.node().backing(base));
    let top = filter("top-filter", chain.top.node().backing(mid));
    let vm = t.host().throttle_group("group", json!({}));
    let vm = vm.disk(top).launch().await?;
    let all = chain.merged(Top, Base);
    let disk = vm.disk("top-filter");
    disk.assert_reads(&all).await?;

    let job = vm.stream("top");
    let job = match row.base {
        // The header is to name what is behind the filter.
        Some("base-filter") => job.base("base-filter"),
        // Filters make for names that no header should have.
        Some(base) => job.base(base).set("backing-file", "named"),
        None => job,
    };
    job.start().await?.wait().await?;

    vm.assert_no_jobs().await?;
    let mut path = String::new();
    for (above, node) in ["top-filter"].iter().chain(row.line).zip(row.line) {
        path += if above.ends_with("filter") {
            "/file"
        } else {
            "/backing"
        };
        vm.assert_block_path("top-filter", &path, *node).await?;
    }
    vm.assert_block_path("top-filter", &format!("{path}/backing"), None).await?;
    vm.assert_no_nodes(row.gone).await?;
    disk.assert_reads(&all).await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    let header = chain.top.header().await?;
    match row.base {
        Some("base-filter") => header.assert("backing-filename", chain.base.filename()),
        Some(_) => header.assert("backing-filename", "named"),
        None => header.assert_absent("backing-filename"),
    }
}

const NULL_VECTOR: KnownBug = known(
    "a prefetch that has to be padded crashes QEMU (3f934817c8)",
    "died of SIGSEGV",
    before(9, 0),
);

rows! {
    OFFSETS: u64;
    "first-cluster" => 0, upstream = "stream-unaligned-prefetch";
    "second-half" => 1;
    "both-ends" => 3;
}

/// What a stream fetches in advance may be smaller than the least that the layer can write, here a
/// compressed cluster.
#[case(
    upstream = "{at}::TestStreamUnalignedPrefetch::test_stream_unaligned_prefetch",
    formats = [QCOW2], needs = [Driver("compress")], known_bugs = [NULL_VECTOR], rows = OFFSETS
)]
async fn what_is_fetched_may_be_unaligned(t: &mut Test, at: &u64) -> CaseResult {
    let half = CLUSTER / 2;
    let data = Content::nothing().written(0x11, at * half..(at + 1) * half);
    let base = t.image("base").size(MIB).option("cluster_size", half);
    let base = base.content(&data).create().await?;
    let top = t.image("top").size(MIB).create().await?;
    let node = top.node().backing(base.node());
    let compress = Node::new("compress").file(node).node_name("compressing");
    let vm = t.host().blockdev(compress).launch().await?;

    vm.stream("compressing").start().await?.wait().await?;
    vm.node("compressing").assert_reads(&data).await?;
    vm.shutdown().await?;
    top.assert_reads(&data).await?;
    top.assert_clean().await
}

/// A stream into one child of a quorum changes nothing of what the quorum reads, and nothing of the
/// other children.
#[case(upstream = "030::TestQuorum::test_stream_quorum", needs = [Driver("quorum")])]
async fn a_child_of_a_quorum(t: &mut Test) -> CaseResult {
    let data = Content::nothing().numbered(0x20, clusters(0..12));
    let (mut children, mut files) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let backing = t.image(&format!("backing-{number}")).size(MIB);
        let backing = backing.content(&data).create().await?;
        let child = t.image(&format!("child-{number}")).backing(&backing);
        children.push(child.create().await?);
        files.push(backing.file_bytes()?);
    }
    let quorum = Node::quorum(2, children.iter().map(Image::node)).node_name("quorum");
    let vm = t.host().disk(quorum).launch().await?;
    vm.disk("quorum").assert_reads(&data).await?;

    let job = vm.stream("child-0").speed(HELD).start().await?;
    vm.disk("quorum").write(0x77, clusters(14..15)).await?;
    job.set_speed(0).await?;
    job.wait().await?;

    let now = data.clone().written(0x77, clusters(14..15));
    vm.assert_chain("child-0").await?;
    vm.assert_chain("child-1 -> backing-1").await?;
    vm.disk("quorum").assert_reads(&now).await?;
    vm.shutdown().await?;
    files.iter().try_for_each(FileBytes::assert_unchanged)?;
    children[0].assert_layer(&now).await?;
    children[0].header().await?.assert_absent("backing-filename")?;
    let own = Content::nothing().written(0x77, clusters(14..15));
    children[1].assert_layer(&own).await?;
    children[2].assert_layer(own).await
}

/// A stream in an iothread, below throttle filters of which one has limits, comes to its end.
#[case(
    upstream = "stream-under-throttle::TestStreamWithThrottle::test_stream", groups = [THROTTLE],
    needs = [Driver("throttle")], host = System, guest = Native
)]
async fn below_throttles_it_ends(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(32 * MIB).fill(0x11).create().await?;
    let top = t.image("top").backing(&base).create().await?;
    let limits = json!({"iops-total": 10000, "bps-total": 100 * MIB});
    let unlimited = Node::throttle("unlimited", top.node());
    let limited = Node::throttle("limited", unlimited).node_name("limited");
    let vm = t.host().iothread("t0").throttle_group("unlimited", json!({}));
    let vm = vm.throttle_group("limited", limits);
    let vm = vm.disk(Disk::of(limited).iothread("t0")).launch().await?;

    vm.stream("top").start().await?.wait().await?;
    vm.assert_chain("top").await?;
    vm.shutdown().await?;
    top.assert_fill(0x11).await?;
    top.assert_clean().await
}

/// Resetting a machine drains its disks; a stream in one of them that then fails does it no harm.
#[case(
    upstream = "stream-error-on-reset::TestStreamErrorOnReset::test_stream_error_on_reset",
    formats = [QCOW2], needs = [Driver("throttle"), Driver("blkdebug")], host = System
)]
async fn a_reset_ends_one_that_fails(t: &mut Test) -> CaseResult {
    let data = Content::nothing().written(0x11, 0..CLUSTER);
    let base = t.image("base").size(MIB).content(&data).create().await?;
    let top = t.image("top").size(MIB).create().await?;
    let file = top.protocol_node();
    let fails = json!([{"event": "pwritev", "immediately": true, "once": true}]);
    let file = Node::new("blkdebug").child("image", file).set("inject-error", fails);
    let slow = base.node().file(Node::throttle("slow", base.protocol_node()));
    let disk = top.node().file(file).backing(slow);
    let vm = t.host().throttle_group("slow", json!({"bps-total": 4 * CLUSTER}));
    let vm = vm.disk(Disk::of(disk).scsi()).launch().await?;

    let mut job = vm.stream("top").start().await?;
    job.wait_status("running").await?;
    vm.cmd("system_reset", ()).await?;
    job.wait().expect_error("Input/output error").await?;
    vm.assert_no_jobs().await?;
    vm.assert_chain("top -> base").await?;
    vm.disk("top").assert_reads(&data).await?;
    vm.shutdown().await?;
    top.assert_clean().await
}
