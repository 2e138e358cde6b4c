//! Requests that fail on their way to the file.

use super::*;

/// Where the file of the data is, and the errors that it gives to the first writes.
fn failing(kind: &Kind, base: &Image, disk: &Image, times: usize) -> Node {
    let (child, file) = match kind.data_file {
        true => {
            let data = format!("{}.data", base.file().as_str());
            ("data-file", json!({"driver": "file", "filename": data}))
        }
        false => ("file", json!(disk.protocol_node())),
    };
    let error = json!({"event": "none", "iotype": "write", "errno": 5, "once": true});
    let layer = Node::new("blkdebug").set("image", file);
    let layer = layer.set("inject-error", vec![error; times]);
    disk.node().child(child, layer)
}

/// A write that allocates clusters and fails leaves the image as it was: consistent, with all that it held,
/// and ready for the next write.
#[case(needs = [Driver("blkdebug")], rows = KINDS)]
async fn leaves_the_image_as_it_was(t: &mut Test, kind: &Kind) -> CaseResult {
    let own = Content::of(&[(0x22, 0..CLUSTER)]);
    let (base, disk) = kind.create(t, &own).await?;
    let vm = t.host().blockdev(failing(kind, &base, &disk, 1)).launch().await?;
    let export = vm.export("disk").writable().await?;
    let client = export.client().await?;
    // A part of a cluster, a whole one and a part again.
    let range = CLUSTER + 512..3 * CLUSTER + 512;
    let bytes = vec![0x33; (range.end - range.start) as usize];
    let failed = client.write(range.start, bytes.clone()).await;
    check!(failed.is_err(), "it has been done");
    let all = own.over(&Content::nothing().written(0x11, 0..SIZE));
    vm.node("disk").assert_reads(&all).await?;
    client.write(range.start, bytes).await?;
    client.disconnect().await?;
    let all = all.written(0x33, range);
    vm.node("disk").assert_reads(&all).await?;
    vm.shutdown().await?;
    disk.assert_reads(&all).await?;
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}

rows! {
    PLACED: Kind { options, data_file };
    "version-3" => &[], false;
    "extended-l2" => &[("extended_l2", "on")], false;
    // All clusters have a place from the start.
    "preallocated" => &[("extended_l2", "on"), ("preallocation", "metadata")], false;
    "small-clusters" => &[("cluster_size", "512"), ("refcount_bits", "64")], false;
    "data-file" => &[], true;
}

/// Clusters that have a place, each of which holds something else: data, zeroes, zeroes in a part, data in a part.
const BEFORE: [&str; 5] = [
    "write -P 0x21 0 128k",
    "write -z 64k 64k",
    "write -P 0x22 128k 64k",
    "write -z 128k 16k",
    "write -P 0x23 208k 8k",
];

fn before() -> Content {
    let data = Content::nothing().written(0x21, 0..CLUSTER).zeroes(clusters(1..2));
    let data = data.written(0x22, clusters(2..3)).zeroes(128 * KIB..144 * KIB);
    data.written(0x23, 208 * KIB..216 * KIB)
}

/// Writes fail over zeroes or beside data in clusters that have a place, and where there is none: the image is
/// consistent, holds what it held, and has all when they are done again.
#[case(needs = [Driver("blkdebug")], rows = PLACED, unsupported_imgopts = ["preallocation"])]
async fn keeps_the_places_of_clusters(t: &mut Test, kind: &Kind) -> CaseResult {
    let (base, disk) = kind.create(t, &Content::nothing()).await?;
    disk.io(BEFORE).await?;
    let parts = (0..6).map(|cluster| cluster * CLUSTER + 512..cluster * CLUSTER + 12 * KIB);
    let parts = parts.collect::<Vec<_>>();
    let node = failing(kind, &base, &disk, parts.len());
    let vm = t.host().blockdev(node).launch().await?;
    let export = vm.export("disk").writable().await?;
    let client = export.client().await?;
    let mut all = before().over(&Content::nothing().written(0x11, 0..SIZE));
    let write = |byte, part: &std::ops::Range<u64>| {
        client.write(part.start, vec![byte; (part.end - part.start) as usize])
    };
    for (byte, part) in (0x31..).zip(&parts) {
        check!(write(byte, part).await.is_err(), "{part:x?} is written");
    }
    vm.node("disk").assert_reads(&all).await?;
    for (byte, part) in (0x41..).zip(&parts) {
        write(byte, part).await?;
        all = all.written(byte, part.clone());
    }
    client.disconnect().await?;
    vm.node("disk").assert_reads(&all).await?;
    vm.shutdown().await?;
    disk.assert_reads(&all).await?;
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}
