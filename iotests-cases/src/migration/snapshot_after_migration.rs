//! A snapshot of a guest with its memory: migration to a file, then an overlay. The upstream test is
//! 280.

use iotests_core::prelude::*;

/// After a migration to a file the disk can be put on a snapshot; the guest goes on with that, and
/// what it writes can be committed.
#[case(
    upstream = "280", formats = [QCOW2], groups = [RW, MIGRATION, QUICK],
    host = System, guest = RunningIdle,
    needs = [Platform(Os::Linux), AnyOf(&[Device("virtio-blk-pci"), Device("virtio-blk-ccw")])],
    unsupported_imgopts = ["cluster_size"]
)]
async fn goes_on_and_can_be_committed(t: &mut Test) -> CaseResult {
    let base = t
        .image("base")
        .size(64 * MIB)
        .write(0x11, 0..MIB)
        .create()
        .await?;
    let vm = t
        .host()
        .iothread("thread")
        .disk(Disk::of(&base).id("disk").iothread("thread"))
        .launch()
        .await?;
    let disk = vm.disk("disk");
    let written = (0x44, 2 * MIB..2 * MIB + 4 * KIB);
    disk.write(written.0, written.1.clone()).await?;

    t.step("migrate to a file");
    t.migrate(&vm, Destination::Nowhere).await?;
    vm.event("STOP").await?;
    let stopped = json!({"running": false, "status": "postmigrate"});
    vm.cmd("query-status", ())
        .await?
        .assert_includes(&stopped)?;

    t.step("another may use the disk");
    // All is written back, and the locks are gone.
    base.assert_clean().await?;
    base.assert_patterns(std::slice::from_ref(&written)).await?;
    base.write(0x55, 3 * MIB..3 * MIB + 4 * KIB).await?;

    t.step("take a snapshot of the disk");
    let top = t.file("top")?;
    vm.blockdev_create(json!({"driver": "file", "filename": top, "size": 0}))
        .await?;
    let file = json!({"driver": "file", "node-name": "top-file", "filename": top});
    vm.cmd("blockdev-add", file).await?;
    let format = t.format().name();
    vm.blockdev_create(json!({"driver": format, "file": "top-file", "size": MIB}))
        .await?;
    let node = json!({"driver": format, "node-name": "top", "file": "top-file"});
    vm.cmd("blockdev-add", node).await?;
    vm.snapshot("base", "top").await?;
    vm.assert_chain("top -> base").await?;

    t.step("go on, and write");
    vm.cmd("cont", ()).await?;
    vm.event("RESUME").await?;
    vm.wait_run_state("running").await?;
    vm.assert_read_only(&[("top", false), ("base", true)])
        .await?;
    let other = t.qemu_io(["-f", t.format().name(), "-c", "quit", base.filename()]);
    other.expect_error("Failed to get").await?;
    disk.write(0x22, 4 * KIB..8 * KIB).await?;
    disk.assert_pattern(0x11, 8 * KIB..MIB).await?;

    t.step("commit");
    let job = vm.commit("top").top("top").set("auto-dismiss", false);
    let job = job.start().await?;
    let done = json!({"device": job.id(), "type": "commit", "len": 64 * KIB, "offset": 64 * KIB, "speed": 0});
    job.run().await?;
    for name in ["BLOCK_JOB_READY", "BLOCK_JOB_COMPLETED"] {
        let event = vm.event(name).await?;
        event.assert("data", done.clone()).context(name)?;
    }
    vm.assert_no_jobs().await?;
    let drives = vm.cmd("query-block", ()).await?;
    drives.find(&json!({"inserted": {"node-name": "base", "ro": false}}))?;
    disk.write(0x33, 16 * KIB..20 * KIB).await?;
    // Nothing is remembered that another has changed since.
    let by_another = 3 * MIB..3 * MIB + 4 * KIB;
    disk.assert_pattern(0x55, by_another.clone()).await?;
    vm.cmd("blockdev-del", json!({"node-name": "top"})).await?;
    vm.assert_no_nodes(&["top"]).await?;
    vm.shutdown().await?;

    t.step("look at the files");
    base.assert_clean().await?;
    let info = base.info().json().await?;
    info.assert("virtual-size", 64 * MIB)?;
    info.assert_absent("backing-filename")?;
    let patterns = [
        (0x11, 0..4 * KIB),
        (0x22, 4 * KIB..8 * KIB),
        (0x11, 8 * KIB..16 * KIB),
        (0x33, 16 * KIB..20 * KIB),
        (0x11, 20 * KIB..MIB),
        (0, MIB..written.1.start),
        written.clone(),
        (0, written.1.end..3 * MIB),
        (0x55, 3 * MIB..3 * MIB + 4 * KIB),
        (0, 3 * MIB + 4 * KIB..64 * MIB),
    ];
    base.assert_patterns(&patterns).await?;
    t.qemu_img(["check", "-q", "-f", format, top.as_str()])
        .await?;
    let top = t
        .qemu_img(["info", "--output=json", top.as_str()])
        .json()
        .await?;
    top.assert_includes(&json!({"format": format, "virtual-size": MIB}))?;
    top.assert_absent("backing-filename")
}
