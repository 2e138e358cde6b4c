//! Requests that fail on their way to the file.

use super::*;

/// A write that allocates clusters and fails leaves the image as it was: consistent, with all that it held,
/// and ready for the next write.
#[case(needs = [Driver("blkdebug")], rows = KINDS)]
async fn leaves_the_image_as_it_was(t: &mut Test, kind: &Kind) -> CaseResult {
    let own = Content::of(&[(0x22, 0..CLUSTER)]);
    let (base, disk) = kind.create(t, &own).await?;
    let child = if kind.data_file { "data-file" } else { "file" };
    let data = format!("{}.data", base.file().as_str());
    let file = match kind.data_file {
        true => json!({"driver": "file", "filename": data}),
        false => json!(disk.protocol_node()),
    };
    let error = json!({"event": "none", "iotype": "write", "errno": 5, "once": true});
    let failing = Node::new("blkdebug").set("image", file);
    let failing = failing.set("inject-error", [error]);
    let vm = t.host().blockdev(disk.node().child(child, failing));
    let vm = vm.launch().await?;
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
