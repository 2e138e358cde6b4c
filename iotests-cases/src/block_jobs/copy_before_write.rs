//! The filter that copies what a guest overwrites: what follows when the copy fails, or takes long.

use std::ops::Range;

use iotests_core::prelude::*;

use super::error_policy::failing;
use crate::served::Served;

defaults! {
    formats = [QCOW2], groups = [EXPORT],
    needs = [
        Driver("copy-before-write"), Driver("snapshot-access"),
        Schema("blockdev-add/arg-type/+copy-before-write/on-cbw-error"),
    ],
    // With bigger clusters more is copied than is looked at here.
    unsupported_imgopts = ["compat", "cluster_size", "extended_l2"],
}

const SIZE: u64 = MIB;

/// Where the guest writes what cannot be copied at once.
const AT: Range<u64> = clusters(5..6);
const ELSEWHERE: Range<u64> = clusters(9..10);

/// What the disk holds at first: each cluster has a byte of its own.
fn old() -> Content {
    Content::nothing().numbered(0x20, 0..SIZE)
}

/// Puts the filter, with these options, above the disk, and exports the disk as it is now.
async fn freeze(vm: &Machine, options: &Value) -> CaseResult<Export> {
    let mut filter = Node::new("copy-before-write").node_name("filter").set("discard", "unmap");
    for (name, value) in options.as_object().into_iter().flatten() {
        filter = filter.set(name, value.clone());
    }
    vm.add_node(filter.file("disk").child("target", "copies")).await?;
    vm.disk("disk").move_to("filter").await?;
    vm.add_node(Node::new("snapshot-access").node_name("frozen").file("filter")).await?;
    vm.export("frozen").await
}

/// Removes the filter: the disk is as if it had never been there.
async fn thaw(vm: &Machine, export: Export) -> CaseResult {
    export.remove().await?;
    vm.remove_node("frozen").await?;
    vm.disk("disk").move_to("disk").await?;
    vm.remove_node("filter").await?;
    vm.assert_chain("disk").await
}

/// The guest's request fails with this error.
async fn assert_fails(vm: &Machine, request: &str, error: &str) -> CaseResult {
    let said = match vm.disk("disk").io(request).await {
        Ok(printed) => printed,
        Err(failure) => failure.message().to_owned(),
    };
    check!(
        said.contains(&format!("failed: {error}")),
        "{request}: {said}"
    );
    Ok(())
}

/// A client of the export gets nothing but errors.
async fn assert_broken(export: &Export) -> CaseResult {
    let client = export.client().await?;
    for range in [AT, ELSEWHERE, clusters(0..1)] {
        let read = client.read(range.start, CLUSTER).await;
        check!(read.is_err(), "{range:#x?} was shown");
    }
    client.disconnect().await?;
    Ok(())
}

/// A node for the copies, which fails once where the guest writes.
fn failing_once(copies: &Image) -> Node {
    let error = json!({"event": "none", "iotype": "write", "once": true, "sector": AT.start / 512});
    failing(copies, json!({"inject-error": [error]}))
}

/// What a guest does, and what it leaves there.
struct Request {
    /// The verb of qemu-io.
    verb: &'static str,
    byte: u8,
}

impl Request {
    fn command(&self) -> String {
        format!("{} {} {CLUSTER}", self.verb, AT.start)
    }

    /// What the disk holds after it.
    fn leaves(&self) -> Content {
        old().written(self.byte, AT)
    }
}

rows! {
    REQUESTS: Request { verb, byte };
    "a-write" => "write -P 0x77", 0x77;
    "zeroes" => "write -z", 0;
    "a-discard" => "discard", 0;
}

rows! {
    KEPT: fn() -> Value;
    "by-default" => || json!({});
    "on-demand" => || json!({"on-cbw-error": "break-guest-write"});
}

/// What cannot be copied before a guest's request makes the request fail: the guest's disk and the
/// snapshot are as they were, and the guest can try again.
#[case(
    upstream = "copy-before-write::TestCbwError::test_break_guest_write_on_cbw_error",
    groups = [QUICK], needs = [Driver("blkdebug")], rows = (KEPT, REQUESTS),
    excluded = [
        exclude(&["by-default", "zeroes"], "a write tells what the default is"),
        exclude(&["by-default", "a-discard"], "a write tells what the default is"),
    ]
)]
async fn fails_the_guest_and_keeps_the_snapshot(
    t: &mut Test,
    options: &fn() -> Value,
    request: &Request,
) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let copies = t.image("copies").format(RAW).size(SIZE).create().await?;
    let vm = t.host().disk(disk.node().set("discard", "unmap"));
    let vm = vm.blockdev(failing_once(&copies)).launch().await?;
    let export = freeze(&vm, &options()).await?;

    assert_fails(&vm, &request.command(), "Input/output error").await?;
    vm.disk("disk").assert_reads(old()).await?;
    export.assert_reads(old()).await?;
    vm.disk("disk").io(&request.command()).await?;
    vm.disk("disk").assert_reads(request.leaves()).await?;
    export.assert_reads(old()).await?;

    thaw(&vm, export).await?;
    vm.shutdown().await?;
    copies.assert_reads(Content::nothing().with_part_of(&old(), AT)).await?;
    disk.assert_reads(request.leaves()).await?;
    disk.assert_clean().await
}

/// Where the snapshot may break, the guest does not notice that something cannot be copied: whoever reads the
/// snapshot gets errors from then on, nothing more is copied, and another snapshot can be taken.
#[case(
    upstream = "copy-before-write::TestCbwError::test_break_snapshot_on_cbw_error",
    groups = [QUICK], needs = [Driver("blkdebug")], rows = REQUESTS
)]
async fn breaks_the_snapshot_for_the_guest(t: &mut Test, request: &Request) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let copies = t.image("copies").format(RAW).size(SIZE).create().await?;
    let vm = t.host().disk(disk.node().set("discard", "unmap"));
    let vm = vm.blockdev(failing_once(&copies)).launch().await?;
    let options = json!({"on-cbw-error": "break-snapshot"});
    let export = freeze(&vm, &options).await?;

    export.assert_reads(old()).await?;
    vm.disk("disk").io(&request.command()).await?;
    assert_broken(&export).await?;
    vm.disk("disk").write(0x55, ELSEWHERE).await?;
    let new = request.leaves().written(0x55, ELSEWHERE);
    vm.disk("disk").assert_reads(&new).await?;
    vm.node("copies").assert_reads(Content::nothing()).await?;

    thaw(&vm, export).await?;
    let export = freeze(&vm, &options).await?;
    vm.disk("disk").write(0x66, AT).await?;
    export.assert_reads(&new).await?;
    thaw(&vm, export).await?;
    vm.shutdown().await?;
    disk.assert_reads(new.written(0x66, AT)).await?;
    disk.assert_clean().await
}

rows! {
    POLICIES: Option<&str>;
    "by-default" => None,
        upstream = "copy-before-write::TestCbwError::test_default_on_cbw_error_policy_forwarding";
    "break-guest-write" => Some("break-guest-write"),
        needs = [Schema("blockdev-backup/arg-type/on-cbw-error")],
        upstream = "copy-before-write::TestCbwError::test_break_guest_write_policy_forwarding";
    "break-snapshot" => Some("break-snapshot"),
        needs = [Schema("blockdev-backup/arg-type/on-cbw-error")],
        upstream = "copy-before-write::TestCbwError::test_break_snapshot_policy_forwarding";
}

/// The filter of a backup fails the guest or breaks its snapshot as the backup asks for; by default it fails the guest.
#[case(groups = [QUICK], rows = POLICIES, needs = [Driver("blkdebug")])]
async fn obeys_the_backup_that_it_belongs_to(t: &mut Test, policy: &Option<&str>) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let copies = t.image("copies").format(RAW).size(SIZE).create().await?;
    let vm = t.host().disk(&disk).blockdev(failing_once(&copies)).launch().await?;
    let backup = vm.backup("disk").to("copies").sync("none");
    let backup = match *policy {
        Some(policy) => backup.set("on-cbw-error", policy),
        None => backup,
    };
    let job = backup.set("filter-node-name", "filter").start().await?;
    vm.add_node(Node::new("snapshot-access").node_name("frozen").file("filter")).await?;
    let export = vm.export("frozen").await?;

    let write = format!("write -P 0x77 {} {CLUSTER}", AT.start);
    if *policy == Some("break-snapshot") {
        vm.disk("disk").io(&write).await?;
        assert_broken(&export).await?;
    } else {
        assert_fails(&vm, &write, "Input/output error").await?;
        vm.disk("disk").assert_reads(old()).await?;
        vm.disk("disk").io(&write).await?;
        export.assert_reads(old()).await?;
    }
    vm.disk("disk").assert_reads(old().written(0x77, AT)).await?;

    export.remove().await?;
    vm.remove_node("frozen").await?;
    check!(job.cancel().await?.outcome == Outcome::Cancelled);
    vm.assert_chain("disk").await?;
    vm.shutdown().await?;
    disk.assert_reads(old().written(0x77, AT)).await
}

/// Serves the file of the copies, which keeps the first write of a guest's old data back.
struct Held {
    copies: Image,
    served: Served,
}

impl Held {
    async fn create(t: &Test) -> CaseResult<Held> {
        let copies = t.image("copies").format(RAW).size(SIZE).create().await?;
        let served = Served::holding(t, &copies, AT)?;
        Ok(Held { copies, served })
    }

    fn node(&self) -> Node {
        Node::new("raw").node_name("copies").file(self.served.node())
    }

    /// Removes its node and ends the server. Nothing was copied but what the guest wrote over.
    async fn finish(self, vm: &Machine) -> CaseResult {
        vm.remove_node("copies").await?;
        self.served.finish().await?;
        self.copies.assert_reads(Content::nothing().with_part_of(&old(), AT)).await
    }
}

/// See docs/qemu-findings.md. For what a guest of a daemon gets, see [`timed_out`].
const OVERFLOWS: [KnownBug; 2] = [
    known(
        CUT,
        "write failed: Connection timed out",
        AllOf(&[before(9, 1), OnBackend(Backend::System)]),
    ),
    known(
        CUT,
        "write failed: Invalid argument",
        AllOf(&[before(9, 1), OnBackend(Backend::Qsd)]),
    ),
];
const CUT: &str = "a timeout in nanoseconds is cut to 32 bits (10b1e09ed3)";

rows! {
    LIMITS: u32;
    "without-end" => 0;
    // In nanoseconds, the lower 32 bits of this are the number 512.
    "for-a-month" => 3_054_701, known_bugs = [OVERFLOWS[0], OVERFLOWS[1]];
    "for-more-than-a-lifetime" => u32::MAX;
}

/// A guest's write waits for its copy up to the time that it is given: until then the disk and the snapshot
/// have the old data, and after it the guest has written and the snapshot has not changed.
#[case(groups = [QUICK], rows = LIMITS)]
async fn waits_for_the_copy(t: &mut Test, limit: &u32) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let held = Held::create(t).await?;
    let vm = t.host().disk(&disk).blockdev(held.node()).launch().await?;
    let export = freeze(&vm, &json!({"cbw-timeout": limit})).await?;

    let guest = vm.disk("disk");
    let write = format!("aio_write -P 0x77 {} {CLUSTER}", AT.start);
    let write = guest.io(&write);
    let meanwhile = async {
        held.served.wait_write(AT).await?;
        export.assert_reads(old()).await?;
        guest.assert_pattern(old().byte_at(AT.start), AT).await?;
        held.served.release();
        Ok(())
    };
    tokio::try_join!(write, meanwhile)?;
    guest.io("aio_flush").await?;

    guest.assert_reads(old().written(0x77, AT)).await?;
    export.assert_reads(old()).await?;
    thaw(&vm, export).await?;
    held.finish(&vm).await?;
    vm.shutdown().await?;
    disk.assert_reads(old().written(0x77, AT)).await
}

/// How the error of a copy that took too long comes to a guest: an NBD server, as which a storage daemon has
/// its guests, has no such error.
fn timed_out(vm: &Machine) -> &'static str {
    match vm.backend() {
        Backend::System => "Connection timed out",
        Backend::Qsd => "Invalid argument",
    }
}

/// While a copy takes longer than it may, the guest's write fails, however often it is tried, and all is as it
/// was; when the copy has come to its end, the write succeeds.
#[case(upstream = "copy-before-write::TestCbwError::test_timeout_break_guest")]
async fn fails_the_guest_after_a_time(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let held = Held::create(t).await?;
    let vm = t.host().disk(&disk).blockdev(held.node()).launch().await?;
    let export = freeze(&vm, &json!({"cbw-timeout": 1})).await?;

    let write = format!("write -P 0x77 {} {CLUSTER}", AT.start);
    for _ in 0..2 {
        assert_fails(&vm, &write, timed_out(&vm)).await?;
        held.served.wait_write(AT).await?;
        vm.disk("disk").assert_reads(old()).await?;
        export.assert_reads(old()).await?;
    }
    held.served.release();
    // This waits for the copy, however long that takes.
    vm.cmd("transaction", json!({"actions": []})).await?;
    vm.disk("disk").io(&write).await?;

    vm.disk("disk").assert_reads(old().written(0x77, AT)).await?;
    export.assert_reads(old()).await?;
    thaw(&vm, export).await?;
    held.finish(&vm).await?;
    vm.shutdown().await?;
    disk.assert_reads(old().written(0x77, AT)).await
}

/// Where the snapshot may break, the guest's write succeeds though the copy is not over after its time, and the
/// snapshot is broken.
#[case(upstream = "copy-before-write::TestCbwError::test_timeout_break_snapshot")]
async fn breaks_the_snapshot_after_a_time(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let held = Held::create(t).await?;
    let vm = t.host().disk(&disk).blockdev(held.node()).launch().await?;
    let options = json!({"cbw-timeout": 1, "on-cbw-error": "break-snapshot"});
    let export = freeze(&vm, &options).await?;

    vm.disk("disk").write(0x77, AT).await?;
    held.served.wait_write(AT).await?;
    assert_broken(&export).await?;
    let new = old().written(0x77, AT).written(0x55, ELSEWHERE);
    vm.disk("disk").write(0x55, ELSEWHERE).await?;
    vm.disk("disk").assert_reads(&new).await?;
    held.served.release();

    thaw(&vm, export).await?;
    held.finish(&vm).await?;
    vm.shutdown().await?;
    disk.assert_reads(new).await
}

/// A guest's write waits for whoever reads the same place of the snapshot, so that no reader gets a part of
/// what the guest writes. (On an emulator, where blkdebug holds the reader alone.)
#[case(groups = [QUICK], host = System)]
async fn waits_for_readers(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let copies = t.image("copies").format(RAW).size(SIZE).create().await?;
    let vm = t.vm().disk(Disk::of(&disk).with_breakpoints());
    let vm = vm.blockdev(&copies).launch().await?;
    let export = freeze(&vm, &json!({})).await?;
    let client = export.client().await?;
    let (guest, byte) = (vm.disk("disk"), old().byte_at(AT.start));

    let held = guest.hold("read_aio").await?;
    let read = async { Ok(client.read(AT.start, CLUSTER).await?) };
    let meanwhile = async {
        held.wait_hit().await?;
        guest.io(&format!("aio_write -P 0x77 {} {CLUSTER}", AT.start)).await?;
        guest.write(0x55, ELSEWHERE).await?;
        // At rest, the machine has done all that it does of the first write.
        vm.while_in_flight(vm.cmd("query-version", ()), || ()).await?;
        guest.assert_pattern(byte, AT).await?;
        held.resume().await?;
        guest.io("aio_flush").await
    };
    let (read, _) = tokio::try_join!(read, meanwhile)?;
    check!(read.iter().all(|found| *found == byte));

    let new = old().written(0x77, AT).written(0x55, ELSEWHERE);
    guest.assert_reads(&new).await?;
    client.disconnect().await?;
    export.assert_reads(old()).await?;
    thaw(&vm, export).await?;
    vm.shutdown().await?;
    disk.assert_reads(new).await
}

rows! {
    /// Where others read of the snapshot: the same, a part, what overlaps at an end, all around.
    OVERLAPS: Range<u64>;
    "the-same" => AT;
    "a-part" => AT.start + 4096..AT.end - 4096;
    "the-start" => AT.start - CLUSTER..AT.start + 512;
    "the-end" => AT.end - 512..AT.end + CLUSTER;
    "all-around" => 0..SIZE;
}

/// While one client reads the snapshot, others read what overlaps with it, and ask what is there, and none of them
/// waits. (On an emulator, where blkdebug holds the first reader alone.)
#[case(groups = [QUICK], host = System, rows = OVERLAPS)]
async fn serves_several_readers(t: &mut Test, range: &Range<u64>) -> CaseResult {
    let disk = t.image("disk").size(SIZE).content(old()).create().await?;
    let copies = t.image("copies").format(RAW).size(SIZE).create().await?;
    let vm = t.vm().disk(Disk::of(&disk).with_breakpoints());
    let vm = vm.blockdev(&copies).launch().await?;
    let export = freeze(&vm, &json!({})).await?;
    let first = export.client().await?;
    let other = crate::nbd::allocation_client(&export.uri()?).await?;

    let held = vm.disk("disk").hold("read_aio").await?;
    let read = async { Ok(first.read(AT.start, CLUSTER).await?) };
    let meanwhile = async {
        held.wait_hit().await?;
        let length = range.end - range.start;
        let found = other.read(range.start, length).await?;
        let status = other.map("base:allocation", range.clone()).await?;
        // So they had an answer while the first one waited.
        held.resume().await?;
        CaseResult::Ok((found, status))
    };
    let (read, (found, status)) = tokio::try_join!(read, meanwhile)?;
    check!(read.iter().all(|found| *found == old().byte_at(AT.start)));
    for (at, byte) in (range.start..).zip(&found).step_by(512) {
        check!(*byte == old().byte_at(at), "at {at:#x}");
    }
    check!(
        status.iter().all(|part| part.base().is_empty()),
        "{status:?}"
    );

    // The readers are gone: nobody waits for them.
    vm.disk("disk").write(0x77, AT).await?;
    export.assert_reads(old()).await?;
    first.disconnect().await?;
    other.disconnect().await?;
    thaw(&vm, export).await?;
    vm.shutdown().await?;
    disk.assert_reads(old().written(0x77, AT)).await
}
