//! Other formats than qcow2 keep what is written to them, in any order and in parts of their clusters.

use iotests_core::author::ImageBuilder;

use super::*;

defaults! { host = Host::None }

const LARGE: u64 = 32 * MIB;

/// Small clusters, and zeroes of their own where they are no default.
fn with_options(image: ImageBuilder, format: Format) -> ImageBuilder {
    match format {
        VHDX => image.option("block_size", MIB),
        VMDK => image.option("zeroed_grain", "on"),
        _ => image,
    }
}

/// An image has all that was written to it, whether that was from the end to the start or in between, also when it is opened again before
/// each write.
#[case(formats = [VDI, VHDX, VMDK, VPC, PARALLELS, QED, QCOW])]
async fn keep_what_comes_in_any_order(t: &mut Test) -> CaseResult {
    let disk = with_options(t.image("disk").size(LARGE), t.format());
    let disk = disk.create().await?;
    let mut expected = Content::nothing();
    let step = 3 * MIB;
    let down = (0..10).rev().map(|number| number * step);
    for (byte, start) in (0x21..).zip(down.clone()) {
        let range = start..start + 4 * KIB + 512;
        disk.write(byte, range.clone()).await?;
        expected = expected.written(byte, range);
    }
    disk.assert_reads(&expected).await?;
    let between = down.map(|start| start + MIB + 7 * 512);
    let writes = (0x51..).zip(between).collect::<Vec<_>>();
    let command = |(byte, start): &(u8, u64)| format!("write -P {byte} {start} 1536");
    disk.io(writes.iter().map(command)).await?;
    for (byte, start) in writes {
        expected = expected.written(byte, start..start + 1536);
    }
    disk.assert_reads(&expected).await?;
    disk.assert_clean().await
}

/// See docs/qemu-findings.md.
const SHOWS: KnownBug = known(
    "after a write to a part of a zero cluster of QED, the backing file shows through in the rest",
    "top holds 0x11 in 0x10000..0x10400, expected 0x00",
    OnFormat(QED),
);

/// In an overlay, zeroes hide what is below, and so does what is written to a part of them.
#[case(formats = [VMDK, QED, QCOW], known_bugs = [SHOWS])]
async fn hide_what_is_below_zeroes(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let top = with_options(t.image("top").size(MIB).backing(&base), t.format());
    let top = top.create().await?;
    let below = Content::nothing().written(0x11, 0..MIB);
    let zeroes = CLUSTER..5 * CLUSTER;
    top.io([format!("write -z {} {}", zeroes.start, 4 * CLUSTER)]).await?;
    let mut expected = Content::nothing().zeroes(zeroes);
    top.assert_reads(expected.over(&below)).await?;
    for (byte, start) in [
        (0x22, CLUSTER + 1024),
        (0x33, 4 * CLUSTER),
        (0x44, 8 * CLUSTER + 512),
    ] {
        let range = start..start + 512;
        top.write(byte, range.clone()).await?;
        expected = expected.written(byte, range);
    }
    top.assert_reads(expected.over(&below)).await?;
    top.assert_clean().await?;
    base.assert_fill(0x11).await
}

/// The text that names the parts of an image stays whole when it is long, and the image is written to.
#[case(formats = [VMDK], protocols = [FILE])]
async fn keep_a_long_description(t: &mut Test) -> CaseResult {
    // Each part of 2 GiB has a line with this name.
    let disk = t.image(&"n".repeat(60)).size(240 * GIB);
    let disk = disk.option("subformat", "twoGbMaxExtentSparse").create().await?;
    let text = std::fs::read_to_string(disk.file())?;
    check!(text.len() > 10 * KIB as usize);
    disk.io(["write -P 0x11 0 64k", "write -P 0x22 239G 64k"]).await?;
    let now = std::fs::read_to_string(disk.file())?;
    // A write changes one number, and fills the last sector: the text ends with the first NUL.
    let is_fixed = |line: &&str| !line.starts_with("CID=");
    let now = now.split('\0').next().unwrap_or_default();
    check!(now.lines().filter(is_fixed).eq(text.lines().filter(is_fixed)));
    disk.assert_patterns(&[(0x11, 0..CLUSTER), (0x22, 239 * GIB..239 * GIB + CLUSTER)])
        .await
}
