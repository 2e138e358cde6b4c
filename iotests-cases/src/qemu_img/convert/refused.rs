//! What cannot be copied, or not in this way.

use iotests_core::prelude::*;

defaults! { unsupported_imgopts = ["compat", "extended_l2"] }

/// Options that are refused, and why.
struct Refused {
    options: &'static [&'static str],
    error: &'static str,
}

const ZERO: &str = "--target-is-zero requires use of -n flag";
const SPARSE: &str = "Invalid buffer size for sparse output specified";
const COROUTINES: &str = "Invalid number of coroutines";
const CLUSTERS: &str = "Cluster size must be a power of two between 512 and 2048k";

rows! {
    REFUSED: Refused { options, error };
    "no-such-format" => &["-O", "nonsense"], "Unknown file format 'nonsense'";
    "format-that-cannot-be-made" => &["-O", "bochs"], "does not support image creation";
    "no-such-option" => &["-o", "nonsense=1"], "Invalid parameter 'nonsense'";
    "wrong-source-format" => &["-f", "vmdk"], "invalid VMDK image descriptor";
    "no-such-source-format" => &["-f", "nonsense"], "Unknown driver 'nonsense'";
    "new-target-said-to-be-zero" => &["--target-is-zero"], ZERO;
    "options-of-a-target-that-is-there" => &["-n", "-o", "preallocation=metadata"],
        "-o has no effect when skipping image creation", upstream = "122";
    "target-options-of-a-new-target" => &["--target-image-opts"],
        "--target-image-opts requires use of -n flag";
    "broken-bitmaps-alone" => &["--skip-broken-bitmaps"],
        "Use of --skip-broken-bitmaps requires --bitmaps";
    "sparse-in-no-sectors" => &["-S", "1000"], SPARSE;
    "sparse-too-large" => &["-S", "1G"], SPARSE;
    "sparse-negative" => &["-S", "-512"], SPARSE;
    "sparse-no-number" => &["-S", "many"], SPARSE;
    "no-coroutines" => &["-m", "0"], COROUTINES;
    "too-many-coroutines" => &["-m", "17"], COROUTINES;
    "coroutines-no-number" => &["-m", "many"], COROUTINES;
    "rate-no-number" => &["-r", "fast"], "Invalid rate limit specified";
    "offload-and-compress" => &["-C", "-c"], "Cannot enable copy offloading when -c is used";
    "offload-and-sparse" => &["-C", "-S", "4k"], "Cannot enable copy offloading when -S is used";
    "offload-and-salvage" => &["-C", "--salvage"],
        "Cannot use copy offloading in salvaging mode";
    "compress-to-raw" => &["-c", "-O", "raw"], "Compression not supported for this file format";
    "compress-and-encrypt" => &["-c", "-o", "encrypt.format=luks"],
        "Compression and encryption not supported at the same time";
    "compress-and-preallocate" => &["-c", "-o", "preallocation=full"],
        "Compression and preallocation not supported at the same time";
    "no-such-cache-mode-of-the-source" => &["-T", "nonsense"],
        "Invalid source cache option: nonsense";
    "no-such-snapshot" => &["-l", "nonsense"], "Failed to load snapshot: Can't find snapshot";
    "no-such-snapshot-by-id" => &["-l", "snapshot.id=7"],
        "Failed to load snapshot: Can't find snapshot";
    "bad-snapshot-parameter" => &["-l", "snapshot.nonsense=1"],
        "Failed in parsing snapshot param 'snapshot.nonsense=1'";
    "backing-file-without-format" => &["-B", "nonsense"],
        "Use of backing file requires explicit backing format";
}

rows! {
    LATE: Refused { options, error };
    "bad-cluster-size" => &["-o", "cluster_size=1234"], CLUSTERS;
    "bad-version" => &["-o", "compat=2.0"], "does not accept value '2.0'";
    "bad-compression" => &["-o", "compression_type=nonsense"], "does not accept value 'nonsense'";
    "old-version-and-new-option" => &["-o", "compat=0.10,lazy_refcounts=on"],
        "Lazy refcounts only supported with compatibility level 1.1";
    "backing-file-that-is-not-there" => &["-B", "nonsense", "-F", "qcow2"],
        "Could not open backing file";
    "backing-format-of-nothing" => &["-F", "qcow2"],
        "Backing format cannot be used without backing file";
}

/// What the format itself refuses is refused when the target is being made; the source is what it was.
#[case(rows = LATE)]
async fn leaves_the_source_as_it_is(t: &mut Test, refused: &Refused) -> CaseResult {
    let source = t.image("source").size(MIB).write(0x11, 0..CLUSTER).create().await?;
    let target = t.image("target").size(MIB).reserve().await?;
    let before = source.file_bytes()?;
    let call = t.qemu_img(["convert", "-f", "qcow2", "-O", "qcow2"]).args(refused.options);
    let call = call.args([source.filename(), target.filename()]);
    let output = call.expect_error(refused.error).await?;
    check!(output.status.code() == Some(1));
    before.assert_unchanged()?;
    source.assert_clean().await
}

/// A copy that cannot be made is refused with the reason: the source, and the file that was to become the target, are what they were.
#[case(rows = REFUSED)]
async fn leaves_both_as_they_are(t: &mut Test, refused: &Refused) -> CaseResult {
    let source = t.image("source").size(MIB).write(0x11, 0..CLUSTER).create().await?;
    let target = t.image("target").size(2 * MIB).fill(0xa5).create().await?;
    let (before, old) = (source.file_bytes()?, target.file_bytes()?);
    let mut call = t.qemu_img(["convert"]);
    for (option, value) in [("-f", "qcow2"), ("-O", "qcow2")] {
        if !refused.options.contains(&option) {
            call = call.args([option, value]);
        }
    }
    let call = call.args(refused.options).args([source.filename(), target.filename()]);
    let output = call.expect_error(refused.error).await?;
    check!(output.status.code() == Some(1));
    before.assert_unchanged()?;
    old.assert_unchanged()
}

/// A source that does not exist, or is not given, leaves the target as it is.
#[case]
async fn nothing_to_copy(t: &mut Test) -> CaseResult {
    let target = t.image("target").size(MIB).fill(0xa5).create().await?;
    let missing = t.file("missing")?;
    let old = target.file_bytes()?;
    let call = t.qemu_img([
        "convert",
        "-O",
        "qcow2",
        missing.as_str(),
        target.filename(),
    ]);
    call.expect_error("No such file or directory").await?;
    let call = t.qemu_img(["convert", "-O", "qcow2", target.filename()]);
    call.expect_error("Must specify image file name").await?;
    check!(!missing.exists());
    old.assert_unchanged()
}

/// An image cannot be copied over itself: it stays as it is.
#[case(formats = [QCOW2, RAW, QED, VMDK, VDI], rows = OVER)]
async fn over_itself(t: &mut Test, options: &&[&str]) -> CaseResult {
    let image = t.image("image").size(MIB).fill(0x11).create().await?;
    let before = image.file_bytes()?;
    let call = t.qemu_img(["convert", "-f", t.format().name(), "-O", t.format().name()]);
    let call = call.args(*options).args([image.filename(), image.filename()]);
    call.expect_error("Failed to get \"write\" lock").await?;
    before.assert_unchanged()
}

/// Nor over the backing file that it reads from.
#[case]
async fn over_its_backing_file(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(MIB).fill(0x11).create().await?;
    let top = t.image("top").backing(&base).write(0x22, 0..CLUSTER).create().await?;
    let (below, before) = (base.file_bytes()?, top.file_bytes()?);
    top.convert(&base).expect_error("Failed to get \"write\" lock").await?;
    below.assert_unchanged()?;
    before.assert_unchanged()
}

rows! {
    OVER: &[&str];
    "made-anew" => &[];
    "as-it-is" => &["-n"];
}
