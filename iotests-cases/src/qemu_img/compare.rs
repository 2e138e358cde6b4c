//! Comparisons of two images by `qemu-img compare`.

use std::ops::Range;

use imgtools::img::{Comparison, Difference};
use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2, RAW, QED, VMDK, VDI], groups = [RW, QUICK, IMG],
    unsupported_imgopts = ["compat", "data_file", "extended_l2", "cluster_size", "refcount_bits"],
}

/// A size, and what is in it.
type Side = (u64, &'static [(u8, Range<u64>)]);

/// Two disks, and what is said of them.
struct Pair {
    one: Side,
    other: Side,
    verdict: Comparison,
}

const SAME: Comparison = Comparison::Same {
    sizes_differ: false,
};
const LONGER: Comparison = Comparison::Same { sizes_differ: true };

const fn from(offset: u64) -> Comparison {
    Comparison::Differ(Difference::Content { offset })
}

const DATA: &[(u8, Range<u64>)] = &[(0x11, 0..4 * CLUSTER), (0x22, MIB..MIB + 512)];
const SIZE: u64 = MIB + 3 * KIB;

rows! {
    PAIRS: Pair { one, other, verdict };
    "empty" => (SIZE, &[]), (SIZE, &[]), SAME;
    "equal" => (SIZE, DATA), (SIZE, DATA), SAME, upstream = "048";
    "written-zeroes" => (SIZE, &[(0x11, 0..CLUSTER), (0, CLUSTER..3 * CLUSTER)]),
        (SIZE, &[(0x11, 0..CLUSTER)]), SAME;
    "first-sector" => (SIZE, &[(0x11, 0..CLUSTER)]), (SIZE, &[(0x22, 0..512), (0x11,
        512..CLUSTER)]),
        from(0), upstream = "048";
    "second-sector" => (SIZE, &[(0x11, 0..CLUSTER)]),
        (SIZE, &[(0x11, 0..512), (0x22, 512..KIB), (0x11, KIB..CLUSTER)]), from(512),
        upstream = "048";
    "data-and-nothing" => (SIZE, DATA), (SIZE, &[(0x11, 0..4 * CLUSTER)]), from(MIB);
    "data-in-zeroes" => (SIZE, &[(0, 0..SIZE), (0x11, 7 * KIB..8 * KIB)]), (SIZE, &[]),
        from(7 * KIB);
    "last-sector" => (SIZE, &[(0x11, SIZE - 512..SIZE)]), (SIZE, &[(0x12, SIZE - 512..SIZE)]),
        from(SIZE - 512);
    "after-two-mib" => (5 * MIB, &[(0x11, 0..5 * MIB)]),
        (5 * MIB, &[(0x11, 0..5 * MIB), (0x22, 5 * MIB - CLUSTER..5 * MIB)]),
            from(5 * MIB - CLUSTER);
    "longer-by-nothing" => (SIZE, DATA), (2 * MIB, DATA), LONGER, upstream = "048";
    "longer-by-zeroes" => (SIZE, DATA), (2 * MIB, &[(0x11, 0..4 * CLUSTER),
        (0x22, MIB..MIB + 512), (0, SIZE..2 * MIB)]), LONGER, upstream = "048";
    "longer-by-data" => (SIZE, DATA), (2 * MIB, &[(0x11, 0..4 * CLUSTER),
        (0x22, MIB..MIB + 512), (0x33, 2 * MIB - 512..2 * MIB)]), from(2 * MIB - 512),
        upstream = "048";
    "longer-by-data-at-once" => (SIZE, DATA), (2 * MIB, &[(0x11, 0..4 * CLUSTER),
        (0x22, MIB..MIB + 512), (0x33, SIZE..SIZE + 512)]), from(SIZE);
    "longer-and-other" => (SIZE, DATA), (2 * MIB, &[(0x11, 0..3 * CLUSTER)]), from(3 * CLUSTER);
    "nothing-and-something" => (0, &[]), (MIB, &[(0x11, MIB - 512..MIB)]), from(MIB - 512);
    "nothing-and-zeroes" => (0, &[]), (MIB, &[]), LONGER;
}

/// Reports where the images differ, in either order and with an image of another format; nothing is changed.
#[case(rows = PAIRS)]
async fn report_what_differs(t: &mut Test, pair: &Pair) -> CaseResult {
    let one = t.image("one").size(pair.one.0).content(pair.one.1).create().await?;
    let other = t.image("other").size(pair.other.0).content(pair.other.1).create().await?;
    let raw = t.image("raw").format(RAW).size(pair.other.0).content(pair.other.1);
    let raw = raw.create().await?;
    let before = [one.file_bytes()?, other.file_bytes()?, raw.file_bytes()?];
    for (a, b) in [(&one, &other), (&other, &one), (&one, &raw), (&raw, &one)] {
        check!(a.compare(b).await? == pair.verdict, "{a} and {b}");
    }
    if pair.one.0 != pair.other.0 {
        let strict = one.compare(&other).with(|call| call.strict());
        check!(strict.await? == Comparison::Differ(Difference::Size));
    }
    before.iter().try_for_each(FileBytes::assert_unchanged)
}

/// A strict comparison also reports what is allocated on one side only.
#[case(
    formats = [QCOW2], rows = LAYOUTS,
    known_bugs = [known(
        "the flag for the end of the disk is compared as well",
        "is Differ(BlockStatus {", ALWAYS
    ).only(&[&["at-the-end-in-another-order"], &["zeroes-and-nothing"]])]
)]
async fn report_what_is_allocated(t: &mut Test, layout: &Layout) -> CaseResult {
    let (one, other) = (t.image("one").size(MIB), t.image("other").size(MIB));
    let (one, other) = (one.create().await?, other.create().await?);
    // In this order in the file as well.
    one.write_all(layout.one).await?;
    other.write_all(layout.other).await?;
    let verdict = layout.differs.map_or(SAME, |offset| {
        Comparison::Differ(Difference::BlockStatus { offset })
    });
    for (a, b) in [(&one, &other), (&other, &one)] {
        check!(a.compare(b).await? == SAME);
        check!(a.compare(b).with(|call| call.strict()).await? == verdict);
    }
    Ok(())
}

struct Layout {
    one: &'static [(u8, Range<u64>)],
    other: &'static [(u8, Range<u64>)],
    differs: Option<u64>,
}

rows! {
    LAYOUTS: Layout { one, other, differs };
    "equal" => &[(0x11, 0..CLUSTER)], &[(0x11, 0..CLUSTER)], None;
    "in-another-order" => &[(0x11, 0..CLUSTER), (0x22, CLUSTER..2 * CLUSTER)],
        &[(0x22, CLUSTER..2 * CLUSTER), (0x11, 0..CLUSTER)], None;
    "at-the-end-in-another-order" => &[(0x11, 14 * CLUSTER..15 * CLUSTER), (0x22,
        15 * CLUSTER..MIB)],
        &[(0x22, 15 * CLUSTER..MIB), (0x11, 14 * CLUSTER..15 * CLUSTER)], None;
    "zeroes-and-nothing-in-the-middle" =>
        &[(0x11, 0..CLUSTER), (0, CLUSTER..2 * CLUSTER), (0x22, 2 * CLUSTER..3 * CLUSTER)],
        &[(0x11, 0..CLUSTER), (0x22, 2 * CLUSTER..3 * CLUSTER)], Some(CLUSTER);
    "zeroes-and-nothing" => &[(0x11, 0..CLUSTER), (0, 3 * CLUSTER..4 * CLUSTER)],
        &[(0x11, 0..CLUSTER)], Some(3 * CLUSTER);
}

/// A chain is compared by what it reads as.
#[case(formats = [QCOW2, QED, VMDK], groups = [BACKING])]
async fn read_through_chains(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let top = t.image("top").backing(&base).write(0x22, 0..CLUSTER).create().await?;
    let flat = t.image("flat").size(MIB).fill(0x11).write(0x22, 0..CLUSTER).create().await?;
    check!(top.compare(&flat).await? == SAME);
    check!(flat.compare(&top).await? == SAME);
    check!(top.compare(&base).await? == from(0));
    flat.write(0x33, MIB - 512..MIB).await?;
    check!(top.compare(&flat).await? == from(MIB - 512));
    // Over a shorter one, whose end reads as zeroes.
    let short = t.image("short").size(CLUSTER + 512).fill(0x11).create().await?;
    let long = t.image("long").size(MIB).backing(&short).create().await?;
    check!(long.compare(&short).await? == LONGER);
    check!(short.compare(&long).await? == LONGER);
    Ok(())
}

/// The status says what went wrong: usage, opening, or reading.
#[case(formats = [QCOW2], needs = [Driver("blkdebug")])]
async fn have_a_status_for_each_failure(t: &mut Test) -> CaseResult {
    let one = t.image("one").size(MIB).fill(0x11).create().await?;
    let other = t.image("other").size(MIB).fill(0x11).create().await?;
    let missing = t.file("missing")?;
    let failing = |event: &str| {
        let error = json!({"event": event, "errno": 5});
        let file = json!({"driver": "file", "filename": other});
        let node = json!({"driver": "qcow2", "file": {
            "driver": "blkdebug", "inject-error": [error], "image": file,
        }});
        format!("json:{node}")
    };
    let (one, other) = (one.filename(), other.filename().to_owned());
    let calls: [(&[&str], i32, &str); 9] = [
        (&[one, &other], 0, "Images are identical."),
        (&["-q", one, &other], 0, ""),
        (&[one], 1, "xpecting two image file names"),
        (
            &["-T", "nonsense", one, &other],
            2,
            "nvalid source cache option",
        ),
        (&[one, missing.as_str()], 2, "No such file or directory"),
        (&[missing.as_str(), one], 2, "No such file or directory"),
        (&["-f", "vmdk", one, &other], 2, "Could not open"),
        (
            &[one, &failing("l2_load")],
            3,
            "Sector allocation test failed",
        ),
        (
            &[one, &failing("read_aio")],
            4,
            "Error while reading offset 0 of",
        ),
    ];
    for (arguments, status, text) in calls {
        let call = t.qemu_img(["compare"]).args(arguments);
        let output = call.expect_status(status).await?;
        let said = output.combined_text();
        check!(said.contains(text), "{arguments:?}: {said}");
        check!(!text.is_empty() || said.is_empty(), "{said}");
    }
    Ok(())
}
