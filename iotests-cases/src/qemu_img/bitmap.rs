//! Persistent bitmaps, changed by `qemu-img bitmap`.

use imgtools::img::BitmapAction;
use imgtools::qcow2;
use iotests_core::prelude::*;

use super::bitmap_bits;

defaults! {
    formats = [QCOW2], groups = [RW, QUICK, IMG, BITMAP],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size"],
}

const SIZE: u64 = 16 * CLUSTER;

/// A disk with two bitmaps of its clusters: `b` knows writes to 1 and 2, `other` one to 5 and does not record any more.
async fn disk(t: &Test, name: &str) -> CaseResult<Image> {
    let disk = t.image(name).size(SIZE).create().await?;
    let bitmap = |name, action| disk.bitmap(name).with(|call| call.action(action));
    bitmap("b", BitmapAction::Add).await?;
    disk.write(0x11, CLUSTER..3 * CLUSTER).await?;
    bitmap("b", BitmapAction::Disable).await?;
    bitmap("other", BitmapAction::Add).await?;
    disk.write(0x22, 5 * CLUSTER..6 * CLUSTER).await?;
    bitmap("other", BitmapAction::Disable).await?;
    bitmap("b", BitmapAction::Enable).await?;
    Ok(disk)
}

const DATA: Content = Content::of(&[
    (0x11, CLUSTER..3 * CLUSTER),
    (0x22, 5 * CLUSTER..6 * CLUSTER),
]);

/// Whether a bitmap records, and what its bits are, one for each cluster.
fn state(image: &Image, name: &str) -> CaseResult<Option<(bool, u16)>> {
    let all = qcow2::Image::open(image.file())?.bitmaps()?;
    let Some(bitmap) = all.iter().find(|bitmap| bitmap.name == name) else {
        return Ok(None);
    };
    check!(!bitmap.is_in_use());
    let bits = bitmap_bits(image, name)?;
    let bits = bits.iter().rev().fold(0, |bits, byte| bits << 8 | u16::from(*byte));
    Ok(Some((bitmap.is_auto(), bits)))
}

/// Actions on a bitmap, and what it is then.
struct Actions {
    arguments: &'static [&'static str],
    name: &'static str,
    then: Option<(bool, u16)>,
}

const B: u16 = 0b110;
const OTHER: u16 = 0b10_0000;

rows! {
    ACTIONS: Actions { arguments, name, then };
    "add" => &["--add"], "new", Some((true, 0));
    "add-disabled" => &["--add", "--disable"], "new", Some((false, 0));
    "add-and-merge" => &["--add", "--merge", "b", "--merge", "other"], "new", Some((true,
        B | OTHER));
    "remove" => &["--remove"], "b", None;
    "remove-and-add" => &["--remove", "--add"], "b", Some((true, 0));
    "clear" => &["--clear"], "b", Some((true, 0));
    "disable" => &["--disable"], "b", Some((false, B));
    "enable" => &["--enable"], "other", Some((true, OTHER));
    "merge" => &["--merge", "other"], "b", Some((true, B | OTHER));
    "merge-into-one-that-does-not-record" => &["--merge", "b"], "other", Some((false, B | OTHER));
    "merge-into-itself" => &["--merge", "b"], "b", Some((true, B));
    "clear-and-merge" => &["--clear", "--merge", "other"], "b", Some((true, OTHER));
    "merge-and-clear" => &["--merge", "other", "--clear"], "b", Some((true, 0));
    "merge-of-another-image" => &["-b", "SOURCE", "-F", "qcow2", "--merge", "b"], "other",
        Some((false, B | OTHER));
}

/// The actions on a bitmap in one call are done in their order; the other bitmaps, the data and the tables
/// stay as they are.
#[case(upstream = "qemu-img-bitmaps", rows = ACTIONS)]
async fn becomes_what_was_asked_for(t: &mut Test, actions: &Actions) -> CaseResult {
    let (disk, source) = (disk(t, "disk").await?, disk(t, "source").await?);
    let before = source.file_bytes()?;
    let words = actions.arguments.iter();
    let words = words.map(|word| {
        if *word == "SOURCE" {
            source.filename()
        } else {
            word
        }
    });
    let call = t.qemu_img(["bitmap", "-f", "qcow2"]).args(words);
    call.args([disk.filename(), actions.name]).await?;
    before.assert_unchanged()?;
    for (name, first) in [
        ("b", Some((true, B))),
        ("other", Some((false, OTHER))),
        ("new", None),
    ] {
        let expected = if name == actions.name {
            actions.then
        } else {
            first
        };
        check!(state(&disk, name)? == expected, "{name}");
    }
    disk.assert_reads(&DATA).await?;
    disk.assert_clean().await?;

    t.step("a write");
    disk.write(0x33, 9 * CLUSTER..10 * CLUSTER).await?;
    if let Some((records, bits)) = actions.then {
        let bits = if records { bits | 1 << 9 } else { bits };
        check!(state(&disk, actions.name)? == Some((records, bits)));
    }
    disk.assert_clean().await
}

const GRANULARITY: &str = "Granularity must be power of 2 and at least 512";

/// What cannot be done, and why.
struct Refused {
    arguments: &'static [&'static str],
    name: &'static str,
    error: &'static str,
}

rows! {
    REFUSED: Refused { arguments, name, error };
    "nothing" => &[], "b", "Need at least one of --add, --remove";
    "add-twice" => &["--add"], "b", "Bitmap already exists: b";
    "remove-what-is-not-there" => &["--remove"], "new", "Dirty bitmap 'new' not found";
    "clear-what-is-not-there" => &["--clear"], "new", "Dirty bitmap 'new' not found";
    "merge-what-is-not-there" => &["--merge", "new"], "b", "Dirty bitmap 'new' not found";
    "granularity-alone" => &["--clear", "-g", "64k"], "b", "granularity only supported with --add";
    "no-power-of-two" => &["--add", "-g", "3000"], "new", GRANULARITY;
    "too-fine" => &["--add", "-g", "256"], "new", GRANULARITY;
    "too-coarse" => &["--add", "-g", "4G"], "new", GRANULARITY;
    "source-of-nothing" => &["--clear", "-b", "SOURCE", "-F", "qcow2"], "b",
        "Merge bitmap source file only supported with --merge";
    "format-of-no-source" => &["--merge", "other", "-F", "qcow2"], "b", "-F only supported with -b";
    "no-name" => &["--add"], "", "Bitmap name cannot be empty";
    "of-a-source-without" => &["-b", "EMPTY", "-F", "qcow2", "--merge", "b"], "b",
        "Dirty bitmap 'b' not found";
}

/// An invalid action is refused, and leaves the image as it is.
#[case(rows = REFUSED)]
async fn stays_as_it_is_if_it_is_refused(t: &mut Test, refused: &Refused) -> CaseResult {
    let disk = disk(t, "disk").await?;
    let empty = t.image("empty").size(SIZE).create().await?;
    let source = t.image("source").size(SIZE).create().await?;
    let before = [empty.file_bytes()?, source.file_bytes()?];
    let words = refused.arguments.iter().map(|word| match *word {
        "SOURCE" => source.filename(),
        "EMPTY" => empty.filename(),
        word => word,
    });
    let call = t.qemu_img(["bitmap", "-f", "qcow2"]).args(words);
    let output = call.args([disk.filename(), refused.name]).expect_error(refused.error).await?;
    check!(output.status.code() == Some(1));
    check!(state(&disk, "b")? == Some((true, B)));
    check!(state(&disk, "other")? == Some((false, OTHER)));
    check!(state(&disk, "new")?.is_none());
    disk.assert_reads(&DATA).await?;
    disk.assert_clean().await?;
    before.iter().try_for_each(FileBytes::assert_unchanged)
}

/// How an image is made that cannot have bitmaps.
struct Without {
    options: &'static [(&'static str, &'static str)],
}

rows! {
    WITHOUT: Without { options };
    "v2" => &[("compat", "0.10")], formats = [QCOW2];
    "another-format" => &[], formats = [RAW, QED, VMDK];
}

/// An image that cannot have bitmaps gets none.
#[case(rows = WITHOUT)]
async fn is_refused_where_there_can_be_none(t: &mut Test, without: &Without) -> CaseResult {
    let disk = t.image("disk").size(SIZE).write(0x11, 0..CLUSTER);
    let disk = without.options.iter().fold(disk, |disk, (name, value)| disk.option(name, value));
    let disk = disk.create().await?;
    let before = disk.file_bytes()?;
    let add = disk.bitmap("b").with(|call| call.action(BitmapAction::Add));
    add.expect_error("Operation add on bitmap b failed").await?;
    disk.assert_reads(&[(0x11, 0..CLUSTER)]).await?;
    disk.assert_clean().await?;
    match t.format() {
        QCOW2 => Ok(()),
        _ => before.assert_unchanged(),
    }
}

/// The longest name is accepted, and a longer one is refused.
#[case]
async fn has_a_name_of_1023_bytes_at_most(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).create().await?;
    let name = "n".repeat(1023);
    let add = |name: &str| disk.bitmap(name).with(|call| call.action(BitmapAction::Add));
    add(&name).await?;
    add(&"n".repeat(1024)).expect_error("Name length exceeds maximum").await?;
    check!(state(&disk, &name)? == Some((true, 0)));
    check!(qcow2::Image::open(disk.file())?.bitmaps()?.len() == 1);
    disk.assert_clean().await
}
