//! Copy-on-read: what is read from below is in the image then.

use std::ops::Range;

use super::*;

defaults! { needs = [Driver("copy-on-read")] }

rows! {
    /// How large the backing file is; the image ends in a cluster.
    BELOW: u64;
    "over-a-longer-one" => 2 * MIB;
    "over-one-of-the-same-size" => END;
    "over-one-that-ends-in-the-same-cluster" => END - KIB;
    "over-a-shorter-one" => MIB / 2;
}

const END: u64 = MIB + 3 * KIB;

/// A read of a part copies whole clusters, up to the end of the image; what is read is the same before and
/// after.
#[case(rows = BELOW)]
async fn takes_whole_clusters_to_the_end(t: &mut Test, below: &u64) -> CaseResult {
    let base = t.image("base").size(*below).fill(0x11).create().await?;
    let top = t.image("top").size(END).backing(&base);
    let top = top.write(0x22, 0..512).create().await?;
    let filter = Node::new("copy-on-read").node_name("filter").file(top.node());
    let vm = t.host().blockdev(filter).launch().await?;
    let shown = Content::nothing().written(0x11, 0..*below.min(&END));
    for part in [4 * CLUSTER + 512..4 * CLUSTER + 1024, END - 512..END] {
        let byte = shown.byte_at(part.start);
        vm.node("filter").assert_pattern(byte, part).await?;
    }
    vm.shutdown().await?;
    top.assert_reads(Content::of(&[(0x22, 0..512)]).over(&shown)).await?;
    let layer = top.own_layer().await?;
    for part in [4 * CLUSTER..5 * CLUSTER, 16 * CLUSTER..END] {
        let there = |it: &Range<u64>| it.start <= part.start && it.end >= part.end;
        // An NBD client asks where there are zeroes, and does not read these.
        let zeroes = shown.byte_at(part.end - 512) == 0;
        let copied = zeroes || layer.present.iter().any(there);
        check!(
            copied,
            "{part:x?} is not in the image, only {:x?}",
            layer.present
        );
    }
    check!(!layer.present.iter().any(|it| it.contains(&(8 * CLUSTER))));
    top.assert_clean().await?;
    base.assert_fill(0x11).await
}

/// In what way a read copies.
enum Way {
    Filter,
    Drive,
    Tool,
    Stream,
}

rows! {
    WAYS: Way;
    "by-a-filter" => Way::Filter;
    "by-a-drive" => Way::Drive, host = System;
    "by-a-tool" => Way::Tool, host = Host::None;
    "by-a-stream" => Way::Stream;
}

/// The unit of a cluster with 32 parts.
const PART: u64 = CLUSTER / 32;

/// See docs/qemu-findings.md.
const ABORTS: KnownBug = known(
    "copy-on-read into an image with subclusters aborts QEMU (fc6b211f92)",
    "bdrv_co_do_copy_on_readv: Assertion `skip_bytes < pnum'",
    before(8, 2),
);

/// Around what is in some parts of a cluster already, a read takes what is missing, and writes over nothing.
#[case(rows = WAYS, known_bugs = [ABORTS])]
async fn takes_what_is_missing_of_a_cluster(t: &mut Test, way: &Way) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let top = t.image("top").option("extended_l2", "on").backing(&base).create().await?;
    let own = Content::nothing().written(0x22, 0..PART).zeroes(CLUSTER + PART..CLUSTER + 3 * PART);
    let own = own.written(0x33, 3 * CLUSTER - PART..3 * CLUSTER + PART);
    let own = own.written(0x44, 5 * CLUSTER + 5 * PART..5 * CLUSTER + 7 * PART);
    top.write_all(&own).await?;
    let shown = own.over(&Content::nothing().written(0x11, 0..MIB));
    let read = [
        PART..CLUSTER,
        CLUSTER..4 * CLUSTER - 512,
        5 * CLUSTER + 3 * PART + 512..5 * CLUSTER + 5 * PART,
    ];
    let commands = read.each_ref().map(|it| format!("read {} {}", it.start, it.end - it.start));
    match way {
        Way::Filter => {
            let filter = Node::new("copy-on-read").node_name("filter").file(top.node());
            let vm = t.host().blockdev(filter).launch().await?;
            vm.node("filter").io_all(commands).await?;
            vm.shutdown().await?;
        }
        Way::Drive => {
            let drive = Drive::of(&top).interface("none").option("copy-on-read", "on");
            let vm = t.host().drive(drive).launch().await?;
            vm.node("drive0").io_all(commands).await?;
            vm.shutdown().await?;
        }
        Way::Tool => {
            let mut session = top.session_with(&["-C"]).await?;
            for command in commands {
                session.run(command).await?;
            }
            session.close().await?;
        }
        Way::Stream => {
            let vm = t.host().blockdev(&top).launch().await?;
            vm.stream("top").start().await?.wait().await?;
            vm.shutdown().await?;
        }
    }
    top.assert_reads(&shown).await?;
    let layer = top.own_layer().await?;
    for part in read {
        let there = |it: &Range<u64>| it.start <= part.start && it.end >= part.end;
        check!(
            layer.present.iter().any(there),
            "{part:x?} is not in the image, only {:x?}",
            layer.present
        );
    }
    let rest = |it: &Range<u64>| it.contains(&(8 * CLUSTER));
    check!(layer.present.iter().any(rest) == matches!(way, Way::Stream));
    top.assert_clean().await?;
    base.assert_fill(0x11).await
}
