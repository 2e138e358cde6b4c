//! Requests that a lower layer cannot take as they come: unaligned, empty, in too many pieces, too long.

use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2], protocols = [FILE], groups = [RW, QUICK], host = Any,
    unsupported_imgopts = ["data_file", "cluster_size"],
}

mod copy_on_read;
mod formats;
mod fuse;
mod quorum;
mod vhost_user;
mod zeroes;

const SIZE: u64 = MIB;

/// A layer below the image, and what it takes.
type Limits = &'static [(&'static str, u64)];

rows! {
    LIMITS: Limits;
    "none" => &[];
    "sectors-of-4-kib" => &[("align", 4096)];
    "zeroes-of-4-kib" => &[
        ("align", 512), ("opt-write-zero", 4096), ("max-write-zero", 8192), ("opt-discard", 4096),
        ("max-discard", 8192),
    ];
}

/// The image on this layer.
fn over(disk: &Image, limits: Limits) -> Node {
    let mut layer = Node::new("blkdebug").set("image", json!(disk.protocol_node()));
    for (name, value) in limits {
        layer = layer.set(name, *value);
    }
    disk.node().child("file", layer)
}

/// Bytes that differ wherever they are, so that a misplaced one is seen.
fn bytes(range: &std::ops::Range<u64>, seed: u64) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9).wrapping_add(seed * 77) >> 8) as u8;
    range.clone().map(byte).collect()
}

enum Request {
    Write,
    Zero,
}

use Request::{Write, Zero};

/// One after another: into what is new, over what is there, and over parts of both.
const REQUESTS: [(Request, std::ops::Range<u64>); 8] = [
    (Write, CLUSTER..2 * CLUSTER),
    (Write, 0..4 * CLUSTER),
    (Write, 6 * CLUSTER + 1..6 * CLUSTER + 2),
    (Write, 6 * CLUSTER - 700..9 * CLUSTER + 700),
    (Zero, 2 * CLUSTER + 1..2 * CLUSTER + 20_000),
    (Zero, 7 * CLUSTER - 513..8 * CLUSTER + 513),
    (Write, 7 * CLUSTER + 5000..7 * CLUSTER + 5001),
    (Write, SIZE - 20_001..SIZE),
];

/// What is written is read again, byte by byte, and nothing else has changed, whatever the layer below takes.
#[case(rows = LIMITS, needs = [Driver("blkdebug")])]
async fn arrive_byte_by_byte(t: &mut Test, limits: &Limits) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    // A part of it is new.
    disk.io(["discard 0 128k", "discard 256k 64k"]).await?;
    let mut expected = disk.bytes().await?;
    let vm = t.host().blockdev(over(&disk, limits)).launch().await?;
    let client = vm.export("disk").writable().await?.client().await?;
    for (seed, (request, range)) in (1..).zip(&REQUESTS) {
        let (start, end) = (range.start as usize, range.end as usize);
        match request {
            Write => {
                let written = bytes(range, seed);
                expected[start..end].copy_from_slice(&written);
                client.write(range.start, written).await?;
            }
            Zero => {
                expected[start..end].fill(0);
                let flags = nbd::proto::CommandFlags::empty();
                client.write_zeroes(range.start, range.end - range.start, flags).await?;
            }
        }
        // From the middle of a sector to the middle of another.
        let (from, to) = (start.saturating_sub(3), (end + 1030).min(SIZE as usize));
        let read = client.read(from as u64, (to - from) as u64).await?;
        check!(
            read == &expected[from..to],
            "{range:x?} reads as something else"
        );
    }
    check!(client.read(0, SIZE).await? == expected);
    client.disconnect().await?;
    vm.shutdown().await?;
    check!(disk.bytes().await? == expected);
    disk.assert_clean().await
}

rows! {
    /// Where requests of no length are.
    NOTHING: u64;
    "at-the-start" => 0;
    "in-a-sector" => 1;
    "in-the-last-sector" => SIZE - 1;
    "at-the-end" => SIZE;
}

/// Empty requests do nothing, wherever they are, and the next one is served.
#[case(host = Host::None, rows = (NOTHING, LIMITS), needs = [Driver("blkdebug")])]
async fn may_be_empty(t: &mut Test, at: &u64, limits: &Limits) -> CaseResult {
    // Of this format a request is passed on as it is.
    let disk = t.image("disk").format(RAW).size(SIZE).fill(0x11);
    let disk = disk.create().await?;
    let mut io = t.qemu_io(["--image-opts", &over(&disk, limits).image_opts()?]);
    for command in ["read", "write", "write -z", "discard"] {
        io = io.args(["-c", &format!("{command} {at} 0")]);
    }
    io = io.args(["-c", &format!("read -P 0x11 0 {SIZE}")]);
    let said = io.text().await?;
    check!(!said.contains("Pattern verification failed"), "{said}");
    disk.assert_fill(0x11).await
}

/// A compressed write, and whether it is one.
struct Compressed {
    range: std::ops::Range<u64>,
    done: bool,
}

rows! {
    COMPRESSED: Compressed { range, done };
    "a-cluster" => CLUSTER..2 * CLUSTER, true;
    "some-clusters" => 0..3 * CLUSTER, true;
    "the-rest" => SIZE - CLUSTER..SIZE, true;
    "a-part-at-the-start" => 0..CLUSTER / 2, false;
    "a-part-at-the-end" => SIZE - 512..SIZE, false;
    "more-than-a-cluster" => 0..CLUSTER + 512, false;
}

/// Compressed writes are of whole clusters; anything else is refused and has no effect, and the next request
/// is served.
#[case(host = Host::None, rows = COMPRESSED)]
async fn must_be_whole_when_compressed(t: &mut Test, request: &Compressed) -> CaseResult {
    let disk = t.image("disk").size(SIZE).create().await?;
    disk.write(0x11, 4 * CLUSTER..5 * CLUSTER).await?;
    let mut expected = Content::of(&[(0x11, 4 * CLUSTER..5 * CLUSTER)]);
    let (start, end) = (request.range.start, request.range.end);
    let write = format!("write -c -P 0x22 {start} {}", end - start);
    let mut session = disk.session().await?;
    if request.done {
        session.run(write.as_str()).await?;
        expected = expected.written(0x22, request.range.clone());
    } else {
        session.expect_error(write.as_str(), "Invalid argument").await?;
    }
    session.run("read -P 0x11 256k 64k").await?;
    session.close().await?;
    disk.assert_reads(expected).await?;
    disk.assert_clean().await
}

/// As many pieces as a request may have.
const PIECES: usize = 1024;

rows! {
    /// Where a request begins: there is more to it at its start, at its end, or both.
    STARTS: u64;
    "unaligned-at-its-start" => 4096 - 512;
    "unaligned-at-its-end" => 4096;
    "unaligned-at-both" => 8193;
}

const MORE: KnownBug = known(
    "an unaligned request of 1024 pieces is refused (18743311b8)",
    "writev failed: Invalid argument",
    before(8, 1),
);

/// A request with the largest number of pieces succeeds, although the layer below needs more of them to align
/// it.
#[case(
    host = Host::None, rows = STARTS, needs = [Driver("blkdebug")], known_bugs = [MORE]
)]
async fn may_come_in_many_pieces(t: &mut Test, start: &u64) -> CaseResult {
    let disk = t.image("disk").format(RAW).size(SIZE).fill(0x11);
    let disk = disk.create().await?;
    let pieces = vec!["1"; PIECES].join(" ");
    let end = start + PIECES as u64;
    let mut io = t.qemu_io([
        "--image-opts",
        &over(&disk, &[("align", 4096)]).image_opts()?,
    ]);
    io = io.args(["-c", &format!("writev -P 0x22 {start} {pieces}")]);
    for (byte, from) in [(0x22, *start), (0x11, start - PIECES as u64), (0x11, end)] {
        io = io.args(["-c", &format!("readv -P {byte} {from} {pieces}")]);
    }
    let said = io.text().await?;
    check!(!said.contains("Pattern verification failed"), "{said}");
    disk.assert_reads(&[(0x11, 0..SIZE), (0x22, *start..end)]).await
}
