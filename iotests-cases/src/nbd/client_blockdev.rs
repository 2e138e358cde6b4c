//! Clients of NBD servers, made with `blockdev-add`.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use iotests_core::author::{MachineNbd, assert_json_filename};
use iotests_core::prelude::*;

use crate::threads::{CLIENT_LEAVES, with_disk};

defaults! { formats = [RAW], groups = [QUICK, EXPORT], host = Any }

const CONTENT: Content = Content::of(&[(0x11, 0..64 * KIB), (0x22, MIB - 512..MIB)]);

async fn make_disk(t: &Test) -> CaseResult<Image> {
    t.image("disk").size(MIB).content(&CONTENT).create().await
}

/// A client on a read-only node.
fn remote(name: &str, client: Node) -> Node {
    Node::new("raw").node_name(name).read_only(true).file(client)
}

/// The name of the file of a node.
async fn filename(vm: &Machine, node: &str) -> CaseResult<String> {
    let info = vm.node(node).await?;
    let name = info.at("image/filename")?.as_str();
    check!(name.is_some(), "{node} has no file name");
    Ok(name.unwrap_or_default().to_owned())
}

/// The node has the data of the disk and is read-only; then it is removed.
async fn assert_serves(vm: &Machine, node: &str) -> CaseResult {
    vm.node(node).assert_reads(&CONTENT).await?;
    vm.assert_read_only(&[(node, true)]).await?;
    vm.remove_node(node).await?;
    vm.assert_no_nodes(&[node]).await
}

rows! {
    TRANSPORTS: bool;
    "inet" => true, upstream = "inet";
    "unix" => false, upstream = "unix";
}

/// A machine is a client of qemu-nbd: it reads the disk, and its file name is the URI.
#[case(upstream = "147::QemuNBD::test_{tcp}", needs = [Tool(ToolKind::Nbd)], rows = TRANSPORTS)]
async fn of_qemu_nbd(t: &mut Test, tcp: &bool) -> CaseResult {
    let disk = make_disk(t).await?;
    let server = t.nbd_server(&disk).read_only();
    let server = if *tcp { server.tcp() } else { server }.start().await?;
    let vm = t.host().launch().await?;
    let client = server.node().without("export");
    let text = |path: &str| client.get(path).and_then(Value::as_str).unwrap_or_default();
    let uri = match tcp {
        true => format!("nbd://{}:{}", text("server.host"), text("server.port")),
        false => format!("nbd+unix://?socket={}", text("server.path")),
    };

    vm.add_node(remote("remote", client.clone())).await?;

    check!(filename(&vm, "remote").await? == uri);
    assert_serves(&vm, "remote").await?;
    vm.shutdown().await?;
    server.stop().await?;
    disk.assert_reads(&CONTENT).await
}

/// A machine with the disk and an NBD server, and another machine.
struct Machines {
    disk: Image,
    server: Machine,
    vm: Machine,
    nbd: MachineNbd,
}

impl Machines {
    /// The server listens on this TCP address, or on a UNIX socket.
    async fn start(t: &Test, tcp: Option<&str>) -> CaseResult<Self> {
        let disk = make_disk(t).await?;
        let server = t.host().name("server").blockdev(&disk).launch().await?;
        let nbd = match tcp {
            Some(host) => server.nbd_server().tcp(host).start().await?,
            None => server.nbd_server().start().await?,
        };
        let vm = t.host().name("client").launch().await?;
        Ok(Machines {
            disk,
            server,
            vm,
            nbd,
        })
    }

    async fn end(self, content: &Content) -> CaseResult {
        self.vm.shutdown().await?;
        self.nbd.stop().await?;
        self.server.shutdown().await?;
        self.disk.assert_reads(content).await
    }
}

rows! {
    NAMES: Option<&str>;
    "by-default" => None, upstream = "default";
    "like-its-node" => Some("disk"), upstream = "same";
    "otherwise" => Some("shadow"), upstream = "different";
}

/// A machine is a client of another one over TCP, whatever the name of the export is.
#[case(upstream = "147::BuiltinNBD::test_inet_{name}_export_name", rows = NAMES)]
async fn of_an_export_that_is_called(t: &mut Test, name: &Option<&str>) -> CaseResult {
    let machines = Machines::start(t, Some("127.0.0.1")).await?;
    let export = machines.server.export("disk");
    let export = match name {
        Some(name) => export.name(name).await?,
        None => export.await?,
    };
    let name = name.unwrap_or("disk");
    check!(export.name() == name);

    let vm = &machines.vm;
    let client = export.node()?;
    let port = client.get("server.port").and_then(Value::as_str).unwrap_or_default();
    let uri = format!("nbd://127.0.0.1:{port}/{name}");
    vm.add_node(remote("remote", client)).await?;
    check!(filename(vm, "remote").await? == uri);
    assert_serves(vm, "remote").await?;
    let unknown = remote("other", machines.nbd.node("unknown"));
    let why = "Requested export not available";
    vm.add_node(unknown).expect_error(why).await?;
    machines.end(&CONTENT).await
}

/// A machine is a client of two exports of one server at once.
#[case(upstream = "147::BuiltinNBD::test_inet_two_exports")]
async fn of_two_exports(t: &mut Test) -> CaseResult {
    let machines = Machines::start(t, Some("127.0.0.1")).await?;
    let vm = &machines.vm;
    for name in ["first", "second"] {
        let export = machines.server.export("disk").name(name).await?;
        vm.add_node(remote(name, export.node()?)).await?;
    }
    for name in ["first", "second"] {
        check!(filename(vm, name).await?.ends_with(&format!("/{name}")));
        vm.node(name).assert_reads(&CONTENT).await?;
    }
    for name in ["first", "second"] {
        assert_serves(vm, name).await?;
    }
    machines.end(&CONTENT).await
}

/// A machine is a client over IPv6 alone, which no URI can express.
#[case(upstream = "147::BuiltinNBD::test_inet6")]
async fn over_ipv6(t: &mut Test) -> CaseResult {
    if TcpListener::bind(("::1", 0)).is_err() {
        t.skip("there is no IPv6 here")?;
    }
    let machines = Machines::start(t, Some("::1")).await?;
    let export = machines.server.export("disk").await?;
    let client = export.node()?.set("server.ipv4", false).set("server.ipv6", true);
    let vm = &machines.vm;
    vm.add_node(remote("remote", client.clone())).await?;
    let expected = json!({"driver": "raw", "file": client});
    assert_json_filename(&filename(vm, "remote").await?, &expected)?;
    assert_serves(vm, "remote").await?;
    machines.end(&CONTENT).await
}

/// A client with IPv6 disabled cannot connect to an IPv6 address.
#[case]
async fn keeps_to_its_family(t: &mut Test) -> CaseResult {
    let vm = t.host().launch().await?;
    // Nobody has to listen there: the address is looked at first.
    let server = json!({"type": "inet", "host": "::1", "port": "10809", "ipv6": false});
    let client = Node::new("nbd").set("server", server);
    vm.add_node(remote("remote", client)).expect_error("address resolution failed").await?;
    vm.assert_no_nodes(&["remote"]).await?;
    vm.shutdown().await?;
    Ok(())
}

rows! {
    FAMILIES: (&str, &str);
    "ipv4" => ("127.0.0.1", "ipv4");
    "ipv6" => ("::1", "ipv6");
}

/// A server with one family disabled does not listen on an address of that family.
#[case(rows = FAMILIES)]
async fn finds_no_server_in_a_disabled_family(
    t: &mut Test,
    (host, family): &(&str, &str),
) -> CaseResult {
    let vm = t.host().launch().await?;
    let address = json!({"host": host, "port": "0", *family: false});
    let start = json!({"addr": {"type": "inet", "data": address}});
    vm.cmd("nbd-server-start", start).refused("address resolution failed").await?;
    vm.shutdown().await?;
    Ok(())
}

/// What a client has flushed is on the disk, although the server then crashes.
#[case(formats = [QCOW2], needs = [Tool(ToolKind::Nbd)], unsupported_imgopts = ["data_file"])]
async fn flushes_the_disk(t: &mut Test) -> CaseResult {
    let disk = make_disk(t).await?;
    let server = t.nbd_server(&disk).start().await?;
    let client = remote("remote", server.node()).read_only(false);
    let vm = t.host().disk(Disk::of(client)).tolerate("Failed flush for");
    let vm = vm.launch().await?;

    // In a new cluster, of which qcow2 keeps the place in memory until it is flushed.
    vm.disk("remote").write(0x33, clusters(4..5)).await?;
    vm.disk("remote").flush().await?;
    server.kill().await?;

    vm.shutdown().await?;
    disk.assert_reads(CONTENT.written(0x33, clusters(4..5))).await
}

/// A machine is a client over a UNIX socket; what it writes is on the disk.
#[case(upstream = "147::BuiltinNBD::test_unix")]
async fn over_a_unix_socket(t: &mut Test) -> CaseResult {
    let machines = Machines::start(t, None).await?;
    let export = machines.server.export("disk").writable().await?;
    let vm = &machines.vm;
    let client = remote("remote", export.node()?).read_only(false);
    vm.add_node(client).await?;
    let socket = machines.nbd.socket().map_or("", |socket| socket.as_str());
    check!(filename(vm, "remote").await? == format!("nbd+unix:///disk?socket={socket}"));
    let remote = vm.node("remote");
    remote.assert_reads(&CONTENT).await?;
    remote.write(0x33, 512 * KIB..513 * KIB).await?;
    remote.flush().await?;
    let content = CONTENT.written(0x33, 512 * KIB..513 * KIB);
    export.assert_reads(&content).await?;
    vm.remove_node("remote").await?;
    machines.end(&content).await
}

/// A machine is a client over a connected socket that it was given.
#[case(upstream = "147::BuiltinNBD::test_fd", host = System)]
async fn over_a_descriptor(t: &mut Test) -> CaseResult {
    let machines = Machines::start(t, None).await?;
    let export = machines.server.export("disk").await?;
    let socket = machines.nbd.socket().map_or("", |socket| socket.as_str());
    let connection = UnixStream::connect(socket)?;
    let vm = &machines.vm;
    let getfd = vm.cmd("getfd", json!({"fdname": "connection"}));
    getfd.fd(connection.into()).await?;
    let client = Node::new("nbd").set("server", json!({"type": "fd", "str": "connection"}));
    let client = client.set("export", export.name());

    vm.add_node(remote("remote", client.clone())).await?;

    let expected = json!({"driver": "raw", "file": client});
    assert_json_filename(&filename(vm, "remote").await?, &expected)?;
    assert_serves(vm, "remote").await?;
    machines.end(&CONTENT).await
}

/// Which of the two has an iothread.
struct Ends {
    client: bool,
    server: bool,
}

rows! {
    ENDS: Ends { client, server };
    "in-the-main-thread" => false, false;
    "in-an-iothread" => true, false, host = System;
    "to-an-export-in-an-iothread" => false, true;
}

const CLOSED: KnownBug = CLIENT_LEAVES.only(&[&["to-an-export-in-an-iothread"]]);

/// See docs/qemu-findings.md.
const REPORTED: KnownBug = known(
    "a server in an iothread reads on behind the end of a client that has said that it leaves",
    "Disconnect client, due to: Cannot read from TLS channel",
    since(8, 0),
)
.only(&[&["to-an-export-in-an-iothread"]])
.intermittent();

/// A machine mirrors its disk to a server over TLS, and goes on there: it reads and writes what it had on its
/// disk. Without TLS the server refuses it.
#[case(
    groups = [JOB], rows = ENDS, known_bugs = [CLOSED, REPORTED],
    fixed_in = fix(["8.2.5", "9.0.1", "9.1"], "199e84de1c")
)]
async fn over_tls(t: &mut Test, ends: &Ends) -> CaseResult {
    let tls = t.tls()?;
    let disk = make_disk(t).await?;
    let copy = t.image("copy").size(MIB).create().await?;
    let server = t.host().name("server").iothread("one").blockdev(&copy).launch().await?;
    let nbd = server.nbd_server().tcp("127.0.0.1").tls(&tls).start().await?;
    let export = server.export("copy").writable();
    let export = match ends.server {
        true => export.iothread("one").set("fixed-iothread", true),
        false => export,
    };
    let export = export.await?;
    let vm = t.host().name("client").object(tls.client("tls0"));
    let vm = with_disk(vm, &disk, ends.client).launch().await?;
    let plain = remote("remote", export.node()?).read_only(false);
    let refused = vm.add_node(plain.clone());
    refused.expect_error("TLS negotiation required before option").await?;
    vm.add_node(plain.set("file.tls-creds", "tls0")).await?;

    let job = vm.mirror("disk").to("remote").set("copy-mode", "write-blocking");
    let mut job = job.start().await?;
    job.wait_ready().await?;
    let (guest, during) = (vm.disk("disk"), 512 * KIB..513 * KIB);
    guest.write(0x33, during.clone()).await?;
    job.complete().await?;
    guest.assert_node("remote").await?;
    let content = CONTENT.written(0x33, during);
    guest.assert_reads(&content).await?;
    guest.write(0x44, 0..KIB).await?;
    guest.flush().await?;

    vm.shutdown().await?;
    disk.assert_reads(&content).await?;
    nbd.stop().await?;
    server.shutdown().await?;
    copy.assert_reads(content.written(0x44, 0..KIB)).await
}
