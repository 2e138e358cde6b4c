//! Disks, nodes, exports, bitmaps and jobs: each named once, whatever kind of machine has it.

use iotests_core::author::filter::Filter;
use iotests_core::prelude::*;

use super::bench::{Bench, case, hosts};

fn systems() -> impl Iterator<Item = super::bench::Set> {
    let system = |(set, backend): (_, Backend)| (backend == Backend::System).then_some(set);
    hosts().into_iter().filter_map(system)
}

/// A disk reads and writes as the guest, holds its node, and goes along when a job moves it.
#[test]
fn a_disk_is_one_value_on_an_emulator_and_on_a_storage_daemon() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let base = t.image("base").size(MIB).fill(0x11).create().await?;
            let top = t.image("top").backing(&base).create().await?;
            let vm = t.host().disk(&top).launch().await?;
            let disk = vm.disk("top");
            check!(disk.size().await? == MIB);
            disk.write(0x22, 0..64 * KIB).await?;
            disk.zero(64 * KIB..128 * KIB).await?;
            disk.discard(128 * KIB..192 * KIB).await?;
            disk.flush().await?;
            disk.assert_pattern(0x22, 0..64 * KIB).await?;
            disk.assert_pattern(0, 64 * KIB..128 * KIB).await?;
            disk.stats().await?.at("stats")?;
            vm.remove_node("top").expect_error("in use").await?;

            disk.assert_node("top").await?;
            vm.commit("top").start().await?.complete().await?;
            disk.assert_node("base").await?;
            // A job on a disk is one on the node that the disk stands on by then.
            let null = Node::new("null-co").node_name("null").set("size", MIB);
            vm.add_node(null).await?;
            vm.backup(&disk).to("null").start().await?.wait().await?;
            let backup = vm.backup(&disk).to("nowhere");
            backup.refused("nowhere").await?;
            vm.remove_node("null").await?;
            let wrong = disk.assert_node("top").await.unwrap_err();
            check!(wrong.message() == "the disk top is attached to node base, expected top");
            disk.write(0x33, 0..KIB).await?;
            let wrong = vm.disk("nobody").node().await.unwrap_err();
            check!(wrong.message().ends_with("its disks: top"), "{wrong}");
            vm.shutdown().await?;
            base.assert_pattern(0x33, 0..KIB).await?;
            base.assert_pattern(0x22, KIB..64 * KIB).await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_disk_is_plugged_moved_and_unplugged() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let [one, two] = [1, 2].map(|byte| t.image(&format!("i{byte}")).size(MIB).fill(byte));
            let (one, two) = (one.create().await?, two.create().await?);
            let vm = t.host().disk(&one).blockdev(&two).hotplug();
            let vm = vm.launch().await?;
            vm.disk("i1").assert_pattern(1, 0..KIB).await?;
            vm.disk("i1").move_to("i2").await?;
            vm.disk("i1").assert_pattern(2, 0..KIB).await?;
            vm.disk("i1").assert_node("i2").await?;
            vm.remove_node("i1").await?;
            vm.disk("i1").unplug().await?;
            vm.remove_node("i2").await?;

            let disk = vm.plug(Disk::of(&two).id("again")).await?;
            disk.assert_pattern(2, 0..KIB).await?;
            check!(vm.plug(Disk::of("i2").id("again")).await.is_err());
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// An emulator that starts without devices has no board for them, which saves half of a start.
#[test]
fn a_disk_is_plugged_into_a_machine_that_expects_it() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let image = t.image("i").size(MIB).fill(1).create().await?;
            let vm = t.host().blockdev(&image).hotplug().launch().await?;
            let disk = vm.plug(Disk::of("i").id("disk")).await?;
            disk.assert_pattern(1, 0..KIB).await?;
            vm.shutdown().await?;
            if t.backend() == Some(Backend::System) {
                let vm = t.host().blockdev(&image).launch().await?;
                let wrong = vm.plug(Disk::of("i").id("disk")).await;
                check!(wrong.is_err_and(|error| error.to_string().contains("`.hotplug()`")));
                vm.shutdown().await?;
            }
        }));
        run.assert_passed();
    }
}

#[test]
fn a_disk_of_any_kind_reads_its_image() {
    for set in systems() {
        let run = Bench::new(&set).backend(Backend::System).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(7).create().await?;
            let kinds = [
                Disk::of(&disk),
                Disk::of(&disk).iothread("thread"),
                Disk::of(&disk).scsi(),
                Disk::of(&disk).scsi().iothread("thread"),
                Disk::of(&disk).ide(),
                Disk::of(disk.node().node_name("other")).id("disk"),
                Disk::of(&disk).read_only(),
            ];
            for kind in kinds {
                let vm = t.vm().iothread("thread").disk(kind).launch().await?;
                vm.disk("disk").assert_pattern(7, 0..MIB).await?;
                let devices = vm.cmd("query-block", ()).await?;
                check!(devices.as_array().is_some_and(|all| all.len() == 1));
                vm.cmd("qom-list", json!({"path": vm.disk("disk").qom_path()?})).await?;
                vm.shutdown().await?;
            }
        }));
        run.assert_passed();
    }
}

/// A node is one value for the command line, `blockdev-add`, `blockdev-reopen` and the tools.
#[test]
fn a_node_serves_the_machine_and_the_tools() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk,odd").size(MIB).fill(7).create().await?;
            let node = disk.node().node_name("disk");
            let vm = t.host().blockdev(&node).launch().await?;
            vm.node("disk").write(8, 0..KIB).await?;
            vm.reopen("disk", |node| node.read_only(true)).await?;
            vm.assert_read_only(&[("disk", true)]).await?;
            check!(vm.node("disk").write(9, 0..KIB).await.is_err());
            vm.reopen("disk", |node| node.set("lazy-refcounts", "maybe"))
                .expect_error("lazy-refcounts")
                .await?;
            // A change that was refused is not remembered.
            vm.reopen("disk", |node| node.read_only(false)).await?;
            vm.assert_read_only(&[("disk", false)]).await?;
            let wrong = vm.reopen("nobody", |node| node).await.unwrap_err();
            check!(
                wrong.message().contains("did not make this node"),
                "{wrong}"
            );

            vm.remove_node("disk").await?;
            vm.add_node(&node).await?;
            vm.reopen_all([&node]).await?;
            vm.shutdown().await?;
            let tools = node.without("node-name");
            let read = ["-c", "read -P 8 0 1k", "-c", "read -P 7 1k 1023k"];
            let options = tools.image_opts()?;
            t.qemu_io(["--image-opts", &options]).args(read).await?;
            t.qemu_img(["info", &tools.filename()]).await?;
        }));
        let message = run.events.last().map(|event| format!("{event:?}"));
        // This build has no such command.
        if !message.is_some_and(|text| text.contains("blockdev-reopen has not been found")) {
            run.assert_passed();
        }
    }
}

/// One server serves the exports of the case and, on a storage daemon, the disks.
#[test]
fn exports_and_disks_share_the_server_of_a_machine() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(7).create().await?;
            let other = t.image("other").size(MIB).fill(8).create().await?;
            let vm = t.host().disk(&disk).blockdev(&other).launch().await?;
            let export = vm.export("other").name("exp").writable().await?;
            let client = export.client().await?;
            check!(client.read(0, 512).await? == vec![8; 512]);
            client.disconnect().await?;
            vm.disk("disk").assert_pattern(7, 0..KIB).await?;
            check!(vm.exports().await? == ["exp"]);

            // Another machine opens it.
            let remote = Node::new("raw").node_name("remote").file(export.node()?);
            let second = t.host().name("second").disk(remote).launch().await?;
            second.disk("remote").assert_pattern(8, 0..KIB).await?;
            second.shutdown().await?;

            // An address that the case chooses; the disks move there.
            let server = vm.nbd_server().tcp("127.0.0.1").start().await?;
            check!(vm.exports().await?.is_empty());
            vm.disk("disk").assert_pattern(7, 0..KIB).await?;
            vm.export("other").await?;
            let uri = server.uri("other");
            check!(uri.starts_with("nbd://127.0.0.1:"), "{uri}");
            t.qemu_io(["-r", "-f", "raw", "-c", "read -P 8 0 1M", &uri]).await?;
            server.stop().await?;
            vm.disk("disk").assert_pattern(7, 0..KIB).await?;
            let read_only = vm.export("nobody").expect_error("nobody");
            read_only.await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H48: a bitmap is found by its node, its name, and whether it records; there must be just one.
#[test]
fn a_bitmap_is_added_used_and_removed() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().disk(&disk).launch().await?;
            let bitmap = vm.bitmap("disk", "b0");
            check!(!bitmap.exists().await?);
            bitmap.add().granularity(64 * KIB).persistent().await?;
            bitmap.add().expect_error("already exists").await?;
            let clean = bitmap.sha256().await?;
            vm.disk("disk").write(1, 0..KIB).await?;
            bitmap.assert(json!({"count": 64 * KIB, "persistent": true})).await?;
            check!(bitmap.sha256().await? != clean);
            vm.bitmap("disk", "b1").add().granularity(64 * KIB).disabled().await?;
            vm.bitmap("disk", "b1").merge(["b0"]).await?;
            check!(vm.bitmap("disk", "b1").await?.count == 64 * KIB);

            // Of one that does not record nothing is said to one that asks for those that do.
            vm.bitmap("disk", "b1").recording(false).await?;
            let wrong = vm.bitmap("disk", "b1").recording(true).await.unwrap_err();
            let says = "disk has no bitmap b1 that records; it has: b1, b0";
            let other = "disk has no bitmap b1 that records; it has: b0, b1";
            check!([says, other].contains(&wrong.message()), "{wrong}");
            bitmap.disable().await?;
            vm.disk("disk").write(1, 512 * KIB..513 * KIB).await?;
            check!(bitmap.await?.count == 64 * KIB);
            vm.bitmap("disk", "b0").enable().await?;
            vm.bitmap("disk", "b0").clear().await?;
            check!(vm.bitmap("disk", "b0").await?.count == 0);
            vm.bitmap("disk", "b0").remove().await?;
            vm.bitmap("disk", "b0").remove().expect_error("not found").await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H03, H13: what the harness does is narrated as the case says, with neither directory in it.
#[test]
fn narration_is_indented_and_filtered_and_shows_no_directory() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().launch().await?;
            let format = Filter::ImageFormat("qcow2".into());
            t.narrate(Narration::new().indent(2).filter(format));
            vm.add_node(disk.node()).await?;
            t.narrate(false);
            t.log(t.socket("nbd")?.as_str());
            vm.shutdown().await?;
            let _ = t.golden();
        }));
        run.assert_passed();
        let log = run.log();
        for part in [
            "\n  \"arguments\": {\n    \"driver\": \"IMGFMT\",\n",
            "\"filename\": \"TEST_DIR/disk\"",
            "\nSOCK_DIR/nbd\n",
        ] {
            assert!(log.contains(part), "{part} is not in:\n{log}");
        }
    }
}

/// A backing node without a file name is added as a node of its own, as at a launch, before what is on
/// it; all of them or none.
#[test]
fn a_chain_on_a_remote_base_is_added_as_a_whole() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let base = t.image("base").size(MIB).fill(7).create().await?;
            let top = t.image("top").backing(&base).create().await?;
            let server = t.nbd_server(&base).start().await?;
            let remote = Node::new("raw").node_name("remote").read_only(true);
            let remote = remote.file(server.node());
            let chain = || top.node().backing(&remote);
            let vm = t.host().launch().await?;
            vm.add_node(chain()).await?;
            vm.assert_block_path("top", "/backing", "remote").await?;
            vm.node("top").assert_pattern(7, 0..MIB).await?;
            vm.remove_node("top").await?;
            vm.remove_node("remote").await?;

            let wrong = || chain().set("discard", "maybe");
            vm.add_node(wrong()).refused("maybe").await?;
            check!(vm.add_node(wrong()).await.is_err());
            vm.assert_no_nodes(&["top", "remote"]).await?;
            server.stop().await?;
            vm.add_node(chain()).expect_error("onnect").await?;
            vm.assert_no_nodes(&["top", "remote"]).await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// An export of a frozen disk stands still while the guest writes.
#[test]
fn a_frozen_disk_shows_what_was_there() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(0x11).create().await?;
            let vm = t.host().disk(&disk).launch().await?;
            let before = vm.freeze("disk").await?;
            let export = vm.export(&before).await?;
            vm.disk("disk").write(0x22, 0..64 * KIB).await?;
            vm.disk("disk").zero(128 * KIB..192 * KIB).await?;
            // QEMU 7.2 reads only the first of several parts right.
            let client = export.client().await?;
            for cluster in 0..16 {
                let data = client.read(cluster * 64 * KIB, 64 * KIB).await?;
                check!(data.iter().all(|byte| *byte == 0x11), "cluster {cluster}");
            }
            client.disconnect().await?;
            vm.disk("disk").assert_pattern(0x22, 0..64 * KIB).await?;
            export.remove().await?;
            before.thaw().await?;
            vm.disk("disk").assert_node("disk").await?;
            vm.disk("disk").write(0x33, 0..KIB).await?;
            vm.shutdown().await?;
            disk.assert_pattern(0x33, 0..KIB).await?;
        }));
        run.assert_passed();
    }
}

/// H36: what is done before a job is finalized may use the machine.
#[test]
fn the_hook_before_finalizing_borrows_the_machine() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(7).create().await?;
            let copy = t.image("copy").size(MIB).create().await?;
            let vm = t.host().disk(&disk).blockdev(&copy).launch().await?;
            let seen = std::cell::Cell::new(false);
            let job = vm.backup("disk").to("copy").manual().run();
            job.before_finalize(async || {
                let jobs = vm.cmd("query-jobs", ()).await?;
                jobs.assert("[0]/status", "pending")?;
                seen.set(true);
                Ok(())
            })
            .await?;
            check!(seen.get());
            vm.shutdown().await?;
            copy.assert_same_as(&disk).await?;
        }));
        run.assert_passed();
    }
}

/// H35: two images are created at the same time.
#[test]
fn images_are_created_side_by_side() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = t.host().launch().await?;
            let [a, b, c] = t.files(["a", "b", "c"])?;
            let create = |file| {
                let options = json!({"driver": "file", "filename": file, "size": MIB});
                vm.blockdev_create(options)
            };
            let (first, second) = (create(&a), create(&b));
            first.await?;
            second.await?;
            create(&c).id("mine").await?;
            for file in [&a, &b, &c] {
                check!(std::fs::metadata(file)?.len() == MIB);
            }
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// A job that fails before it is ready shows its error when it is completed, and nothing else is
/// wrong with it.
#[test]
fn completing_a_job_that_has_failed_reports_its_error() {
    for (set, backend) in hosts() {
        let bench = Bench::new(&set).backend(backend);
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(7).create().await?;
            let null = Node::new("null-co").node_name("b").set("size", MIB);
            let error = json!({"event": "none", "iotype": "read", "errno": 5, "once": false});
            let errors = Node::new("blkdebug").child("image", disk.node());
            let errors = errors.node_name("errors").set("inject-error", [error]);
            let vm = t.host().blockdev(errors).blockdev(null).launch().await?;
            let mirror = || vm.mirror("errors").to("b").start();
            let expected = exactly("Input/output error");
            mirror().await?.complete().expect_error(expected).await?;
            let wrong = mirror().await?.complete().await.unwrap_err();
            check!(
                wrong.message().contains("Failed(\"Input/output error\")"),
                "{wrong}"
            );
            let wrong = mirror().await?.wait_ready().await.unwrap_err();
            check!(wrong.message().contains("before it was ready"), "{wrong}");
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H16: QEMU says on another stream that it does not know a command; that command fails.
#[test]
fn a_misspelt_command_fails_at_its_line() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().disk(&disk).launch().await?;
            let wrong = vm.disk("disk").io("wriet 0 512").await.unwrap_err();
            check!(wrong.message().contains("wriet"), "{wrong}");
            vm.disk("disk").io("write 0 512").await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// A breakpoint that nobody resumed is named, with its line, whatever else happens.
#[test]
fn a_breakpoint_that_is_dropped_fails_the_case() {
    for set in systems() {
        let run = Bench::new(&set).backend(Backend::System).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let disk = Disk::of(&disk).with_breakpoints();
            let vm = t.vm().disk(disk).launch().await?;
            let held = vm.disk("disk").hold("read_aio").await?;
            drop(held);
            vm.shutdown().await?;
        }));
        let line = line!() - 4;
        let report = run.failure();
        assert!(report.message.contains("was never resumed"), "{report:?}");
        assert_eq!(report.place.as_ref().unwrap().line, line);
    }
}

/// The line in it.
const LAUNCH: u32 = line!() + 3;

async fn shared_launch(t: &Test) -> CaseResult<Machine> {
    t.host().launch().await
}

/// What is wrong at the end of a case names the line that launched the machine.
#[test]
fn a_machine_that_was_never_ended_names_its_launch() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let _vm = shared_launch(t).await?;
        }));
        let report = run.failure();
        assert!(report.message.contains("still running"), "{report:?}");
        let place = report.place.as_ref().unwrap();
        assert!(place.file.ends_with("nouns.rs"), "{place}");
        assert_eq!(place.line, LAUNCH);
    }
}

/// H48: bitmaps without a name, which jobs make, are distinguished by whether they record; of several
/// none is taken at random.
#[test]
fn of_several_bitmaps_none_is_taken_at_random() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            // Far more than the job copies at once, whatever its speed.
            let size = 32 * MIB;
            let disk = t.image("disk").size(size).create().await?;
            let vm = t.host().disk(&disk).launch().await?;
            let null = Node::new("null-co").node_name("null").set("size", size);
            vm.add_node(null).await?;
            vm.bitmap("disk", "b0").add().await?;
            vm.disk("disk").write(1, 0..size).await?;
            let backup = vm.backup("disk").to("null").speed(1);
            let backup = backup.set("sync", "bitmap").set("bitmap", "b0");
            let backup = backup.set("bitmap-mode", "on-success");
            let backup = backup.set("filter-node-name", "filter").start().await?;
            check!(vm.bitmap("disk", "").recording(true).await?.recording);
            // The job's own are on the disk's node in old versions, and on its filter in new ones.
            let mut several = 0;
            for node in ["disk", "filter"] {
                let all = vm.bitmaps(node).await?;
                if all.iter().filter(|bitmap| bitmap.name.is_empty()).count() > 1 {
                    several += 1;
                    let wrong = vm.bitmap(node, "").await.unwrap_err();
                    check!(wrong.message().contains(" bitmaps "), "{wrong}");
                }
            }
            check!(several > 0);
            backup.force_cancel().await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}
