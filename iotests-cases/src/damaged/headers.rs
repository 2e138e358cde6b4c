//! Images with invalid headers.

use imgtools::qcow2::field;
use iotests_core::prelude::*;

use super::{Edit, assert_refused};
use Edit::{Be16, Be32, Be64, Bytes, Cut, Le16, Le32, Le64, VhdChecksum, VhdxChecksum};

defaults! { groups = [AUTO, QUICK] }

/// What is changed in a good image, and the error that opening it then gives.
struct Damage {
    edits: &'static [Edit],
    error: &'static str,
}

/// A good image, damaged.
async fn assert_refuses(t: &Test, damage: &Damage) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).write(0x11, 0..MIB);
    assert_refuses_damaged(t, &image.create().await?, damage).await
}

async fn assert_refuses_damaged(t: &Test, image: &Image, damage: &Damage) -> CaseResult {
    for edit in damage.edits {
        edit.apply(image)?;
    }
    assert_refused(t, image, damage.error).await
}

rows! {
    QCOW2S: Damage { edits, error };
    "magic" => &[Be32(field::MAGIC, 0x5146_49fa)], "Image is not in qcow2 format";
    "version-1" => &[Be32(field::VERSION, 1)], "Unsupported qcow2 version 1";
    "version-4" => &[Be32(field::VERSION, 4)], "Unsupported qcow2 version 4";
    "small-clusters" => &[Be32(field::CLUSTER_BITS, 8)], "Unsupported cluster size: 2^8";
    "large-clusters" => &[Be32(field::CLUSTER_BITS, 22)], "Unsupported cluster size: 2^22";
    "short-header" => &[Be32(field::HEADER_LENGTH, 72)], "qcow2 header too short";
    "long-header" => &[Be32(field::HEADER_LENGTH, 0x7fff_fff8)],
        "qcow2 header exceeds cluster size";
    "unknown-feature" => &[Be64(field::INCOMPATIBLE_FEATURES, 1 << 63)],
        "Unsupported qcow2 feature(s)";
    "refcount-order" => &[Be32(field::REFCOUNT_ORDER, 7)], "Reference count entry width too large";
    "encryption" => &[Be32(field::CRYPT_METHOD, 3)], "Unsupported encryption method 3";
    "compression" => &[Be64(field::INCOMPATIBLE_FEATURES, 8), Bytes(field::COMPRESSION_TYPE,
        &[0xff])],
        "qcow2: unknown compression type: 255";
    "large-l1" => &[Be32(field::L1_SIZE, 0x7fff_ffff)], "Active L1 table too large";
    "small-l1" => &[Be32(field::L1_SIZE, 0)], "L1 table is too small";
    "unaligned-l1" => &[Be64(field::L1_TABLE_OFFSET, 0x1234_5678)],
        "Active L1 table offset invalid";
    "l1-beyond-63-bits" => &[Be64(field::L1_TABLE_OFFSET, 0x7fff_ffff_ffff_0000)],
        "Could not read L1 table";
    "no-refcounts" => &[Be32(field::REFCOUNT_TABLE_CLUSTERS, 0)],
        "Image does not contain a reference count table";
    "large-refcounts" => &[Be32(field::REFCOUNT_TABLE_CLUSTERS, 0x7fff_ffff)],
        "Reference count table too large";
    "unaligned-refcounts" => &[Be64(field::REFCOUNT_TABLE_OFFSET, 0x1_0200)],
        "Reference count table offset invalid";
    "many-snapshots" => &[Be32(field::NB_SNAPSHOTS, 0x7fff_ffff)], "Snapshot table too large";
    "unaligned-snapshots" => &[Be32(field::NB_SNAPSHOTS, 1), Be64(field::SNAPSHOTS_OFFSET, 3)],
        "Snapshot table offset invalid";
    "backing-name-elsewhere" => &[Be64(field::BACKING_FILE_OFFSET, 1 << 40),
        Be32(field::BACKING_FILE_SIZE, 8)],
        "Invalid backing file offset";
    "long-backing-name" => &[Be64(field::BACKING_FILE_OFFSET, 0x400),
        Be32(field::BACKING_FILE_SIZE, 5000)],
        "Backing file name too long";
    "huge" => &[Be64(field::SIZE, 1 << 62)], "Image is too big";
    "long-extension" => &[Be32(112, 0x1234), Be32(116, 0xffff_fff0)], "Header extension too large";
    "cut-in-the-header" => &[Cut(60)], "qcow2 header too short";
}

/// Opening a qcow2 image with a damaged header fails with the reason, and leaves the image alone.
#[case(rows = QCOW2S)]
async fn of_qcow2_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}

const SLOT_0: u64 = 208;
/// The first one that has no key.
const SLOT_1: u64 = SLOT_0 + 48;
/// Within a slot.
const ITERATIONS: u64 = 4;
const KEY_OFFSET: u64 = 40;
const STRIPES: u64 = 44;

/// The start of the payload of a volume with AES-256 in XTS mode, in sectors: behind eight slots for keys.
const PAYLOAD: u32 = 8 + 8 * 504;

/// A volume of which all is right but the key. QEMU would take a second of CPU for each key that it makes.
fn luks_volume() -> Vec<u8> {
    let mut volume = vec![0; PAYLOAD as usize * 512 + 4 * MIB as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        volume[at as usize..][..bytes.len()].copy_from_slice(bytes);
    };
    put(0, b"LUKS\xba\xbe\x00\x01");
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, b"sha256");
    put(104, &PAYLOAD.to_be_bytes());
    put(108, &64_u32.to_be_bytes());
    put(164, &1000_u32.to_be_bytes());
    put(168, b"00000000-0000-4000-8000-000000000000");
    for slot in 0..8 {
        let (at, state) = match slot {
            0 => (SLOT_0, 0x00ac_71f3_u32),
            _ => (SLOT_0 + 48 * slot, 0x0000_dead),
        };
        let offset = 8 + 504 * slot as u32;
        put(at, &state.to_be_bytes());
        put(at + ITERATIONS, &1000_u32.to_be_bytes());
        put(at + KEY_OFFSET, &offset.to_be_bytes());
        put(at + STRIPES, &4000_u32.to_be_bytes());
    }
    volume
}

rows! {
    LUKSES: Damage { edits, error };
    "magic" => &[Bytes(0, b"LUKX")], "Volume is not in LUKS format";
    "version" => &[Be16(6, 2)], "LUKS version 2 is not supported";
    "endless-cipher" => &[Bytes(8, &[b'a'; 32])], "LUKS header cipher name is not NUL terminated";
    "endless-mode" => &[Bytes(40, &[b'a'; 32])], "LUKS header cipher mode is not NUL terminated";
    "endless-hash" => &[Bytes(72, &[b'a'; 32])], "LUKS header hash spec is not NUL terminated";
    "unknown-cipher" => &[Bytes(8, b"rot13\0")],
        "Algorithm 'rot13' with key size 32 bytes not supported";
    "unknown-hash" => &[Bytes(72, b"crc32\0\0")], "'crc32' not supported";
    "mode-without-iv" => &[Bytes(40, b"xts\0")], "Unexpected cipher mode string format 'xts'";
    "payload-in-the-header" => &[Be32(104, 3)], "LUKS payload is overlapping with the header";
    "no-iterations" => &[Be32(164, 0)], "LUKS key iteration count is zero";
    "stripes" => &[Be32(SLOT_1 + STRIPES, 3999)], "Keyslot 1 is corrupted (stripes 3999 != 4000)";
    "no-stripes" => &[Be32(SLOT_0 + STRIPES, 0)], "Keyslot 0 is corrupted (stripes 0 != 4000)";
    "state-of-a-slot" => &[Be32(SLOT_1, 1)], "Keyslot 1 state (active/disable) is corrupted";
    "no-iterations-of-a-slot" => &[Be32(SLOT_0 + ITERATIONS, 0)],
        "Keyslot 0 iteration count is zero";
    "slot-in-the-header" => &[Be32(SLOT_0 + KEY_OFFSET, 2)],
        "Keyslot 0 is overlapping with the LUKS header";
    "slot-behind-the-fields" => &[Be32(SLOT_0 + KEY_OFFSET, 4)],
        "Keyslot 0 is overlapping with the LUKS header";
    "slot-in-the-payload" => &[Be32(SLOT_1 + KEY_OFFSET, 0x0100_0000)],
        "Keyslot 1 is overlapping with the encrypted payload";
    "slot-in-a-slot" => &[Be32(SLOT_1 + KEY_OFFSET, 16)],
        "Keyslots 0 and 1 are overlapping in the header";
    "cut-in-the-header" => &[Cut(180)], "Keyslot 0 is corrupted (stripes 0 != 4000)";
}

/// Opening a LUKS volume with a damaged header fails with the reason, before any key is tried.
#[case(formats = [LUKS], groups = [CRYPTO], rows = LUKSES)]
async fn of_luks_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).reserve().await?;
    std::fs::write(image.file(), luks_volume())?;
    let key = "Invalid password, cannot unlock any keyslot";
    image.io(["read 0 512"]).expect_error(key).await?;
    assert_refuses_damaged(t, &image, damage).await
}

const DYNAMIC: u64 = 512;

rows! {
    VPCS: Damage { edits, error };
    "magic-in-both-places" => &[Bytes(0, b"conectiy"), Cut(512 * 1024)], "invalid VPC image";
    "only-the-footer-of-a-dynamic-disk" => &[Bytes(0, b"conectiy")], "invalid VPC image";
    "checksum" => &[Be32(64, 0)], "Incorrect header checksum";
    "dynamic-header-elsewhere" => &[Be64(16, 0x300), VhdChecksum], "Invalid header magic";
    "dynamic-header-behind-the-file" => &[Be64(16, 1 << 40), VhdChecksum], "Invalid header magic";
    "dynamic-magic" => &[Bytes(DYNAMIC, b"cxspars3")], "Invalid header magic";
    "no-blocks" => &[Be32(DYNAMIC + 32, 0)], "Invalid block size 0";
    "odd-blocks" => &[Be32(DYNAMIC + 32, 0x20_0200)], "Invalid block size 2097664";
    "small-blocks" => &[Be32(DYNAMIC + 32, 256)], "Invalid block size 256";
    "short-table" => &[Be32(DYNAMIC + 28, 1)], "Page table too small";
    "huge-table" => &[Be32(DYNAMIC + 28, 0x7fff_ffff)], "Max Table Entries too large";
    "cut-in-a-block" => &[Cut(1024 * 1024)], "The image has been truncated";
    "block-behind-the-file" => &[Be32(0x600, 0x7fff_ffff)], "The image has been truncated";
    "cut-in-the-header" => &[Cut(100)], "Invalid header magic";
}

/// Opening a VHD with a damaged footer or header fails with the reason.
#[case(formats = [VPC], rows = VPCS)]
async fn of_vpc_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}

rows! {
    VDIS: Damage { edits, error };
    "signature" => &[Le32(64, 1)], "Image not in VDI format (bad signature 00000001)";
    "version" => &[Le32(68, 0x2_0001)], "unsupported VDI image (version 2.1)";
    "unaligned-map" => &[Le32(340, 0x201)],
        "unsupported VDI image (unaligned block map offset 0x201)";
    "unaligned-data" => &[Le32(344, 0x3)], "unsupported VDI image (unaligned data offset 0x3)";
    "sectors" => &[Le32(360, 4096)], "unsupported VDI image (sector size 4096 is not 512)";
    "no-blocks" => &[Le32(376, 0)], "unsupported VDI image (block size 0 is not 1048576)";
    "large-blocks" => &[Le32(376, 0x20_0000)],
        "unsupported VDI image (block size 2097152 is not 1048576)";
    "short-map" => &[Le32(384, 1)], "image bitmap has room for 1048576)";
    "huge-map" => &[Le32(384, u32::MAX)], "unsupported VDI image (too many blocks 4294967295";
    "huge" => &[Le64(368, 1 << 62)], "Unsupported VDI image size (size is 0x4000000000000000";
    "link" => &[Bytes(424, &[1])], "unsupported VDI image (non-NULL link UUID)";
    "parent" => &[Bytes(440, &[1])], "unsupported VDI image (non-NULL parent UUID)";
    "cut-in-the-header" => &[Cut(64)], "Image not in VDI format";
}

/// Opening a VDI with a damaged header fails with the reason.
#[case(formats = [VDI], rows = VDIS)]
async fn of_vdi_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}

rows! {
    QEDS: Damage { edits, error };
    "magic" => &[Bytes(0, b"QEX\0")], "Image not in QED format";
    "feature" => &[Le64(16, 1 << 40)], "Unsupported QED features: 10000000000";
    "small-clusters" => &[Le32(4, 512)], "QED cluster size is invalid";
    "odd-clusters" => &[Le32(4, 0x1_0001)], "QED cluster size is invalid";
    "no-tables" => &[Le32(8, 0)], "QED table size is invalid";
    "large-tables" => &[Le32(8, 32)], "QED table size is invalid";
    "l1-in-the-header" => &[Le64(40, 0)], "QED table offset is invalid";
    "unaligned-l1" => &[Le64(40, 0x1_0200)], "QED table offset is invalid";
    "l1-behind-the-file" => &[Le64(40, 1 << 40)], "QED table offset is invalid";
    "huge" => &[Le64(48, 1 << 62)], "QED image size is invalid";
    "odd-size" => &[Le64(48, 513)], "QED image size is invalid";
    "long-header" => &[Le32(12, 0x7fff_ffff)], "QED table offset is invalid";
    "backing-name-elsewhere" => &[Le64(16, 1), Le32(56, 0x7fff_0000), Le32(60, 8)],
        "QED backing filename offset is invalid";
    "long-backing-name" => &[Le64(16, 1), Le32(56, 64), Le32(60, 5000)],
        "Failed to read backing filename";
}

/// Opening a QED image with a damaged header fails with the reason.
#[case(formats = [QED], rows = QEDS)]
async fn of_qed_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}

/// How many sectors a cluster of a Parallels image has, clusters its table, and sectors the disk.
pub(super) const PARALLELS_TRACKS: u64 = 28;
pub(super) const PARALLELS_ENTRIES: u64 = PARALLELS_TRACKS + 4;
pub(super) const PARALLELS_SECTORS: u64 = PARALLELS_ENTRIES + 4;
/// In which sectors the data of a Parallels image begins, and its extension.
pub(super) const PARALLELS_DATA: u64 = 48;
pub(super) const PARALLELS_EXTENSION: u64 = 56;

const ASSERTS: KnownBug = known(
    "a Parallels image with an extension beyond the largest offset aborts the process that opens it (58607752d1)",
    "Assertion `ext_off > 0' failed",
    ALWAYS,
)
.fixed_in(["10.0"]);

/// Seen in 10.0.13 and not in 11.1.3, and in the source of 10.2.2; 11.0 was not at hand.
const SHORT_TABLE: KnownBug = known(
    "writing to a Parallels image whose table is too short for its disk aborts",
    "\"virtual-size\": 4194304,",
    before(11, 0),
);

rows! {
    PARALLELSES: Damage { edits, error };
    "magic" => &[Bytes(0, b"X")], "Image not in Parallels format";
    "version" => &[Le32(16, 3)], "Image not in Parallels format";
    "no-sectors" => &[Le32(PARALLELS_TRACKS, 0)], "Invalid image: Zero sectors per track";
    "large-clusters" => &[Le32(PARALLELS_TRACKS, 0x7fff_ffff)], "Invalid image: Too big cluster";
    "huge-table" => &[Le32(PARALLELS_ENTRIES, 0x7fff_ffff)], "Catalog too large";
    "short-table" => &[Le32(PARALLELS_ENTRIES, 1)], "Catalog size too small",
        known_bugs = [SHORT_TABLE];
    "extension-behind-all-offsets" => &[Le64(PARALLELS_EXTENSION, 1 << 55)],
        "Invalid image: Too big offset",
        known_bugs = [ASSERTS];
    "cut-in-the-header" => &[Cut(10)], "Image not in Parallels format";
}

/// Opening a Parallels image with a damaged header fails with the reason.
#[case(formats = [PARALLELS], rows = PARALLELSES)]
async fn of_parallels_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}

/// How many sectors a VMDK has.
pub(super) const VMDK_CAPACITY: u64 = 12;

const NEGATIVE: KnownBug = known(
    "a VMDK of 2^63 sectors or more has a negative size, which is taken for an error and ends the writer",
    "Can't get image size",
    ALWAYS,
);

rows! {
    VMDKS: Damage { edits, error };
    "magic" => &[Bytes(0, b"KDMX")], "invalid VMDK image descriptor";
    "version" => &[Le32(4, 4)], "Unsupported VMDK version 4";
    "large-tables" => &[Le32(44, 513)], "L2 table size too big";
    "no-tables" => &[Le32(44, 0)], "L1 entry size is invalid";
    "large-grains" => &[Le64(20, 0x20_0001)], "Invalid granularity, image may be corrupt";
    "no-grains" => &[Le64(20, 0)], "L1 entry size is invalid";
    "huge" => &[Le64(VMDK_CAPACITY, 1 << 45)], "L1 size too big";
    "so-huge-that-the-size-is-negative" => &[Le64(VMDK_CAPACITY, (1 << 63) | 0x2000)],
        "L1 size too big", known_bugs = [NEGATIVE];
    "cut-before-the-grains" => &[Cut(30_000)], "File truncated, expecting at least";
    "footer-that-is-none" => &[Le64(56, u64::MAX)], "Invalid footer";
}

/// Opening a VMDK with a damaged header fails with the reason.
#[case(formats = [VMDK], rows = VMDKS)]
async fn of_vmdk_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}

/// The two headers, the table of regions, and the regions of a new image.
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
const REGIONS: u64 = 192 * KIB;
const BLOCKS: u64 = 2 * MIB;
const METADATA: u64 = 3 * MIB;

/// Of the first and the second region, in their table: the one of the blocks, and the metadata.
const REGION: [u64; 2] = [REGIONS + 16, REGIONS + 48];
const REGION_OFFSET: u64 = 16;
const REGION_LENGTH: u64 = 24;
const REGION_REQUIRED: u64 = 28;
/// What the metadata say, behind their table.
const BLOCK_SIZE: u64 = METADATA + 64 * KIB;
const FLAGS: u64 = BLOCK_SIZE + 4;
pub(super) const VHDX_DISK_SIZE: u64 = BLOCK_SIZE + 8;
const LOGICAL_SECTOR: u64 = BLOCK_SIZE + 32;

pub(super) const HEADERS_AGREE: [Edit; 2] = [
    VhdxChecksum(HEADERS[0], 4096),
    VhdxChecksum(HEADERS[1], 4096),
];
pub(super) const REGIONS_AGREE: Edit = VhdxChecksum(REGIONS, 64 * 1024);
/// The name of no region and no metadata that there are.
const UNKNOWN: Edit = Bytes(REGION[0], &[0xee; 16]);

const WRAPS: KnownBug = known(
    "the number of blocks is kept in 32 bits, so that the table of a huge VHDX is too short",
    "\"virtual-size\": 36028797018964480,",
    ALWAYS,
);

rows! {
    VHDXS: Damage { edits, error };
    "signature" => &[Bytes(0, b"vhdxfilX")], "Invalid argument";
    "both-headers" => &[Bytes(HEADERS[0], b"X"), Bytes(HEADERS[1], b"X")],
        "No valid VHDX header found";
    "checksums-of-both-headers" => &[Le32(HEADERS[0] + 4, 0), Le32(HEADERS[1] + 4, 0)],
        "No valid VHDX header found";
    "version-of-both-headers" => &[Le16(HEADERS[0] + 66, 9), Le16(HEADERS[1] + 66, 9),
        HEADERS_AGREE[0], HEADERS_AGREE[1]],
        "No valid VHDX header found";
    "version-of-the-log" => &[Le16(HEADERS[0] + 64, 1), Le16(HEADERS[1] + 64, 1),
        HEADERS_AGREE[0], HEADERS_AGREE[1]],
        "Invalid argument";
    "unaligned-log" => &[Le64(HEADERS[0] + 72, MIB + 4096), Le64(HEADERS[1] + 72, MIB + 4096),
        HEADERS_AGREE[0], HEADERS_AGREE[1]],
        "Invalid argument";
    "regions" => &[Bytes(REGIONS, b"X"), REGIONS_AGREE], "Invalid argument";
    "checksum-of-the-regions" => &[Le32(REGIONS + 4, 0)], "Invalid argument";
    "number-of-regions" => &[Le32(REGIONS + 8, 2048), REGIONS_AGREE], "Invalid argument";
    "no-regions" => &[Le32(REGIONS + 8, 0), REGIONS_AGREE], "Invalid argument";
    "regions-that-overlap" => &[Le64(REGION[1] + REGION_OFFSET, BLOCKS + MIB - 1),
        REGIONS_AGREE],
        "Invalid argument";
    "an-unknown-region" => &[UNKNOWN, Le32(REGION[0] + REGION_REQUIRED, 0), REGIONS_AGREE],
        "Invalid argument";
    "an-unknown-region-that-is-required" => &[UNKNOWN, Le32(REGION[0] + REGION_REQUIRED, 1),
        REGIONS_AGREE],
        "Operation not supported";
    "no-table-of-blocks" => &[Le32(REGION[0] + REGION_LENGTH, 0), REGIONS_AGREE],
        "Invalid argument";
    "metadata" => &[Bytes(METADATA, b"X")], "Invalid argument";
    "number-of-metadata" => &[Le16(METADATA + 10, 2048)], "Invalid argument";
    "no-metadata" => &[Le16(METADATA + 10, 0)], "Operation not supported";
    "metadata-behind-the-end" => &[Le32(METADATA + 32 + 16, 0xffff_0000)],
        "Invalid argument";
    "a-parent" => &[Le32(FLAGS, 2)], "Invalid argument";
    "no-blocks" => &[Le32(BLOCK_SIZE, 0)], "Invalid argument";
    "huge-blocks" => &[Le32(BLOCK_SIZE, 512 << 20)], "Invalid argument";
    "odd-blocks" => &[Le32(BLOCK_SIZE, 3 << 20)], "Invalid argument";
    "no-sectors" => &[Le32(LOGICAL_SECTOR, 0)], "Operation not supported";
    "large-sectors" => &[Le32(LOGICAL_SECTOR, 4096)], "Operation not supported";
    "huge" => &[Le64(VHDX_DISK_SIZE, 1 << 45)], "Invalid argument";
    "so-huge-that-the-blocks-wrap" => &[Le64(VHDX_DISK_SIZE, (1 << 55) + 512)], "Invalid argument",
        known_bugs = [WRAPS];
    "a-block-behind-the-end" => &[Le64(BLOCKS, (1 << 40) | 6)], "Invalid argument";
    "a-block-behind-all-offsets" => &[Le64(BLOCKS, 0x7fff_ffff_fff0_0006)], "Invalid argument";
    "a-block-in-the-metadata" => &[Le64(BLOCKS, METADATA | 6)], "Invalid argument";
    "cut-before-the-regions" => &[Cut(REGIONS)], "Invalid argument";
    "cut-before-the-blocks" => &[Cut(5 * MIB)], "Invalid argument";
}

/// Opening a VHDX with damaged headers, regions, metadata or blocks fails.
#[case(formats = [VHDX], rows = VHDXS)]
async fn of_vhdx_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    assert_refuses(t, damage).await
}
