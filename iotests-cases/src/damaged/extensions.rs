//! Qcow2 images whose optional structures are damaged: those that extensions of the header lead to.

use imgtools::qcow2::{self, Extension};
use iotests_core::prelude::*;

use super::{Edit, assert_refused};
use Edit::{Be16, Be32, Be64, Bytes};

defaults! { groups = [AUTO] }

/// Where something is, or what.
struct Places {
    /// The data of the extension. Before them are its type and its length.
    extension: u64,
    length: u64,
    /// The entry of the bitmap in the directory, and its table, if there is a bitmap.
    entry: u64,
    table: u64,
}

impl Places {
    fn of(image: &Image, kind: u32) -> CaseResult<Places> {
        let image = qcow2::Image::open(image.file())?;
        let found = image.extension(kind)?;
        let found = found.ok_or_else(|| Failure::new("the extension is not there"))?;
        let bitmaps = image.bitmaps()?;
        let bitmap = bitmaps.first();
        Ok(Places {
            extension: found.offset,
            length: found.data.len() as u64,
            entry: bitmap.map_or(0, |bitmap| bitmap.entry_offset),
            table: bitmap.map_or(0, |bitmap| bitmap.table_offset),
        })
    }
}

/// Something damaged in one place, and the error that opening the image then gives.
struct Damage {
    edit: fn(&Places) -> Edit,
    error: &'static str,
}

async fn assert_refuses(t: &Test, image: &Image, kind: u32, damage: &Damage) -> CaseResult {
    let places = Places::of(image, kind)?;
    (damage.edit)(&places).apply(image)?;
    assert_refused(t, image, damage.error).await
}

/// An offset that no file reaches.
const FAR: u64 = 1 << 40;

const CONSTRAINTS: &str = "doesn't satisfy the constraints";

/// See docs/qemu-findings.md.
const EMPTIED: KnownBug = known(
    "a bitmap that is said to be behind the end of the file is taken for an empty one",
    "it exited with status 0",
    ALWAYS,
);

rows! {
    BITMAPS: Damage { edit, error };
    "length" => |it| Be32(it.extension - 4, 16), "bitmaps_ext: Invalid extension length",
        groups = [QUICK];
    "no-bitmaps" => |it| Be32(it.extension, 0), "found bitmaps extension with zero bitmaps";
    "many-bitmaps" => |it| Be32(it.extension, 65536),
        "exceeding the QEMU supported maximum of 65535", groups = [QUICK];
    "one-bitmap-more" => |it| Be32(it.extension, 2),
        "Less bitmaps found than specified in header extension", groups = [QUICK];
    "reserved-field" => |it| Be32(it.extension + 4, 1), "bitmaps_ext: Reserved field is not zero";
    "empty-directory" => |it| Be64(it.extension + 8, 0), "Requested bitmap directory size is zero";
    "short-directory" => |it| Be64(it.extension + 8, 16), "Broken bitmap directory",
        groups = [QUICK];
    "long-directory" => |it| Be64(it.extension + 8, 40), "Broken bitmap directory",
        groups = [QUICK];
    "huge-directory" => |it| Be64(it.extension + 8, FAR), "exceeds the maximum supported size",
        groups = [QUICK];
    "unaligned-directory" => |it| Be64(it.extension + 16, 512), "invalid bitmap directory offset";
    "directory-behind-the-file" => |it| Be64(it.extension + 16, FAR), CONSTRAINTS, groups = [QUICK];
    "directory-beyond-63-bits" => |it| Be64(it.extension + 16, 1 << 63),
        "Failed to read bitmap directory";
    "no-table" => |it| Be64(it.entry, 0), CONSTRAINTS;
    "unaligned-table" => |it| Be64(it.entry, it.table + 512), CONSTRAINTS;
    "table-behind-the-file" => |it| Be64(it.entry, FAR),
        "Could not read bitmap_table table from image", known_bugs = [EMPTIED],
        groups = [QUICK];
    "empty-table" => |it| Be32(it.entry + 8, 0), CONSTRAINTS;
    "long-table" => |it| Be32(it.entry + 8, 2), "Could not read bitmap 'b0' from image";
    "huge-table" => |it| Be32(it.entry + 8, 0x7fff_ffff), CONSTRAINTS, groups = [QUICK];
    "reserved-flags" => |it| Be32(it.entry + 12, 1 << 31), CONSTRAINTS;
    "unknown-type" => |it| Bytes(it.entry + 16, &[2]), CONSTRAINTS;
    "small-granularity" => |it| Bytes(it.entry + 17, &[8]), CONSTRAINTS;
    "large-granularity" => |it| Bytes(it.entry + 17, &[63]), CONSTRAINTS;
    "no-name" => |it| Be16(it.entry + 18, 0), "Broken bitmap directory";
    "long-name" => |it| Be16(it.entry + 18, 0xffff), "Broken bitmap directory", groups = [QUICK];
    "extra-data" => |it| Be32(it.entry + 20, 8), "Broken bitmap directory", groups = [QUICK];
    "unaligned-bits" => |it| Be64(it.table, 512), "Could not read bitmap_table table from image";
    "bits-behind-the-file" => |it| Be64(it.table, FAR),
        "Could not read bitmap_table table from image", known_bugs = [EMPTIED],
        groups = [QUICK];
    "bits-beyond-56-bits" => |it| Be64(it.table, 1 << 56),
        "Could not read bitmap_table table from image";
}

/// Opening an image with damaged bitmaps fails with the reason, and leaves the image alone.
#[case(rows = BITMAPS, groups = [BITMAP])]
async fn of_bitmaps_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).create().await?;
    image.bitmap("b0").with(|call| call.action(imgtools::img::BitmapAction::Add)).await?;
    image.write(0x11, 0..MIB).await?;
    assert_refuses(t, &image, Extension::BITMAPS, damage).await
}

/// See docs/qemu-findings.md.
const LOOKED_FOR: KnownBug = known(
    "qemu-img info looks for the sector size of an encryption whose header is missing",
    "SIGSEGV",
    ALWAYS,
)
.fixed_in(["10.0"]);

rows! {
    KEYS: Damage { edit, error };
    "missing" => |it| Be32(it.extension - 8, 0x1234), "Missing CRYPTO header for crypt method 2",
        known_bugs = [LOOKED_FOR];
    "length" => |it| Be32(it.extension - 4, 8),
        "CRYPTO header extension size 8, but expected size 16";
    "unaligned-header" => |it| Be64(it.extension, 512),
        "Encryption header offset '512' is not a multiple of cluster size '65536'";
    "header-behind-the-file" => |it| Be64(it.extension, FAR), "Volume is not in LUKS format";
    "header-elsewhere" => |it| Be64(it.extension, 0), "Volume is not in LUKS format";
    "empty-header" => |it| Be64(it.extension + 8, 0),
        "Request for data outside of extension header";
    "short-header" => |it| Be64(it.extension + 8, 512),
        "Request for data outside of extension header";
}

/// Opening an encrypted image whose LUKS header is not where it should be fails with the reason.
#[case(rows = KEYS, groups = [QUICK, CRYPTO])]
async fn of_keys_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    let image = t.image("disk").size(4 * MIB).keys(&[]).create().await?;
    assert_refuses(t, &image, Extension::CRYPTO, damage).await
}

rows! {
    DATA_FILES: Damage { edit, error };
    "missing" => |it| Be32(it.extension - 8, 0x1234), "'data-file' is required for this image";
    "empty" => |it| Bytes(it.extension, &[0]), "The 'file' block driver requires a file name";
    "with-a-nul" => |it| Bytes(it.extension + it.length - 2, &[0]), "No such file or directory";
}

/// Opening an image whose data file has no name, or another one, fails with the reason, and neither file changes. What the image itself
/// says can be read, as nobody opens the data file for that.
#[case(rows = DATA_FILES, groups = [QUICK])]
async fn of_data_files_are_refused(t: &mut Test, damage: &Damage) -> CaseResult {
    let data = t.file("data")?;
    let image = t.image("disk").size(4 * MIB).option("data_file", data.as_str());
    let image = image.write(0x11, 0..MIB).create().await?;
    (damage.edit)(&Places::of(&image, Extension::DATA_FILE)?).apply(&image)?;
    let (file, bytes) = (image.file_bytes()?, std::fs::read(&*data)?);
    check!(image.info().await?.virtual_size == 4 * MIB);
    for command in ["read 0 512", "write 0 512"] {
        image.io([command]).expect_error(damage.error).await?;
    }
    let vm = t.host().launch().await?;
    vm.add_node(image.node()).refused(damage.error).await?;
    vm.shutdown().await?;
    check!(std::fs::read(&*data)? == bytes);
    file.assert_unchanged()
}
