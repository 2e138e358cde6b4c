//! How much space the copy takes.

use std::os::unix::fs::MetadataExt;

use iotests_core::prelude::*;

use crate::json::{items, number};

const SIZE: u64 = 20 * MIB;

rows! {
    /// As `preallocation` of `blockdev-create` has it, or made by somebody else.
    CREATED: Option<&str>;
    "by-another" => None;
    "sparse" => Some("off");
    "preallocated" => Some("full");
}

rows! {
    /// `discard` and `detect-zeroes` of the target.
    OPENED: (&str, &str);
    "that-keeps-its-space" => ("ignore", "off");
    "that-unmaps" => ("unmap", "off");
    "that-looks-for-zeroes" => ("unmap", "unmap");
}

// Seen on 7.2.22 and from 9.2.92 on; that the change between came with 8.0 is inferred.
const FILLED: KnownBug = known(
    "a mirror fills a sparse target with zeroes",
    "are allocated",
    AllOf(&[since(8, 0), before(10, 1)]),
)
.only(&[
    &["by-another", "that-keeps-its-space"],
    &["sparse", "that-keeps-its-space"],
]);

const GIVES_BACK: KnownBug = known(
    "a mirror deallocates a target that should stay allocated",
    "are allocated",
    before(8, 0),
)
.only(&[&["preallocated", "that-keeps-its-space"]]);

/// A file is as sparse as the disk after it was mirrored, unless it was not sparse before, and its space
/// must not be given back.
#[case(
    upstream = "mirror-sparse", formats = [RAW, QCOW2], known_bugs = [FILLED, GIVES_BACK],
    rows = (CREATED, OPENED)
)]
async fn of_a_file(
    t: &mut Test,
    created: &Option<&str>,
    (discard, zeroes): &(&str, &str),
) -> CaseResult {
    let source = t.image("source").size(SIZE);
    let source = source.write(0x11, 8 * MIB..10 * MIB).create().await?;
    let vm = t.host().disk(&source).launch().await?;
    let copy = t.image("copy").format(RAW).size(SIZE);
    let copy = match created {
        None => copy.create().await?,
        Some(how) => {
            let copy = copy.reserve().await?;
            let file =
                json!({"driver": "file", "filename": copy, "size": SIZE, "preallocation": how});
            vm.blockdev_create(file).await?;
            copy
        }
    };
    let file = copy.protocol_node().node_name("copy");
    vm.add_node(file.set("discard", *discard).set("detect-zeroes", *zeroes)).await?;
    let job = vm.mirror("source").to("copy").start().await?;
    let ended = job.complete().await?;
    // Zeroing the target beforehand is no progress.
    let copied = number(&ended.event, "data/offset")?;
    check!(copied <= SIZE, "{copied} bytes were copied");
    vm.shutdown().await?;

    source.assert_same_as(&copy).await?;
    let stays_full = *created == Some("full") && *discard == "ignore";
    let allocated = std::fs::metadata(copy.filename())?.blocks() * 512;
    // File systems may round.
    let expected = if stays_full {
        19 * MIB..22 * MIB
    } else {
        MIB..4 * MIB
    };
    check!(
        expected.contains(&allocated),
        "{allocated} bytes are allocated"
    );
    Ok(())
}

rows! {
    DETECTION: &str;
    "on" => "on";
    "unmap" => "unmap";
}

/// Zeroes that were written as data take no space in a target that looks for them.
#[case(formats = [QCOW2], rows = DETECTION)]
async fn of_a_target_that_looks_for_zeroes(t: &mut Test, detection: &&str) -> CaseResult {
    let content = Content::nothing().numbered(0x20, clusters(0..6));
    let source = t.image("source").format(RAW).size(2 * MIB).fill(0);
    let source = source.content(&content).create().await?;
    let copy = t.image("copy").size(2 * MIB).create().await?;
    let looking = copy.node().set("discard", "unmap").set("detect-zeroes", *detection);
    let vm = t.host().disk(&source).blockdev(looking).launch().await?;
    let mut job = vm.mirror("source").to("copy").set("granularity", CLUSTER);
    job = job.set("buf-size", CLUSTER);
    job.start().await?.complete().await?;
    vm.shutdown().await?;
    copy.assert_reads(&content).await?;
    let map = copy.own_map().json().await?;
    for part in items(&map, "")? {
        let stored = part["data"] == true && part["zero"] == false;
        let start = number(part, "start")?;
        check!(stored == (start < 6 * CLUSTER), "{part}");
    }
    Ok(())
}
