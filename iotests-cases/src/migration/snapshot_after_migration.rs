//! A snapshot of a guest with its memory: migration to a file, then an overlay. The upstream test is
//! 280.

use iotests_core::prelude::*;

const SIZE: u64 = 64 * MIB;
const DISK: Content = Content::of(&[(0x11, 0..MIB), (0x44, 2 * MIB..2 * MIB + 4 * KIB)]);

/// What somebody else writes while the guest is away.
const BY_ANOTHER: (u8, std::ops::Range<u64>) = (0x55, 3 * MIB..3 * MIB + 4 * KIB);

/// After a migration to a file the disk can be put on a snapshot; the guest goes on with that, and
/// what it writes can be committed.
#[case(
    upstream = "280", formats = [QCOW2], groups = [RW, MIGRATION, QUICK],
    host = System, guest = RunningIdle,
    needs = [Platform(Os::Linux), AnyOf(&[Device("virtio-blk-pci"), Device("virtio-blk-ccw")])],
    unsupported_imgopts = ["cluster_size"]
)]
async fn goes_on_and_can_be_committed(t: &mut Test) -> CaseResult {
    let base = t.image("base").size(SIZE).create().await?;
    let vm = t.host().iothread("thread");
    let vm = vm.disk(Disk::of(&base).id("disk").iothread("thread"));
    let vm = vm.launch().await?;
    let disk = vm.disk("disk");
    disk.write_all(&DISK).await?;

    t.step("migrate to a file");
    t.migrate(&vm, Destination::Nowhere).await?;
    vm.event("STOP").await?;
    let status = vm.cmd("query-status", ()).await?;
    status.assert_includes(&json!({"running": false, "status": "postmigrate"}))?;

    t.step("another may use the disk");
    // All is written back, and the locks are gone.
    base.assert_clean().await?;
    base.assert_reads(&DISK).await?;
    base.write(BY_ANOTHER.0, BY_ANOTHER.1).await?;

    t.step("take a snapshot of the disk");
    let top = t.image("top").size(MIB).reserve().await?;
    vm.blockdev_create(json!({"driver": "file", "filename": top, "size": 0})).await?;
    vm.add_node(top.protocol_node().node_name("top-file")).await?;
    let format = t.format().name();
    vm.blockdev_create(json!({"driver": format, "file": "top-file", "size": MIB})).await?;
    vm.add_node(Node::new(format).node_name("top").file("top-file")).await?;
    vm.snapshot("base", "top").await?;
    vm.assert_chain("top -> base").await?;

    t.step("go on, and write");
    vm.cmd("cont", ()).await?;
    vm.event("RESUME").await?;
    vm.wait_run_state("running").await?;
    vm.assert_read_only(&[("top", false), ("base", true)]).await?;
    base.io(["quit"]).expect_error("Failed to get \"write\" lock").await?;
    disk.write(0x22, 4 * KIB..8 * KIB).await?;
    disk.assert_pattern(0x11, 8 * KIB..MIB).await?;

    t.step("commit");
    let job = vm.commit("top").top("top").set("auto-dismiss", false);
    let job = job.start().await?;
    let done = json!({
        "device": job.id(), "type": "commit", "len": 64 * KIB, "offset": 64 * KIB, "speed": 0,
    });
    job.run().await?;
    for name in ["BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"] {
        let event = vm.event(name).await?;
        event.assert("data", done.clone()).context(name)?;
    }
    vm.assert_no_jobs().await?;
    let drives = vm.cmd("query-block", ()).await?;
    drives.find(&json!({"inserted": {"node-name": "base", "ro": false}}))?;
    disk.write(0x33, 16 * KIB..20 * KIB).await?;
    // No cache has what another has changed since.
    disk.assert_pattern(BY_ANOTHER.0, BY_ANOTHER.1).await?;
    vm.remove_node("top").await?;
    vm.assert_no_nodes(&["top"]).await?;
    vm.shutdown().await?;

    t.step("look at the files");
    let content = DISK.written(BY_ANOTHER.0, BY_ANOTHER.1);
    let content = content.written(0x22, 4 * KIB..8 * KIB);
    base.assert_reads(content.written(0x33, 16 * KIB..20 * KIB)).await?;
    base.assert_clean().await?;
    base.info().json().await?.assert_absent("backing-filename")?;
    top.assert_clean().await?;
    let info = top.info().json().await?;
    info.assert("virtual-size", MIB)?;
    info.assert_absent("backing-filename")
}
