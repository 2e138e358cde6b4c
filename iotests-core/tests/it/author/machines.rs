//! Machines of both kinds.

use iotests_core::author::Drive;
use iotests_core::author::assert::AssertJson;
use iotests_core::prelude::*;
use iotests_core::wire::CaseEvent;
use qmp::types::MigrationStatus;
use serde_json::json;

use super::bench::{Bench, Set, case, hosts};
use imgtools::tools::ToolKind;

fn systems() -> Vec<Set> {
    hosts()
        .into_iter()
        .filter(|(_, backend)| *backend == Backend::System)
        .map(|(set, _)| set)
        .collect()
}

fn command_line(vm: &Machine) -> String {
    let words = std::fs::read(format!("/proc/{}/cmdline", vm.pid().unwrap()));
    String::from_utf8(words.unwrap()).unwrap()
}

#[test]
fn a_chain_is_written_through_a_machine_and_read_again() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let base = t.image("base").size(MIB).fill(0x11).create().await?;
            let top = t.image("top").backing(&base).create().await?;
            let vm = t.host().drive(&top).launch().await?;
            vm.assert_chain("top -> base").await?;
            vm.disk(&top).write(0x22, 0..64 * KIB).await?;
            vm.disk(&top).assert_pattern(0x22, 0..64 * KIB).await?;
            vm.disk(&top).assert_pattern(0x11, 64 * KIB..MIB).await?;
            vm.shutdown().await?;
            top.assert_pattern(0x22, 0..64 * KIB).await?;
            base.assert_fill(0x11).await?;
        }));
        run.assert_passed();
    }
}

/// Wrong data is noticed by the statement that read it.
#[test]
fn reading_other_data_than_expected_fails_at_once_and_only_once() {
    for (set, backend) in hosts() {
        let bench = Bench::new(&set).backend(backend);
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).fill(1).create().await?;
            let vm = t.host().drive(&disk).launch().await?;
            vm.disk(&disk).assert_pattern(2, 0..KIB).await?;
            vm.shutdown().await?;
        }));
        let report = run.failure();
        let line = line!() - 4;
        assert!(
            report.message.contains("Pattern verification failed"),
            "{run:?}"
        );
        assert_eq!(report.place.as_ref().unwrap().line, line);
        // What a case has dealt with is not reported again at the end of the machine.
        bench
            .run(case!(|t| {
                let disk = t.image("disk").size(MIB).fill(1).create().await?;
                let vm = t.host().drive(&disk).launch().await?;
                for _ in 0..2 {
                    let wrong = vm.disk(&disk).io("read -P 2 0 512").await.unwrap_err();
                    assert!(wrong.message().contains("offset 0, 512 bytes"), "{wrong}");
                }
                vm.shutdown().await?;
            }))
            .assert_passed();
    }
}

/// What a command printed is there with its end, on an emulator as on a storage daemon.
#[test]
fn a_command_on_a_node_returns_what_it_printed() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().drive(&disk).launch().await?;
            for sector in 0..64 {
                let offset = sector * 512;
                let printed = vm.disk(&disk).io(&format!("write {offset} 512")).await?;
                let expected = format!("wrote 512/512 bytes at offset {offset}\n");
                assert!(printed.starts_with(&expected), "{printed}");
                assert_eq!(printed.lines().count(), 2, "{printed}");
            }
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_refused_command_fails_the_case_unless_it_is_expected() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = t.host().launch().await?;
            let add = || {
                vm.cmd(
                    "blockdev-add",
                    json!({"driver": "nonsense", "node-name": "n"}),
                )
            };
            add().expect_error("nonsense").await?;
            let wrong = add().expect_error("other words").await.unwrap_err();
            assert!(wrong.to_string().contains("other words"), "{wrong}");
            let failure = add().await.unwrap_err();
            assert!(
                failure.message().contains("Driver(\"nonsense\")"),
                "{failure}"
            );
            assert!(vm.cmd("query-block", ()).expect_error("").await.is_err());
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H29: a path in the graph leads to a node, or to nothing; the error names path and both nodes.
#[test]
fn a_path_in_the_graph_leads_to_the_expected_node_or_nowhere() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let base = t.image("base").size(MIB).create().await?;
            let top = t.image("top").backing(&base).create().await?;
            let vm = t.host().drive(&top).launch().await?;
            vm.assert_block_path(&top, "/backing", "base").await?;
            vm.assert_block_path(&top, "/backing/backing", None).await?;
            let wrong = vm.assert_block_path(&top, "/backing", "other").await.unwrap_err();
            assert_eq!(
                wrong.message(),
                "found node base under top/backing, expected other"
            );
            let wrong = vm.assert_block_path(&top, "/backing", None).await.unwrap_err();
            assert!(wrong.message().contains("expected nothing"), "{wrong}");
            let wrong = vm.assert_block_path(&top, "/file/backing", "x").await.unwrap_err();
            assert!(
                wrong.message().contains("found nothing under top/file/backing"),
                "{wrong}"
            );
            assert!(vm.assert_block_path(&top, "/no/way", None).await.is_err());
            assert!(vm.assert_block_path("nobody", "/file", None).await.is_err());
            let wrong = vm.assert_chain("top -> other").await.unwrap_err();
            assert!(
                wrong.to_string().contains("found:    top -> base"),
                "{wrong}"
            );
            vm.node("base").await?.assert("drv", "qcow2")?;
            assert!(!vm.has_node("nobody").await?);
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H48: bitmaps are found by the name of their node.
#[test]
fn bitmaps_are_found_by_node_name_with_their_status() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().drive(&disk).launch().await?;
            let add = json!({"node": "disk", "name": "b0", "granularity": 64 * KIB});
            vm.cmd("block-dirty-bitmap-add", add).await?;
            vm.disk(&disk).write(1, 100 * KIB..101 * KIB).await?;
            let bitmap = vm.bitmap("disk", "b0").await?;
            assert_eq!(
                (bitmap.count, bitmap.granularity, bitmap.recording),
                (64 * KIB, 64 * KIB, true)
            );
            vm.bitmap("disk", "b0").assert(json!({"count": 64 * KIB, "busy": false})).await?;
            let wrong = vm.bitmap("disk", "b0").assert(json!({"count": 1})).await.unwrap_err();
            assert!(
                wrong.message().contains("\"count\" is 65536, expected 1"),
                "{wrong}"
            );
            assert!(!vm.bitmap("disk", "b1").exists().await?);
            let wrong = vm.bitmap("disk", "b1").await.unwrap_err();
            assert!(wrong.message().contains("it has: b0"), "{wrong}");
            assert_eq!(vm.bitmap("disk", "b0").sha256().await?.len(), 64);
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H23: drives are numbered, have interface, format, cache and aio, options, and may be empty.
#[test]
fn drives_are_numbered_and_have_what_was_said() {
    for set in systems() {
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.cache = Cache::Unsafe;
        let run = bench.run(case!(|t| {
            let one = t.image("one").size(MIB).create().await?;
            let two = t.image("two").size(MIB).format(RAW).create().await?;
            let secret = t.image("secret").size(MIB).format(LUKS).create().await?;
            let vm = t
                .vm()
                .drive(&one)
                .drive(
                    Drive::of(&two)
                        .interface("none")
                        .option("read-only", "on")
                        .option("format", "raw")
                        .option("cache", "writethrough")
                        .option("aio", "threads"),
                )
                .drive(Drive::empty())
                .drive(Drive::of(&secret).interface("none"))
                .launch()
                .await?;
            let block = vm.cmd("query-block", ()).await?;
            let drive0 = block.find(&json!({"device": "drive0"}))?;
            drive0.assert("inserted/node-name", "one")?;
            drive0.assert("inserted/drv", "qcow2")?;
            drive0.assert("inserted/cache/no-flush", true)?;
            let drive1 = block.find(&json!({"device": "drive1"}))?;
            drive1.assert("inserted/ro", true)?;
            drive1.assert("inserted/drv", "raw")?;
            drive1.assert("inserted/cache/no-flush", false)?;
            // What the case says takes the place of what is said by default.
            let words = std::fs::read(format!("/proc/{}/cmdline", vm.pid().unwrap()))?;
            let words = String::from_utf8(words)?;
            let is_drive1 = |word: &&str| word.contains("id=drive1,");
            let drive1 = words.split('\0').find(is_drive1).unwrap();
            for option in ["format=", "cache=", "aio="] {
                assert_eq!(drive1.matches(option).count(), 1, "{drive1}");
            }
            block.find(&json!({"device": "drive2"}))?.assert_absent("inserted")?;
            block.find(&json!({"device": "drive3"}))?.assert("inserted/drv", "luks")?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H16: HMP, and qemu-io over it by drive or by device.
#[test]
fn the_human_monitor_answers_and_qemu_io_goes_by_drive_node_or_device() {
    for set in systems() {
        let run = Bench::new(&set).backend(Backend::System).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let host = t
                .vm()
                .drive(Drive::of(&disk).interface("none"))
                .device("virtio-scsi")
                .device("scsi-hd,id=hd0,drive=drive0");
            let vm = host.launch().await?;
            assert!(vm.hmp("info block").await?.contains("drive0"));
            // Logged, or not, as anything that the harness does.
            t.narrate(true);
            vm.hmp("info name").await?;
            t.narrate(false);
            vm.hmp("info status").await?;
            vm.disk("drive0").write(1, 0..KIB).await?;
            vm.disk("hd0").write(2, KIB..2 * KIB).await?;
            assert!(vm.disk("nobody").write(2, KIB..2 * KIB).await.is_err());
            let log = vm.shutdown().await?;
            assert_eq!(log.matches("wrote 1024/1024 bytes").count(), 2, "{log}");
            disk.assert_pattern(1, 0..KIB).await?;
            disk.assert_pattern(2, KIB..2 * KIB).await?;
            let _ = t.golden();
        }));
        run.assert_passed();
        let log = run.log();
        assert!(
            log.contains("\"human-monitor-command\"") && log.contains("info name"),
            "{log}"
        );
        assert!(!log.contains("info status"), "{log}");
    }
}

/// QEMU takes no machine type by itself for a target without a default one.
#[test]
fn a_target_without_a_default_machine_type_gets_one() {
    for set in systems() {
        for (default, named) in [(true, false), (false, true)] {
            let bench = Bench::new(&set).backend(Backend::System);
            let bench = bench.capabilities(|it| {
                let host = it.hosts.get_mut(&Backend::System).unwrap();
                let mut none = machine::probe::MachineType::new("none");
                none.default = default;
                host.facts.machines = vec![none];
            });
            let run = bench.run(case!(|t| {
                let vm = t.vm().hotplug().launch().await?;
                let words = command_line(&vm);
                assert_eq!(words.contains("\0-machine\0none\0"), named, "{words:?}");
                vm.shutdown().await?;
            }));
            run.assert_passed();
        }
    }
}

/// No PC is built for disks that need none.
#[test]
fn disks_are_on_the_lightest_board_that_has_what_they_need() {
    for mut set in systems() {
        let bench = |set: &Set| {
            Bench::new(set).backend(Backend::System).capabilities(|it| {
                let host = it.hosts.get_mut(&Backend::System).unwrap();
                host.facts.machines = vec![machine::probe::MachineType::new("microvm")];
            })
        };
        let run = bench(&set).run(case!(|t| {
            let image = t.image("disk").size(MIB).fill(7).create().await?;
            let disk = || Disk::of(&image);
            let null = |n| Node::new("null-co").node_name(&format!("n{n}"));
            let many = |count| (0..count).fold(t.vm(), |vm, n| vm.disk(null(n)));
            for (vm, light) in [
                (t.vm().disk(disk()), true),
                (t.vm().disk(disk().scsi()), true),
                (t.vm().disk(disk()).blockdev(null(0)), true),
                (many(8), true),
                (many(9), false),
                (t.vm().disk(disk().ide()), false),
                (t.vm().iothread("io").disk(disk().iothread("io")), false),
                (t.vm().disk(disk()).hotplug(), false),
                (t.vm().disk(disk()).device("virtio-rng"), false),
                (t.vm().disk(disk()).drive(Drive::empty()), false),
                (t.vm().disk(disk()).args(["-device", "virtio-rng"]), false),
                (t.vm().disk(disk()).board("pc"), false),
            ] {
                let vm = vm.launch().await?;
                assert_eq!(command_line(&vm).contains("\0microvm,"), light);
                vm.shutdown().await?;
            }
            for kind in [disk(), disk().scsi()] {
                let vm = t.vm().disk(kind).launch().await?;
                vm.disk("disk").assert_pattern(7, 0..MIB).await?;
                vm.disk("disk").assert_node(&image).await?;
                vm.cmd("qom-list", json!({"path": vm.disk("disk").qom_path()?})).await?;
                vm.shutdown().await?;
            }
            let vm = t.vm().disk(disk()).launch().await?;
            let fixed = vm.disk("disk").unplug().await;
            check!(fixed.is_err_and(|error| error.to_string().contains("`.hotplug()`")));
            vm.shutdown().await?;
        }));
        run.assert_passed();
        // The user's choice for all machines stands.
        let emulator = set.tools.get_mut(&ToolKind::System).unwrap();
        emulator.options = ["-machine", "q35"].map(str::to_owned).into();
        let run = bench(&set).run(case!(|t| {
            let image = t.image("disk").size(MIB).create().await?;
            for vm in [t.vm().disk(&image), t.vm()] {
                let vm = vm.launch().await?;
                assert_eq!(command_line(&vm).matches("\0-machine\0").count(), 1);
                vm.shutdown().await?;
            }
        }));
        run.assert_passed();
    }
}

/// The same builder launches again, with more added.
#[test]
fn a_machine_is_launched_again_from_the_same_builder() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let host = t.host().drive(&disk);
            host.launch().await?.shutdown().await?;
            let node = json!({"driver": "null-co", "node-name": "more"});
            let vm = host.clone().blockdev(node).launch().await?;
            assert!(vm.has_node("more").await?);
            vm.kill().await?;
            host.launch().await?.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn a_machine_that_refuses_to_start_says_why_and_may_be_expected_to() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let host = t
                .host()
                .blockdev(json!({"driver": "file", "filename": "/nowhere", "node-name": "n"}));
            host.expect_launch_error("No such file").await?;
            assert!(host.expect_launch_error("other words").await.is_err());
            host.launch().await?;
        }));
        assert!(run.failure().message.contains("No such file"), "{run:?}");
    }
}

/// Events stay for whoever waits for them; absence is asserted without waiting for time to pass.
#[test]
fn events_are_taken_by_what_they_are() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let node = |name: &str| json!({"driver": "null-co", "node-name": name, "size": MIB});
            let vm = t.host().blockdev(node("a")).blockdev(node("b")).launch().await?;
            let job = vm.mirror("a").to("b").id("m").start().await?;
            job.complete().await?;
            let matcher = qmp::Matcher::event("JOB_STATUS_CHANGE").data(json!({"status": "null"}));
            vm.event(matcher).await?.assert("data/id", "m")?;
            vm.event("BLOCK_JOB_READY").await?.assert("data/device", "m")?;
            vm.assert_no_event("BLOCK_JOB_READY").await?;
            assert!(vm.assert_no_event("BLOCK_JOB_COMPLETED").await.is_err());
            assert!(!vm.take_events("JOB_STATUS_CHANGE").is_empty());
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H33: the migration's events are narrated; its end and the run state are awaited; a failure is
/// reported at once, not waited for.
#[test]
fn a_migration_is_waited_for_with_the_run_state_after_it() {
    for set in systems() {
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.guest = Guest::RunningIdle;
        let run = bench.run(case!(|t| {
            let target = t.vm().name("target").incoming("defer");
            for channel in [Channel::Unix, Channel::Fd, Channel::Exec, Channel::File] {
                let source = t.vm().name("source").launch().await?;
                let version = source.cmd("query-version", ()).await?;
                let old = version["qemu"]["major"].as_u64() < Some(9);
                if channel == Channel::File && old {
                    source.shutdown().await?;
                    continue;
                }
                let target = target.launch().await?;
                t.narrate(true);
                let migrated = t.migrate(&source, &target).over(channel).await?;
                t.narrate(false);
                let arrived = migrated.target.and_then(|info| info.status);
                check!(arrived == Some(MigrationStatus::Completed));
                for (vm, state) in [(&source, "postmigrate"), (&target, "running")] {
                    vm.cmd("query-status", ()).await?.assert("status", state)?;
                }
                source.shutdown().await?;
                target.shutdown().await?;
            }
            let away = t.vm().launch().await?;
            t.migrate(&away, Destination::Nowhere).await?;
            away.shutdown().await?;
            let _ = t.golden();
        }));
        run.assert_passed();
        let log = run.log();
        assert!(
            log.contains(r#""event": "MIGRATION""#) && log.contains(r#""completed""#),
            "{log}"
        );
        assert!(
            log.contains(r#"{"microseconds": "USECS", "seconds": "SECS"}"#),
            "{log}"
        );
    }
}

/// A migration that fails fails the case, unless that is expected, with its reason.
#[test]
fn a_migration_that_fails_is_explained_or_expected() {
    for set in systems() {
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.guest = Guest::RunningIdle;
        let run = bench.run(case!(|t| {
            // The target has another machine than the source.
            let source = t.vm().name("source").device("virtio-rng");
            let target = t.vm().name("target").incoming("defer").board("pc");
            let says = "load of migration failed";
            let (a, b) = (source.launch().await?, target.launch().await?);
            let failure = t.migrate(&a, &b).await.unwrap_err();
            assert!(failure.message().contains(says), "{failure}");
            a.shutdown().await?;
            b.wait_exit_status(1).await?;

            let (a, b) = (source.launch().await?, target.launch().await?);
            t.migrate(&a, &b).expect_failure(says).await?;
            a.shutdown().await?;
            b.wait_exit_status(1).await?;

            let (a, b) = (source.launch().await?, target.launch().await?);
            let other = t.migrate(&a, &b).expect_failure("other words").await;
            assert!(other.unwrap_err().to_string().contains("other words"));
            a.shutdown().await?;
            b.wait_exit_status(1).await?;

            let (a, b) = (source.launch().await?, target.launch().await?);
            let gone = "exec:false";
            let failure = t.migrate(&a, &b).set("uri", gone).expect_failure("no such words").await;
            assert!(failure.is_err());
            a.kill().await?;
            b.kill().await?;

            let a = t.vm().launch().await?;
            let done = t.migrate(&a, Destination::Nowhere).expect_failure("no such words").await;
            assert!(done.unwrap_err().message().contains("it has completed"));
            a.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// H33: the end of a migration is not the end of waiting: the run state is.
#[test]
fn a_migration_is_over_when_the_expected_run_state_is_reached() {
    for set in systems() {
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.guest = Guest::RunningIdle;
        let run = bench.run(case!(|t| {
            let source = t.vm().name("source").launch().await?;
            // Does not go on by itself.
            let target = t.vm().name("target").args(["-S"]).incoming("defer");
            let target = target.launch().await?;
            let migration = t.migrate(&source, &target).start().await?;
            let order = std::cell::RefCell::new(Vec::new());
            let waiting = async {
                migration.finish().await?;
                order.borrow_mut().push("waited");
                CaseResult::Ok(())
            };
            let going_on = async {
                target.wait_run_state("paused").await?;
                for _ in 0..20 {
                    target.cmd("query-version", ()).await?;
                }
                order.borrow_mut().push("continued");
                target.cmd("cont", ()).await?;
                CaseResult::Ok(())
            };
            tokio::try_join!(waiting, going_on)?;
            assert_eq!(*order.borrow(), ["continued", "waited"]);
            source.shutdown().await?;
            target.shutdown().await?;
        }));
        run.assert_passed();
    }
}

/// An end with another status than 0 can be expected, and no other one is then.
#[test]
fn a_machine_ends_by_itself_with_the_expected_status() {
    for set in systems() {
        let bench = Bench::new(&set).backend(Backend::System);
        let run = |status: i32| {
            bench.run(case!(|t| {
                // It gives up when what comes in is no migration.
                let host = t.vm().incoming("defer");
                let wrong = host.clone().tolerate("").launch().await.err().expect("refused");
                assert!(wrong.message().contains("every line"), "{wrong}");
                let host = host.tolerate("Not a migration stream");
                let vm = host.tolerate("load of migration failed").launch().await?;
                let nonsense = json!({"uri": "exec:echo this is no migration"});
                vm.cmd("migrate-incoming", nonsense).await?;
                vm.wait_exit_status(status).await?;
            }))
        };
        run(1).assert_passed();
        let wrong = run(3);
        assert!(
            wrong.failure().message.contains("status 1"),
            "{:?}",
            wrong.failure()
        );
    }
}

/// Only a machine with a clock of its own can be shown that time has passed. (The stepping itself is
/// shown where the channel is implemented.)
#[test]
fn the_clock_of_a_machine_without_one_cannot_be_stepped() {
    for set in systems() {
        let bench = Bench::new(&set).backend(Backend::System);
        let second = std::time::Duration::from_secs(1);
        let run = bench.run(case!(|t| {
            let vm = t.vm().launch().await?;
            let wrong = vm.step_clock(second).await.unwrap_err();
            assert!(wrong.message().contains("Guest::VirtualClock"), "{wrong}");
            vm.shutdown().await?;
        }));
        run.assert_passed();
        // A build with the accelerator has one.
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.guest = Guest::VirtualClock;
        bench = bench.accelerators(&["qtest"]);
        let run = bench.run(case!(|t| {
            let vm = match t.vm().launch().await {
                Ok(vm) => vm,
                Err(error) if error.to_string().contains("qtest") => return t.skip("no qtest"),
                Err(error) => return Err(error),
            };
            vm.step_clock(second).await?;
            vm.shutdown().await?;
        }));
        match run.events.last() {
            Some(CaseEvent::Skipped { .. }) => println!("skipped: this emulator has no qtest"),
            _ => run.assert_passed(),
        }
    }
}

/// H33: a migration that is cancelled ends the wait like one that fails.
#[test]
fn a_migration_that_is_cancelled_is_told_and_not_waited_for() {
    for set in systems() {
        let mut bench = Bench::new(&set).backend(Backend::System);
        bench.spec.guest = Guest::RunningIdle;
        let run = bench.run(case!(|t| {
            // With a board there is memory, whose transfer takes its time.
            let vm = t.vm().board("pc").launch().await?;
            // Less than ten bytes a second are no limit for QEMU: it counts in tenths.
            let slowly = t.migrate(&vm, Destination::Nowhere);
            let slowly = slowly.parameter("max-bandwidth", 1000).start().await?;
            let active = qmp::Matcher::event("MIGRATION").data(json!({"status": "active"}));
            vm.event(active).await?;
            vm.cmd("migrate_cancel", ()).await?;
            slowly.expect_failure("cancelled").await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}

#[test]
fn requests_are_held_at_a_breakpoint_and_resumed() {
    for set in systems() {
        let run = Bench::new(&set).backend(Backend::System).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let drive = Drive::of(&disk).interface("none").with_breakpoints();
            let vm = t.vm().drive(drive).launch().await?;
            let held = vm.disk(&disk).hold("write_aio").await?;
            vm.disk(&disk).io("aio_write 0 512").await?;
            held.wait_hit().await?;
            held.resume().await?;
            vm.disk(&disk).io("aio_flush").await?;

            vm.disk(&disk).hold("write_aio").await?.remove().await?;
            vm.disk(&disk).io("write 0 512").await?;
            let held = vm.disk(&disk).hold("write_aio").await?;
            vm.disk(&disk).io("aio_write 0 512").await?;
            held.wait_hit().await?;
            held.remove().await?;
            vm.disk(&disk).io("aio_flush").await?;
            vm.shutdown().await?;
        }));
        run.assert_passed();
    }
}
