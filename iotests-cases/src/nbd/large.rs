//! Requests of nearly 4 GiB, which is the most that 32 bits can ask for.

use iotests_core::prelude::*;
use nbd::proto::CommandFlags;

defaults! { formats = [QCOW2], groups = [QUICK, EXPORT], host = Any,
unsupported_imgopts = ["compat", "cluster_size", "data_file"] }

const LARGEST: u64 = 4 * GIB - CLUSTER;

rows! {
    /// Whether it is trimmed, or zeroed with these flags.
    HOW: Option<CommandFlags>;
    "trimmed" => None;
    "zeroed" => Some(CommandFlags::empty());
    "zeroed-without-holes" => Some(CommandFlags::NO_HOLE);
}

/// A client can discard nearly 4 GiB with one request, and nothing beside them.
#[case(rows = HOW)]
async fn is_discarded_at_once(t: &mut Test, how: &Option<CommandFlags>) -> CaseResult {
    let pieces = [0, 2 * GIB - CLUSTER, LARGEST - CLUSTER, LARGEST].map(|at| at..at + CLUSTER);
    let disk = t.image("disk").size(8 * GIB).create().await?;
    let vm = t.host().blockdev(disk.node().set("discard", "unmap"));
    let vm = vm.launch().await?;
    let node = vm.node("disk");
    for piece in pieces.clone() {
        node.write(0x11, piece).await?;
    }
    let client = vm.export("disk").writable().await?.client().await?;
    match how {
        None => client.trim(0, LARGEST).await?,
        Some(flags) => client.write_zeroes(0, LARGEST, *flags).await?,
    }
    client.disconnect().await?;
    let [first, second, last, beside] = pieces;
    for discarded in [first, second, last] {
        node.assert_pattern(0, discarded).await?;
    }
    node.assert_pattern(0x11, beside).await?;
    vm.shutdown().await?;
    disk.assert_clean().await
}

/// Asked for the status of nearly 4 GiB, a server answers in every context that was chosen, in pieces that are not empty, and of each bitmap
/// with what is in it.
#[case]
async fn is_answered_in_each_context(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(8 * GIB).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    for name in ["all", "none"] {
        vm.bitmap("disk", name).add().await?;
    }
    for at in 0..8 {
        vm.node("disk").zero(at * GIB..(at + 1) * GIB).await?;
    }
    vm.bitmap("disk", "none").clear().await?;
    for name in ["all", "none"] {
        vm.bitmap("disk", name).disable().await?;
    }
    let export = vm.export("disk").bitmap("all").bitmap("none");
    let export = export.set("allocation-depth", true).await?;
    let contexts = [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:all",
        "qemu:dirty-bitmap:none",
    ];
    let client = nbd::Client::builder().contexts(contexts);
    let client = client.connect_uri(&export.uri()?.parse()?).await?;
    for start in [0, GIB, 4 * GIB + CLUSTER] {
        let status = client.block_status(start, LARGEST).await?;
        let names: Vec<_> = status.iter().map(|one| &*one.context).collect();
        check!(names == contexts);
        for one in &status {
            let lengths = one.extents.iter().map(|extent| extent.len);
            check!(lengths.clone().all(|length| length > 0), "{one:?}");
            check!(lengths.sum::<u64>() > 0, "{one:?}");
            let dirty = match &*one.context {
                "qemu:dirty-bitmap:all" => 1,
                "qemu:dirty-bitmap:none" => 0,
                _ => continue,
            };
            let mut bits = one.extents.iter().map(|extent| extent.status);
            check!(bits.all(|bit| bit == dirty), "{one:?}");
        }
    }
    client.disconnect().await?;
    vm.shutdown().await?;
    Ok(())
}
