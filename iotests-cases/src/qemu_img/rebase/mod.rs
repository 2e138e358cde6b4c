//! Overlays that get another backing file by `qemu-img rebase`.

use std::ops::Range;

use iotests_core::prelude::*;

mod ends;

defaults! {
    formats = [QCOW2, QED], groups = [RW, QUICK, IMG, BACKING],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size"],
}

/// What is in a layer.
type Parts = &'static [(u8, Range<u64>)];

/// An overlay of a backing file that gets another one. A file without a size is not there.
struct Move {
    old: Option<(u64, Parts)>,
    new: Option<(u64, Parts)>,
    top: (u64, Parts),
    /// What the overlay holds then by itself.
    own: Parts,
}

const N: u64 = 16;
const ALL: u64 = N * CLUSTER;
const ODD: u64 = 9 * CLUSTER + 1536;

/// Every part of two layers meets every one of the other: the one has data, zeroes or nothing in each
/// second, the other in each fourth cluster.
const OLD: Parts = &[
    (0x11, CLUSTER..2 * CLUSTER),
    (0x11, 3 * CLUSTER..4 * CLUSTER),
    (0x11, 5 * CLUSTER..6 * CLUSTER),
    (0, 6 * CLUSTER..7 * CLUSTER),
    (0x11, 7 * CLUSTER..8 * CLUSTER),
    (0x11, 9 * CLUSTER..10 * CLUSTER),
    (0x11, 15 * CLUSTER..16 * CLUSTER),
];
const NEW: Parts = &[
    (0x22, 2 * CLUSTER..4 * CLUSTER),
    (0x22, 6 * CLUSTER..7 * CLUSTER),
    (0x11, 7 * CLUSTER..8 * CLUSTER),
    (0, 9 * CLUSTER..10 * CLUSTER),
];
const TOP: Parts = &[(0x33, 0..3 * CLUSTER)];

rows! {
    MOVES: Move { old, new, top, own };
    "other-data" => Some((ALL, OLD)), Some((ALL, NEW)), (ALL, TOP),
        &[(0x33, 0..3 * CLUSTER), (0x11, 3 * CLUSTER..4 * CLUSTER), (0x11,
          5 * CLUSTER..6 * CLUSTER),
          (0, 6 * CLUSTER..7 * CLUSTER), (0x11, 9 * CLUSTER..10 * CLUSTER),
          (0x11, 15 * CLUSTER..16 * CLUSTER)], upstream = "024";
    "same-data" => Some((ALL, OLD)), Some((ALL, OLD)), (ALL, TOP), TOP;
    "to-nothing" => Some((ALL, OLD)), None, (ALL, TOP),
        &[(0x33, 0..3 * CLUSTER), (0x11, 3 * CLUSTER..4 * CLUSTER), (0x11,
          5 * CLUSTER..6 * CLUSTER),
          (0x11, 7 * CLUSTER..8 * CLUSTER), (0x11, 9 * CLUSTER..10 * CLUSTER),
          (0x11, 15 * CLUSTER..16 * CLUSTER)], upstream = "252";
    "from-nothing" => None, Some((ALL, NEW)), (ALL, TOP),
        &[(0x33, 0..3 * CLUSTER), (0, 3 * CLUSTER..4 * CLUSTER), (0, 6 * CLUSTER..8 * CLUSTER)],
        upstream = "252";
    "from-a-shorter-one" => Some((ODD, &[(0x11, 8 * CLUSTER..ODD)])), Some((ALL, &[(0x22,
        8 * CLUSTER..ALL)])),
        (ALL, &[(0x33, 12 * CLUSTER..13 * CLUSTER)]),
        &[(0x11, 8 * CLUSTER..ODD), (0, ODD..12 * CLUSTER), (0x33, 12 * CLUSTER..13 * CLUSTER),
          (0, 13 * CLUSTER..ALL)];
    "to-a-shorter-one" => Some((ALL, &[(0x11, 8 * CLUSTER..ALL)])), Some((ODD, &[(0x11,
        8 * CLUSTER..ODD)])),
        (ALL, &[(0x33, 12 * CLUSTER..13 * CLUSTER)]),
        &[(0x11, 9 * CLUSTER..12 * CLUSTER), (0x33, 12 * CLUSTER..13 * CLUSTER),
          (0x11, 13 * CLUSTER..ALL)];
    "to-a-longer-one" => Some((ODD, &[(0x11, 0..ODD)])), Some((ALL, &[(0x22, 4 * CLUSTER..ALL),
        (0x11, 0..4 * CLUSTER)])),
        (ODD, &[]), &[(0x11, 4 * CLUSTER..ODD)];
    "both-shorter" => Some((ODD, &[(0x11, 8 * CLUSTER..ODD)])), Some((4 * CLUSTER + 512, &[(0x22,
        4 * CLUSTER..4 * CLUSTER + 512)])),
        (ALL, &[]), &[(0, 4 * CLUSTER..5 * CLUSTER), (0x11, 8 * CLUSTER..ODD)];
    "odd-size" => Some((ODD, &[(0x11, 9 * CLUSTER..ODD)])), Some((ODD, &[])), (ODD, &[]),
        &[(0x11, 9 * CLUSTER..ODD)];
}

impl Move {
    async fn layer(t: &Test, name: &str, side: &Option<(u64, Parts)>) -> CaseResult<Option<Image>> {
        Ok(match side {
            None => None,
            Some((size, parts)) => Some(t.image(name).size(*size).content(*parts).create().await?),
        })
    }

    /// What the overlay reads as.
    fn content(&self) -> Content {
        let below = self.old.map_or(Content::nothing(), |(size, parts)| {
            Content::from(parts).cut(size)
        });
        Content::from(self.top.1).over(&below.cut(self.top.0))
    }
}

/// An overlay that is moved to another backing file reads as before: it holds what the two differ in, and no more than that; both files
/// are as they were.
#[case(rows = MOVES)]
async fn read_as_before(t: &mut Test, to: &Move) -> CaseResult {
    let old = Move::layer(t, "old", &to.old).await?;
    let new = Move::layer(t, "new", &to.new).await?;
    let top = t.image("top").size(to.top.0);
    let top = match &old {
        Some(old) => top.backing(old),
        None => top,
    };
    let top = top.content(to.top.1).create().await?;
    top.assert_reads(to.content()).await?;
    let below = [&old, &new].into_iter().flatten().map(Image::file_bytes);
    let below = below.collect::<CaseResult<Vec<_>>>()?;

    match &new {
        Some(new) => top.rebase(new).await?,
        None => top.rebase_to_nothing().await?,
    };

    below.iter().try_for_each(FileBytes::assert_unchanged)?;
    match &new {
        Some(new) => drop(top.assert_backing(new).await?),
        None => check!(top.header().await?.get("backing-filename").is_none()),
    }
    check!(top.size().await? == to.top.0);
    top.assert_reads(to.content()).await?;
    top.assert_layer(to.own).await?;
    top.assert_clean().await?;

    t.step("without the old one");
    drop(old);
    top.assert_reads(to.content()).await
}

/// Cluster sizes of the overlay and of its backing files.
struct Clusters {
    top: &'static [(&'static str, &'static str)],
    old: &'static str,
    compress: bool,
}

rows! {
    CLUSTERS: Clusters { top, old, compress };
    "larger-above" => &[("cluster_size", "128k")], "64k", false, upstream = "024";
    "2m-above" => &[("cluster_size", "2M")], "1M", false, upstream = "024";
    "smaller-above" => &[("cluster_size", "4k")], "64k", false;
    "subclusters" => &[("extended_l2", "on")], "4k", false;
    "compressed" => &[], "4k", true, needs = [since(9, 0)], upstream = "314";
    "compressed-2m" => &[("cluster_size", "2M")], "64k", true, needs = [since(9, 0)];
    "compressed-subclusters" => &[("extended_l2", "on")], "64k", true, needs = [since(9, 0)];
}

rows! {
    TARGETS: bool;
    "within-the-chain" => true;
    "to-nothing" => false;
}

/// Whatever clusters the layers have, an overlay that loses the middle of its chain reads as before, and no part of the base is copied
/// that can still be read.
#[case(
    formats = [QCOW2], rows = (CLUSTERS, TARGETS),
    known_bugs = [known(
        "for compression, parts are assumed to be as long as clusters, and some are shorter",
        "Assertion `!bdrv_is_allocated", since(9, 0)
    ).only(&[
        &["compressed-subclusters", "within-the-chain"], &["compressed-subclusters", "to-nothing"],
    ])]
)]
async fn read_as_before_with_other_clusters(
    t: &mut Test,
    clusters: &Clusters,
    in_chain: &bool,
) -> CaseResult {
    const SIZE: u64 = 4 * MIB + 512;
    let base = t.image("base").format(RAW).size(SIZE).fill(0x77).create().await?;
    let mid = t.image("mid").size(SIZE - MIB).option("cluster_size", clusters.old).backing(&base);
    let changed = [
        (0x11, MIB + 4 * KIB..MIB + 8 * KIB),
        (0x22, 2 * MIB - CLUSTER..3 * MIB),
        (0, 4 * KIB..8 * KIB),
    ];
    let mid = mid.content(&changed).create().await?;
    let top = t.image("top").size(SIZE).backing(&mid);
    let top = clusters.top.iter().fold(top, |top, (name, value)| top.option(name, value));
    let top = top.write(0x33, 2 * MIB..2 * MIB + 512).create().await?;
    let below = Content::nothing().written(0x77, 0..SIZE - MIB);
    let expected = Content::from(&changed).written(0x33, 2 * MIB..2 * MIB + 512).over(&below);
    top.assert_reads(expected.clone()).await?;
    let before = [base.file_bytes()?, mid.file_bytes()?];

    let rebase = if *in_chain {
        top.rebase(&base)
    } else {
        top.rebase_to_nothing()
    };
    rebase
        .with(|call| {
            if clusters.compress {
                call.compress()
            } else {
                call
            }
        })
        .await?;

    before.iter().try_for_each(FileBytes::assert_unchanged)?;
    drop(mid);
    top.assert_reads(expected).await?;
    top.assert_clean().await?;
    let check = top.check().await?.clean()?;
    check!((check.compressed_clusters > Some(0)) == clusters.compress);
    if *in_chain {
        top.assert_backing(&base).await?;
        let is_coarse = clusters.top.contains(&("cluster_size", "2M"));
        let copied = top.own_layer().await?.present;
        let held = |at: u64| copied.iter().any(|range| range.contains(&at));
        check!(
            is_coarse || !held(MIB - 512),
            "what is unchanged since the base is copied"
        );
        check!(held(MIB + 4 * KIB) && held(3 * MIB - 512) && held(SIZE - MIB) && held(SIZE - 512));
    }
    Ok(())
}

/// In the unsafe mode only the name changes: the file is not looked at, and need not be there.
#[case(rows = NAMES)]
async fn only_get_the_name_in_the_unsafe_mode(t: &mut Test, is_there: &bool) -> CaseResult {
    let old = t.image("old").size(ALL).content(OLD).create().await?;
    let top = t.image("top").backing(&old).content(TOP).create().await?;
    let new = t.image("new").size(ALL).content(NEW);
    let new = if *is_there {
        new.create().await?
    } else {
        new.reserve().await?
    };
    top.assert_layer(TOP).await?;
    top.rebase(&new).with(|call| call.unsafe_mode()).await?;
    top.assert_backing(&new).await?;
    top.assert_layer(TOP).await?;
    match is_there {
        true => {
            top.assert_reads(Content::from(TOP).over(&Content::from(NEW))).await?;
            top.assert_clean().await?;
        }
        false => check!(!new.file().exists()),
    }
    top.rebase(&old).with(|call| call.unsafe_mode()).await?;
    top.assert_reads(Content::from(TOP).over(&Content::from(OLD))).await?;
    top.rebase_to_nothing().with(|call| call.unsafe_mode()).await?;
    check!(top.header().await?.get("backing-filename").is_none());
    top.assert_reads(TOP).await?;
    top.assert_clean().await
}

rows! {
    NAMES: bool;
    "of-what-is-there" => true;
    "of-what-is-not-there" => false;
}

/// A relative name is resolved from the overlay's own folder, whether it is opened or only recorded.
#[case(upstream = "024")]
async fn find_a_relative_name_beside_themselves(t: &mut Test) -> CaseResult {
    let deep = |name| t.image(name).folder("deep").size(ALL);
    let old = deep("old").content(OLD).create().await?;
    let new = deep("new").content(NEW).create().await?;
    let top = t.image("top").folder("deep").backing_as(&old, "old").content(TOP).create().await?;
    let args = [
        "rebase",
        "-f",
        t.format().name(),
        "-F",
        t.format().name(),
        "-b",
        "new",
        top.filename(),
    ];
    t.qemu_img(args).await?;
    top.header().await?.assert("backing-filename", "new")?;
    top.assert_reads(Content::from(TOP).over(&Content::from(OLD))).await?;
    drop(old);
    top.assert_clean().await?;
    new.assert_reads(NEW).await
}

/// What cannot be done, and why.
struct Refused {
    options: &'static [&'static str],
    error: &'static str,
}

rows! {
    REFUSED: Refused { options, error };
    "nowhere" => &[], "Must specify backing file (-b) or use unsafe mode (-u)";
    "not-there" => &["-b", "nonsense", "-F", "raw"],
        "Could not open new backing file 'nonsense'";
    "no-such-format" => &["-b", "new", "-F", "nonsense"], "Invalid format name: 'nonsense'";
    "no-format" => &["-b", "new"], "backing format must be specified", formats = [QCOW2];
    "no-format-unsafely" => &["-u", "-b", "new"], "backing format must be specified",
        formats = [QCOW2],
        upstream = "114";
    "wrong-format" => &["-b", "new", "-F", "vmdk"],
        "Could not open new backing file 'new': invalid VMDK image descriptor";
    "no-such-cache-mode" => &["-t", "nonsense", "-b", "new", "-F", "raw"],
        "Invalid cache option: nonsense";
    "no-such-cache-mode-below" => &["-T", "nonsense", "-b", "new", "-F", "raw"],
        "Invalid source cache option: nonsense";
    "compressed-unsafely-in-qed" => &["-c", "-b", "new", "-F", "raw"], "Compression not supported",
        formats = [QED], needs = [since(9, 0)];
}

/// An overlay that cannot be moved keeps its backing file, and its data.
#[case(rows = REFUSED)]
async fn stay_as_they_are_if_it_is_refused(t: &mut Test, refused: &Refused) -> CaseResult {
    let old = t.image("old").size(ALL).content(OLD).create().await?;
    let new = t.image("new").format(RAW).size(ALL).content(OLD).create().await?;
    let top = t.image("top").backing(&old).content(TOP).create().await?;
    let before = [top.file_bytes()?, old.file_bytes()?, new.file_bytes()?];
    let call = t.qemu_img(["rebase", "-f", t.format().name()]).args(refused.options);
    let output = call.arg(top.filename()).expect_error(refused.error).await?;
    check!(output.status.code() == Some(1));
    before[1].assert_unchanged()?;
    before[2].assert_unchanged()?;
    // What was copied before is no harm.
    top.assert_backing(&old).await?;
    top.assert_layer(TOP).await?;
    top.assert_clean().await
}

/// A file of a format without backing files gets none, not even in the unsafe mode.
#[case(formats = [RAW, VDI, VPC])]
async fn have_a_format_that_can(t: &mut Test) -> CaseResult {
    let base = t.image("base").format(RAW).size(MIB).create().await?;
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let before = disk.file_bytes()?;
    let call = t.qemu_img([
        "rebase",
        "-u",
        "-f",
        t.format().name(),
        "-F",
        "raw",
        "-b",
        base.filename(),
    ]);
    let call = call.arg(disk.filename());
    call.expect_error("Could not change the backing file to").await?;
    before.assert_unchanged()
}

/// A backing file that cannot be read ends the rebase: the overlay keeps the old one, and reads as before.
#[case(needs = [Driver("blkdebug")])]
async fn keep_the_old_one_if_it_cannot_be_read(t: &mut Test) -> CaseResult {
    let old = t.image("old").format(RAW).size(ALL).content(OLD).create().await?;
    let new = t.image("new").format(RAW).size(ALL).content(NEW).create().await?;
    let top = t.image("top").backing(&old).content(TOP).create().await?;
    let error = json!({"event": "none", "iotype": "read", "sector": 9 * CLUSTER / 512, "errno": 5});
    let file = json!({"driver": "file", "filename": old});
    let bad = json!({"driver": "blkdebug", "inject-error": [error], "image": file});
    let bad = format!("json:{}", json!({"driver": "raw", "file": bad}));
    let rebase = |options: &'static [&'static str], name: &str| {
        let call = t.qemu_img(["rebase", "-f", t.format().name(), "-F", "raw", "-b", name]);
        call.args(options).arg(top.filename())
    };
    rebase(&["-u"], &bad).await?;
    let call = rebase(&[], new.filename());
    call.expect_error("error while reading from old backing file").await?;
    top.header().await?.assert("backing-filename", bad.as_str())?;
    rebase(&["-u"], old.filename()).await?;
    top.assert_backing(&old).await?;
    top.assert_reads(Content::from(TOP).over(&Content::from(OLD))).await?;
    top.assert_clean().await
}
