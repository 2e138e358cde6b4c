//! A machine that waits for its guest, while the disk is still in use where that comes from.

use iotests_core::prelude::*;

const DIES: KnownBug = known(
    "resizing a disk that has not arrived yet aborts QEMU (8c2c72a335)",
    "died of SIGABRT",
    before(10, 0),
)
.only(&[&["resizing"]]);

struct Attempt {
    command: &'static str,
    arguments: fn() -> Value,
    error: &'static str,
}

rows! {
    ATTEMPTS: Attempt { command, arguments, error };
    "resizing" => "block_resize", || json!({"node-name": "disk", "size": 2 * MIB}),
        "Permission 'resize' unavailable on inactive node";
    "taking-an-internal-snapshot" => "blockdev-snapshot-internal-sync",
        || json!({"device": "disk", "name": "then"}), "does not support internal snapshots";
}

/// What would write to the disk before the guest has arrived is refused, with no effect on the machine or the
/// file, and the guest arrives.
#[case(
    formats = [QCOW2], protocols = [FILE], groups = [RW, QUICK, MIGRATION], host = System,
    guest = RunningIdle, rows = ATTEMPTS, known_bugs = [DIES],
)]
async fn is_refused(t: &mut Test, attempt: &Attempt) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let source = t.vm().name("source").disk(&disk).launch().await?;
    let target = t.vm().name("target").disk(&disk).incoming("defer");
    let target = target.launch().await?;
    let file = disk.file_bytes()?;

    target.cmd(attempt.command, (attempt.arguments)()).refused(attempt.error).await?;
    file.assert_unchanged()?;

    t.migrate(&source, &target).await?;
    source.shutdown().await?;
    target.disk("disk").write(0x22, 0..CLUSTER).await?;
    target.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..MIB), (0x22, 0..CLUSTER)]).await?;
    disk.assert_clean().await
}
