//! NBD servers, in qemu-nbd and in machines.

use iotests_core::author::Drive;
use iotests_core::author::assert::AssertJson;
use iotests_core::prelude::*;
use iotests_core::wire::CaseEvent;
use serde_json::json;

use super::bench::{Bench, case, hosts, sets};

/// H01: a server is waited for, killed with its scope, and restarts on the same path.
#[test]
fn a_server_lives_as_long_as_its_scope_and_restarts_at_the_same_address() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(3).create().await?;
            t.narrate(true);
            let server = t.nbd_server(&disk).export("exp").start().await?;
            let (uri, pid) = (server.uri(), server.pid().unwrap());
            t.qemu_io(["-f", "raw", "-c", "read -P 3 0 1M", &uri]).await?;
            let stopped = server.kill().await?;
            t.qemu_io(["-f", "raw", "-c", "read 0 1M", &uri]).expect_status(1).await?;
            let server = stopped.start().await?;
            assert_eq!(server.uri(), uri);
            t.qemu_io(["-f", "raw", "-c", "read -P 3 0 1M", &uri]).await?;
            let second = server.pid().unwrap();
            drop(server);
            for pid in [pid, second] {
                assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
            }
            let tcp = t.nbd_server(&disk).tcp().start().await?;
            assert!(tcp.uri().starts_with("nbd://127.0.0.1:"), "{}", tcp.uri());
            tcp.stop().await?;
            t.narrate(false);
            let _ = t.golden();
        }));
        run.assert_passed();
        let log = "Start NBD server\nKill NBD server\n".repeat(3);
        assert_eq!(run.log(), log);
    }
}

/// H01: an early death is an error with status, output and command.
#[test]
fn a_server_that_dies_early_fails_the_case_with_what_it_said() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            t.nbd_server(&disk).arg("--no-such-option").start().await?;
        }));
        let message = &run.failure().message;
        assert!(
            message.contains("no-such-option") && message.contains("qemu-nbd"),
            "{message}"
        );
    }
}

/// H01: a death in the middle is reported, whether or not something else failed because of it.
#[test]
fn a_server_that_dies_by_itself_is_reported_in_any_case() {
    for set in sets() {
        for last in ["pass", "fail", "skip"] {
            let run = Bench::new(&set).run(case!(|t| {
                let disk = t.image("disk").size(MIB).create().await?;
                let server = t.nbd_server(&disk).start().await?;
                let pid = i32::try_from(server.pid().unwrap())?;
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let flags = rustix::process::PidfdFlags::empty();
                let process = rustix::process::pidfd_open(pid, flags)?;
                rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
                // Readable when it has ended.
                let end = rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN);
                rustix::event::poll(&mut [end], None)?;
                match last {
                    "fail" => return Err(Failure::new("something else")),
                    "skip" => return t.skip("enough"),
                    _ => drop(server),
                }
            }));
            let is_death = |event: &CaseEvent| matches!(event, CaseEvent::Died(death) if death.signal == Some(9));
            // The runner, which hears of it, makes a crash of whatever the case says last.
            assert!(run.events.iter().any(is_death), "{last}: {run:?}");
            if last == "skip" {
                continue;
            }
            let report = run.failure();
            // The death is reported beside what the case says; the runner judges it the graver.
            let said = format!("{}\n{}", report.message, report.causes.join("\n"));
            assert!(
                said.contains("the NBD server died of SIGKILL"),
                "{report:?}"
            );
            let is_other = report.message == "something else";
            assert_eq!(is_other, last == "fail", "{report:?}");
        }
    }
}

/// H47: a backup to an NBD target survives a restart of its server.
#[test]
fn a_backup_goes_on_after_its_nbd_target_was_restarted() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let source = t.image("source").size(4 * MIB).fill(7).create().await?;
            // What a raw image was given is in its file, even if nobody flushes before the crash.
            let target = t.image("target").format(RAW).size(4 * MIB);
            let target = target.create().await?;
            let server = t.nbd_server(&target).start().await?;
            let vm = t.host().drive(&source).launch().await?;
            let mut node = json!({"driver": "raw", "node-name": "remote", "file": server.node()});
            node["file"]["reconnect-delay"] = 60.into();
            vm.cmd("blockdev-add", node).await?;
            // At this speed it takes a minute, however busy the machine is.
            let job = vm.backup(&source).to("remote").speed(64 * KIB);
            let job = job.start().await?;
            let server = server.kill().await?.start().await?;
            job.set_speed(0).await?;
            job.wait().await?;
            vm.shutdown().await?;
            server.stop().await?;
            target.assert_same_as(&source).await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_machine_exports_its_nodes_and_the_exports_go() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(9).create().await?;
            // A guest device would not share its right to write.
            let vm = t.host().drive(Drive::of(&disk).interface("none")).launch().await?;
            // Private access comes first on a storage daemon, and gives way.
            vm.disk(&disk).assert_pattern(9, 0..KIB).await?;
            let e0 = || vm.export(&disk).id("e0").name("exp");
            let export = e0().writable().await?;
            t.qemu_io(["-f", "raw", "-c", "write -P 8 0 1k", &export.uri()?]).await?;
            assert_eq!(vm.exports().await?, ["e0"]);
            export.remove().await?;
            assert!(vm.exports().await?.is_empty());
            // The end of an export is not taken for that of the next one of the same name.
            e0().await?;
            vm.cmd("block-export-del", json!({"id": "e0"})).await?;
            e0().await?.remove_unused().await?;
            let gone = Matcher::event("BLOCK_EXPORT_DELETED").data(json!({"id": "e0"}));
            vm.assert_no_event(gone).await?;
            vm.cmd("query-version", ()).await?.at("qemu")?;
            vm.shutdown().await?;
            disk.assert_pattern(8, 0..KIB).await?;
        }));
        run.assert_passed();
    }
}

/// H39: a client whose server drops the connection after a write request connects again and
/// completes the write.
#[test]
fn a_client_reconnects_and_completes_the_write_that_its_server_dropped() {
    use nbd::proto::CommandType;
    use nbd::server::journal::Closed;
    use nbd::server::{Action, Event, Export, FaultPlan, On, Rule, Server, backend};
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let socket = t.socket("evil")?;
            let dropped = Rule::new(On::request(CommandType::WRITE), Action::CLOSE);
            let server = Server::builder()
                .export(Export::new(backend::MemoryBackend::new(3 * MIB)))
                .plan(FaultPlan::new().rule(dropped))
                .listen_unix(&*socket)?;
            let client = format!(
                "driver=nbd,server.type=unix,server.path={},reconnect-delay=60",
                socket.as_option()
            );
            let write = [
                "--image-opts",
                "-c",
                "write -P 7 0 3M",
                "-c",
                "read -P 7 0 3M",
                &client,
            ];
            t.qemu_io(write).await?;
            // The rule has fired, or this would be an error; and it has closed the connection.
            let journal = server.finish().await?;
            let drops = journal.count(|entry| entry.event == Event::Closed(Closed::Fault));
            assert_eq!(drops, 1, "{}", journal.to_json_lines());
        }));
        run.assert_passed();
    }
}

/// H01, H23: a server of what no case made (a file, a node, a `json:` name, another server), at a
/// socket that the case chooses; and again there after its end.
#[test]
fn a_server_serves_what_is_no_image_of_the_case_where_the_case_says() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(3).create().await?;
            let sample = t.file("sample:odd,name")?;
            std::fs::copy(disk.file(), &sample)?;
            let second = Node::new("raw").set("offset", 512).set("size", 4096);
            let second = second.file(disk.node().without("node-name"));
            for (server, byte, size) in [
                (t.nbd_server(&sample), 3, MIB),
                (t.nbd_server(&sample).format(QCOW2), 3, MIB),
                (t.nbd_server(&second), 3, 4096),
                (t.nbd_server(second.filename()), 3, 4096),
                (
                    t.nbd_server("json:{\"driver\":\"null-co\",\"read-zeroes\":true}"),
                    0,
                    GIB,
                ),
            ] {
                let server = server.start().await?;
                let image = t.open(server.uri()).await?;
                image.assert_pattern(byte, 0..4096).await?;
                check!(Storage::size(&image).await? == size);
                server.stop().await?;
            }

            let socket = t.socket("mine")?;
            let path = socket.as_str().to_owned();
            let server = t.nbd_server(&disk).unix(socket).start().await?;
            check!(server.uri().ends_with(&path), "{}", server.uri());
            let relay = t.nbd_server(server.uri()).format(RAW).start().await?;
            t.open(relay.uri()).await?.assert_pattern(3, 0..MIB).await?;
            relay.stop().await?;
            let server = server.kill().await?.start().await?;
            t.open(server.uri()).await?.assert_fill(3).await?;
            server.stop().await?;
        }));
        run.assert_passed();
    }
}

/// An export of one machine is an image to tools, to overlays and to another machine; one that is
/// read-only is opened as that.
#[test]
fn an_export_is_opened_by_tools_by_overlays_and_by_another_machine() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).content(&[(9, 0..KIB)]);
            let disk = disk.create().await?;
            let vm = t.host().name("one").blockdev(&disk).launch().await?;
            let export = vm.export("disk").name("shown").await?;
            let opened = export.open().await?;
            check!((opened.name(), opened.format()) == ("shown", RAW));
            opened.assert_reads(&[(9, 0..KIB)]).await?;
            opened.assert_pattern(9, 0..KIB).await?;
            check!(opened.write(1, 0..KIB).await.is_err());
            let top = t.image("top").backing(&opened).create().await?;
            top.write(7, KIB..2 * KIB).await?;
            let other = t.host().name("other").disk(&top).launch().await?;
            other.disk("top").write(8, 2 * KIB..3 * KIB).await?;
            other.shutdown().await?;
            let content = [(9, 0..KIB), (7, KIB..2 * KIB), (8, 2 * KIB..3 * KIB)];
            top.assert_reads(&content).await?;
            export.remove().await?;

            let export = vm.export("disk").writable().await?;
            export.open().await?.write(1, 0..512).await?;
            let client = export.open().node_name("client").await?;
            let other = t.host().name("other").disk(&client).launch().await?;
            other.disk("client").write(2, 512..KIB).await?;
            other.shutdown().await?;
            export.assert_reads(&[(1, 0..512), (2, 512..KIB)]).await?;
            vm.shutdown().await?;
            disk.assert_reads(&[(1, 0..512), (2, 512..KIB)]).await?;
        }));
        run.assert_passed();
    }
}

/// What is exported over FUSE is a file to all; over vhost-user there is nothing to open.
#[test]
fn exports_over_fuse_are_opened_and_over_vhost_user_not() {
    let fuse = std::path::Path::new("/dev/fuse").exists();
    for set in sets().into_iter().filter(|set| set.backends().contains(&Backend::Qsd)) {
        let run = Bench::new(&set).backend(Backend::Qsd).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(9).create().await?;
            let vm = t.host().blockdev(&disk).launch().await?;
            if fuse {
                let file = t.file("shown")?;
                std::fs::write(&file, "")?;
                let export = vm.export("disk").fuse(&file).writable().await?;
                check!(std::fs::read(&file)? == vec![9; MIB as usize]);
                export.assert_reads(&[(9, 0..MIB)]).await?;
                export.open().await?.write(8, 0..KIB).await?;
                export.remove().await?;
                vm.node("disk").assert_pattern(8, 0..KIB).await?;
            }
            let socket = t.socket("vhost")?;
            let export = vm.export("disk").vhost_user_blk(&socket).await?;
            check!(std::os::unix::net::UnixStream::connect(&socket).is_ok());
            let refused = export.open().await.unwrap_err();
            check!(refused.message() == "the export disk is not served over NBD");
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// TLS with credentials that no tool made: a machine and a qemu-nbd serve clients that show a
/// certificate of the same authority (another machine, our own client, a disk of the harness), and no
/// others.
#[test]
fn tls_credentials_are_made_on_the_spot_and_believed_by_qemu() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let tls = t.tls()?;
            let disk = t.image("disk").size(MIB).fill(9).create().await?;
            let vm = t.host().name("one").disk(&disk);
            let vm = vm.tolerate("option negotiation failed").launch().await?;
            let server = vm.nbd_server().tcp("127.0.0.1").tls(&tls).start().await?;
            let export = vm.export(&disk).await?;
            let client = export.client().await?;
            check!(client.read(0, 512).await? == vec![9; 512]);
            client.disconnect().await?;
            // On a storage daemon the harness itself is such a client.
            vm.disk("disk").assert_pattern(9, 0..KIB).await?;
            let plain = t.open(server.uri("disk")).await.unwrap_err();
            check!(plain.to_string().contains("TLS"), "{plain}");
            check!(export.open().await.is_err());
            // What no tool can open, our own client reads.
            export.assert_reads(&[(9, 0..MIB)]).await?;
            let wrong = export.assert_reads(&[(8, 0..KIB), (9, KIB..MIB)]).await.unwrap_err();
            check!(
                wrong.to_string().contains("at offset 0: 0x09, expected 0x08"),
                "{wrong}"
            );

            let node = || export.node().map(|node| node.node_name("remote").read_only(true));
            let node = || node().map(|node| node.set("tls-creds", "tls0"));
            let other = || t.host().name("other");
            let right = other().object(tls.client("tls0")).launch().await?;
            right.add_node(node()?).await?;
            right.node("remote").assert_pattern(9, 0..MIB).await?;
            right.shutdown().await?;
            let strangers = t.tls()?;
            let wrong = other().object(strangers.client("tls0")).launch().await?;
            wrong.add_node(node()?).expect_error("certificate").await?;
            wrong.shutdown().await?;
            vm.shutdown().await?;

            let server = t.nbd_server(&disk).tcp().tls(&tls).start().await?;
            let remote = server.node().set("tls-creds", "tls0");
            let options = Node::new("raw").file(remote).image_opts()?;
            let read = t.qemu_io(["--image-opts", &options, "-c", "read -P 9 0 1M"]);
            read.args(["--object", &tls.client("tls0").to_string()]).await?;
            server.stop().await?;
            let mode = |file: &str| {
                let path = tls.folder().join(file);
                std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777
            };
            check!(mode("server-key.pem") == 0o600);
            let short = t.tls()?;
            let folder = short.folder().to_owned();
            drop(short);
            check!(!folder.join("ca-cert.pem").exists());
        }));
        run.assert_passed();
    }
}

/// An image that is only reserved is made by `blockdev-create` on each protocol.
#[test]
fn a_reserved_image_is_made_by_the_case_over_nbd_and_fuse_as_well() {
    let fuse = std::path::Path::new("/dev/fuse").exists();
    let protocols = [Some(NBD), fuse.then_some(FUSE)];
    for (set, backend) in hosts() {
        for (protocol, format) in
            protocols.into_iter().flatten().flat_map(|it| [(it, RAW), (it, QCOW2)])
        {
            let mut bench = Bench::new(&set).backend(backend).format(format);
            bench.spec.protocol = protocol;
            let bench = bench.capabilities(|it| {
                it.features.insert(
                    iotests_core::case::Feature::Fuse,
                    iotests_core::case::Support::Yes,
                );
            });
            let run = bench.run(case!(|t| {
                let image = t.image("disk").size(MIB).reserve().await?;
                let vm = t.host().launch().await?;
                vm.add_node(image.protocol_node().node_name("file")).await?;
                if format == QCOW2 {
                    let qcow2 = json!({"driver": "qcow2", "file": "file", "size": MIB});
                    vm.blockdev_create(qcow2).await?;
                } else if protocol == FUSE {
                    let resize = json!({"node-name": "file", "size": MIB});
                    vm.cmd("block_resize", resize).await?;
                }
                vm.remove_node("file").await?;
                vm.add_node(image.node()).await?;
                vm.node("disk").write(7, 0..MIB).await?;
                vm.shutdown().await?;
                check!(Storage::size(&image).await? == MIB);
                image.assert_reads(&[(7, 0..MIB)]).await?;
                image.assert_clean().await?;
            }));
            run.assert_passed();
        }
    }
}
