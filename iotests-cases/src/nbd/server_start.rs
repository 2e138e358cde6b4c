//! `nbd-server-start` that is refused.

use iotests_core::author::TestFile;
use iotests_core::prelude::*;

use crate::json::with;

defaults! { formats = [RAW], groups = [QUICK, EXPORT], host = Any }

fn at(path: impl AsRef<str>) -> Value {
    json!({"addr": {"type": "unix", "data": {"path": path.as_ref()}}})
}

/// There is no server, nor anything where it was to be.
async fn assert_none(vm: &Machine, socket: &TestFile) -> CaseResult {
    vm.cmd("nbd-server-stop", ()).refused("NBD server not running").await?;
    let export = json!({"type": "nbd", "id": "export", "node-name": "disk"});
    vm.cmd("block-export-add", export).refused("NBD server not running").await?;
    check!(!std::fs::exists(socket)?, "there is still a socket");
    Ok(())
}

rows! {
    /// What is asked for beside an address.
    AGAIN: fn() -> Value;
    "as-it-is" => || json!({});
    "with-another-limit" => || json!({"max-connections": 1});
}

/// While one server runs no other is started, at its address or elsewhere: clients of the one that runs are served, as many as before.
#[case(rows = AGAIN)]
async fn is_refused_while_one_runs(t: &mut Test, again: &fn() -> Value) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let vm = t.host().blockdev(&disk).launch().await?;
    let server = vm.nbd_server().unix(t.socket("nbd")?).start().await?;
    let socket = server.socket().ok_or_else(|| Failure::new("no socket"))?;
    let other = t.socket("other")?;
    let export = vm.export("disk").writable().await?;
    let client = export.client().await?;

    for path in [socket, &other] {
        let start = vm.cmd("nbd-server-start", with(&at(path.as_str()), again()));
        start.refused("NBD server already running").await?;
    }
    check!(!std::fs::exists(&other)?, "there is another socket");
    client.write(0, vec![0x22; 512]).await?;
    let second = export.client().await?;
    check!(second.read(0, 1024).await? == [[0x22; 512], [0x11; 512]].concat());
    client.disconnect().await?;
    second.disconnect().await?;

    export.remove().await?;
    server.stop().await?;
    assert_none(&vm, socket).await?;
    vm.shutdown().await?;
    disk.assert_reads(&[(0x11, 0..MIB), (0x22, 0..512)]).await
}

/// What is asked for, and why it is refused.
type Refusal = (fn() -> Value, &'static str);

const NUMBER: &str = "Parameter 'max-connections' expects uint32_t";
const REFUSALS: [Refusal; 8] = [
    (
        || json!({"tls-creds": "nobody"}),
        "No TLS credentials with id 'nobody'",
    ),
    (
        || json!({"tls-creds": "group"}),
        "Object with id 'group' is not TLS credentials",
    ),
    (
        || json!({"tls-creds": "client"}),
        "Expected TLS credentials for a server endpoint",
    ),
    (|| json!({"max-connections": -1}), NUMBER),
    (|| json!({"max-connections": 1_u64 << 32}), NUMBER),
    (
        || at("/nowhere/nbd"),
        "Failed to bind socket to /nowhere/nbd",
    ),
    // One more than the kernel takes.
    (|| at("p".repeat(109)), "is too long"),
    (
        || json!({"addr": {"type": "unix", "data": {}}}),
        "Parameter 'addr.data.path' is missing",
    ),
];

/// A server that cannot start is not there afterwards, and nothing is left where it was to be: it can be started well at the same place.
#[case(needs = [Driver("throttle")])]
async fn leaves_nothing_when_it_fails(t: &mut Test) -> CaseResult {
    let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
    let host = t.host().throttle_group("group", json!({"iops-total": 1000}));
    let vm = host.blockdev(&disk).launch().await?;
    let tls = t.tls()?;
    vm.cmd("object-add", tls.client("client")).await?;
    let socket = t.socket("nbd")?;
    for (arguments, error) in REFUSALS {
        let start = with(&at(socket.as_str()), arguments());
        vm.cmd("nbd-server-start", start).refused(error).await?;
        assert_none(&vm, &socket).await?;
    }

    let server = vm.nbd_server().unix(socket).start().await?;
    vm.export("disk").await?.open().await?.assert_fill(0x11).await?;
    server.stop().await?;
    vm.shutdown().await?;
    disk.assert_fill(0x11).await
}
