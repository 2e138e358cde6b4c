//! qcow2 images made with `blockdev-create`: with every option, over what was there, and refused.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use imgtools::qcow2::{self, Extension};
use iotests_core::author::{KEY_ID, NO_CPU_TIME};
use iotests_core::prelude::*;

use crate::json::with;

defaults! { formats = [QCOW2], groups = [RW], host = Any }

/// An image to be made, and what it has to be then.
struct Made {
    size: u64,
    /// Options for the file, which is made first. `None`: what is there is overwritten.
    file: Option<fn() -> Value>,
    /// The file is named by its node, not described.
    by_node: bool,
    options: fn(&str) -> Value,
    /// What `qemu-img info` has to say, in part.
    info: fn(&str) -> Value,
    clusters: Clusters,
}

/// What there is of the clusters in the file, before anything is written.
#[derive(Clone, Copy, PartialEq)]
enum Clusters {
    /// Nothing.
    None,
    /// Their places, which are holes.
    Places,
    /// All of them, on disk.
    Filled,
}

/// How much of what was there before an image may be made over.
const OLD: u64 = 4 * MIB;

impl Made {
    /// The file is as long as it has to be, and takes as much on disk: for the tables, and for the
    /// data where that is there already.
    fn assert_file(&self, image: &Image) -> CaseResult {
        let file = std::fs::File::open(image.file())?;
        file.sync_all()?;
        let file = file.metadata()?;
        let (length, taken) = (file.len(), file.blocks() * 512);
        let lengths = match (self.clusters, self.file) {
            (Clusters::Places | Clusters::Filled, _) => self.size..2 * self.size,
            // Nobody made it shorter.
            (Clusters::None, None) => OLD..OLD + 1,
            (Clusters::None, Some(_)) => 0..MIB,
        };
        let filled = self.clusters == Clusters::Filled;
        let takes_place = match filled {
            true => taken >= self.size || !zeroes_take_place(image.file())?,
            false => taken < self.size,
        };
        check!(
            lengths.contains(&length),
            "{image} is {length} bytes long, expected a length in {lengths:?}"
        );
        check!(
            takes_place,
            "{image} takes {taken} bytes on disk, expected {} {}",
            if filled { "at least" } else { "less than" },
            self.size
        );
        Ok(())
    }
}

/// Whether zeroes beside this file take place on disk: some file systems make holes of them.
pub(crate) fn zeroes_take_place(beside: &Path) -> CaseResult<bool> {
    let folder = beside.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::tempfile_in(folder)?;
    file.write_all(&vec![0; MIB as usize])?;
    file.sync_all()?;
    Ok(file.metadata()?.blocks() * 512 >= MIB)
}

rows! {
    MADE: Made;
    "defaults" => Made {
        size: 12 * MIB,
        file: Some(|| json!({})),
        by_node: true,
        options: |_| json!({}),
        info: |_| v3(65536, 16, false),
        clusters: Clusters::None,
    }, upstream = "206";
    "explicit-defaults" => Made {
        size: 6 * MIB,
        file: Some(|| json!({"preallocation": "off", "nocow": false})),
        by_node: false,
        options: |_| {
            json!({
                "version": "v3", "cluster-size": 65536, "preallocation": "off",
                "lazy-refcounts": false, "refcount-bits": 16,
            })
        },
        info: |_| v3(65536, 16, false),
        clusters: Clusters::None,
    }, upstream = "206";
    "v3-other-options" => Made {
        size: 32 * MIB,
        file: Some(|| json!({"preallocation": "falloc", "nocow": true})),
        by_node: false,
        options: |_| {
            json!({
                "version": "v3", "cluster-size": 2 * MIB, "preallocation": "metadata",
                "lazy-refcounts": true, "refcount-bits": 1,
            })
        },
        info: |_| v3(2 * MIB, 1, true),
        clusters: Clusters::Places,
    }, upstream = "206";
    "v2-with-backing-file" => Made {
        size: 8 * MIB,
        file: Some(|| json!({})),
        by_node: false,
        options: |base| {
            json!({
                "version": "v2", "cluster-size": 512,
                "backing-file": base, "backing-fmt": "qcow2",
            })
        },
        info: |base| {
            json!({
                "cluster-size": 512, "backing-filename": base, "backing-filename-format": "qcow2",
                "format-specific": {"data": {"compat": "0.10", "refcount-bits": 16}},
            })
        },
        clusters: Clusters::None,
    }, upstream = "206";
    "over-an-old-image" => Made {
        size: 8 * MIB,
        file: None,
        by_node: false,
        options: |_| json!({}),
        info: |_| v3(65536, 16, false),
        clusters: Clusters::None,
    };
    "v3-extended-l2-over-a-backing-file" => Made {
        size: 8 * MIB,
        file: Some(|| json!({})),
        by_node: false,
        options: |base| {
            json!({
                "extended-l2": true, "preallocation": "metadata",
                "backing-file": base, "backing-fmt": "qcow2",
            })
        },
        info: |base| {
            json!({
                "backing-filename": base, "backing-filename-format": "qcow2",
                "format-specific": {"data": {"compat": "1.1", "extended-l2": true}},
            })
        },
        clusters: Clusters::Places,
    };
    "v3-lazy-refcounts" => Made {
        size: 8 * MIB,
        file: Some(|| json!({})),
        by_node: false,
        options: |_| json!({"lazy-refcounts": true}),
        info: |_| v3(65536, 16, true),
        clusters: Clusters::None,
    };
    "v3-zstd" => Made {
        size: 8 * MIB,
        file: Some(|| json!({})),
        by_node: false,
        options: |_| json!({"compression-type": "zstd"}),
        info: |_| json!({"format-specific": {"data": {"compression-type": "zstd"}}}),
        clusters: Clusters::None,
    }, needs = [Zstd];
    "allocated-in-full" => Made {
        size: 4 * MIB,
        file: Some(|| json!({})),
        by_node: false,
        options: |_| json!({"preallocation": "full"}),
        info: |_| v3(65536, 16, false),
        clusters: Clusters::Filled,
    };
    "allocated-by-the-file-system" => Made {
        size: 4 * MIB,
        file: Some(|| json!({})),
        by_node: false,
        options: |_| json!({"preallocation": "falloc"}),
        info: |_| v3(65536, 16, false),
        clusters: Clusters::Filled,
    };
}

fn v3(cluster_size: u64, refcount_bits: u64, lazy_refcounts: bool) -> Value {
    json!({
        "cluster-size": cluster_size,
        "format-specific": {"data": {
            "compat": "1.1", "refcount-bits": refcount_bits, "lazy-refcounts": lazy_refcounts,
            "corrupt": false, "extended-l2": false, "compression-type": "zlib",
        }},
    })
}

/// An image made by blockdev-create is what was asked for, holds nothing of what was there before,
/// and can be used.
#[case(rows = MADE)]
async fn created_as_asked(t: &mut Test, made: &Made) -> CaseResult {
    let base = t.image("t.qcow2.base").size(made.size);
    let base = base.write(0x11, 0..MIB).create().await?;
    let image = t.image("t.qcow2").size(made.size).reserve().await?;
    std::fs::write(image.file(), vec![0xa5; OLD as usize])?;

    let vm = t.host().launch().await?;
    t.narrate(true);
    let mut file = json!({"driver": "file", "filename": image});
    if let Some(options) = made.file {
        let sized = with(&file, json!({"size": 0}));
        vm.blockdev_create(with(&sized, options())).await?;
    }
    if made.by_node {
        let named = Node::from(file).node_name("imgfile");
        vm.add_node(named).await?;
        file = "imgfile".into();
    }
    let format = json!({"driver": "qcow2", "file": file, "size": made.size});
    let options = (made.options)(base.filename());
    vm.blockdev_create(with(&format, options)).await?;
    t.narrate(false);
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;

    t.log(image.info_text().await?);
    t.golden()?;
    let info = image.info().json().await?;
    info.assert("virtual-size", made.size)?;
    info.assert_includes(&(made.info)(base.filename()))?;
    made.assert_file(&image)?;
    let has_base = info.get("backing-filename").is_some();
    let check = image.check().json().await?;
    check.assert_absent("leaks")?;
    check.assert_absent("corruptions")?;
    if made.clusters != Clusters::None {
        check.assert("allocated-clusters", check.at("total-clusters")?.clone())?;
    }
    let (below, end) = (if has_base { 0x11 } else { 0 }, made.size);
    let content = Content::nothing().written(below, 0..MIB);
    image.assert_reads(&content).await?;

    // In the middle of clusters, so that the rest of them shows what it is filled with.
    let writes = [(0x22, 512..1024), (0x33, end - 4096..end - 2048)];
    image.write_all(&writes).await?;
    // Not even where refcounts are lazy is it left to be repaired.
    let dirty = qcow2::Image::open(image.file())?.header().is_dirty();
    check!(!dirty, "the image is marked as dirty");
    image.assert_reads(Content::from(&writes).over(&content)).await?;
    image.assert_clean().await?;
    base.assert_reads(&[(0x11, 0..MIB)]).await
}

/// An encrypted image has the cipher that was asked for, opens with its key and with no other, and has no
/// plain text in its file.
#[case(upstream = "206", groups = [CRYPTO], needs = [Luks], budget = secs(300))]
async fn created_encrypted(t: &mut Test) -> CaseResult {
    let size = 32 * MIB;
    let image = t.image("t.qcow2").size(size).encrypted().reserve().await?;
    std::fs::write(image.file(), "")?;
    let luks = json!({
        "cipher-alg": "aes-128", "cipher-mode": "cbc", "ivgen-alg": "plain64", "hash-alg": "sha1",
    });
    let how = json!({
        "format": "luks", "key-secret": KEY_ID, "ivgen-hash-alg": "md5", "iter-time": 10,
    });
    let vm = t.host().key().launch().await?;
    let options = json!({
        "driver": "qcow2", "size": size, "encrypt": with(&how, luks.clone()),
        "file": {"driver": "file", "filename": image},
    });
    while let Some(error) = vm.blockdev_create(options.clone()).error().await? {
        check!(error.contains(NO_CPU_TIME), "the job failed: {error}");
    }
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;

    let info = image.info().json().await?;
    info.assert("virtual-size", size)?;
    info.assert("encrypted", true)?;
    info.assert_includes(&v3(65536, 16, false))?;
    let encrypt = info.at("format-specific/data/encrypt")?;
    encrypt.assert_includes(&with(&json!({"format": "luks"}), luks))?;
    // The header is one page; a slot has the key 4,000 times over, and ends with a page.
    for slot in 0..8 {
        encrypt.assert(&format!("slots[{slot}]/active"), slot == 0)?;
        let at = 4 * KIB + slot * 64 * KIB;
        encrypt.assert(&format!("slots[{slot}]/key-offset"), at)?;
    }
    encrypt.assert("payload-offset", 4 * KIB + 8 * 64 * KIB)?;
    image.assert_clean().await?;

    let written = [(0x22, MIB..MIB + 4 * KIB)];
    image.write_all(&written).await?;
    image.assert_reads(&written).await?;
    image.assert_clean().await?;
    let raw = std::fs::read(image.file())?;
    let readable = raw.chunks(512).any(|sector| sector == [0x22; 512]);
    check!(!readable, "the data can be read in the file without a key");
    let other = image.image_opts();
    t.qemu_io(["--image-opts", &other, "-c", "read 0 512"])
        .secret(KEY_ID, "another")
        .expect_error("Invalid password, cannot unlock any keyslot")
        .await?;
    Ok(())
}

/// An image with a raw data file names it, and has the flag which says that the file alone is all of
/// the data. A writer that does not know the flag clears it.
#[case(groups = [QUICK], unsupported_imgopts = ["compat", "data_file"])]
async fn created_with_a_raw_data_file(t: &mut Test) -> CaseResult {
    let data = t.image("data").format(RAW).size(MIB).create().await?;
    let image = t.image("t.qcow2").size(MIB).reserve().await?;
    std::fs::write(image.file(), "")?;
    let file = json!({"driver": "file", "filename": data, "node-name": "data"});
    let vm = t.host().blockdev(file).launch().await?;
    let options = json!({
        "driver": "qcow2", "size": MIB, "data-file": "data", "data-file-raw": true,
        "file": {"driver": "file", "filename": image},
    });
    vm.blockdev_create(options).await?;
    vm.assert_no_jobs().await?;
    vm.shutdown().await?;

    const RAW_DATA: u64 = 2;
    let qcow2 = qcow2::Image::open(image.file())?;
    check!(qcow2.header().autoclear_features == RAW_DATA);
    let name = qcow2.extension(Extension::DATA_FILE)?;
    let name = name.map(|it| String::from_utf8_lossy(&it.data).into_owned());
    check!(name.as_deref() == Some(data.filename()));
    image.assert_clean().await?;
    image.write(0x22, 0..64 * KIB).await?;
    image.assert_reads(&[(0x22, 0..64 * KIB)]).await?;
    data.assert_reads(&[(0x22, 0..64 * KIB)]).await
}

/// An image that cannot be made, and why.
struct Refused {
    options: fn() -> Value,
    error: &'static str,
    /// It is noticed only when part of the image is there.
    too_late: bool,
}

const MISALIGNED: &str = "Image size must be a multiple of 512 bytes";
const NEGATIVE: &str = "Image size cannot be negative";
const L1_TOO_LARGE: &str = "Failed to grow the L1 table: File too large";
const CLUSTER_SIZE: &str = "Cluster size must be a power of two between 512 and 2048k";
const REFCOUNT_WIDTH: &str = "Refcount width must be a power of two and may not exceed 64 bits";

/// Noticed before anything is written.
const EARLY: bool = false;
const LATE: bool = true;

rows! {
    REFUSED: Refused { options, error, too_late };
    "no-such-file-node" =>
        || json!({"file": "this doesn't exist"}),
        "Cannot find device='this doesn't exist' nor node-name='this doesn't exist'",
        EARLY, upstream = "206";
    "size-1234" => || json!({"size": 1234}), MISALIGNED, EARLY, upstream = "206";
    "size-16eib-less-a-sector" =>
        || json!({"size": u64::MAX - 511}),
        NEGATIVE,
        LATE, upstream = "206";
    "size-8eib" => || json!({"size": 1_u64 << 63}), NEGATIVE, LATE, upstream = "206";
    "size-8eib-less-a-sector" =>
        || json!({"size": (1_u64 << 63) - 512}),
        "exceeds maximum(9223372035781033984)",
        LATE, upstream = "206";
    "size-largest-of-any-image" =>
        || json!({"size": 9_223_372_035_781_033_984_u64}),
        L1_TOO_LARGE,
        LATE, upstream = "206";
    "version-1" =>
        || json!({"version": "v1"}),
        "does not accept value 'v1'",
        EARLY, upstream = "206";
    "version-2-with-lazy-refcounts" =>
        || json!({"version": "v2", "lazy-refcounts": true}),
        "Lazy refcounts only supported with compatibility level 1.1 and above",
        EARLY, upstream = "206";
    "version-2-with-8-bit-refcounts" =>
        || json!({"version": "v2", "refcount-bits": 8}),
        "Different refcount widths than 16 bits require compatibility level 1.1 or above",
        EARLY, upstream = "206";
    "backing-file-and-preallocation" =>
        || json!({"backing-file": "/dev/null", "preallocation": "full"}),
        "Backing file and preallocation can only be used at the same time if extended_l2 is on",
        EARLY, upstream = "206";
    "backing-format-without-file" =>
        || json!({"backing-fmt": "qcow2"}),
        "Backing format cannot be used without backing file",
        EARLY, upstream = "206";
    "cluster-size-1234" => || json!({"cluster-size": 1234}), CLUSTER_SIZE, EARLY, upstream = "206";
    "cluster-size-128" => || json!({"cluster-size": 128}), CLUSTER_SIZE, EARLY, upstream = "206";
    "cluster-size-4m" => || json!({"cluster-size": 4 * MIB}), CLUSTER_SIZE, EARLY, upstream = "206";
    "cluster-size-0" => || json!({"cluster-size": 0}), CLUSTER_SIZE, EARLY, upstream = "206";
    "too-large-for-512-byte-clusters" =>
        || json!({"size": 1_u64 << 48, "cluster-size": 512}),
        L1_TOO_LARGE,
        LATE, upstream = "206";
    "refcounts-of-128-bits" =>
        || json!({"refcount-bits": 128}),
        REFCOUNT_WIDTH,
        EARLY, upstream = "206";
    "refcounts-of-0-bits" =>
        || json!({"refcount-bits": 0}),
        REFCOUNT_WIDTH,
        EARLY, upstream = "206";
    "refcounts-of-7-bits" =>
        || json!({"refcount-bits": 7}),
        REFCOUNT_WIDTH,
        EARLY, upstream = "206";
    "version-2-with-extended-l2" =>
        || json!({"version": "v2", "extended-l2": true}),
        "Extended L2 entries are only supported with compatibility level 1.1",
        EARLY;
    "extended-l2-in-small-clusters" =>
        || json!({"extended-l2": true, "cluster-size": 8192}),
        "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes",
        EARLY;
    "version-2-with-zstd" =>
        || json!({"version": "v2", "compression-type": "zstd"}),
        "Non-zlib compression type is only supported with compatibility level 1.1",
        EARLY, needs = [Zstd];
    "version-2-with-data-file" =>
        || json!({"version": "v2", "data-file": "node0"}),
        "External data files are only supported with compatibility level 1.1",
        EARLY;
    "raw-data-file-without-file" =>
        || json!({"data-file-raw": true}),
        "data-file-raw requires data-file",
        EARLY;
    "raw-data-file-and-backing-file" =>
        || json!({"data-file": "node0", "data-file-raw": true, "backing-file": "/dev/null"}),
        "Backing file and data-file-raw cannot be used at the same time",
        EARLY;
}

/// An image that cannot be created is refused with the reason. The file is left alone, and nothing that is
/// left of the attempt blocks the next one.
#[case(groups = [QUICK], rows = REFUSED)]
async fn refused(t: &mut Test, refused: &Refused) -> CaseResult {
    let image = t.image("t.qcow2").size(64 * MIB).reserve().await?;
    std::fs::write(image.file(), vec![0xa5; 64 * KIB as usize])?;
    let content = image.file_bytes()?;
    let file = json!({"driver": "file", "filename": image, "node-name": "node0"});
    let vm = t.host().blockdev(file).launch().await?;
    let before = vm.state().await?;

    let usual = json!({"driver": "qcow2", "file": "node0", "size": 64 * MIB});
    let create = vm.blockdev_create(with(&usual, (refused.options)()));
    create.expect_error(refused.error).await?;
    vm.assert_no_jobs().await?;
    if refused.too_late {
        vm.assert_same_graph_as(&before).await?;
    } else {
        vm.assert_unchanged_since(&before).await?;
        content.assert_unchanged()?;
    }

    vm.blockdev_create(usual).await?;
    vm.assert_same_graph_as(&before).await?;
    vm.shutdown().await?;
    let info = image.info().json().await?;
    info.assert("virtual-size", 64 * MIB)?;
    info.assert_includes(&v3(65536, 16, false))?;
    image.assert_clean().await?;
    image.assert_empty().await
}
