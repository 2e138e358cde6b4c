//! VHDs of other programs, which are not damaged.

use iotests_core::prelude::*;

use super::Edit;
use Edit::{Bytes, VhdChecksum};

defaults! { groups = [QUICK] }

/// Where the footer names the program that made the image, and has the geometry of the disk.
const CREATOR: u64 = 28;
const GEOMETRY: u64 = 56;

const SIZE: u64 = 8 * MIB;
/// The size by the geometry of 100 cylinders, 4 heads and 17 sectors.
const BY_GEOMETRY: u64 = 100 * 4 * 17 * 512;
const SMALL: Edit = Bytes(GEOMETRY, &[0, 100, 4, 17]);
/// The largest geometry stands for any size that it cannot express.
const LARGEST: Edit = Bytes(GEOMETRY, &[0xff, 0xff, 16, 255]);

/// Who made an image, and how large its disk is.
struct Made {
    by: &'static [u8],
    geometry: Edit,
    size: u64,
}

const TOO_SMALL: KnownBug = known(
    "only some creators of VHDs are known for the size that counts, so that others lose their end (558d8eb7f3)",
    "virtual_size is 3481600",
    before(10, 0),
);

rows! {
    MADE: Made { by, geometry, size };
    "by-virtual-pc" => b"vpc ", SMALL, BY_GEOMETRY;
    "by-an-old-qemu" => b"qemu", SMALL, BY_GEOMETRY;
    "by-qemu" => b"qem2", SMALL, SIZE;
    "by-hyper-v" => b"win ", SMALL, SIZE;
    "by-disk2vhd" => b"d2v ", SMALL, SIZE;
    "by-xenserver" => b"tap\0", SMALL, SIZE;
    "by-xenconverter" => b"CTXS", SMALL, SIZE;
    "by-azure" => b"wa\0\0", SMALL, SIZE, known_bugs = [TOO_SMALL];
    "by-somebody" => b"xyz ", SMALL, SIZE, known_bugs = [TOO_SMALL];
    "by-nobody" => &[0; 4], SMALL, SIZE, known_bugs = [TOO_SMALL];
    "by-virtual-pc-too-large-for-a-geometry" => b"vpc ", LARGEST, SIZE;
}

/// The disk of a VHD has the size of its geometry only if its creator means that, or the user says so; all of
/// it is there, also in a copy.
#[case(formats = [VPC], host = Host::None, rows = MADE)]
async fn has_the_size_that_its_creator_means(t: &mut Test, made: &Made) -> CaseResult {
    let all = Content::nothing().numbered(0x20, 0..SIZE);
    let image = t.image("disk").size(SIZE).option("force_size", "on");
    let image = image.content(&all).create().await?;
    for edit in [Bytes(CREATOR, made.by), made.geometry, VhdChecksum] {
        edit.apply(&image)?;
    }
    let virtual_size = image.info().await?.virtual_size;
    check!(virtual_size == made.size);
    let held = Content::nothing().with_part_of(&all, 0..made.size);
    image.assert_reads(&held).await?;
    let copy = t.image("copy").format(RAW).reserve().await?;
    image.convert(&copy).await?;
    check!(copy.info().await?.virtual_size == made.size);
    copy.assert_reads(&held).await?;

    let node = image.node().set("force_size_calc", "current_size");
    let whole = t.open(node.filename()).format(VPC).await?;
    check!(whole.info().await?.virtual_size == SIZE);
    whole.assert_reads(&all).await
}
