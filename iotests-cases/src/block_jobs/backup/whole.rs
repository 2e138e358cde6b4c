//! Backups that run to their end, of disks of all sizes.

use iotests_core::prelude::*;

defaults! { unsupported_imgopts = ["data_file", "cluster_size"] }

rows! {
    SIZES: u64;
    "smaller-than-a-cluster" => 5 * 512;
    "of-whole-clusters" => MIB;
    "that-ends-in-a-cluster" => MIB + 3 * KIB;
}

/// What is to be copied, and more options.
struct How {
    sync: &'static str,
    more: fn() -> Value,
}

rows! {
    HOW: How { sync, more };
    "full" => "full", || json!({});
    "full-with-copy-offload" => "full", || json!({"x-perf": {"use-copy-range": true}});
    "full-by-one-worker" => "full", || json!({"x-perf": {"max-workers": 1, "max-chunk": CLUSTER}});
    "compressed" => "full", || json!({"compress": true});
    "top" => "top", || json!({});
    "since-a-bitmap" => "incremental", || json!({"bitmap": "since"});
}

/// A backup has everything that it should have, up to the last sector, and nothing else; its progress ends at
/// its total.
#[case(rows = (HOW, SIZES))]
async fn has_all_to_the_last_sector(t: &mut Test, how: &How, size: &u64) -> CaseResult {
    let below = Content::nothing().written(0x11, 0..*size);
    let base = t.image("base").size(*size).content(&below).create().await?;
    let disk = t.image("disk").size(*size).backing(&base);
    // Every other cluster is in the overlay, and so is the last one.
    let mut own = Content::nothing().written(0x33, (size - 1) / CLUSTER * CLUSTER..*size);
    for cluster in (0..(size - 1) / CLUSTER).step_by(2) {
        own = own.written(0x22, clusters(cluster..cluster + 1));
    }
    let disk = disk.create().await?;
    let copy = t.image("copy").size(*size).create().await?;
    let vm = t.host().disk(&disk).blockdev(&copy).launch().await?;
    vm.bitmap("disk", "since").add().await?;
    vm.disk("disk").write_all(&own).await?;

    let mut backup = vm.backup("disk").to("copy").sync(how.sync);
    for (name, value) in (how.more)().as_object().into_iter().flatten() {
        backup = backup.set(name, value.clone());
    }
    backup.run().await?;

    let event = vm.event("BLOCK_JOB_COMPLETED").await?;
    check!(event.at("data/offset")? == event.at("data/len")?, "{event}");
    vm.shutdown().await?;
    match how.sync {
        "full" => copy.assert_reads(own.over(&below)).await?,
        _ => copy.assert_reads(&own).await?,
    }
    copy.assert_clean().await?;
    disk.assert_layer(&own).await?;
    base.assert_fill(0x11).await
}
