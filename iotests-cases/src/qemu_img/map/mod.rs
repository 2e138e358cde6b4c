//! What `qemu-img map` says of images, against what is in their tables.

use std::path::Path;

use imgtools::img::MapExtent;
use imgtools::qcow2::{self, Mapping};
use imgtools::raw;
use iotests_core::prelude::*;

mod ends;

defaults! {
    formats = [QCOW2], groups = [RW, QUICK, IMG],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size",
        "compression_type"],
}

const SIZE: u64 = 20 * CLUSTER + 1536;

/// An image by itself, or over a backing file of a size.
struct Kind {
    base: Option<u64>,
    options: &'static [(&'static str, &'static str)],
    compressed: bool,
}

rows! {
    KINDS: Kind { base, options, compressed };
    "alone" => None, &[], false;
    "v2" => None, &[("compat", "0.10")], false;
    "small-clusters" => None, &[("cluster_size", "4k")], false;
    "preallocated" => None, &[("preallocation", "metadata")], false;
    "compressed" => None, &[], true;
    "chain" => Some(SIZE), &[], false;
    "over-a-shorter-one" => Some(9 * CLUSTER + 512), &[], false;
    "over-a-longer-one" => Some(30 * CLUSTER), &[], false;
    "compressed-chain" => Some(SIZE), &[], true;
}

/// What the tables have for each sector, as `map` should report it: data, zeroes, compressed, the depth, where in the file.
type Sector = (bool, bool, bool, u64, Option<u64>);

/// The layers from the top on; the last one may be shorter than those above.
fn sectors(layers: &[(&Path, u64)], size: u64) -> CaseResult<Vec<Sector>> {
    let files = layers.iter().map(|(path, _)| Ok(qcow2::Image::open(path)?));
    let files = files.collect::<CaseResult<Vec<_>>>()?;
    let mut all = Vec::new();
    for at in (0..size).step_by(512) {
        let mut found = (false, true, false, 0, None);
        for (depth, (file, (_, end))) in (0..).zip(files.iter().zip(layers)) {
            if at >= *end {
                // What reads as zeroes behind its end is not in it.
                found = (false, true, false, 0, None);
                break;
            }
            let inside = at % file.header().cluster_size();
            found = match file.lookup(at)? {
                Mapping::Unallocated => {
                    found.3 = depth;
                    continue;
                }
                Mapping::Zero { .. } => (false, true, false, depth, None),
                Mapping::Data { host, .. } => (true, false, false, depth, Some(host + inside)),
                Mapping::Compressed { .. } => (true, false, true, depth, None),
                _ => return Err(Failure::new("an entry of a new kind")),
            };
            break;
        }
        all.push(found);
    }
    Ok(all)
}

/// The extents cover a range without a gap, and say of each sector what is expected; two that touch differ.
fn assert_extents(
    map: &[MapExtent],
    (start, end): (u64, u64),
    expected: &[Sector],
    may_be_holes: bool,
) -> CaseResult {
    let mut at = start;
    for extent in map {
        check!(extent.start == at, "{extent:?}");
        check!(extent.length > 0, "{extent:?}");
        for sector in (extent.start..extent.end()).step_by(512) {
            let place = format!("at {sector:#x}: {extent:?}");
            let known = expected.get((sector / 512) as usize);
            let known = known.ok_or_else(|| Failure::new("an extent ends behind the disk"))?;
            let (data, zero, compressed, depth, host) = *known;
            check!(extent.data == data, "{place}");
            // Data that is a hole in the file is zero as well.
            check!((extent.zero == zero || data && may_be_holes), "{place}");
            check!(extent.depth == depth, "{place}");
            if let Some(found) = extent.compressed {
                check!(found == compressed, "{place}");
            }
            // Of zeroes it may say where they would be.
            if data {
                let offset = extent.offset.map(|offset| offset + sector - extent.start);
                check!(offset == host, "{place}");
            }
        }
        at = extent.end();
    }
    check!(at == end);
    for pair in map.windows(2) {
        let kind = |e: &MapExtent| (e.data, e.zero, e.depth, e.present, e.compressed);
        let goes_on = match (pair[0].offset, pair[1].offset) {
            (Some(a), Some(b)) => a + pair[0].length == b,
            (None, None) => true,
            _ => false,
        };
        check!(
            kind(&pair[0]) != kind(&pair[1]) || !goes_on,
            "two in one: {pair:?}"
        );
    }
    Ok(())
}

impl Kind {
    /// The image, and its layers with their sizes.
    async fn create(&self, t: &Test) -> CaseResult<(Image, Vec<(Image, u64)>)> {
        let own = Content::nothing().written(0x11, CLUSTER..3 * CLUSTER);
        let own = own.zeroes(4 * CLUSTER..6 * CLUSTER).written(0x22, 20 * CLUSTER..SIZE);
        let below = Content::nothing()
            .written(0x77, 2 * CLUSTER..9 * CLUSTER)
            .zeroes(10 * CLUSTER..11 * CLUSTER);
        let mut layers = Vec::new();
        let mut builder = t.image("disk").size(SIZE);
        if let Some(size) = self.base {
            let base = t.image("base").size(size).content(below.cut(size)).create().await?;
            builder = builder.backing(&base);
            layers.push((base, size));
        }
        for (name, value) in self.options {
            builder = builder.option(name, value);
        }
        let disk = builder.content(&own).create().await?;
        // Another order in the file than for the guest, so that what touches is in pieces there.
        let mut commands = vec!["write -P 0x44 851968 65536", "write -P 0x33 786432 65536"];
        if self.compressed {
            commands = vec![
                "write -c -P 0x44 851968 65536",
                "write -P 0x33 786432 65536",
                "write -c -P 0x55 917504 131072",
            ];
        }
        disk.io(commands).await?;
        layers.insert(0, (disk.clone(), SIZE));
        Ok((disk, layers))
    }
}

/// The map says of each sector in which image of the chain and where in its file it is, whether it is zero and whether it is compressed;
/// of a part of the disk, it says the same of that part.
#[case(rows = KINDS)]
async fn says_what_the_tables_have(t: &mut Test, kind: &Kind) -> CaseResult {
    let (disk, layers) = kind.create(t).await?;
    let files: Vec<(&Path, u64)> =
        layers.iter().map(|(image, size)| (&**image.file(), *size)).collect();
    let expected = sectors(&files, SIZE)?;
    let before = disk.file_bytes()?;
    let may_be_holes = kind.options.iter().any(|(name, _)| *name == "preallocation");
    assert_extents(&disk.map().await?, (0, SIZE), &expected, may_be_holes)?;
    let parts = [
        (0, CLUSTER),
        (CLUSTER + 512, 5 * CLUSTER),
        (CLUSTER, 512),
        (8 * CLUSTER, 7 * CLUSTER + KIB),
        (SIZE - KIB, 4 * CLUSTER),
        (0, 2 * SIZE),
    ];
    for (start, length) in parts {
        let map = disk.map().with(|call| call.start(start).max_length(length)).await?;
        let range = (start, SIZE.min(start + length));
        assert_extents(&map, range, &expected, may_be_holes)?;
    }
    before.assert_unchanged()
}

/// The map is as fine as subclusters.
#[case]
async fn knows_subclusters(t: &mut Test) -> CaseResult {
    let base = t.image("base").format(RAW).size(MIB).fill(0x77).create().await?;
    let disk = t.image("disk").option("extended_l2", "on").backing(&base);
    let own = [(0x11, 2 * KIB..4 * KIB), (0x11, 10 * KIB..20 * KIB)];
    let disk = disk.content(Content::from(&own).zeroes(30 * KIB..40 * KIB)).create().await?;
    let map = disk.map().await?;
    let found: Vec<_> = map.iter().map(|e| (e.start, e.length, e.depth, e.zero, e.data)).collect();
    let expected = [
        (0, 2 * KIB, 1, false, true),
        (2 * KIB, 2 * KIB, 0, false, true),
        (4 * KIB, 6 * KIB, 1, false, true),
        (10 * KIB, 10 * KIB, 0, false, true),
        (20 * KIB, 10 * KIB, 1, false, true),
        (30 * KIB, 10 * KIB, 0, true, false),
        (40 * KIB, MIB - 40 * KIB, 1, false, true),
    ];
    check!(found == expected);
    Ok(())
}

/// With a data file the offsets are those in that file.
#[case]
async fn knows_data_files(t: &mut Test) -> CaseResult {
    let data = t.file("data")?;
    let disk = t.image("disk").size(MIB).option("data_file", data.as_str());
    let disk =
        disk.option("data_file_raw", "on").write(0x11, CLUSTER..3 * CLUSTER).create().await?;
    for extent in disk.map().await? {
        check!(extent.offset == Some(extent.start), "{extent:?}");
    }
    let text = t.qemu_img(["map", disk.filename()]).text().await?;
    check!(text.contains(data.as_str()), "{text}");
    Ok(())
}

/// A raw file is mapped as its holes are, to its last byte, also where that is in a sector.
#[case(formats = [RAW], upstream = "221", rows = LENGTHS)]
async fn knows_holes(t: &mut Test, length: &u64) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let file = std::fs::OpenOptions::new().write(true).open(disk.file())?;
    file.set_len(*length)?;
    let end = (4 * CLUSTER).min(*length);
    raw::fill(disk.file(), 2 * CLUSTER..end, 0x11)?;
    file.sync_all()?;
    let map = disk.map().await?;
    let mut at = 0;
    for extent in &map {
        check!(extent.start == at);
        check!(extent.offset == Some(at));
        check!(extent.depth == 0);
        at = extent.end();
    }
    check!(at == length.next_multiple_of(512));
    // What the file system knows as a hole is no data.
    for hole in raw::extents(disk.file())?.into_iter().filter(|extent| !extent.data) {
        let inside = map.iter().find(|e| e.start <= hole.range.start && hole.range.start < e.end());
        check!(
            inside.is_some_and(|extent| extent.zero),
            "{hole:?} in {map:?}"
        );
    }
    check!(map.iter().any(|extent| extent.data && !extent.zero && extent.start <= 2 * CLUSTER));
    Ok(())
}

/// What was never written to an image whose blocks are all there is known as zeroes where the file has holes.
#[case(formats = [VDI])]
async fn knows_holes_of_a_static_image(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(32 * MIB).option("static", "on").create().await?;
    disk.write(0x11, 8 * MIB..9 * MIB).await?;
    let map = disk.map().await?;
    let is_zero = |at: u64| {
        let inside = map.iter().find(|extent| extent.start <= at && at < extent.end());
        inside.map(|extent| extent.zero)
    };
    check!(is_zero(8 * MIB + CLUSTER) == Some(false), "{map:?}");
    for hole in [4 * MIB, 16 * MIB, 32 * MIB - CLUSTER] {
        check!(is_zero(hole) == Some(true), "{map:?}");
    }
    disk.assert_reads(&[(0x11, 8 * MIB..9 * MIB)]).await
}

rows! {
    LENGTHS: u64;
    "whole-sectors" => MIB;
    "one-byte-more" => 2 * CLUSTER + 1;
    "one-byte-less" => 8 * CLUSTER - 1;
}

/// The text has the data alone, each part with its file.
#[case]
async fn has_the_data_as_text(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).write(0x77, 4 * CLUSTER..6 * CLUSTER).create().await?;
    let disk = t.image("disk").backing(&base).write(0x11, 0..2 * CLUSTER).create().await?;
    let text = t.qemu_img(["map", "-f", "qcow2", disk.filename()]).text().await?;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    check!(rows.len() == 3);
    check!(rows[0] == ["Offset", "Length", "Mapped", "to", "File"]);
    check!((rows[1][0], rows[1][1], rows[1][3]) == ("0", "0x20000", disk.filename()));
    check!((rows[2][0], rows[2][1], rows[2][3]) == ("0x40000", "0x20000", base.filename()));
    for (row, image, at) in [(&rows[1], &disk, 0), (&rows[2], &base, 4 * CLUSTER)] {
        let Mapping::Data { host, .. } = qcow2::Image::open(image.file())?.lookup(at)? else {
            return Err(Failure::new("there is no data"));
        };
        check!(row[2] == format!("{host:#x}"));
    }
    disk.io(["write -c -P 0x22 524288 65536"]).await?;
    let call = t.qemu_img(["map", disk.filename()]);
    call.expect_error("File contains external, encrypted or compressed clusters.").await?;
    Ok(())
}
