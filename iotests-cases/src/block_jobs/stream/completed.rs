//! Streams that run to their end.

use std::ops::Range;

use imgtools::img::BitmapAction;
use iotests_core::prelude::*;

use super::HELD;
use super::chain::{Chain, Layer, Size};

use Layer::{Base, Mid, Top};
use Size::{Full, Zero};

// A layer is looked for by the path of its file, which an export lacks.
defaults! { protocols = [FILE, FUSE] }

/// A stream into a layer, and how the command says where it ends.
struct Stream {
    into: Layer,
    end: End,
}

/// The first layer that stays, by the path of its file or its node, or the last one that goes.
#[derive(Clone, Copy)]
enum End {
    Nowhere,
    Path(Layer),
    Node(Layer),
    Bottom(Layer),
}
use End::{Bottom, Node, Nowhere, Path};

rows! {
    SIZES: Size;
    "full" => Full, upstream = "030";
    "empty" => Zero;
}

rows! {
    STREAMS: Stream { into, end };
    "all" => Top, Nowhere, upstream = "TestSingleDrive::test_stream";
    "to-base-by-path" => Top, Path(Base), upstream = "TestSingleDrive::test_stream_partial";
    "to-base-by-node" => Top, Node(Base),
        upstream = "TestParallelOps::test_stream_base_node_name";
    "to-base-by-bottom" => Top, Bottom(Mid);
    "all-by-bottom" => Top, Bottom(Base);
    "nothing-by-path" => Top, Path(Mid), upstream = "TestSingleDrive::test_stream_no_op";
    "nothing-by-node" => Top, Node(Mid);
    "mid-all" => Mid, Nowhere, upstream = "TestSingleDrive::test_stream_intermediate";
    "mid-nothing" => Mid, Node(Base);
}

impl Stream {
    fn job(&self, chain: &Chain, vm: &Machine) -> JobBuilder {
        let job = vm.stream(chain.image(self.into));
        match self.end {
            Nowhere => job,
            Path(layer) => job.set("base", chain.image(layer).filename()),
            Node(layer) => job.base(chain.image(layer)),
            Bottom(layer) => job.set("bottom", chain.image(layer).name()),
        }
    }

    /// The layer below that which is streamed into, afterwards.
    fn below(&self) -> Option<Layer> {
        match self.end {
            Nowhere | Bottom(Base | Top) => None,
            Bottom(Mid) => Some(Base),
            Path(layer) | Node(layer) => Some(layer),
        }
    }

    /// Whether there is a layer to be streamed.
    fn copies(&self) -> bool {
        !matches!(
            (self.into, self.below()),
            (Top, Some(Mid)) | (Mid, Some(Base))
        )
    }

    /// The nodes that are there afterwards, from the top down.
    fn line(&self) -> Vec<Layer> {
        let stays = |layer: &Layer| *layer >= self.into || Some(*layer) <= self.below();
        [Top, Mid, Base].into_iter().filter(stays).collect()
    }

    /// What the layer that is streamed into holds by itself afterwards.
    fn own(&self, chain: &Chain) -> Content {
        match self.below() {
            _ if !self.copies() => chain.content(self.into).clone(),
            // A raw image is allocated everywhere.
            None => {
                let zeroes = Content::nothing().zeroes(0..chain.size);
                chain.merged(self.into, Base).over(&zeroes)
            }
            Some(_) => chain.merged(self.into, Mid),
        }
    }
}

/// What a guest writes in the meantime: where nothing is, zeroes over data, and a part of a cluster
/// that holds data of the middle layer. The job has not been there yet.
const WRITTEN: u8 = 0x77;
const ZEROED: Range<u64> = clusters(17..18);
const COPIED: Range<u64> = clusters(14..15);
const PART: Range<u64> = COPIED.start + 1024..COPIED.start + 1536;

fn by_guest(content: Content) -> Content {
    let content = content.written(WRITTEN, Chain::FREE).zeroes(ZEROED);
    content.written(WRITTEN, PART)
}

const STAYS_WRITABLE: KnownBug =
    super::STAYS_WRITABLE.only(&[&["*", "mid-all"], &["*", "mid-nothing"]]);

const BITMAPS_STAY_READ_ONLY: KnownBug = known(
    "a layer with a bitmap that was streamed into cannot be committed to",
    "should have completed, but it was Failed(\"Operation not permitted\")",
    since_release(10, 0, 3),
);

/// A layer with a bitmap that was streamed into can be written again by a commit.
#[case(formats = [QCOW2], unsupported_imgopts = ["compat"], known_bugs = [BITMAPS_STAY_READ_ONLY])]
async fn lets_a_commit_write_there(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    chain.mid.bitmap("b0").with(|call| call.action(BitmapAction::Add)).await?;
    let vm = chain.launch(t).await?;
    vm.stream("mid").start().await?.wait().await?;
    let job = vm.commit("top").base("mid").start().await?;
    job.complete().await?;
    vm.shutdown().await?;
    chain.mid.assert_reads(chain.merged(Top, Base)).await
}

/// A stream copies the data of the layers below up, takes those out of the chain and of the header,
/// and everything reads as before, with what a guest has written in the meantime.
#[case(upstream = "{size}::{row}", known_bugs = [STAYS_WRITABLE], rows = (SIZES, STREAMS))]
async fn moves_the_data_up(t: &mut Test, size: &Size, row: &Stream) -> CaseResult {
    let chain = Chain::create(t, *size).await?;
    let vm = chain.launch(t).await?;
    let into = chain.image(row.into).name();
    let held = row.copies() && *size == Full;

    let job = row.job(&chain, &vm).speed(HELD).start().await?;
    let whose = json!({"type": "stream", "device": job.id()});
    if held {
        let disk = vm.disk("top");
        disk.write_all(by_guest(Content::nothing())).await?;
        // To read what the base alone has moves nothing.
        let byte = chain.merged(Top, Base).byte_at(0);
        disk.assert_pattern(byte, 0..CLUSTER).await?;
        vm.assert_read_only(&[(into, false), ("base", true)]).await?;
        job.set_speed(0).await?;
    }
    let ended = job.wait().await?;
    ended.event.assert_includes(&json!({"event": "BLOCK_JOB_COMPLETED", "data": whose}))?;
    ended.event.assert_absent("data/error")?;

    let all = chain.merged(Top, Base);
    let all = if held { by_guest(all) } else { all };
    vm.assert_no_jobs().await?;
    vm.disk("top").assert_reads(&all).await?;
    assert_nodes(&chain, &vm, row).await?;
    vm.shutdown().await?;
    chain.top.assert_reads(&all).await?;
    assert_files(&chain, row, held).await
}

/// The chain of the machine has the layers that stay, and nobody may write but to the top.
async fn assert_nodes(chain: &Chain, vm: &Machine, row: &Stream) -> CaseResult {
    let line = row.line();
    let names: Vec<_> = line.iter().map(|layer| chain.image(*layer).name()).collect();
    vm.assert_chain(&names.join(" -> ")).await?;
    let read_only: Vec<_> = names.iter().map(|name| (*name, *name != "top")).collect();
    vm.assert_read_only(&read_only).await?;
    let gone = [Top, Mid, Base].into_iter().filter(|layer| !line.contains(layer));
    let gone: Vec<_> = gone.map(|layer| chain.image(layer).name()).collect();
    vm.assert_no_nodes(&gone).await
}

/// Only the layer that was streamed into has changed, and its header; the top has what was written.
async fn assert_files(chain: &Chain, row: &Stream, written: bool) -> CaseResult {
    for layer in [Base, Mid, Top] {
        let (image, into) = (chain.image(layer), layer == row.into);
        let own = if into {
            row.own(chain)
        } else {
            chain.content(layer).clone()
        };
        let own = match written && layer == Top {
            true => by_guest(own.with_part_of(&chain.merged(Top, Base), COPIED)),
            false => own,
        };
        image.assert_layer(own).await?;
        image.assert_clean().await?;
        let header = image.header().await?;
        header.assert("virtual-size", chain.size)?;
        let below = if into {
            row.below().map(|below| chain.image(below))
        } else {
            image.backing()
        };
        match below {
            Some(below) => drop(image.assert_backing(below).await?),
            None => header.assert_absent("backing-filename")?,
        }
    }
    match row.into {
        Top => chain.assert_unchanged(&[Base, Mid]),
        _ => chain.assert_unchanged(&[Base]),
    }
}

/// How long the lower images are; the top is 2 MiB.
struct Short {
    base: u64,
    mid: u64,
}

rows! {
    SHORT: Short { base, mid };
    "short-base" => MIB, 2 * MIB, upstream = "030";
    "short-mid" => 2 * MIB, MIB;
    "short-mid-in-a-cluster" => 2 * MIB, MIB + 512;
    "shorter-each" => MIB - 512, MIB;
}

rows! {
    ENDS: Option<Layer>;
    "all" => None, upstream = "TestSmallerBackingFile::test_stream";
    "to-base" => Some(Base);
}

const UNCOVERED: KnownBug = known(
    "a stream does not copy the zeroes behind the end of a short layer, so that what is below shows through",
    "top holds 0x11 in 0x100",
    ALWAYS,
)
.only(&[
    &["short-mid", "to-base"],
    &["short-mid-in-a-cluster", "to-base"],
]);

/// Behind the end of a lower layer there are zeroes, also when the layer has gone that ended there,
/// and the one below it is longer.
#[case(upstream = "{short}::{end}", known_bugs = [UNCOVERED], rows = (SHORT, ENDS))]
async fn keeps_the_ends(t: &mut Test, short: &Short, end: &Option<Layer>) -> CaseResult {
    let data = Content::nothing().written(0x22, clusters(0..1));
    let base = t.image("base").format(RAW).size(short.base).fill(0x11);
    let base = base.create().await?;
    let mid = t.image("mid").size(short.mid).backing(&base).content(&data);
    let mid = mid.create().await?;
    let top = t.image("top").size(2 * MIB).backing(&mid).create().await?;
    let all = Content::nothing().written(0x11, 0..short.base.min(short.mid));
    let all = data.over(&all);
    let vm = t.host().disk(&top).launch().await?;
    vm.disk("top").assert_reads(&all).await?;

    let job = vm.stream("top");
    let job = if end.is_some() { job.base(&base) } else { job };
    job.start().await?.wait().await?;

    vm.disk("top").assert_reads(&all).await?;
    vm.assert_chain(if end.is_some() { "top -> base" } else { "top" }).await?;
    vm.shutdown().await?;
    top.assert_reads(&all).await?;
    top.assert_clean().await
}

const ENDS_EARLY: KnownBug = known(
    "the filter of a stream leaves a buffer unfilled behind the end of a short layer",
    "top holds 0x",
    ALWAYS,
);

/// What a guest writes while a stream runs, to a part of a cluster behind the end of the lowest layer, keeps what is around
/// it. There are data, which must be copied, and before them zeroes that no layer has.
#[case(known_bugs = [ENDS_EARLY])]
async fn keeps_what_is_around_a_write(t: &mut Test) -> CaseResult {
    let at = |kib: u64| 3 * CLUSTER + kib * KIB;
    let base = t.image("base").size(CLUSTER).fill(0x11).create().await?;
    let mid = t.image("mid").size(4 * CLUSTER).option("cluster_size", 4 * KIB).backing(&base);
    let mid = mid.write(0x22, at(60)..at(64)).create().await?;
    let top = t.image("top").size(4 * CLUSTER).backing(&mid).create().await?;
    let vm = t.host().disk(&top).launch().await?;
    let job = vm.stream("mid").speed(HELD).start().await?;
    vm.disk("top").write(0x33, at(4)..at(8)).await?;
    job.set_speed(0).await?;
    job.wait().await?;
    let all = Content::nothing().written(0x11, 0..CLUSTER).written(0x22, at(60)..at(64));
    let all = all.written(0x33, at(4)..at(8));
    vm.disk("top").assert_reads(&all).await?;
    vm.shutdown().await?;
    top.assert_reads(all).await
}

/// See docs/qemu-findings.md.
const BEYOND: KnownBug = known(
    "a stream that has no layer to take out has a filter that follows the chain beyond its end",
    "died of SIGSEGV",
    ALWAYS,
);

/// A guest reads what is in the layers below, and what is in none, while a stream that has nothing to do waits for its end.
#[case(host = System, known_bugs = [BEYOND])]
async fn with_nothing_to_do_lets_a_guest_read(t: &mut Test) -> CaseResult {
    // Over NBD no holes are read, where a client accepts structured replies.
    let base = t.image("base").size(MIB).write(0x11, 0..CLUSTER).create().await?;
    let top = t.image("top").backing(&base).create().await?;
    let vm = t.host().disk(&top).launch().await?;
    let mut job = vm.stream("top").base("base").manual().start().await?;
    job.wait_status("pending").await?;
    vm.disk("top").assert_pattern(0x11, 0..CLUSTER).await?;
    vm.disk("top").assert_pattern(0, CLUSTER..2 * CLUSTER).await?;
    job.finalize().await?;
    job.dismiss().await?;
    vm.assert_chain("top -> base").await?;
    vm.disk("top").assert_reads(&[(0x11, 0..CLUSTER)]).await?;
    vm.shutdown().await?;
    top.assert_reads(&[(0x11, 0..CLUSTER)]).await
}

rows! {
    NAMES: Option<&str>;
    "default" => None;
    "backing-file" => Some("elsewhere");
}

/// The header names the new backing file as the command says, or as it is called.
#[case(rows = NAMES)]
async fn writes_the_name(t: &mut Test, name: &Option<&str>) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = chain.launch(t).await?;
    let mut job = vm.stream("top").base("base");
    if let Some(name) = name {
        job = job.set("backing-file", *name);
    }
    job.start().await?.wait().await?;
    vm.assert_chain("top -> base").await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    let header = chain.top.header().await?;
    header.assert("backing-filename", name.unwrap_or(chain.base.filename()))?;
    header.assert("backing-filename-format", "raw")?;
    chain.assert_unchanged(&[Base, Mid])
}

rows! {
    MASKS: Option<bool>;
    "default" => None;
    "off" => Some(false), needs = [Schema("block-stream/arg-type/backing-mask-protocol")];
    "on" => Some(true), needs = [Schema("block-stream/arg-type/backing-mask-protocol")];
}

/// Where the new backing file is a node without a format, the header says so, or calls it raw.
#[case(formats = [QCOW2], rows = MASKS)]
async fn writes_the_format(t: &mut Test, mask: &Option<bool>) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let base = chain.base.protocol_node().node_name("file");
    let mid = chain.mid.node().backing(base);
    let vm = t.host().disk(chain.top.node().backing(mid)).launch().await?;
    let mut job = vm.stream("top").base("file");
    if let Some(mask) = *mask {
        job = job.set("backing-mask-protocol", mask);
    }
    job.start().await?.wait().await?;
    chain.assert_guest_reads(&vm).await?;
    vm.shutdown().await?;
    let header = chain.top.header().await?;
    let format = if *mask == Some(true) { "raw" } else { "file" };
    header.assert("backing-filename-format", format)
}

/// Streaming changes no data, so a bitmap records only what the guest writes.
#[case]
async fn is_no_write_for_a_bitmap(t: &mut Test) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = chain.launch(t).await?;
    vm.bitmap("top", "b0").add().await?;
    let job = vm.stream("top").speed(HELD).start().await?;
    vm.disk("top").write(WRITTEN, PART).await?;
    job.set_speed(0).await?;
    job.wait().await?;
    check!(vm.bitmap("top", "b0").await?.count == CLUSTER);
    vm.shutdown().await?;
    Ok(())
}

rows! {
    AGAIN: &str;
    "all" => "top";
    "in-two-steps" => "top -> base";
}

/// What has been streamed can be streamed again, which changes nothing, or further down.
#[case(protocols = [FILE, NBD, FUSE], rows = AGAIN)]
async fn can_be_done_again(t: &mut Test, first: &&str) -> CaseResult {
    let chain = Chain::create(t, Full).await?;
    let vm = chain.launch(t).await?;
    let job = vm.stream("top");
    let job = if *first == "top" {
        job
    } else {
        job.base("base")
    };
    job.start().await?.wait().await?;
    vm.assert_chain(first).await?;
    vm.stream("top").start().await?.wait().await?;
    vm.assert_chain("top").await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;
    chain.assert_unchanged(&[Base, Mid])?;
    chain.top.header().await?.assert_absent("backing-filename")?;
    chain.top.assert_reads(chain.merged(Top, Base)).await
}

/// A disk without a backing file has nothing to stream, whatever it has allocated: the job has nothing to do, and all is as before.
#[case(protocols = [FILE, NBD, FUSE])]
async fn has_nothing_to_do_without_a_backing_file(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).write(0x11, clusters(2..4)).create().await?;
    let vm = t.host().disk(&disk).launch().await?;
    let before = vm.state().await?;

    vm.stream("disk").run().await?;

    vm.event("BLOCK_JOB_COMPLETED").await?.assert("data/len", 0)?;
    vm.assert_unchanged_since(&before).await?;
    vm.shutdown().await?;
    disk.assert_layer(&[(0x11, clusters(2..4))]).await
}
