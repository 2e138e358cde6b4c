//! Zeroes: found in what is written, or written as such, with room for them in the file or without.

use std::ops::Range;

use imgtools::raw;

use super::*;
use crate::json::{items, number};

defaults! { formats = [QCOW2, RAW] }

/// Fails unless so many bytes of the image's file have become holes since it had so many.
fn assert_freed(disk: &Image, before: u64, freed: u64) -> CaseResult {
    let now = raw::allocated(disk.filename())?;
    // A qcow2 image may need other tables.
    let other = if disk.format() == QCOW2 {
        3 * CLUSTER
    } else {
        CLUSTER
    };
    check!(
        now.abs_diff(before.saturating_sub(freed)) < other,
        "{now} bytes are allocated, of {before}, of which {freed} should be free"
    );
    Ok(())
}

/// Where a layer has zeroes as such, and whether these have a place in the file.
async fn zeroes(disk: &Image) -> CaseResult<Vec<(Range<u64>, bool)>> {
    let map = disk.own_map().json().await?;
    let zeroes = items(&map, "")?.iter().filter(|part| part["zero"] == true);
    let part = |part: &Value| {
        let start = number(part, "start")?;
        let range = start..start + number(part, "length")?;
        Ok((range, part.get("offset").is_some()))
    };
    zeroes.map(part).collect()
}

/// What becomes of zeroes in what is written.
#[derive(PartialEq)]
enum Found {
    Data,
    Zeroes,
    Hole,
}

/// How they are looked for.
struct Detection {
    mode: &'static str,
    found: Found,
}

rows! {
    DETECTIONS: Detection { mode, found };
    "unless-nobody-looks" => "off", Found::Data;
    "and-keep-their-place" => "on", Found::Zeroes;
    "and-make-holes" => "unmap", Found::Hole;
}

/// Each is a command of qemu-io, without its place; what it writes is looked at.
const WRITES: [&str; 6] = [
    "write -P 0",
    "write -f -P 0",
    "writev -P 0",
    "write -r -P 0",
    "write -r -f -P 0",
    "writev -r -P 0",
];

/// Zeroes that are written as data, in whatever way, are found where they are looked for; data, and parts of a
/// cluster, stay what they are.
#[case(host = Host::None, rows = DETECTIONS)]
async fn are_found_in_data(t: &mut Test, detection: &Detection) -> CaseResult {
    let disk = t.image("disk").size(4 * MIB).fill(0x11).create().await?;
    let before = raw::allocated(disk.filename())?;
    let node = disk.node().set("discard", "unmap").set("detect-zeroes", detection.mode);
    let mut session = t.qemu_io(["--image-opts", &node.image_opts()?]).session().await?;
    // Older ones register no buffers.
    let registers = session.run("help write").await?.contains("-r, --");
    let mut expected = Content::nothing().written(0x11, 0..4 * MIB);
    let mut written = Vec::new();
    let flags = WRITES.iter().filter(|flags| registers || !flags.contains("-r"));
    for (write, first) in flags.zip((1..).step_by(4)) {
        let range = clusters(first..first + 2);
        session.run(format!("{write} {} {}", range.start, 2 * CLUSTER)).await?;
        // Between those, something that is not found.
        let part = range.end + 512..range.end + 1024;
        session.run(format!("{write} {} 512", part.start)).await?;
        let data = write.replace("-P 0", "-P 0x22");
        session.run(format!("{data} {} 512", part.end)).await?;
        expected = expected.zeroes(range.clone()).zeroes(part.clone());
        expected = expected.written(0x22, part.end..part.end + 512);
        written.push(range);
    }
    session.close().await?;
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await?;
    let freed = match detection.found {
        Found::Hole => written.len() as u64 * 2 * CLUSTER,
        _ => 0,
    };
    assert_freed(&disk, before, freed)?;
    if t.format() == QCOW2 {
        if detection.found == Found::Data {
            written.clear();
        }
        let placed = detection.found == Found::Zeroes;
        let expected: Vec<_> = written.into_iter().map(|range| (range, placed)).collect();
        check!(zeroes(&disk).await? == expected);
    }
    Ok(())
}

/// Whether discards are taken, by the format and by the file.
struct Discards {
    format: &'static str,
    file: &'static str,
}

rows! {
    DISCARDS: Discards { format, file };
    "if-none-takes-discards" => "ignore", "ignore";
    "if-the-format-takes-no-discards" => "ignore", "unmap";
    "if-the-file-takes-no-discards" => "unmap", "ignore";
    "unless-both-take-discards" => "unmap", "unmap";
}

rows! {
    /// Who asks.
    USERS: bool;
    "of-a-tool" => false, host = Host::None;
    "of-a-client" => true;
}

/// See docs/qemu-findings.md.
const HOLES: KnownBug = known(
    "zeroes that may make holes make them in a raw image that takes no discards (d05ae948cc)",
    "of which 0 should be free",
    AllOf(&[before(9, 1), OnFormat(RAW)]),
)
.only(&[&["if-the-format-takes-no-discards", "*"]]);

/// The same, where it is the format that makes them.
const UNPLACED: KnownBug = known(
    "zeroes that may make holes lose their place in a qcow2 image that takes no discards (d05ae948cc)",
    "expected Some((65536..458752, true))",
    AllOf(&[before(9, 1), OnFormat(QCOW2)]),
)
.only(&[
    &["if-none-takes-discards", "*"],
    &["if-the-format-takes-no-discards", "*"],
]);

const ZEROED: Range<u64> = CLUSTER..7 * CLUSTER;
const DISCARDED: Range<u64> = 8 * CLUSTER..14 * CLUSTER;

/// Zeroes that may make holes, and discards, make none where a layer takes no discards, and zeroes are there all
/// the same.
#[case(rows = (DISCARDS, USERS), known_bugs = [HOLES, UNPLACED])]
async fn make_no_holes(t: &mut Test, discards: &Discards, client: &bool) -> CaseResult {
    let disk = t.image("disk").size(SIZE).fill(0x11).create().await?;
    let before = raw::allocated(disk.filename())?;
    let file = disk.protocol_node().set("discard", discards.file);
    let node = disk.node().set("discard", discards.format).file(file);
    let [zeroed, discarded] = [ZEROED, DISCARDED].map(|range| (range.start, 6 * CLUSTER));
    if *client {
        let vm = t.host().blockdev(node).launch().await?;
        let client = vm.export("disk").writable().await?.client().await?;
        let may_unmap = nbd::proto::CommandFlags::empty();
        client.write_zeroes(zeroed.0, zeroed.1, may_unmap).await?;
        client.trim(discarded.0, discarded.1).await?;
        client.disconnect().await?;
        vm.shutdown().await?;
    } else {
        let mut session = t.qemu_io(["--image-opts", &node.image_opts()?]).session().await?;
        session.run(format!("write -z -u {} {}", zeroed.0, zeroed.1)).await?;
        session.run(format!("discard {} {}", discarded.0, discarded.1)).await?;
        session.close().await?;
    }

    let [format, file] = [discards.format, discards.file].map(|mode| mode == "unmap");
    let gone = format && (file || t.format() == QCOW2);
    let mut expected = Content::nothing().written(0x11, 0..SIZE).zeroes(ZEROED);
    if gone {
        expected = expected.zeroes(DISCARDED);
    }
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await?;
    assert_freed(&disk, before, if format && file { 12 * CLUSTER } else { 0 })?;
    if t.format() == QCOW2 {
        let zeroes = zeroes(&disk).await?;
        check!(zeroes.first() == Some(&(ZEROED, !format)));
        check!(zeroes.iter().any(|(range, _)| *range == DISCARDED) == gone);
    }
    Ok(())
}
