//! Repairing a quorum: the mirror's target takes the place of one of its children.

use iotests_core::prelude::*;

defaults! { needs = [Driver("quorum")] }

/// What two of the three children hold; the other one is damaged.
fn content() -> Content {
    Content::nothing().numbered(0x20, clusters(0..16))
}

const DAMAGE: (u8, std::ops::Range<u64>) = (0xee, clusters(3..4));

/// The images of a quorum of which two children must agree, and the one for the repair.
struct Quorum {
    images: Vec<Image>,
    copy: Image,
}

impl Quorum {
    async fn create(t: &Test) -> CaseResult<Quorum> {
        let mut images = Vec::new();
        for name in ["img0", "img1", "img2"] {
            let held = match name {
                "img1" => content().written(DAMAGE.0, DAMAGE.1),
                _ => content(),
            };
            images.push(t.image(name).size(MIB).content(held).create().await?);
        }
        let copy = t.image("repair0").size(MIB).reserve().await?;
        Ok(Quorum { images, copy })
    }

    async fn launch(&self, t: &Test) -> CaseResult<Machine> {
        let vm = self.images.iter().fold(t.host(), |vm, image| vm.blockdev(image));
        let quorum = Node::quorum(2, ["img0", "img1", "img2"]).node_name("quorum0");
        vm.disk(quorum).tolerate("Can no longer replace").launch().await
    }

    /// The damaged child is to be replaced.
    fn mirror(&self, vm: &Machine) -> JobBuilder {
        vm.drive_mirror("quorum0", &self.copy).set("replaces", "img1")
    }

    /// These are the children of the quorum, and all of it reads as it should.
    async fn assert_children(vm: &Machine, children: [&str; 3], reads: Content) -> CaseResult {
        for (number, name) in children.into_iter().enumerate() {
            let path = format!("/children.{number}");
            vm.assert_block_path("quorum0", &path, name).await?;
        }
        vm.disk("quorum0").assert_node("quorum0").await?;
        vm.disk("quorum0").assert_reads(reads).await
    }
}

rows! {
    PAUSES: bool;
    "at-once" => false, upstream = "test_complete";
    "after-a-pause" => true, upstream = "test_pause";
}

/// The copy takes the place of the child that it replaces, holds what the quorum agrees on, and gets
/// what the guest writes from then on.
#[case(upstream = "041::TestRepairQuorum::{pause}", rows = PAUSES)]
async fn gets_another_child(t: &mut Test, pause: &bool) -> CaseResult {
    let quorum = Quorum::create(t).await?;
    let vm = quorum.launch(t).await?;
    let disk = vm.disk("quorum0");

    let job = quorum.mirror(&vm).set("buf-size", CLUSTER);
    let mut job = job.speed(u64::from(*pause)).start().await?;
    if *pause {
        job.pause().await?;
        let at_rest = job.info().await?;
        job.set_speed(0).await?;
        disk.assert_pattern(0x22, clusters(2..3)).await?;
        check!(job.info().await? == at_rest);
        job.resume().await?;
    }
    job.wait_ready().await?;
    disk.write(0x77, clusters(5..6)).await?;
    job.complete().await?;

    let now = content().written(0x77, clusters(5..6));
    Quorum::assert_children(&vm, ["img0", "repair0", "img2"], now.clone()).await?;
    vm.assert_no_jobs().await?;
    disk.write(0x78, clusters(6..7)).await?;
    let later = now.clone().written(0x78, clusters(6..7));
    disk.assert_reads(&later).await?;
    vm.shutdown().await?;
    quorum.copy.assert_reads(&later).await?;
    quorum.images[0].assert_reads(&later).await?;
    let replaced = now.written(DAMAGE.0, DAMAGE.1);
    quorum.images[1].assert_reads(replaced).await?;
    quorum.copy.assert_clean().await
}

rows! {
    READY: bool;
    "before-ready" => false, upstream = "test_cancel";
    "when-ready" => true, upstream = "test_cancel_after_ready";
}

/// A repair that is cancelled leaves the quorum as it is; one that was ready leaves a copy of it.
#[case(upstream = "041::TestRepairQuorum::{ready}", rows = READY)]
async fn keeps_its_children(t: &mut Test, ready: &bool) -> CaseResult {
    let quorum = Quorum::create(t).await?;
    let vm = quorum.launch(t).await?;
    let before = vm.state().await?;
    let job = quorum.mirror(&vm).set("buf-size", CLUSTER);
    let mut job = job.speed(u64::from(!ready)).start().await?;
    if *ready {
        job.wait_ready().await?;
        check!(job.cancel().await?.outcome == Outcome::Completed);
    } else {
        check!(job.force_cancel().await?.outcome == Outcome::Cancelled);
    }
    vm.assert_same_graph_as(&before).await?;
    vm.assert_no_nodes(&["repair0"]).await?;
    Quorum::assert_children(&vm, ["img0", "img1", "img2"], content()).await?;
    vm.shutdown().await?;
    if *ready {
        quorum.copy.assert_reads(content()).await?;
    }
    let damaged = content().written(DAMAGE.0, DAMAGE.1);
    quorum.images[1].assert_reads(damaged).await
}

/// An argument without which a repair cannot start, or which it cannot have.
struct Wrong {
    name: &'static str,
    value: Option<&'static str>,
    text: &'static str,
}

rows! {
    REFUSALS: Wrong { name, value, text };
    "unknown-device" => "device", Some("nonexistent"),
        "Cannot find device='nonexistent' nor node-name='nonexistent'",
        upstream = "test_device_not_found";
    "a-file-that-is-not-there" => "mode", Some("existing"), "No such file or directory",
        upstream = "test_image_not_found";
    "no-sync" => "sync", None, "Parameter 'sync' is missing", upstream = "test_wrong_sync_mode";
    "no-node-name" => "node-name", None,
        "a node-name must be provided when replacing a named node of the graph",
        upstream = "test_no_node_name";
    "replaces-nobody" => "replaces", Some("img77"), "Failed to find node with node-name='img77'",
        upstream = "test_nonexistent_replaces";
    "replaces-itself" => "replaces", Some("repair0"),
        "Cannot replace 'repair0' by a node mirrored from 'quorum0'";
    "no-medium" => "device", Some("drive0"), "Device 'drive0' has no medium",
        upstream = "test_medium_not_found", host = System, needs = [Device("ide-cd")];
}

/// An invalid repair is refused, and changes nothing.
#[case(upstream = "041::TestRepairQuorum::{wrong}", rows = REFUSALS)]
async fn is_not_repaired(t: &mut Test, wrong: &Wrong) -> CaseResult {
    let quorum = Quorum::create(t).await?;
    let vm = if wrong.value == Some("drive0") {
        let quorum0 = Node::quorum(2, ["img0", "img1", "img2"]).node_name("quorum0");
        let vm = quorum.images.iter().fold(t.host(), |vm, image| vm.blockdev(image));
        vm.disk(quorum0).drive(Drive::empty()).launch().await?
    } else {
        quorum.launch(t).await?
    };
    let mut arguments = json!({
        "job-id": "repair", "device": "quorum0", "node-name": "repair0", "replaces": "img1",
        "target": quorum.copy, "format": quorum.copy.format().name(), "sync": "full",
    });
    match (wrong.value, arguments.as_object_mut()) {
        (Some(value), _) => arguments[wrong.name] = value.into(),
        (None, Some(arguments)) => drop(arguments.remove(wrong.name)),
        (None, None) => {}
    }
    vm.cmd("drive-mirror", arguments).refused(wrong.text).await?;
    Quorum::assert_children(&vm, ["img0", "img1", "img2"], content()).await?;
    vm.shutdown().await?;
    Ok(())
}

/// Of a child with a snapshot, only the snapshot can be replaced.
#[case(upstream = "041::TestRepairQuorum::test_after_a_quorum_snapshot")]
async fn has_a_child_with_a_snapshot(t: &mut Test) -> CaseResult {
    let quorum = Quorum::create(t).await?;
    let snapshot = t.image("snap1").backing(&quorum.images[1]).reserve().await?;
    let vm = quorum.launch(t).await?;
    let format = snapshot.format().name();
    vm.snapshot_sync("img1", snapshot.file(), format, "snap1").await?;
    let why = "Node 'img1' is busy: node is used as backing hd of 'snap1'";
    quorum.mirror(&vm).refused(why).await?;
    let job = quorum.mirror(&vm).set("replaces", "snap1").start().await?;
    job.complete().await?;
    Quorum::assert_children(&vm, ["img0", "repair0", "img2"], content()).await?;
    vm.shutdown().await?;
    quorum.copy.assert_reads(content()).await
}

rows! {
    LATE: bool;
    "before-the-mirror" => false, upstream = "test_with_other_parent";
    "while-it-runs" => true, upstream = "test_with_other_parents_after_mirror_start";
}

/// A child that has another user as well is not replaced, for what that user reads would change.
#[case(upstream = "041::TestRepairQuorum::{late}", rows = LATE)]
async fn has_a_child_that_others_use(t: &mut Test, late: &bool) -> CaseResult {
    let quorum = Quorum::create(t).await?;
    let vm = quorum.launch(t).await?;
    if *late {
        let mut job = quorum.mirror(&vm).start().await?;
        job.wait_ready().await?;
        let export = vm.export("img1").await?;
        job.complete().expect_error("Operation not permitted").await?;
        drop(export);
    } else {
        let export = vm.export("img1").await?;
        let why = "Cannot replace 'img1' by a node mirrored from 'quorum0'";
        quorum.mirror(&vm).refused(why).await?;
        drop(export);
    }
    vm.assert_no_jobs().await?;
    Quorum::assert_children(&vm, ["img0", "img1", "img2"], content()).await?;
    vm.shutdown().await?;
    Ok(())
}
