//! What becomes of a case at its end.

use iotests_core::author::golden::{GOLDENS, Golden};
use iotests_core::case::{CASES, Feature, Skip, Support};
use iotests_core::prelude::*;
use iotests_core::wire::{CaseEvent, GoldenMode};

use super::bench::{Bench, case, hosts, sets};

/// H45: a case skips at any point, and the reason is in its last word.
#[test]
fn a_case_skips_at_any_point_with_its_reason() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            t.log("a line that no golden has");
            t.skip("the moon is full")?;
            return Err(Failure::new("not reached"));
        }));
        let reason = Skip::Case {
            reason: "the moon is full".to_owned(),
        };
        assert_eq!(run.events.last(), Some(&CaseEvent::Skipped { reason }));
    }
}

/// H43, H44: a need that only the case can compute ends it at once, also in its set-up.
#[test]
fn a_computed_need_that_is_not_met_ends_the_case_at_once() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            t.require(WritableFormat("qcow2"))?;
            assert!(!t.has(WritableFormat("vvfat"))?);
            t.require(WritableFormat("vvfat"))?;
            return Err(Failure::new("not reached"));
        }));
        let reason = Skip::NotWritable {
            format: "vvfat".to_owned(),
        };
        assert_eq!(run.events.last(), Some(&CaseEvent::Skipped { reason }));
    }
}

#[test]
fn a_failure_tells_its_step_its_line_and_redacted_paths() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            t.step("reading what is not there");
            disk.assert_fill(7).await?;
        }));
        let report = run.failure();
        let line = line!() - 3;
        assert_eq!(report.step.as_deref(), Some("reading what is not there"));
        let place = report.place.as_ref().unwrap();
        assert_eq!(
            (place.file.ends_with("verdicts.rs"), place.line),
            (true, line)
        );
        assert!(
            report.message.starts_with("TEST_DIR/disk does not hold 0x07"),
            "{report:?}"
        );
    }
}

#[test]
fn a_log_without_a_golden_fails_and_blessing_leaves_a_pending_one() {
    for set in sets() {
        let mut bench = Bench::new(&set);
        let run = bench.run(case!(|t| {
            t.log("hello");
            t.golden()?;
        }));
        assert!(
            run.failure().message.contains("no golden area/module.case.golden"),
            "{run:?}"
        );
        assert!(run.failure().diff.as_ref().unwrap().contains("+hello"));
        if std::env::var_os("CI").is_some() {
            continue;
        }
        bench.spec.goldens = GoldenMode::Pending;
        let run = bench.run(case!(|t| {
            t.log("hello");
            t.golden()?;
        }));
        run.assert_passed();
        let pending = bench.spec.goldens_dir.join("area/module.case.golden.pending");
        let text = std::fs::read_to_string(&pending).unwrap();
        let (origin, text) = text.split_once('\n').unwrap();
        let start = "# from area::module::case@qcow2 at iotests-core/tests/it/author/verdicts.rs:";
        assert!(origin.starts_with(start), "{origin}");
        assert_eq!(text, "hello\n");
        // Another instance has another text.
        let run = bench.run(case!(|t| {
            t.log("goodbye");
            t.golden()?;
        }));
        let line = line!() - 2;
        let report = run.failure();
        assert!(report.message.contains("waits for review"), "{report:?}");
        let place = report.place.as_ref().unwrap();
        assert!(place.file.ends_with("verdicts.rs"), "{place}");
        assert_eq!(place.line, line);
        let text = std::fs::read_to_string(pending).unwrap();
        assert!(text.ends_with("\nhello\n"), "{text}");
    }
}

#[test]
fn a_machine_that_is_dropped_alive_fails_a_case_that_else_passes() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let _vm = t.host().launch().await?;
        }));
        assert!(
            run.failure().message.contains("was still running at the end"),
            "{run:?}"
        );
        assert_eq!(run.failure().machines.len(), 1);
    }
}

#[test]
fn the_evidence_on_machines_is_kept_for_the_report_of_a_failure() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let vm = t.host().launch().await?;
            vm.cmd("query-block-jobs", ()).await?;
            Err::<(), _>(Failure::new("something else"))?;
        }));
        assert_eq!(run.failure().message, "something else");
        let machine = &run.failure().machines[0];
        assert!(machine.command_line.contains("qemu-"), "{machine:?}");
        assert!(
            machine.qmp_tail.iter().any(|line| line.contains("query-block-jobs")),
            "{machine:?}"
        );
        assert!(machine.status.starts_with("killed"), "{machine:?}");
    }
}

#[test]
fn a_job_that_is_dropped_unfinished_fails_a_case_that_else_passes() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let node = |name: &str| serde_json::json!({"driver": "null-co", "node-name": name, "size": MIB});
            let vm = t.host().blockdev(node("a")).blockdev(node("b")).launch().await?;
            let job = vm.mirror("a").to("b").speed(1).start().await?;
            drop(job);
            vm.shutdown().await?;
        }));
        assert!(
            run.failure().message.contains("was still running when the case was done"),
            "{run:?}"
        );
    }
}

/// H06, H07: without working LUKS, an encrypted image ends the case as skipped, with the reason that
/// the tool itself gave when it was tried, once a run.
#[test]
fn an_encrypted_image_skips_the_case_where_luks_does_not_work() {
    for set in sets() {
        let bench = Bench::new(&set).capabilities(|capabilities| {
            let why = Support::No("Unsupported cipher algorithm".to_owned());
            capabilities.features.insert(Feature::Luks, why);
        });
        let skip = |encrypted: bool| {
            let run = bench.run(case!(|t| {
                let image = t.image("disk").size(MIB);
                let image = if encrypted {
                    image.encrypted()
                } else {
                    image.format(LUKS)
                };
                image.create().await?;
            }));
            let Some(CaseEvent::Skipped { reason }) = run.events.last() else {
                panic!("expected a skip: {run:?}");
            };
            reason.to_string()
        };
        for encrypted in [true, false] {
            assert_eq!(
                skip(encrypted),
                "LUKS does not work here: Unsupported cipher algorithm"
            );
        }
    }
}

/// Where the case of [`a_case_that_relies_on_permissions_skips_for_root`] runs, for its process as
/// another user.
const AS_USER: &str = "IOTESTS_AS_USER";

/// The last word of a case that relies on permissions, and whether it should be a skip.
fn relies_on_permissions(bench: &Bench) -> (Option<CaseEvent>, bool) {
    let run = bench.run(case!(|t| {
        t.require(NotRoot)?;
    }));
    let root = rustix::process::geteuid().is_root();
    (run.events.last().cloned(), root)
}

/// H46: a case that relies on permissions skips for root, and only for root.
#[test]
fn a_case_that_relies_on_permissions_skips_for_root() {
    let expected = |root: bool| match root {
        true => CaseEvent::Skipped {
            reason: Skip::NotRoot,
        },
        false => CaseEvent::Passed,
    };
    for set in sets() {
        let bench = Bench::new(&set);
        let (found, root) = relies_on_permissions(&bench);
        assert_eq!(found, Some(expected(root)));
        if std::env::var_os(AS_USER).is_some() {
            // This is the other user already.
            assert!(root);
            continue;
        }
        // The other one of the two.
        if root {
            // Anybody may read the spec of a case; a thread can be another user by itself.
            let folder = bench.spec.capabilities_file.parent().unwrap();
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(folder, open).unwrap();
            let (found, root) = std::thread::scope(|scope| {
                let (nobody, bench) = (rustix::process::Uid::from_raw(65534), &bench);
                let case = move || {
                    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
                    relies_on_permissions(bench)
                };
                scope.spawn(case).join().unwrap()
            });
            assert!(!root);
            assert_eq!(found, Some(expected(false)));
        } else {
            // Root of a user namespace, where the kernel lets anybody make one.
            let mut test = std::process::Command::new("unshare");
            test.args(["--user", "--map-root-user"]);
            let allowed = test.arg("true").status();
            if !allowed.is_ok_and(|status| status.success()) {
                println!("skipped: nobody may be root here");
                continue;
            }
            let mut test = std::process::Command::new("unshare");
            test.args(["--user", "--map-root-user"])
                .arg(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "author::verdicts::a_case_that_relies_on_permissions_skips_for_root",
                ])
                .env(AS_USER, "root");
            assert!(test.status().unwrap().success());
        }
    }
}

/// H21: nothing of one case is left for the next one: log, narration, step, numbers, arguments.
#[test]
fn nothing_of_a_case_is_left_for_the_next_one() {
    for (set, backend) in hosts() {
        let run = |first: bool| {
            Bench::new(&set).backend(backend).run(case!(|t| {
                if first {
                    t.log("left behind");
                    t.step("left behind");
                    t.narrate(true);
                }
                let null =
                    |name: &str| json!({"driver": "null-co", "node-name": name, "size": MIB});
                let host = t.host().blockdev(null("a"));
                // Neither does a builder keep what was added to its clone.
                let more = host.clone().blockdev(null("b")).launch().await?;
                more.shutdown().await?;
                let vm = host.launch().await?;
                assert!(!vm.has_node("b").await?);
                let job = vm.backup("a").to("a").expect_error("same").await;
                assert!(job.is_ok(), "{job:?}");
                vm.shutdown().await?;
                if first {
                    t.skip("enough")?;
                }
            }))
        };
        run(true);
        let second = run(false);
        assert_eq!(second.events, [CaseEvent::Passed]);
    }
}

#[linkme::distributed_slice(GOLDENS)]
static TABLE: &[Golden] = &[Golden {
    path: "area/module.script.golden",
    text: "one\n[\"two\"]\n",
}];

/// H15: a case that is one flow with a golden needs nothing but its flow.
#[test]
fn a_script_with_a_golden_needs_nothing_but_its_flow() {
    for set in sets() {
        let mut bench = Bench::new(&set);
        bench.spec.case = "area::module::script".to_owned();
        let run = bench.run(case!(|t| {
            t.log("one");
            t.log(json!(["two"]));
            t.golden()?;
        }));
        run.assert_passed();
        let run = bench.run(case!(|t| {
            t.log("three");
            t.golden()?;
        }));
        let diff = run.failure().diff.as_deref().unwrap();
        assert!(diff.contains("-one") && diff.contains("+three"), "{diff}");
    }
}

/// H32: the cache and aio mode of the run reach images, tools and machines.
#[test]
fn the_cache_and_aio_mode_of_the_run_are_used_everywhere() {
    for (set, backend) in hosts() {
        let mut bench = Bench::new(&set).backend(backend);
        bench.spec.cache = Cache::Unsafe;
        bench.spec.aio = Aio::Threads;
        let run = bench.run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let vm = t.host().drive(&disk).launch().await?;
            vm.node("disk").await?.assert("cache/no-flush", backend == Backend::System)?;
            let node = json!(disk.node());
            node.assert("file/cache", json!({"direct": false, "no-flush": true}))?;
            node.assert("file/aio", "threads")?;
            vm.shutdown().await?;
            let wrong = t.qemu_io(["--nonsense"]).await.unwrap_err();
            assert!(
                wrong.message().contains("--cache unsafe --aio threads -f qcow2"),
                "{wrong}"
            );
            std::fs::write(disk.file(), "no longer qcow2")?;
            let wrong = disk.session().await.err().unwrap();
            let options = ["--cache unsafe", "--aio threads"];
            let found = options.map(|option| wrong.message().contains(option));
            assert_eq!(found, [true; 2], "{wrong}");
        }));
        run.assert_passed();
    }
}

/// H32: the aio mode of the run is that in which a machine works: Linux maps the ring of its native
/// requests into the process.
#[test]
fn a_machine_does_its_requests_in_the_aio_mode_of_the_run() {
    for (set, backend) in hosts() {
        for aio in [Aio::Native, Aio::Threads] {
            let mut bench = Bench::new(&set).backend(backend);
            let io = imgtools::io::QemuIo::new(set.tools[&ToolKind::Io].clone());
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let works = runtime.block_on(imgtools::probe::aio(&io, aio.name()));
            if let Some(why) = works.unwrap().reason() {
                println!("skipped: aio={aio} does not work here: {why}");
                continue;
            }
            (bench.spec.cache, bench.spec.aio) = (Cache::None, aio);
            let run = bench.run(case!(|t| {
                let disk = t.image("disk").size(MIB).fill(1).create().await?;
                let vm = t.host().drive(&disk).launch().await?;
                // Newer versions make it for the first request.
                vm.disk(&disk).assert_pattern(1, 0..MIB).await?;
                let maps = format!("/proc/{}/maps", vm.pid().unwrap());
                let is_native = std::fs::read_to_string(maps)?.contains("/[aio]");
                assert_eq!(is_native, aio == Aio::Native, "{aio}");
                vm.shutdown().await?;
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn a_failed_assertion_is_told_with_step_and_machines_like_any_failure() {
    for (set, backend) in hosts() {
        let run = Bench::new(&set).backend(backend).run(case!(|t| {
            let _vm = t.host().launch().await?;
            t.step("counting");
            assert_eq!(1 + 1, 3, "so much for arithmetic");
        }));
        let report = run.failure();
        assert!(
            report.message.contains("so much for arithmetic"),
            "{report:?}"
        );
        assert_eq!(report.step.as_deref(), Some("counting"));
        assert_eq!(report.machines.len(), 1);
    }
}

/// Exists to be left out for some formats.
#[case(formats_except = [LUKS, VPC], groups = [RW])]
async fn not_for_every_format(_t: &mut Test) -> CaseResult {
    Ok(())
}

/// H10: a case is left out for the formats that it excepts, and for no others.
#[test]
fn a_case_is_left_out_for_the_formats_that_it_excepts() {
    let case = CASES.iter().find(|case| case.function == "not_for_every_format").unwrap();
    let formats = case.entries(&[])[0].meta.formats.to_vec();
    assert!(!formats.contains(&LUKS) && !formats.contains(&VPC));
    assert!(formats.contains(&QCOW2) && formats.contains(&RAW) && formats.contains(&VMDK));
}
