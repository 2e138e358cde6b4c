//! Overlays whose data `qemu-img commit` writes into an image below.

use std::ops::Range;

use iotests_core::case::Format;
use iotests_core::prelude::*;

mod emptied;

defaults! {
    formats = [QCOW2, QED, QCOW], groups = [RW, QUICK, IMG, BACKING],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size", "refcount_bits=1"],
}

/// What is in a layer.
type Parts = &'static [(u8, Range<u64>)];

const ALL: u64 = 16 * CLUSTER + 512;
const BASE: Parts = &[(0x11, 0..6 * CLUSTER), (0x11, 16 * CLUSTER..ALL)];
const MID: Parts = &[
    (0x22, 2 * CLUSTER..5 * CLUSTER),
    (0x22, 8 * CLUSTER..9 * CLUSTER),
];
const TOP: Parts = &[
    (0x33, CLUSTER..3 * CLUSTER),
    (0x33, 10 * CLUSTER..11 * CLUSTER),
    (0x33, 16 * CLUSTER..ALL),
];

/// Where to, and what is left of the top.
struct To {
    base: bool,
    options: &'static [&'static str],
    empties: bool,
}

rows! {
    TARGETS: To { base, options, empties };
    "next" => false, &[], true, upstream = "097";
    "next-by-name" => false, &["-b", "mid"], false, upstream = "097";
    "next-kept" => false, &["-d"], false, upstream = "097";
    "base" => true, &["-b", "base"], false, upstream = "097";
    "base-kept" => true, &["-b", "base", "-d"], false;
    "next-with-a-rate" => false, &["-r", "1G"], true;
    "next-writethrough" => false, &["-t", "writethrough"], true;
    "next-with-progress" => false, &["-p"], true;
}

/// Data goes down to the image that is named, or else to the next one; nothing else changes, and the top is empty only if nobody said
/// otherwise.
#[case(rows = TARGETS)]
async fn move_their_data_down(t: &mut Test, to: &To) -> CaseResult {
    let base = t.image("base").size(ALL).content(BASE).create().await?;
    let mid = t.image("mid").backing(&base).content(MID).create().await?;
    let top = t.image("top").backing(&mid).content(TOP).create().await?;
    let (below, between, before) = (base.file_bytes()?, mid.file_bytes()?, top.file_bytes()?);
    let mut call = t.qemu_img(["commit", "-f", t.format().name()]);
    for option in to.options {
        call = match *option {
            "base" => call.arg(base.filename()),
            "mid" => call.arg(mid.filename()),
            option => call.arg(option),
        };
    }
    let said = call.arg(top.filename()).text().await?;
    check!(said.contains("Image committed."), "{said}");

    let (upper, middle) = (Content::from(TOP), Content::from(MID));
    match to.base {
        true => {
            between.assert_unchanged()?;
            base.assert_reads(upper.over(&middle).over(&Content::from(BASE))).await?;
            base.assert_clean().await?;
        }
        false => {
            below.assert_unchanged()?;
            mid.assert_layer(upper.over(&middle)).await?;
            keeps_its_backing_file(&mid, &base).await?;
            mid.assert_clean().await?;
        }
    }
    keeps_its_backing_file(&top, &mid).await?;
    match (to.empties, t.format()) {
        (true, QCOW2) => top.assert_empty().await?,
        (true, _) => {}
        (false, _) => before.assert_unchanged()?,
    }
    top.assert_reads(upper.over(&middle).over(&Content::from(BASE))).await?;
    top.assert_clean().await
}

/// A header of qcow has no place for the format of the backing file.
async fn keeps_its_backing_file(image: &Image, backing: &Image) -> CaseResult {
    match image.format() {
        QCOW => Ok(()),
        _ => image.assert_backing(backing).await.map(drop),
    }
}

/// Sizes of a base and of what is committed into it.
struct Sizes {
    base: u64,
    top: u64,
    own: Parts,
}

rows! {
    SIZES: Sizes { base, top, own };
    "shorter" => 4 * CLUSTER, ALL, TOP;
    "shorter-in-a-cluster" => 4 * CLUSTER + 512, ALL, TOP;
    "shorter-by-nothing" => 4 * CLUSTER, ALL, &[];
    "shorter-by-zeroes" => 4 * CLUSTER, 8 * CLUSTER, &[(0, 2 * CLUSTER..8 * CLUSTER)],
        formats = [QCOW2, RAW];
    "longer" => 2 * ALL, ALL, TOP;
    "as-long" => ALL, ALL, &[(0, 0..3 * CLUSTER), (0x33, 4 * CLUSTER..4 * CLUSTER + 512)],
        formats = [QCOW2, RAW];
    "longer-in-a-cluster" => ALL, 4 * CLUSTER + 512, &[(0x33, 4 * CLUSTER..4 * CLUSTER + 512)];
}

/// A base that is shorter grows to the size of what is committed; one that is longer keeps what it has behind that. Zeroes are committed as
/// any data.
#[case(formats = [QCOW2, QED, RAW], rows = SIZES, upstream = "274")]
async fn make_the_base_as_large_as_they_are(t: &mut Test, sizes: &Sizes) -> CaseResult {
    let format: Format = if t.format() == RAW { QCOW2 } else { t.format() };
    let base = t.image("base").size(sizes.base).fill(0x11).create().await?;
    let top = t.image("top").format(format).size(sizes.top).backing(&base);
    let top = top.content(sizes.own).create().await?;
    top.commit().await?;
    check!(base.size().await? == sizes.base.max(sizes.top));
    let own = Content::from(sizes.own);
    let below = Content::nothing().written(0x11, 0..sizes.base);
    base.assert_reads(own.over(&below)).await?;
    base.assert_clean().await?;
    if top.format() == QCOW2 {
        top.assert_empty().await?;
    }
    check!(top.size().await? == sizes.top);
    top.assert_reads(own.over(&below).cut(sizes.top)).await?;
    top.assert_clean().await
}

rows! {
    /// Where the layer between ends.
    ENDS: u64;
    "at-a-cluster" => 4 * CLUSTER;
    "in-a-cluster" => 4 * CLUSTER + 512;
}

/// Where a layer between is shorter than the two, what it hides of the base is zero, and is committed as such.
#[case(formats = [QCOW2, QED], upstream = "274", rows = ENDS)]
async fn hide_what_a_shorter_layer_between_hides(t: &mut Test, end: &u64) -> CaseResult {
    let base = t.image("base").size(ALL).fill(0x11).create().await?;
    let mid = t.image("mid").size(*end).backing(&base);
    let mid = mid.write(0x22, 0..CLUSTER).create().await?;
    let top = t.image("top").size(ALL).backing(&mid).write(0x33, 9 * CLUSTER..10 * CLUSTER);
    let top = top.create().await?;
    let expected = [
        (0x22, 0..CLUSTER),
        (0x11, CLUSTER..*end),
        (0x33, 9 * CLUSTER..10 * CLUSTER),
    ];
    top.assert_reads(&expected).await?;
    top.commit().with(|call| call.base(base.filename())).await?;
    base.assert_reads(&expected).await?;
    top.assert_reads(&expected).await?;
    base.assert_clean().await?;
    top.assert_clean().await
}

/// An overlay with an internal snapshot is committed as well, and still has it.
#[case(formats = [QCOW2], upstream = "176", groups = [SNAPSHOT])]
async fn keep_their_snapshots(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let top = t.image("top").backing(&base).write(0x22, 0..CLUSTER).create().await?;
    top.snapshot("s").await?;
    top.write(0x33, CLUSTER..2 * CLUSTER).await?;
    top.commit().await?;
    let now = Content::nothing().written(0x11, 0..MIB).written(0x22, 0..CLUSTER);
    base.assert_reads(now.clone().written(0x33, CLUSTER..2 * CLUSTER)).await?;
    top.assert_empty().await?;
    top.assert_clean().await?;
    top.go_back_to("s").await?;
    top.assert_layer(&[(0x22, 0..CLUSTER)]).await?;
    top.assert_clean().await?;
    base.assert_clean().await
}

/// What cannot be committed, and why.
struct Refused {
    options: &'static [&'static str],
    /// Which image.
    image: &'static str,
    error: &'static str,
}

/// `{base}` stands for what is asked for.
const NOT_FOUND: &str = "Did not find '{base}' in the backing chain of";

rows! {
    REFUSED: Refused { options, image, error };
    "no-backing-file" => &[], "base", "Image does not have a backing file";
    "into-itself" => &["-b", "top"], "top", NOT_FOUND;
    "into-another-file" => &["-b", "other"], "top", NOT_FOUND;
    "into-what-is-not-there" => &["-b", "nonsense"], "top", NOT_FOUND;
    "upwards" => &["-b", "top"], "mid", NOT_FOUND;
    "no-such-cache-mode" => &["-t", "nonsense"], "top", "Invalid cache option: nonsense";
    "no-rate" => &["-r", "fast"], "top", "Invalid rate limit specified";
    "not-there" => &[], "nonsense", "No such file or directory";
}

/// A commit that is refused changes nothing.
#[case(rows = REFUSED)]
async fn stay_as_they_are_if_it_is_refused(t: &mut Test, refused: &Refused) -> CaseResult {
    let base = t.image("base").size(ALL).content(BASE).create().await?;
    let mid = t.image("mid").backing(&base).content(MID).create().await?;
    let top = t.image("top").backing(&mid).content(TOP).create().await?;
    let other = t.image("other").size(ALL).create().await?;
    let images = [&base, &mid, &top, &other];
    let before = images.map(Image::file_bytes);
    let before = before.into_iter().collect::<CaseResult<Vec<_>>>()?;
    let name = |text: &str| {
        let image = images.iter().find(|image| image.name() == text);
        image.map_or(text.to_owned(), |image| image.filename().to_owned())
    };
    let options: Vec<_> = refused.options.iter().map(|option| name(option)).collect();
    let base = options.last().map_or("", String::as_str);
    let error = refused.error.replace("{base}", base);
    let call = t.qemu_img(["commit", "-f", t.format().name()]).args(&options);
    let call = call.arg(name(refused.image));
    let output = call.expect_error(error).await?;
    check!(output.status.code() == Some(1));
    before.iter().try_for_each(FileBytes::assert_unchanged)
}

/// Where the base cannot be written, or the top cannot be read.
struct Broken {
    is_top: bool,
    error: &'static str,
}

rows! {
    BROKEN: Broken { is_top, error };
    "reading-the-top" => true, "Block job failed: Input/output error";
    "writing-the-base" => false, "Block job failed: Input/output error";
}

/// A commit that fails half-way reports it, and the top keeps all that it has.
#[case(formats = [QCOW2], needs = [Driver("blkdebug")], rows = BROKEN)]
async fn keep_their_data_if_it_fails(t: &mut Test, broken: &Broken) -> CaseResult {
    let base = t.image("base").format(RAW).size(ALL).fill(0x11).create().await?;
    let top = t.image("top").backing(&base).content(TOP).create().await?;
    let mut before = top.file_bytes()?;
    let error = match broken.is_top {
        true => json!({"event": "read_aio", "errno": 5}),
        false => {
            let sector = 10 * CLUSTER / 512;
            json!({"event": "none", "iotype": "write", "sector": sector, "errno": 5})
        }
    };
    let failing = |image: &Image| {
        let file = json!({"driver": "file", "filename": image});
        json!({"driver": "blkdebug", "inject-error": [error], "image": file})
    };
    let call = match broken.is_top {
        true => {
            let node = json!({"driver": "qcow2", "file": failing(&top)});
            t.qemu_img(["commit", &format!("json:{node}")])
        }
        false => {
            let bad = format!("json:{}", json!({"driver": "raw", "file": failing(&base)}));
            name_base(t, &top, &bad).await?;
            before = top.file_bytes()?;
            t.qemu_img(["commit", "-f", "qcow2", top.filename()])
        }
    };
    let output = call.expect_error(broken.error).await?;
    check!(output.status.code() == Some(1));
    check!(!output.combined_text().contains("Image committed."));
    before.assert_unchanged()?;
    name_base(t, &top, base.filename()).await?;
    let now = Content::from(TOP).over(&Content::nothing().written(0x11, 0..ALL));
    top.assert_reads(now.clone()).await?;

    t.step("again");
    top.commit().await?;
    base.assert_reads(now).await?;
    top.assert_empty().await?;
    top.assert_clean().await
}

/// Has the image name another backing file.
async fn name_base(t: &Test, image: &Image, name: &str) -> CaseResult {
    let call = t.qemu_img(["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name]);
    call.arg(image.filename()).await.map(drop)
}
