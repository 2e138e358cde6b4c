//! Several sources, one behind the other.

use iotests_core::case::Format;
use iotests_core::prelude::*;

defaults! {
    formats = [QCOW2, RAW, VMDK, QED],
    unsupported_imgopts = ["compat", "extended_l2", "refcount_bits"],
}

/// Sizes of sources, which end where they end.
struct Sources {
    sizes: [u64; 3],
    format: Format,
    cluster_size: u64,
    compressed: bool,
}

/// The second and the third source begin within a cluster of the target, and the second one ends in the same cluster.
const ODD: [u64; 3] = [13 * CLUSTER + 1536, 512, 15 * CLUSTER - 2 * KIB];
/// The first two end with a cluster of their own, and within one of the target.
const SMALL: [u64; 3] = [716 * KIB, 932 * KIB, 512];

rows! {
    SOURCES: Sources { sizes, format, cluster_size, compressed };
    "whole-clusters" => [MIB, 2 * MIB, MIB], QCOW2, 64 * KIB, false;
    "odd-sectors" => ODD, QCOW2, 64 * KIB, false;
    "odd-sectors-of-raw" => ODD, RAW, 0, false;
    "small-clusters" => SMALL, QCOW2, 4 * KIB, false;
    "compressed" => [MIB, 2 * MIB, MIB], QCOW2, 64 * KIB, true, formats = [QCOW2];
    "compressed-small-clusters" => SMALL, QCOW2, 4 * KIB, true, formats = [QCOW2];
    "compressed-odd-sectors-of-raw" => ODD, RAW, 0, true, formats = [QCOW2];
}

/// The copy holds each source where the one before it ends.
#[case(upstream = "122", rows = SOURCES)]
async fn follow_each_other(t: &mut Test, sources: &Sources) -> CaseResult {
    let (mut images, mut all, mut start) = (Vec::new(), Content::nothing(), 0);
    for (number, size) in (0..).zip(sources.sizes) {
        let byte = 0x11 * (number + 1);
        let own = match size {
            512 => Content::nothing().written(byte, 0..512),
            size => Content::nothing()
                .written(byte, 20 * KIB..44 * KIB)
                .written(byte + 1, 3 * CLUSTER - 6 * KIB..5 * CLUSTER + 2 * KIB)
                .written(byte + 2, size - 1536..size),
        };
        for (byte, range) in own.extents() {
            all = all.written(byte, start + range.start..start + range.end);
        }
        let image = t.image(&format!("source{number}")).format(sources.format).size(size);
        let image = match sources.cluster_size {
            0 => image,
            clusters => image.option("cluster_size", clusters),
        };
        images.push(image.content(&own).create().await?);
        start += size;
    }
    let before = images.iter().map(Image::file_bytes).collect::<CaseResult<Vec<_>>>()?;

    let target = t.image("target").size(start).reserve().await?;
    let convert = images[0].convert(&target).with(|call| {
        let call = if sources.compressed {
            call.compress()
        } else {
            call
        };
        let more = images[1..].iter();
        more.fold(call, |call, image| {
            let spec = imgtools::image::ImageSpec::file(image.filename());
            call.and_source(spec.format(image.format().name()))
        })
    });
    convert.await?;

    for before in before {
        before.assert_unchanged()?;
    }
    check!(target.size().await? == start);
    target.assert_reads(&all).await?;
    target.assert_clean().await
}

/// Options that apply to one source only are refused with several; then no target is made.
#[case(formats = [QCOW2])]
async fn cannot_share_what_one_has(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).create().await?;
    let one = t.image("one").size(MIB).create().await?;
    one.snapshot("s").await?;
    let target = t.image("target").size(2 * MIB).reserve().await?;
    let sources = [one.filename(), one.filename(), target.filename()];
    let refusals: [(&[&str], &str); 3] = [
        (
            &["-l", "s"],
            "No support for concatenating multiple snapshot",
        ),
        (
            &["--bitmaps"],
            "Copying bitmaps only possible with single source",
        ),
        (
            &["-B", base.filename(), "-F", "qcow2"],
            "Having a backing file for the target makes no sense when concatenating",
        ),
    ];
    let before = one.file_bytes()?;
    for (options, error) in refusals {
        let call = t.qemu_img(["convert", "-f", "qcow2", "-O", "qcow2"]);
        call.args(options).args(sources).expect_error(error).await?;
        check!(!target.file().exists(), "{options:?}");
    }
    before.assert_unchanged()
}
