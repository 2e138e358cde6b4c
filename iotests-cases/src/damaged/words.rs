//! Good images in which one word is not what it should be.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use imgtools::img::{BitmapAction, Repair};
use imgtools::qcow2::{self, L1Entry};
use iotests_core::author::TestFile;
use iotests_core::prelude::*;

use super::Edit;
use super::headers::{
    HEADERS_AGREE, PARALLELS_DATA, PARALLELS_EXTENSION, PARALLELS_SECTORS, PARALLELS_TRACKS,
    REGIONS_AGREE, VHDX_DISK_SIZE, VMDK_CAPACITY,
};
use Edit::{Be32, Be64, Le32, Le64, VhdChecksum};

// Tools alone: they open what a daemon opens, and one that dies takes nothing with it.
defaults! { host = Host::None }

/// How many words an instance changes, one after another, in a plain image and in another one.
const CHANGES: u32 = 30;
const CHANGES_OF_MORE: u32 = 12;
/// What the guest wrote, and reads.
const DATA: u8 = 0x11;
/// A part of a file that is metadata as a whole, or not.
const BLOCK: usize = 512;

/// Within the disk, behind its end, and where a number of 32 or 63 bits ends.
const PLACES: [&str; 8] = ["0", "1M", "3M", "1G", "1025G", "1024T", "16384T", "4096P"];

rows! {
    SEEDS: Option<u64>;
    // The same ones each time, for the gate; but for what comes from the UUIDs of a new image.
    "fixed" => Some(1), groups = [AUTO, QUICK];
    // Those of the run's seed.
    "drawn" => None, groups = [EXPLORE];
}

/// What the image has besides its data.
enum More {
    Nothing,
    Bitmap,
    Keys,
    DataFile,
    Compressed,
}

rows! {
    MORE: More;
    "of-a-plain-image" => More::Nothing;
    "of-one-with-a-bitmap" => More::Bitmap, formats = [QCOW2];
    "of-one-with-keys" => More::Keys, formats = [QCOW2];
    "of-one-with-a-data-file" => More::DataFile, formats = [QCOW2];
    "of-compressed-data" => More::Compressed, formats = [QCOW2];
}

/// An image of this kind, and its data file.
async fn image(t: &Test, more: &More) -> CaseResult<(Image, TestFile)> {
    let data = t.file("data")?;
    let disk = t.image("disk").size(4 * MIB);
    let disk = match more {
        More::Keys => disk.keys(&[]),
        More::DataFile => disk.option("data_file", data.as_str()),
        _ => disk,
    };
    let disk = disk.write(DATA, 0..MIB).create().await?;
    let disk = match more {
        More::Compressed => {
            let copy = t.image("copy").size(4 * MIB).reserve().await?;
            disk.convert(&copy).with(|call| call.compress()).await?;
            copy
        }
        _ => disk,
    };
    match (more, disk.format()) {
        (More::DataFile, _) => {}
        (More::Bitmap, _) => {
            disk.bitmap("b0").with(|call| call.action(BitmapAction::Add)).await?;
            disk.write(DATA, 3 * MIB..3 * MIB + CLUSTER).await?;
        }
        (_, QCOW2) => {
            disk.snapshot("before").await?;
            disk.write(DATA, 3 * MIB..3 * MIB + CLUSTER).await?;
        }
        _ => {}
    }
    Ok((disk, data))
}

/// No corrupted metadata word crashes a reader, a writer or a repair.
#[case(
    rows = (SEEDS, MORE), formats = [QCOW2, QED, VDI, VPC, VMDK, PARALLELS, VHDX],
    budget = secs(600)
)]
async fn harm_nobody(t: &mut Test, seed: &Option<u64>, more: &More) -> CaseResult {
    let (disk, _data) = image(t, more).await?;
    let format = disk.format();
    let good = fs::read(disk.file())?;
    let blocks = metadata(&good);
    let mut random = fastrand::Rng::with_seed(seed.unwrap_or(t.spec().seed));
    let changes = match more {
        More::Nothing => CHANGES,
        _ => CHANGES_OF_MORE,
    };
    for _ in 0..changes {
        let edit = drawn(&mut random, &good, &blocks);
        // As a row of `headers` has it.
        t.step(format!("{edit:?}"));
        fs::write(disk.file(), &good)?;
        for edit in [&[edit], checksums(format)].concat() {
            edit.apply(&disk)?;
        }
        if is_known(&disk)? {
            continue;
        }
        for verb in ["read", "write"] {
            let commands = PLACES.map(|at| format!("{verb} {at} 4k"));
            disk.io(commands).any_status().await?;
        }
        disk.info().any_status().await?;
        disk.check().with(|call| call.repair(Repair::All)).any_status().await?;
    }
    Ok(())
}

/// Where the blocks are that hold more than zeroes, and not the guest's data.
fn metadata(bytes: &[u8]) -> Vec<usize> {
    let blocks = bytes.chunks_exact(BLOCK).enumerate();
    let holds_more = |block: &[u8]| {
        let is_full_of = |byte| block.iter().all(|b| *b == byte);
        !is_full_of(0) && !is_full_of(DATA)
    };
    let blocks = blocks.filter(|(_, block)| holds_more(block));
    blocks.map(|(at, _)| at * BLOCK).collect()
}

/// A word in one of these blocks, and an extreme value for it.
fn drawn(random: &mut fastrand::Rng, bytes: &[u8], blocks: &[usize]) -> Edit {
    let is_long = random.bool();
    let width = if is_long { 8 } else { 4 };
    // What comes first says most.
    let block = match random.bool() {
        true => blocks[random.usize(..blocks.len().min(2))],
        false => blocks[random.usize(..blocks.len())],
    };
    let at = block + random.usize(..BLOCK / width) * width;
    let is_big = random.bool();
    let old = bytes[at..at + width].iter();
    let old = match is_big {
        true => old.fold(0, |all, byte| all << 8 | u64::from(*byte)),
        false => old.rev().fold(0, |all, byte| all << 8 | u64::from(*byte)),
    };
    let bits = 8 * width as u32;
    let one = 1_u64 << random.u32(..bits);
    let value = match random.u32(..8) {
        0 => 0,
        1 => u64::MAX,
        2 => one,
        3 => one - 1,
        4 => one.wrapping_add(u64::from(random.u8(..16)) * 512),
        5 => old.wrapping_add(1),
        6 => old.wrapping_sub(1),
        _ => old ^ one,
    };
    let at = at as u64;
    match (is_long, is_big) {
        (true, true) => Be64(at, value),
        (true, false) => Le64(at, value),
        (false, true) => Be32(at, value as u32),
        (false, false) => Le32(at, value as u32),
    }
}

/// What makes a changed image of this format agree with its checksums.
fn checksums(format: Format) -> &'static [Edit] {
    match format {
        VPC => &[VhdChecksum],
        VHDX => &[HEADERS_AGREE[0], HEADERS_AGREE[1], REGIONS_AGREE],
        _ => &[],
    }
}

/// From this size on, the number of blocks needs more than 32 bits: a table has one for each 8 MiB, and one more for each 512 of these.
const VHDX_WRAPS: u64 = (1 << 55) / 513 * 512;

/// Has something that should be refused and is not: known bugs with rows of their own (docs/qemu-findings.md).
fn is_known(disk: &Image) -> CaseResult<bool> {
    let file = File::open(disk.file())?;
    let number = |place| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, place)?;
        Ok::<_, io::Error>(u64::from_le_bytes(bytes))
    };
    Ok(match disk.format() {
        VHDX => number(VHDX_DISK_SIZE)? >= VHDX_WRAPS,
        VMDK => number(VMDK_CAPACITY)? >= 1 << 63,
        PARALLELS => {
            let [sectors, table] = [number(PARALLELS_SECTORS)?, number(PARALLELS_TRACKS)?];
            let (tracks, entries) = (table & 0xffff_ffff, table >> 32);
            let data = (number(PARALLELS_DATA)? & 0xffff_ffff) * 512;
            let fits = sectors <= tracks * entries && 64 + 4 * entries <= data;
            !fits || number(PARALLELS_EXTENSION)? >= 1 << 54
        }
        QCOW2 => {
            // What cannot be read is found out.
            let Ok(image) = qcow2::Image::open(disk.file()) else {
                return Ok(false);
            };
            let is_in_the_header =
                |entry: &L1Entry| entry.is_copied() && entry.l2_offset().is_none();
            let cluster = image.header().cluster_size();
            let is_unaligned = |entry: &u64| !(entry & !0x1ff).is_multiple_of(cluster);
            image.l1_table().is_ok_and(|table| table.iter().any(is_in_the_header))
                || image.refcount_table().is_ok_and(|table| table.iter().any(is_unaligned))
        }
        _ => false,
    })
}
