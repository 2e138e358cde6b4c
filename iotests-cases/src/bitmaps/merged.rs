//! Bitmaps that are merged into others (`block-dirty-bitmap-merge`).

use iotests_core::prelude::*;

use super::{WAYS, change};

defaults! {
    formats = [QCOW2], groups = [RW, QUICK, BITMAP], host = Any,
}

/// Its granularity, and what is dirty: from where to where.
type Bits = (u64, &'static [(u64, u64)]);

/// A merge, and what the target is then.
struct Merge {
    target: Bits,
    sources: &'static [Bits],
    then: &'static [(u64, u64)],
}

rows! {
    MERGES: Merge { target, sources, then };
    "nothing-into-nothing" => (CLUSTER, &[]), &[(CLUSTER, &[])], &[];
    "nothing-into-something" => (CLUSTER, &[(0, CLUSTER)]), &[(CLUSTER, &[])], &[(0, CLUSTER)];
    "something-into-nothing" => (CLUSTER, &[]), &[(CLUSTER, &[(0, CLUSTER)])], &[(0, CLUSTER)];
    "what-is-there" => (CLUSTER, &[(0, 2 * CLUSTER)]), &[(CLUSTER, &[(CLUSTER, 2 * CLUSTER)])],
        &[(0, 2 * CLUSTER)];
    "what-is-not" => (CLUSTER, &[(0, CLUSTER)]), &[(CLUSTER, &[(MIB - CLUSTER, MIB)])],
        &[(0, CLUSTER), (MIB - CLUSTER, MIB)];
    "two-of-which-one-has-nothing" => (CLUSTER, &[(0, CLUSTER)]),
        &[(CLUSTER, &[(2 * CLUSTER, 3 * CLUSTER)]), (CLUSTER, &[])],
        &[(0, CLUSTER), (2 * CLUSTER, 3 * CLUSTER)];
    "two-of-which-the-last-has-something" => (CLUSTER, &[(0, CLUSTER)]),
        &[(CLUSTER, &[]), (CLUSTER, &[(2 * CLUSTER, 3 * CLUSTER)])],
        &[(0, CLUSTER), (2 * CLUSTER, 3 * CLUSTER)];
    "a-finer-one" => (CLUSTER, &[(0, CLUSTER)]),
        &[(512, &[(2 * CLUSTER + 512, 2 * CLUSTER + 1024)])],
        &[(0, CLUSTER), (2 * CLUSTER, 3 * CLUSTER)];
    "a-finer-one-of-nothing" => (CLUSTER, &[(0, CLUSTER)]), &[(512, &[])], &[(0, CLUSTER)];
    "a-coarser-one" => (512, &[(0, 512)]),
        &[(CLUSTER, &[(2 * CLUSTER + 512, 2 * CLUSTER + 1024)])],
        &[(0, 512), (2 * CLUSTER, 3 * CLUSTER)];
    "a-coarser-one-of-nothing" => (512, &[(0, 512)]), &[(CLUSTER, &[])], &[(0, 512)];
    "a-coarser-one-at-the-end" => (512, &[]), &[(2 * MIB, &[(MIB - 512, MIB)])], &[(0, MIB)];
}

/// A bitmap into which others are merged is dirty where it or one of them was, and nowhere else, and records on;
/// the others stay as they were.
#[case(rows = (MERGES, WAYS))]
async fn have_what_all_of_them_had(t: &mut Test, row: &Merge, in_transaction: &bool) -> CaseResult {
    let disk = t.image("disk").size(MIB).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    // What is written is recorded by those that are there and on.
    let record = async |name: &str, (granularity, dirty): Bits| {
        vm.bitmap("disk", name).add().granularity(granularity).await?;
        for (start, end) in dirty {
            vm.node("disk").write(0x11, *start..*end).await?;
        }
        vm.bitmap("disk", name).disable().await?;
        vm.bitmap("disk", name).sha256().await
    };
    let names: Vec<String> = (0..row.sources.len()).map(|at| format!("source{at}")).collect();
    let mut before = Vec::new();
    for (name, bits) in names.iter().zip(row.sources) {
        before.push(record(name, *bits).await?);
    }
    record("target", row.target).await?;
    let then = record("then", (row.target.0, row.then)).await?;

    let arguments = json!({"node": "disk", "target": "target", "bitmaps": names});
    change(&vm, "block-dirty-bitmap-merge", arguments, *in_transaction).await?;

    check!(vm.bitmap("disk", "target").sha256().await? == then);
    for (name, before) in names.iter().zip(before) {
        check!(vm.bitmap("disk", name).sha256().await? == before, "{name}");
    }
    for name in ["target", "then"] {
        vm.bitmap("disk", name).enable().await?;
    }
    vm.node("disk").write(0x22, MIB / 2..MIB / 2 + 512).await?;
    let then = vm.bitmap("disk", "then").sha256().await?;
    check!(vm.bitmap("disk", "target").sha256().await? == then);
    vm.shutdown().await?;
    Ok(())
}
