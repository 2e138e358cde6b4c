//! What `qemu-img measure` says of copies, and what they take then.

use std::ops::Range;

use imgtools::img::BitmapAction;
use iotests_core::author::{KEY, KEY_ID};
use iotests_core::prelude::*;

use super::with_cpu_time;
use crate::json::number;

mod copies;

defaults! {
    formats = [QCOW2], groups = [RW, QUICK, IMG],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size", "refcount_bits"],
}

/// What is in a disk.
type Parts = &'static [(u8, Range<u64>)];

/// A source, by its size and by what is in it.
struct Source {
    size: u64,
    content: Parts,
}

const SOME: Parts = &[
    (0x11, 512..KIB),
    (0x22, CLUSTER..2 * CLUSTER),
    (0x33, 20 * CLUSTER + 512..23 * CLUSTER - 512),
    (0, 40 * CLUSTER..50 * CLUSTER),
];

rows! {
    SOURCES: Source { size, content };
    "nothing" => 0, &[];
    "empty" => 8 * MIB, &[];
    "data" => 8 * MIB, SOME;
    "full" => 8 * MIB, &[(0x11, 0..8 * MIB)];
    "odd-size" => MIB + 512, &[(0x11, MIB..MIB + 512)];
}

/// How the copy is made.
type Options = &'static [(&'static str, &'static str)];

rows! {
    COPIES: Options;
    "default" => &[];
    "v2" => &[("compat", "0.10")], formats = [QCOW2];
    "512-byte-clusters" => &[("cluster_size", "512")];
    "2m-clusters" => &[("cluster_size", "2M")];
    "wide-refcounts" => &[("refcount_bits", "64")], formats = [QCOW2];
    "extended-l2" => &[("extended_l2", "on")], formats = [QCOW2];
    "metadata" => &[("preallocation", "metadata")];
    "falloc" => &[("preallocation", "falloc")];
    "full" => &[("preallocation", "full")];
}

/// Options as after `-o`.
fn joined(options: Options) -> String {
    let all = options.iter().map(|(name, value)| format!("{name}={value}"));
    all.collect::<Vec<_>>().join(",")
}

/// A qcow2 copy fits into what was measured for it; one with all its space is as long as measured for that. The format under test is that
/// of the source.
#[case(
    upstream = "178", formats = [QCOW2, RAW], rows = (SOURCES, COPIES),
    known_bugs = [
        known("the L1 table of an empty preallocated disk is not counted",
            "it takes 65536 bytes more", ALWAYS)
            .only(&[&["nothing", "falloc"], &["nothing", "full"]]),
        known("refcount tables move as they grow, and leave free clusters behind",
            "it takes 30208 bytes more", ALWAYS)
            .only(&[&["full", "512-byte-clusters"]]),
    ]
)]
async fn is_enough_for_a_copy(t: &mut Test, source: &Source, options: &Options) -> CaseResult {
    let image = t.image("source").size(source.size).content(source.content).create().await?;
    let before = image.file_bytes()?;
    let call = t.qemu_img([
        "measure",
        "--output=json",
        "-O",
        "qcow2",
        "-f",
        t.format().name(),
    ]);
    let call = if options.is_empty() {
        call
    } else {
        call.args(["-o", &joined(options)])
    };
    let measured = call.arg(image.filename()).json().await?;
    before.assert_unchanged()?;
    let required = number(&measured, "required")?;
    let whole = number(&measured, "fully-allocated")?;
    check!(required <= whole);
    check!(whole >= source.size);
    let copy = t.image("copy").format(QCOW2).size(source.size).reserve().await?;
    let convert = image
        .convert(&copy)
        .with(|call| options.iter().fold(call, |call, (name, value)| call.option(name, value)));
    convert.await?;
    copy.assert_reads(source.content).await?;
    let length = std::fs::metadata(copy.file())?.len();
    let excess = length.saturating_sub(whole);
    check!(excess == 0, "it takes {excess} bytes more");
    let is_coarse = options.contains(&("cluster_size", "2M"));
    let cluster = if is_coarse { 2 * MIB } else { CLUSTER };
    let preallocated = options.iter().any(|(name, _)| *name == "preallocation");
    if !preallocated {
        check!(length <= required);
        // Not much more: tables for data that is not there.
        check!(
            required - length <= whole / 64 + 16 * cluster,
            "{length} of {required}"
        );
    } else if options[0].1 != "metadata" {
        check!(required == whole);
        check!(length == whole);
    }
    Ok(())
}

/// LUKS adds a header, in whole clusters. (To measure it QEMU makes a key, which takes seconds.)
#[case(upstream = "178", needs = [Luks], groups = [CRYPTO])]
async fn knows_encryption(t: &mut Test) -> CaseResult {
    const HEADER: u64 = 2_068_480;
    let image = t.image("source").size(8 * MIB).content(SOME).create().await?;
    let options = "encrypt.format=luks,encrypt.iter-time=1,encrypt.key-secret=";
    let call = t.qemu_img(["measure", "--output=json", "-O", "qcow2", "-f", "qcow2"]);
    let call = call.secret(KEY_ID, KEY).args(["-o", &format!("{options}{KEY_ID}")]);
    let call = call.arg(image.filename());
    let output = with_cpu_time(call).await?.check()?;
    let measured: Value = serde_json::from_slice(&output.stdout)?;
    let plain = image.measure().with(|call| call.output_format("qcow2")).await?;
    let header = HEADER.next_multiple_of(CLUSTER);
    measured.assert("required", plain.required + header)?;
    measured.assert("fully-allocated", plain.fully_allocated + header)
}

/// A raw copy takes the size of the disk, whatever is in it.
#[case(upstream = "178", formats = [QCOW2, RAW], rows = SOURCES)]
async fn is_the_size_of_a_raw_copy(t: &mut Test, source: &Source) -> CaseResult {
    let image = t.image("source").size(source.size).content(source.content).create().await?;
    let measured = image.measure().await?;
    check!(measured.fully_allocated == source.size);
    check!(measured.required == source.size);
    check!(measured.bitmaps.is_none());
    Ok(())
}

/// Sizes alone, without an image.
struct Size {
    size: u64,
    format: &'static str,
    options: &'static str,
    /// For data that is not there, and for all that may come.
    required: u64,
    whole: u64,
}

rows! {
    SIZED: Size { size, format, options, required, whole };
    "raw-empty" => 0, "raw", "", 0, 0;
    "raw" => GIB, "raw", "", GIB, GIB;
    "raw-odd" => 1000, "raw", "", 1024, 1024;
    "qcow2-empty" => 0, "qcow2", "", 3 * CLUSTER, 3 * CLUSTER;
    "qcow2" => MIB, "qcow2", "", 5 * CLUSTER, 5 * CLUSTER + MIB;
    "qcow2-small-clusters" => 4 * MIB, "qcow2", "cluster_size=512",
        165 * 512, 165 * 512 + 4 * MIB;
    "qcow2-preallocated" => MIB, "qcow2", "preallocation=full", 5 * CLUSTER + MIB,
        5 * CLUSTER + MIB;
}

/// Measures a given size without an image.
#[case(upstream = "178", formats = [RAW], rows = SIZED)]
async fn needs_no_image(t: &mut Test, size: &Size) -> CaseResult {
    let number = size.size.to_string();
    let call = t.qemu_img([
        "measure",
        "--output=json",
        "-O",
        size.format,
        "--size",
        &number,
    ]);
    let call = if size.options.is_empty() {
        call
    } else {
        call.args(["-o", size.options])
    };
    let measured = call.json().await?;
    measured.assert("required", size.required)?;
    measured.assert("fully-allocated", size.whole)?;
    measured.assert_absent("bitmaps")
}

/// An internal snapshot is measured like a disk of its own.
#[case(upstream = "178", groups = [SNAPSHOT])]
async fn knows_snapshots(t: &mut Test) -> CaseResult {
    let image = t.image("source").size(8 * MIB).content(SOME).create().await?;
    let alone = image.measure().with(|call| call.output_format("qcow2")).await?;
    image.snapshot("s").await?;
    image.write(0x77, 4 * MIB..8 * MIB).await?;
    let before = image.file_bytes()?;
    let measure = |name: Option<&str>| {
        image.measure().with(|call| {
            let call = call.output_format("qcow2");
            match name {
                Some(name) => call.snapshot(name),
                None => call,
            }
        })
    };
    check!(measure(Some("s")).await?.required == alone.required);
    check!(measure(Some("snapshot.name=s")).await?.required == alone.required);
    // Some of what was there is overwritten by the rest.
    check!(measure(None).await?.required == alone.required + 4 * MIB);
    measure(Some("nonsense")).expect_error("Failed to load snapshot").await?;
    before.assert_unchanged()
}

/// With a backing file all of it may differ; a chain is measured as what it reads as.
#[case(upstream = "178", groups = [BACKING])]
async fn knows_chains(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(8 * MIB).content(SOME).create().await?;
    let top = t.image("top").backing(&base).write(0x77, 0..CLUSTER).create().await?;
    let qcow2 = |image: &Image| image.measure().with(|call| call.output_format("qcow2"));
    let (whole, alone) = (qcow2(&top).await?, qcow2(&base).await?);
    check!(whole.required == alone.required);
    let over = qcow2(&top).with(|call| call.options("backing_file=x")).await?;
    check!(over.required == over.fully_allocated);
    check!(over.fully_allocated == whole.fully_allocated);
    Ok(())
}

/// Bitmaps are measured apart, and the copy that has them fits in both.
#[case(upstream = "190", groups = [BITMAP], rows = CLUSTERS)]
async fn knows_bitmaps(t: &mut Test, cluster_size: &u64) -> CaseResult {
    const SIZE: u64 = 64 * MIB;
    let image = t.image("source").size(SIZE).write(0x11, 0..CLUSTER).create().await?;
    for (name, granularity) in [("fine", 512), ("coarse", 2 * MIB)] {
        let call = image.bitmap(name).with(|call| call.action(BitmapAction::Add));
        call.with(|call| call.granularity(granularity)).await?;
    }
    image.write(0x11, 0..MIB).await?;
    let options = format!("cluster_size={cluster_size}");
    let measure = image.measure().with(|call| call.output_format("qcow2").options(&*options));
    let measured = measure.await?;
    let clusters = |bytes: u64| bytes.next_multiple_of(*cluster_size);
    let one = |granularity: u64| {
        let bits = clusters((SIZE / granularity).div_ceil(8));
        bits + clusters(bits / cluster_size * 8)
    };
    check!(measured.bitmaps == Some(one(512) + one(2 * MIB) + clusters(64)));

    let copy = t.image("copy").size(SIZE).reserve().await?;
    let convert = image.convert(&copy);
    convert.with(|call| call.bitmaps().option("cluster_size", cluster_size)).await?;
    let length = std::fs::metadata(copy.file())?.len();
    check!(length <= measured.required + measured.bitmaps.unwrap_or(0));
    copy.assert_clean().await?;

    let old = image.measure().with(|call| call.output_format("qcow2").options("compat=0.10"));
    check!(old.await?.bitmaps.is_none());
    let raw = t.image("raw").format(RAW).size(MIB).create().await?;
    let of_raw = raw.measure().with(|call| call.output_format("qcow2"));
    check!(of_raw.await?.bitmaps.is_none());
    Ok(())
}

rows! {
    CLUSTERS: u64;
    "4k" => 4 * KIB;
    "64k" => 64 * KIB;
    "2m" => 2 * MIB;
}

/// Invalid arguments, and the error that they give.
struct Refused {
    arguments: &'static [&'static str],
    error: &'static str,
}

const ONE: &str = "Either --size N or one filename must be specified";
const WITH: &str = "require a filename argument";
/// What both wordings of QEMU have.
const OUTPUT: &str = "qemu-img: --output ";

rows! {
    REFUSED: Refused { arguments, error };
    "format-that-is-not-made" => &["-O", "bochs", "IMAGE"], "does not support image creation";
    "format-that-is-not-measured" => &["-O", "vdi", "IMAGE"], "does not support size measurement";
    "no-such-format" => &["IMAGE", "-O", "nonsense"], "Unknown file format 'nonsense'";
    "no-such-option" => &["-O", "qcow2", "-o", "nonsense=1", "--size", "1M"],
        "Invalid parameter 'nonsense'";
    "an-empty-option" => &["-O", "qcow2", "-o", "cluster_size=4k,", "IMAGE"],
        "Invalid option list: cluster_size=4k,";
    "no-such-output" => &["--size", "3M", "--output", "yaml"], OUTPUT;
    "no-image" => &["-O", "qcow2"], ONE;
    "format-of-no-image" => &["--size", "3M", "-f", "raw"], WITH;
    "snapshot-of-no-image" => &["--size", "3M", "-l", "s"], WITH;
    "options-of-no-image" => &["--size", "3M", "--image-opts"], WITH;
    "several-images" => &["IMAGE", "IMAGE"], "At most one filename argument is allowed";
    "image-and-size" => &["IMAGE", "--size", "3M"],
        "--size N cannot be used together with a filename";
    "no-such-key-of-a-snapshot" => &["-l", "snapshot.nonsense=s", "IMAGE"],
        "Invalid parameter 'snapshot.nonsense'";
    "negative-size" => &["--size", "-4096"], "Invalid image size specified";
    "too-large" => &["-O", "qcow2", "--size", "7E"], "The image size is too large";
}

/// Invalid arguments are refused with the reason.
#[case(upstream = "178", rows = REFUSED)]
async fn refuses_invalid_arguments(t: &mut Test, refused: &Refused) -> CaseResult {
    let image = t.image("source").size(MIB).create().await?;
    let before = image.file_bytes()?;
    let arguments = refused.arguments.iter();
    let arguments = arguments.map(|word| {
        if *word == "IMAGE" {
            image.filename()
        } else {
            word
        }
    });
    let output = t.qemu_img(["measure"]).args(arguments).expect_error(refused.error).await?;
    check!(output.status.code() == Some(1));
    before.assert_unchanged()
}
