//! `nbd-server-remove`, with and without clients that are connected.

use iotests_core::author::{IoSession, MachineNbd};
use iotests_core::prelude::*;
use nbd::client::{RequestError, StrictMode};
use nbd::proto::{Errno, TransmissionFlags as Flags};

use crate::json::items;
use crate::threads::{CLIENT_LEAVES, THREADS, with_disk};

defaults! { formats = [RAW], groups = [QUICK, EXPORT], host = Any }

/// How an export is removed: the argument `mode`, if there is one.
type Mode = Option<&'static str>;

/// A disk with two exports, `exp` and `other`.
struct Exported<'t> {
    t: &'t Test,
    vm: Machine,
    disk: Image,
    device: &'static str,
    server: MachineNbd,
    /// What the machine was like without exports.
    before: State,
}

impl<'t> Exported<'t> {
    async fn start(t: &'t Test) -> CaseResult<Self> {
        let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
        let vm = t.host().blockdev(&disk).launch().await?;
        Exported::with(t, vm, disk, "disk").await
    }

    /// With exports of this node or drive.
    async fn with(t: &'t Test, vm: Machine, disk: Image, device: &'static str) -> CaseResult<Self> {
        let server = vm.nbd_server().start().await?;
        let before = vm.state().await?;
        let exported = Exported {
            t,
            vm,
            disk,
            device,
            server,
            before,
        };
        exported.add("exp").await?;
        exported.add("other").await?;
        exported.assert_exports(&["exp", "other"]).await?;
        Ok(exported)
    }

    async fn add(&self, name: &str) -> CaseResult {
        let arguments = json!({"device": self.device, "name": name});
        self.vm.cmd("nbd-server-add", arguments).await?;
        Ok(())
    }

    fn arguments(mode: Mode) -> Value {
        match mode {
            None => json!({"name": "exp"}),
            Some(mode) => json!({"name": "exp", "mode": mode}),
        }
    }

    /// The removal works.
    async fn remove(&self, mode: Mode) -> CaseResult {
        // Its answer means that the server has noticed who left before.
        self.assert_served("other").await?;
        let arguments = Self::arguments(mode);
        let answer = self.vm.cmd("nbd-server-remove", arguments).await?;
        check!(answer == json!({}));
        Ok(())
    }

    /// The removal is refused, because of a client, and changes nothing.
    async fn refuse_to_remove(&self, mode: Mode, client: &mut IoSession) -> CaseResult {
        let remove = self.vm.cmd("nbd-server-remove", Self::arguments(mode));
        remove.expect_error("export 'exp' still in use").await?;
        self.assert_exports(&["exp", "other"]).await?;
        self.vm.assert_no_event("BLOCK_EXPORT_DELETED").await?;
        self.assert_served("exp").await?;
        client.run("read -P 0x11 0 512").await?;
        Ok(())
    }

    async fn assert_exports(&self, expected: &[&str]) -> CaseResult {
        let exports = self.vm.cmd("query-block-exports", ()).await?;
        for id in expected {
            let expected = json!({"id": id, "type": "nbd", "node-name": self.disk.name(), "shutting-down": false});
            exports.find(&expected)?;
        }
        check!(items(&exports, "")?.len() == expected.len(), "{exports}");
        Ok(())
    }

    fn client(&self, export: &str) -> [String; 4] {
        let uri = self.server.uri(export);
        ["-r", "-f", "raw", &uri].map(str::to_owned)
    }

    async fn connect(&self, export: &str) -> CaseResult<IoSession> {
        let mut client = self.t.qemu_io(self.client(export)).session().await?;
        client.run("read -P 0x11 0 512").await?;
        Ok(client)
    }

    async fn assert_served(&self, export: &str) -> CaseResult {
        let read = ["-c", "read -P 0x11 0 512"];
        self.t.qemu_io(read).args(self.client(export)).await?;
        Ok(())
    }

    /// Nobody asked for an export that can be written to.
    async fn assert_read_only(&self, export: &str) -> CaseResult {
        let uri = self.server.uri(export);
        let write = self.t.qemu_io(["-f", "raw", "-c", "write 0 512", &uri]);
        write.expect_error("Permission denied").await?;
        Ok(())
    }

    /// The export is gone: reported once, not listed, not served, not removed again. The other one is
    /// as it was, and the name can be used again. The disk has not changed.
    async fn end(self) -> CaseResult {
        let deleted = self.vm.event("BLOCK_EXPORT_DELETED").await?;
        deleted.assert("data/id", "exp")?;
        self.vm.assert_no_event("BLOCK_EXPORT_DELETED").await?;
        let again = self.vm.cmd("nbd-server-remove", json!({"name": "exp"}));
        again.expect_error("Export 'exp' is not found").await?;
        self.assert_exports(&["other"]).await?;
        let refused = "Requested export not available\nserver reported: export 'exp' not present";
        let read = ["-c", "read 0 512"];
        let client = self.t.qemu_io(read).args(self.client("exp"));
        client.expect_error(refused).await?;
        self.assert_served("other").await?;

        self.add("exp").await?;
        self.assert_exports(&["exp", "other"]).await?;
        self.assert_served("exp").await?;
        for name in ["exp", "other"] {
            self.vm.remove_export(name).await?;
        }
        self.vm.assert_unchanged_since(&self.before).await?;
        self.vm.shutdown().await?;
        self.disk.assert_fill(0x11).await
    }
}

rows! {
    UNUSED: Mode;
    "default" => None, upstream = "test_connect_after_remove_default";
    "safe" => Some("safe"), upstream = "test_connect_after_remove_safe";
    "hard" => Some("hard"), upstream = "test_connect_after_remove_force";
}

/// An export without clients is removed in any mode, and nobody can connect to it any more.
#[case(upstream = "205::TestNbdServerRemove::{mode}", rows = UNUSED)]
async fn an_unused_export_is_removed(t: &mut Test, mode: &Mode) -> CaseResult {
    let exported = Exported::start(t).await?;
    exported.assert_served("exp").await?;
    exported.assert_read_only("exp").await?;
    exported.remove(*mode).await?;
    exported.end().await
}

rows! {
    IN_USE: Mode;
    "default" => None, upstream = "test_remove_during_connect_default";
    "safe" => Some("safe"), upstream = "test_remove_during_connect_safe";
}

/// An export in use is not removed safely, and its client goes on; when the client has left, it is.
#[case(upstream = "205::TestNbdServerRemove::{mode}", rows = IN_USE)]
async fn an_export_in_use_is_kept(t: &mut Test, mode: &Mode) -> CaseResult {
    let exported = Exported::start(t).await?;
    let mut client = exported.connect("exp").await?;
    exported.refuse_to_remove(*mode, &mut client).await?;
    client.close().await?;
    exported.remove(*mode).await?;
    exported.end().await
}

/// Whether a safe removal is tried before the hard one.
type SafeFirst = bool;

rows! {
    HARD: SafeFirst;
    "at-once" => false, upstream = "test_remove_during_connect_hard";
    "after-a-safe-try" => true, upstream = "test_remove_during_connect_safe_hard";
}

/// A hard removal takes an export away from its client, whose requests fail from then on. A client of
/// another export goes on.
#[case(
    upstream = "205::TestNbdServerRemove::{safe_first}", rows = (HARD, THREADS),
    known_bugs = [CLIENT_LEAVES.only(&[&["*", "in-an-iothread"]])]
)]
async fn an_export_in_use_is_removed_hard(
    t: &mut Test,
    safe_first: &SafeFirst,
    threaded: &bool,
) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = match threaded {
        // The exports are where the disk is.
        true => with_disk(t.host(), &disk, true),
        false => t.host().blockdev(&disk),
    };
    let exported = Exported::with(t, vm.launch().await?, disk, "disk").await?;
    let mut client = exported.connect("exp").await?;
    let mut second = exported.connect("exp").await?;
    let mut bystander = exported.connect("other").await?;
    if *safe_first {
        exported.refuse_to_remove(Some("safe"), &mut client).await?;
    }
    exported.remove(Some("hard")).await?;
    let failed = "read failed: Input/output error";
    client.expect_error("read 0 512", failed).await?;
    second.expect_error("read 0 512", failed).await?;
    bystander.run("read -P 0x11 0 512").await?;
    bystander.close().await?;
    exported.end().await?;
    client.expect_error("read 0 512", failed).await?;
    second.close().await?;
    client.close().await
}

/// Whether the disk is read-only, and what `nbd-server-add` asks for.
struct Access {
    read_only: bool,
    writable: Option<bool>,
}

rows! {
    ACCESSES: Access { read_only, writable };
    "default" => false, None;
    "read-only" => false, Some(false);
    "writable" => false, Some(true);
    "writable-but-the-disk-is-not" => true, Some(true);
}

/// An export announces whether it can be written to: only if that was asked for and the disk is writable. Its
/// size cannot change, and it has the name of the node unless it is given one.
#[case(rows = ACCESSES)]
async fn an_export_announces_what_it_can_do(t: &mut Test, access: &Access) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let node = disk.node().read_only(access.read_only);
    let vm = t.host().blockdev(node).launch().await?;
    let server = vm.nbd_server().start().await?;
    let mut add = json!({"device": "disk", "description": "the disk"});
    if let Some(writable) = access.writable {
        add["writable"] = writable.into();
    }
    vm.cmd("nbd-server-add", add).await?;

    if access.read_only {
        let add = json!({"type": "nbd", "id": "other", "node-name": "disk", "writable": true});
        let why = "Cannot export read-only node as writable";
        vm.cmd("block-export-add", add).expect_error(why).await?;
    }
    let uri = server.uri("disk").parse()?;
    // It is the server that has to refuse what is not allowed.
    let client = nbd::Client::builder().not_strict(StrictMode::COMMANDS | StrictMode::BOUNDS);
    let client = client.connect_uri(&uri).await?;
    let mut flags = Flags::HAS_FLAGS | Flags::SEND_FLUSH | Flags::SEND_FUA;
    flags |= Flags::SEND_DF | Flags::SEND_CACHE;
    let writable = access.writable == Some(true) && !access.read_only;
    // Of this (58a6fdcc9e) the schema says nothing.
    if !writable || t.has(Version(VersionRange::since(7, 1)))? {
        flags |= Flags::CAN_MULTI_CONN;
    }
    flags |= match writable {
        true => Flags::SEND_TRIM | Flags::SEND_WRITE_ZEROES | Flags::SEND_FAST_ZERO,
        false => Flags::READ_ONLY,
    };
    let export = client.export();
    check!(export.flags - Flags::BLOCK_STATUS_PAYLOAD == flags);
    check!(export.size == MIB);
    check!(export.description.as_deref() == Some("the disk"));
    let errno = |error: RequestError| error.errno();
    let beyond = client.read(MIB - 512, 1024).await.map_err(errno);
    check!(beyond == Err(Some(Errno::EINVAL)));
    let written = client.write(0, vec![0x22; 512]).await.map_err(errno);
    match written {
        Ok(()) => check!(writable, "a client wrote to a read-only export"),
        Err(errno) => {
            // The protocol would have the first one.
            let is_refused = matches!(errno, Some(Errno::EPERM | Errno::EINVAL));
            check!(!writable && is_refused, "a write failed with {errno:?}");
        }
    }
    client.disconnect().await?;

    if !access.read_only {
        let resize = vm.cmd(
            "block_resize",
            json!({"node-name": "disk", "size": 2 * MIB}),
        );
        let why = "Permission conflict on node 'disk': permissions 'resize'";
        resize.expect_error(why).await?;
    }
    vm.shutdown().await?;
    let first = if writable { 0x22 } else { 0x11 };
    disk.assert_patterns(&[(first, 0..512), (0x11, 512..MIB)]).await
}

/// When the server is stopped all exports go, even with a client connected, and nothing of them is
/// left; the server can be started again.
#[case]
async fn all_exports_go_with_the_server(t: &mut Test) -> CaseResult {
    let exported = Exported::start(t).await?;
    let mut client = exported.connect("exp").await?;
    let vm = &exported.vm;
    exported.server.stop().await?;
    for id in ["exp", "other"] {
        let deleted = Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": id}));
        vm.event(deleted).await?;
    }
    vm.assert_unchanged_since(&exported.before).await?;
    client.expect_error("read 0 512", "read failed: Input/output error").await?;
    client.close().await?;
    let add = vm.cmd("nbd-server-add", json!({"device": "disk"}));
    add.expect_error("NBD server not running").await?;
    let stop = vm.cmd("nbd-server-stop", ());
    stop.expect_error("NBD server not running").await?;

    let server = vm.nbd_server().start().await?;
    exported.add("exp").await?;
    let uri = server.uri("exp");
    t.qemu_io(["-r", "-f", "raw", "-c", "read -P 0x11 0 1M", &uri]).await?;
    exported.vm.shutdown().await?;
    exported.disk.assert_fill(0x11).await
}

/// When a drive goes, so does the export that was made of it by its name, even with a client
/// connected.
#[case(host = System)]
async fn an_export_goes_with_its_drive(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = t.host().drive(&disk).launch().await?;
    let exported = Exported::with(t, vm, disk, "drive0").await?;
    let mut client = exported.connect("exp").await?;
    exported.vm.hmp("drive_del drive0").await?;
    for _ in ["exp", "other"] {
        exported.vm.event("BLOCK_EXPORT_DELETED").await?;
    }
    exported.assert_exports(&[]).await?;
    exported.vm.assert_no_nodes(&["disk"]).await?;
    client.expect_error("read 0 512", "read failed: Input/output error").await?;
    client.close().await?;
    exported.vm.shutdown().await?;
    exported.disk.assert_fill(0x11).await
}
