//! NBD servers, in qemu-nbd and in machines.

use iotests_core::author::Drive;
use iotests_core::author::assert::AssertJson;
use iotests_core::prelude::*;
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
            t.qemu_io(["-f", "raw", "-c", "read -P 3 0 1M", &uri])
                .await?;
            let stopped = server.kill().await?;
            t.qemu_io(["-f", "raw", "-c", "read 0 1M", &uri])
                .expect_status(1)
                .await?;
            let server = stopped.start().await?;
            assert_eq!(server.uri(), uri);
            t.qemu_io(["-f", "raw", "-c", "read -P 3 0 1M", &uri])
                .await?;
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

/// H01: a death in the middle is told, whether or not something else failed because of it.
#[test]
fn a_server_that_dies_by_itself_is_told_of_in_any_case() {
    for set in sets() {
        for fails in [false, true] {
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
                if fails {
                    return Err(Failure::new("something else"));
                }
                drop(server);
            }));
            let report = run.failure();
            // The death is reported beside what the case says; the runner judges it the graver.
            let said = format!("{}\n{}", report.message, report.causes.join("\n"));
            assert!(
                said.contains("the NBD server died of SIGKILL"),
                "{report:?}"
            );
            assert_eq!(report.message == "something else", fails, "{report:?}");
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
            let vm = t
                .host()
                .drive(Drive::of(&disk).interface("none"))
                .launch()
                .await?;
            // Private access comes first on a storage daemon, and gives way.
            vm.disk(&disk).assert_pattern(9, 0..KIB).await?;
            let e0 = || vm.export(&disk).id("e0").name("exp");
            let export = e0().writable().await?;
            t.qemu_io(["-f", "raw", "-c", "write -P 8 0 1k", &export.uri()?])
                .await?;
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
