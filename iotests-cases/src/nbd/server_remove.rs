//! `nbd-server-remove`, with and without clients that are connected.

use iotests_core::author::{IoSession, MachineNbd};
use iotests_core::prelude::*;

/// How an export is removed: the argument `mode`, if there is one.
type Mode = Option<&'static str>;

/// A disk with two exports, `exp` and `other`.
struct Exported<'t> {
    t: &'t Test,
    vm: Machine,
    disk: Image,
    server: MachineNbd,
}

impl<'t> Exported<'t> {
    async fn start(t: &'t Test) -> CaseResult<Self> {
        let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
        let vm = t.host().drive(&disk).launch().await?;
        let server = vm.start_nbd_server().await?;
        let exported = Exported {
            t,
            vm,
            disk,
            server,
        };
        exported.add("exp").await?;
        exported.add("other").await?;
        exported.assert_exports(&["exp", "other"]).await?;
        Ok(exported)
    }

    async fn add(&self, name: &str) -> CaseResult {
        // By the drive where there is one, as upstream does.
        let device = match self.vm.backend() {
            Backend::System => "drive0",
            Backend::Qsd => self.disk.name(),
        };
        let arguments = json!({"device": device, "name": name});
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
        answer.assert("", json!({}))
    }

    /// The removal is refused, because of a client, and changes nothing.
    async fn refuse_to_remove(&self, mode: Mode, client: &mut IoSession) -> CaseResult {
        let remove = self.vm.cmd("nbd-server-remove", Self::arguments(mode));
        remove
            .expect_error("GenericError", "export 'exp' still in use")
            .await?;
        self.assert_exports(&["exp", "other"]).await?;
        self.vm.assert_no_event("BLOCK_EXPORT_DELETED").await?;
        self.assert_served("exp").await?;
        client.run("read -P 0x11 0 512").await?;
        Ok(())
    }

    async fn assert_exports(&self, expected: &[&str]) -> CaseResult {
        let mut exports = self.vm.exports().await?;
        exports.sort();
        json!(exports).assert("", json!(expected))
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

    /// The export is gone: told of once, not listed, not served, not removed again. The other one is
    /// as it was, and the name can be used again. The disk has not changed.
    async fn end(self) -> CaseResult {
        let deleted = self.vm.event("BLOCK_EXPORT_DELETED").await?;
        deleted.assert("data/id", "exp")?;
        self.vm.assert_no_event("BLOCK_EXPORT_DELETED").await?;
        let again = self.vm.cmd("nbd-server-remove", json!({"name": "exp"}));
        again
            .expect_error("GenericError", "Export 'exp' is not found")
            .await?;
        self.assert_exports(&["other"]).await?;
        let refused = "Requested export not available\nserver reported: export 'exp' not present";
        let read = ["-c", "read 0 512"];
        let client = self.t.qemu_io(read).args(self.client("exp"));
        client.expect_error(refused).await?;
        self.assert_served("other").await?;

        self.add("exp").await?;
        self.assert_exports(&["exp", "other"]).await?;
        self.assert_served("exp").await?;
        self.vm.shutdown().await?;
        self.disk.assert_fill(0x11).await
    }
}

const UNUSED: &[Row<Mode>] = &[
    Row::new("default", None)
        .upstream("205::TestNbdServerRemove::test_connect_after_remove_default"),
    Row::new("safe", Some("safe"))
        .upstream("205::TestNbdServerRemove::test_connect_after_remove_safe"),
    Row::new("hard", Some("hard"))
        .upstream("205::TestNbdServerRemove::test_connect_after_remove_force"),
];

/// An export without clients is removed in any mode, and nobody can connect to it any more.
#[case(formats = [RAW], groups = [RW, QUICK, EXPORT], needs = [Tool(ToolKind::Io)], host = Host::Any, rows = UNUSED)]
async fn an_unused_export_is_removed(t: &mut Test, mode: &Mode) -> CaseResult {
    let exported = Exported::start(t).await?;
    exported.assert_served("exp").await?;
    exported.assert_read_only("exp").await?;
    exported.remove(*mode).await?;
    exported.end().await
}

const IN_USE: &[Row<Mode>] = &[
    Row::new("default", None)
        .upstream("205::TestNbdServerRemove::test_remove_during_connect_default"),
    Row::new("safe", Some("safe"))
        .upstream("205::TestNbdServerRemove::test_remove_during_connect_safe"),
];

/// An export in use is not removed safely, and its client goes on; when the client has left, it is.
#[case(formats = [RAW], groups = [RW, QUICK, EXPORT], needs = [Tool(ToolKind::Io)], host = Host::Any, rows = IN_USE)]
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

const HARD: &[Row<SafeFirst>] = &[
    Row::new("at-once", false)
        .upstream("205::TestNbdServerRemove::test_remove_during_connect_hard"),
    Row::new("after-a-safe-try", true)
        .upstream("205::TestNbdServerRemove::test_remove_during_connect_safe_hard"),
];

/// A hard removal takes an export away from its client, whose requests fail from then on. A client of
/// another export goes on.
#[case(formats = [RAW], groups = [RW, QUICK, EXPORT], needs = [Tool(ToolKind::Io)], host = Host::Any, rows = HARD)]
async fn an_export_in_use_is_removed_hard(t: &mut Test, safe_first: &SafeFirst) -> CaseResult {
    let exported = Exported::start(t).await?;
    let mut client = exported.connect("exp").await?;
    let mut bystander = exported.connect("other").await?;
    if *safe_first {
        exported.refuse_to_remove(Some("safe"), &mut client).await?;
    }
    exported.remove(Some("hard")).await?;
    let failed = "read failed: Input/output error";
    client.expect_error("read 0 512", failed).await?;
    bystander.run("read -P 0x11 0 512").await?;
    bystander.close().await?;
    exported.end().await?;
    client.expect_error("read 0 512", failed).await?;
    client.close().await
}
