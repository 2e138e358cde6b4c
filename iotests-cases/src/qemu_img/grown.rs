//! Overlays that grow, over backing files of other sizes.

use iotests_core::prelude::*;

defaults! { formats = [QCOW2], groups = [QUICK, BACKING], unsupported_imgopts = ["data_file"],
host = Any }

/// Who makes it larger.
enum By {
    Resize,
    BlockResize,
    Commit,
}

rows! {
    WAYS: By;
    "qemu-img-resize" => By::Resize;
    "block-resize" => By::BlockResize;
    "a-commit-of-a-larger-overlay" => By::Commit;
}

rows! {
    ENDS: u64;
    "at-a-cluster" => MIB;
    "in-a-cluster" => MIB + 3 * KIB;
}

/// What an image gets when it grows reads as zeroes, also where its backing file, which is longer, has data.
#[case(rows = (WAYS, ENDS))]
async fn show_nothing_of_a_longer_backing_file(t: &mut Test, by: &By, end: &u64) -> CaseResult {
    let base = t.image("base").size(4 * MIB).fill(0x11).create().await?;
    let disk = t.image("disk").size(*end).backing(&base).create().await?;
    disk.write(0x22, 0..CLUSTER).await?;
    match by {
        By::Resize => {
            disk.resize(3 * MIB).await?;
        }
        By::BlockResize => {
            let vm = t.host().blockdev(&disk).launch().await?;
            vm.cmd(
                "block_resize",
                json!({"node-name": "disk", "size": 3 * MIB}),
            )
            .await?;
            vm.node("disk").assert_pattern(0, *end..3 * MIB).await?;
            vm.shutdown().await?;
        }
        By::Commit => {
            let top = t.image("top").size(3 * MIB).backing(&disk).create().await?;
            let vm = t.host().disk(&top).launch().await?;
            let job = vm.commit("top").base("disk").start().await?;
            job.complete().await?;
            vm.shutdown().await?;
        }
    }
    let expected = [(0x22, 0..CLUSTER), (0x11, CLUSTER..*end)];
    disk.assert_reads(&expected).await?;
    check!(disk.size().await? == 3 * MIB);
    disk.assert_clean().await?;
    base.assert_fill(0x11).await
}

/// An image with a raw data file reads what anybody has written into that file.
#[case(unsupported_imgopts = ["compat", "extended_l2"])]
async fn raw_data_files_are_what_is_read(t: &mut Test) -> CaseResult {
    let data = t.file("data")?;
    let disk = t.image("disk").size(MIB).option("data_file", data.as_str());
    let disk = disk.option("data_file_raw", "on").create().await?;
    let raw = t.open(data.as_str()).format(RAW).await?;
    raw.write(0x33, 5 * CLUSTER..6 * CLUSTER).await?;
    disk.assert_reads(&[(0x33, 5 * CLUSTER..6 * CLUSTER)])
        .await?;
    let vm = t.host().disk(&disk).launch().await?;
    vm.disk("disk")
        .assert_pattern(0x33, 5 * CLUSTER..6 * CLUSTER)
        .await?;
    vm.disk("disk").write(0x44, 0..CLUSTER).await?;
    vm.shutdown().await?;
    let all = [(0x44, 0..CLUSTER), (0x33, 5 * CLUSTER..6 * CLUSTER)];
    raw.assert_reads(&all).await?;
    disk.assert_reads(&all).await?;
    disk.assert_clean().await
}
