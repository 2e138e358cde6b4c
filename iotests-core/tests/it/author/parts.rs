//! Smaller parts of a machine: descriptors, clock, breakpoints, output, sockets, statistics, filters,
//! snapshots.

use std::fs::File;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use iotests_core::prelude::*;
use iotests_core::wire::CaseEvent;

use super::bench::{Bench, Set, case, hosts};

fn systems() -> impl Iterator<Item = Set> {
    let system = |(set, backend): (_, Backend)| (backend == Backend::System).then_some(set);
    hosts().into_iter().filter_map(system)
}

/// QEMU takes the descriptor of a set that has just the access it wants.
fn descriptors(image: &Image) -> std::io::Result<[File; 2]> {
    let open = |write| File::options().read(true).write(write).open(image.file());
    Ok([open(false)?, open(true)?])
}

/// Upstream's 045: a descriptor goes to the machine with a command, or is there before the launch; a
/// drive is opened by it.
#[test]
fn descriptors_go_along_with_a_command_or_before_the_launch() {
    for set in systems() {
        let bench = Bench::new(&set).backend(Backend::System).format(RAW);
        let run = bench.run(case!(|t| {
            let [one, two] = [1, 2].map(|byte| t.image(&format!("i{byte}")).size(MIB).fill(byte));
            let (one, two) = (one.create().await?, two.create().await?);
            let drive = Drive::file("/dev/fdset/2").interface("none");
            let [read, write] = descriptors(&two)?;
            let vm = t.vm().add_fd(2, read).add_fd(2, write);
            let vm = vm.drive(drive.option("format", "raw")).launch().await?;
            vm.node("drive0").io("read -P 2 0 1M").await?;
            vm.node("drive0").write(3, 0..KIB).await?;

            for file in descriptors(&one)? {
                let add = vm.cmd("add-fd", json!({"fdset-id": 1}));
                add.fd(file.into()).await?.assert("fdset-id", 1)?;
            }
            let node = Node::new("file").node_name("file");
            vm.add_node(node.set("filename", "/dev/fdset/1")).await?;
            vm.node("file").assert_pattern(1, 0..MIB).await?;
            vm.shutdown().await?;
            two.assert_pattern(3, 0..KIB).await?;
        }));
        run.assert_passed();
    }
}

/// With `-accel qtest`, time passes only when the case says so, and then as much as it says.
#[test]
fn the_clock_goes_forward_by_what_the_case_says() {
    for set in systems() {
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.guest = Guest::VirtualClock;
        bench = bench.accelerators(&["qtest"]);
        let run = bench.run(case!(|t| {
            let null = Node::new("null-co").set("size", GIB);
            let slow = Node::throttle("group", null).node_name("slow");
            let vm = match t.vm().launch().await {
                Ok(vm) => vm,
                Err(error) if error.to_string().contains("qtest") => return t.skip("no qtest"),
                Err(error) => return Err(error),
            };
            // One that is on the command line goes by the time of day.
            let group = json!({"qom-type": "throttle-group", "id": "group"});
            vm.cmd("object-add", group).await?;
            vm.set_throttle_limits("group", json!({"bps-write": MIB})).await?;
            let disk = vm.plug(slow).await?;
            let written = async || disk.stats().await?.at("stats/wr_bytes").cloned();
            for _ in 0..4 {
                disk.io("aio_write 0 1M").await?;
            }
            let at_once = written().await?.as_u64().unwrap_or_default();
            check!(at_once <= MIB);
            vm.step_clock(std::time::Duration::from_millis(10)).await?;
            check!(written().await? == at_once);
            for _ in 0..4 {
                vm.step_clock(std::time::Duration::from_secs(1)).await?;
            }
            check!(written().await? == 4 * MIB);
            vm.shutdown().await?;
        }));
        match run.events.last() {
            Some(CaseEvent::Skipped { .. }) => println!("skipped: this emulator has no qtest"),
            _ => run.assert_passed(),
        }
    }
}

/// QEMU hangs for good when it is to resume a request that has not come yet.
#[test]
fn requests_are_resumed_only_after_one_has_hit_the_breakpoint() {
    for set in systems() {
        let bench = Bench::new(&set).backend(Backend::System);
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.vm().disk(Disk::of(&disk).with_breakpoints());
            let vm = vm.launch().await?;
            let held = vm.disk("disk").hold("write_aio").await?;
            vm.disk("disk").io("aio_write 0 512").await?;
            held.resume().await?;
            vm.disk("disk").io("aio_flush").await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
        let sent = std::fs::read_to_string(bench.spec.evidence_dir().join("vm.qmp")).unwrap();
        let at = |what: &str| sent.find(what).unwrap_or_else(|| panic!("{what}: {sent}"));
        assert!(at("wait_break bp") < at("resume bp"), "{sent}");
    }
}

/// What a machine prints to stderr is a failure, unless the case expects it or it is a warning.
#[test]
fn what_a_machine_complains_of_fails_the_case() {
    for (set, backend) in hosts() {
        for (text, tolerated, is_killed, fails) in [
            ("something is wrong\\n", "", false, true),
            ("something is wrong", "", false, true),
            ("something is wrong\\n", "", true, true),
            ("something is wrong\\n", "is wrong", false, false),
            ("qemu: warning: something is odd\\n", "", false, false),
            // Cut off by the signal, perhaps.
            ("something is wr", "", true, false),
        ] {
            // An emulator may add a warning to the line.
            if fails && !text.ends_with('n') && backend == Backend::System {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let mut bench = Bench::new(&set).backend(backend);
            let tool = bench.spec.tools.get_mut(&backend.tool()).unwrap();
            let path = directory.path().join("wrapper");
            let real = tool.path.display();
            let script = format!("#!/bin/sh\nprintf '{text}' >&2\nexec {real} \"$@\"\n");
            crate::script::write(&path, &script);
            tool.path = path;
            let run = bench.run(case!(|t| {
                let vm = t.host().name("machine");
                let vm = match tolerated {
                    "" => vm,
                    text => vm.tolerate(text),
                };
                let vm = vm.launch().await?;
                match is_killed {
                    true => vm.kill().await?,
                    false => vm.shutdown().await?,
                };
            }));
            match fails {
                false => run.assert_passed(),
                true => {
                    let expected = "machine printed:\n  something is wrong";
                    assert_eq!(run.failure().message, expected);
                }
            }
        }
    }
}

/// H42: sockets of monitors, servers, exports and migrations are in the socket directory, which has a
/// short path; none is among the images.
#[test]
fn sockets_are_in_their_own_directory() {
    for (set, backend) in hosts() {
        let mut bench = Bench::new(&set).backend(backend);
        bench.spec.protocol = NBD;
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let server = t.nbd_server(&disk).raw().start().await?;
            let vm = t.host().disk(&disk).launch().await?;
            let export = vm.export("disk").await?;
            vm.disk("disk").assert_pattern(0, 0..KIB).await?;
            let spec = t.spec();
            let sockets = |directory: &Path| {
                let files = walkdir::WalkDir::new(directory).into_iter().flatten();
                files.filter(|file| file.file_type().is_socket()).count()
            };
            check!(sockets(&spec.test_dir) == 0);
            // The image's server, that of the case, and the machine's.
            check!(sockets(&spec.sock_dir) == 3);
            export.remove().await?;
            vm.shutdown().await?;
            server.stop().await?;
        }));
        run.assert_passed();
    }
}

/// How long requests took, and where they went, on a disk and on a node.
#[test]
fn latencies_are_counted_and_a_write_behind_the_threshold_is_reported() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().disk(&disk).launch().await?;
            vm.write_threshold("disk", 512 * KIB).await?;
            let histogram = vm.disk("disk").latency_histogram(&[1000, 1_000_000_000]);
            if vm.backend() == Backend::System {
                histogram?.await?;
            } else {
                check!(histogram.is_err());
            }
            vm.disk("disk").io("aio_write 0 64k").await?;
            vm.assert_no_event("BLOCK_WRITE_THRESHOLD").await?;
            vm.disk("disk").io("aio_write 512k 64k").await?;
            let event = vm.event("BLOCK_WRITE_THRESHOLD").await?;
            event.assert_includes(&json!({"data": {
                "node-name": "disk", "amount-exceeded": 64 * KIB, "write-threshold": 512 * KIB,
            }}))?;
            if vm.backend() == Backend::System {
                vm.disk("disk").io("aio_flush").await?;
                let stats = vm.disk("disk").stats().await?;
                let histogram = stats.at("stats/wr_latency_histogram")?;
                histogram.assert("boundaries", json!([1000, 1_000_000_000]))?;
                let bins = histogram.at("bins")?;
                let bins = bins.as_array().into_iter().flatten();
                let counted = bins.filter_map(Value::as_u64).sum::<u64>();
                check!(counted == 2, "{stats}");
            }
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// A quorum outvotes the child that is wrong, and says which; a throttle group has the limits that it
/// was given last.
#[test]
fn filters_of_several_parts_are_nodes_like_others() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).format(RAW).run(case!(|t| {
            let image = |name: &str, byte| t.image(name).size(MIB).fill(byte);
            let images = [
                image("a", 7).create().await?,
                image("b", 7).create().await?,
                image("bad", 8).create().await?,
            ];
            let vm = t.host().throttle_group("group", json!({"iops-total": 1000}));
            let vm = vm.launch().await?;
            for image in &images {
                vm.add_node(image).await?;
            }
            vm.set_throttle_limits("group", json!({"iops-total": 500})).await?;
            let limits = json!({"path": "group", "property": "limits"});
            let limits = vm.cmd("qom-get", limits).await?;
            limits.assert("iops-total", 500)?;
            vm.add_node(Node::throttle("group", "a").node_name("slow")).await?;
            let quorum = Node::quorum(2, ["slow", "b", "bad"]).node_name("quorum");
            if t.has(Driver("quorum"))? {
                vm.add_node(quorum).await?;
                vm.node("quorum").assert_pattern(7, 0..64 * KIB).await?;
                let report = vm.event("QUORUM_REPORT_BAD").await?;
                report.assert("data/node-name", "bad")?;
                vm.remove_node("quorum").await?;
            }
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// Overlays by the case and by QEMU, and snapshots within an image.
#[test]
fn snapshots_are_overlays_or_within_the_image() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(1).create().await?;
            let over = t.image("over").size(MIB).create().await?;
            let vm = t.host().disk(&disk).launch().await?;
            vm.internal_snapshot("disk", "inside").await?;
            vm.internal_snapshot("disk", "gone").await?;
            vm.delete_internal_snapshot("disk", "gone").await?;
            let delete = vm.delete_internal_snapshot("disk", "gone");
            delete.expect_error("gone").await?;
            vm.disk("disk").write(2, 0..KIB).await?;
            vm.add_node(over.node().no_backing()).await?;
            vm.snapshot("disk", "over").await?;
            vm.disk("disk").write(3, KIB..2 * KIB).await?;
            let file = t.file("by-qemu")?;
            vm.snapshot_sync("over", &file, "qcow2", "top").await?;
            vm.disk("disk").write(4, 2 * KIB..3 * KIB).await?;
            vm.assert_chain("top -> over -> disk").await?;
            vm.shutdown().await?;
            disk.assert_reads(&[(1, 0..MIB), (2, 0..KIB)]).await?;
            over.assert_layer(&[(3, KIB..2 * KIB)]).await.unwrap_err();
            over.assert_pattern(3, KIB..2 * KIB).await?;
            disk.go_back_to("inside").await?;
            disk.assert_fill(1).await?;
        }));
        run.assert_passed();
    }
}
