//! The table of exit statuses, cell by cell, on every set of tools.

use imgtools::image::ImageSpec;
use imgtools::img::{CheckVerdict, ComparePhase, Comparison, Difference, ImgError, Repair, Size};
use imgtools::io::{IoCommand, IoError};
use imgtools::process::{ProcessError, Status};
use imgtools::qcow2;

use crate::support::{Folder, Tools, all_tools};

const MIB: u64 = 1 << 20;

/// Runs a cell of the table on every set of tools.
fn on_all(cell: impl Fn(&Tools, &Folder)) {
    for tools in all_tools() {
        println!("QEMU {}", tools.version());
        cell(&tools, &Folder::new());
    }
}

impl Folder {
    fn raw(&self, name: &str, size: u64) -> ImageSpec {
        let path = self.path(name);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        ImageSpec::file(path).format("raw")
    }

    fn qcow2(&self, tools: &Tools, name: &str, size: u64) -> ImageSpec {
        let path = self.path(name);
        tools.img.create(&path).format("qcow2").size(size).run_blocking().unwrap();
        ImageSpec::file(path).format("qcow2")
    }
}

/// A qcow2 image in which this blkdebug event fails once it is opened.
fn failing(path: &str, event: &str) -> ImageSpec {
    ImageSpec::options(format!(
        "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={path},\
         file.inject-error.0.event={event},file.inject-error.0.errno=5"
    ))
}

fn compare_error(error: ImgError) -> (ComparePhase, Option<i32>) {
    match error {
        ImgError::Compare { phase, output } => (phase, output.status.code()),
        other => panic!("{other}"),
    }
}

#[test]
fn compare_0_is_the_same() {
    on_all(|tools, folder| {
        let (a, b) = (folder.raw("a", MIB), folder.qcow2(tools, "b", MIB));
        let same = tools.img.compare(&a, &b).run_blocking().unwrap();
        assert_eq!(
            same,
            Comparison::Same {
                sizes_differ: false
            }
        );
        let longer = folder.raw("c", 2 * MIB);
        let same = tools.img.compare(&a, &longer).run_blocking().unwrap();
        assert_eq!(same, Comparison::Same { sizes_differ: true });
    });
}

#[test]
fn compare_1_is_different_if_it_says_in_what() {
    on_all(|tools, folder| {
        let (a, b) = (folder.raw("a", MIB), folder.raw("b", MIB));
        let write = tools.io.open(&a).command(IoCommand::write(65536, 512).pattern(1));
        write.run_blocking().unwrap();
        let differ = tools.img.compare(&a, &b).run_blocking().unwrap();
        assert_eq!(
            differ,
            Comparison::Differ(Difference::Content { offset: 65536 })
        );
        assert!(!differ.is_same());

        let longer = folder.raw("c", 2 * MIB);
        let differ = tools.img.compare(&b, &longer).strict().run_blocking().unwrap();
        assert_eq!(differ, Comparison::Differ(Difference::Size));

        let zeroes = folder.raw("d", MIB);
        tools
            .io
            .open(&zeroes)
            .command(IoCommand::write(0, 65536).pattern(0))
            .run_blocking()
            .unwrap();
        let differ = tools.img.compare(&b, &zeroes).strict().run_blocking().unwrap();
        assert_eq!(
            differ,
            Comparison::Differ(Difference::BlockStatus { offset: 0 })
        );
    });
}

#[test]
fn compare_1_is_an_error_if_the_usage_was_wrong() {
    on_all(|tools, folder| {
        let (a, b) = (folder.raw("a", MIB), folder.raw("b", MIB));
        let error = tools.img.compare(&a, &b).arg("--bogus").run_blocking().unwrap_err();
        assert_eq!(compare_error(error), (ComparePhase::Usage, Some(1)));
        // With -q the statuses cannot be distinguished either.
        tools.io.open(&a).command(IoCommand::write(0, 512).pattern(1)).run_blocking().unwrap();
        let error = tools.img.compare(&a, &b).arg("-q").run_blocking().unwrap_err();
        assert_eq!(compare_error(error), (ComparePhase::Usage, Some(1)));
    });
}

#[test]
fn compare_2_3_and_4_are_errors_of_opening_block_status_and_reading() {
    on_all(|tools, folder| {
        let good = folder.qcow2(tools, "a", 10 * MIB);
        tools.io.open(&good).command("write 0 1M").run_blocking().unwrap();
        let path = folder.path("a");
        for (bad, phase, code) in [
            (folder.path("nothing").into(), ComparePhase::Open, 2),
            (failing(&path, "l2_load"), ComparePhase::BlockStatus, 3),
            (failing(&path, "read_aio"), ComparePhase::Read, 4),
        ] {
            let error = tools.img.compare(bad, &good).run_blocking().unwrap_err();
            let message = error.to_string();
            assert_eq!(compare_error(error), (phase, Some(code)));
            assert!(
                message.starts_with(&format!("failed to compare images ({phase}): `")),
                "{message}"
            );
        }
    });
}

#[test]
fn check_0_is_clean() {
    on_all(|tools, folder| {
        let image = folder.qcow2(tools, "a", MIB);
        let outcome = tools.img.check(&image).run_blocking().unwrap();
        assert_eq!(outcome.verdict, CheckVerdict::Clean);
        let report = outcome.clean().unwrap();
        assert_eq!(
            (report.corruptions, report.leaks, report.check_errors),
            (0, 0, 0)
        );
        assert_eq!(report.total_clusters, Some(16));
    });
}

#[test]
fn check_1_without_a_report_is_an_error() {
    on_all(|tools, folder| {
        let error = tools.img.check(folder.path("nothing")).run_blocking().unwrap_err();
        assert!(
            matches!(error, ImgError::Process(ProcessError::Status(_))),
            "{error}"
        );
        assert_eq!(error.code(), Some(1));
        let image = folder.qcow2(tools, "a", MIB);
        let error = tools.img.check(image).arg("--bogus").run_blocking().unwrap_err();
        assert_eq!(error.code(), Some(1));
    });
}

#[test]
fn check_1_with_a_report_is_an_incomplete_check() {
    on_all(|tools, folder| {
        let image = folder.qcow2(tools, "a", MIB);
        tools.io.open(image).command("write 0 128k").run_blocking().unwrap();
        // A cluster kept for zeroes that is not aligned would be repaired by a write to its L2
        // entry, which fails. The check continues, but has encountered an error.
        let path = folder.path("a");
        let (position, entry) = qcow2::Image::open(&path).unwrap().l2_entry(0).unwrap().unwrap();
        let unaligned = (entry.entry + 512) | 1;
        qcow2::poke(&path, position, &unaligned.to_be_bytes()).unwrap();
        // It reaches into the next cluster; without the entry of that one all refcounts are right,
        // and nothing else is repaired.
        qcow2::poke(&path, position + 8, &[0; 8]).unwrap();
        let unwritable = ImageSpec::options(format!(
            "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename={path},\
             file.inject-error.0.event=none,file.inject-error.0.iotype=write,\
             file.inject-error.0.sector={},file.inject-error.0.errno=5",
            position / 512
        ));
        let outcome = tools.img.check(unwritable).repair(Repair::All).run_blocking().unwrap();
        assert_eq!(outcome.verdict, CheckVerdict::Incomplete);
        assert_eq!(outcome.output.status, Status::Exited(1));
        assert_eq!(
            outcome.report.as_ref().map(|report| report.check_errors),
            Some(1)
        );
        let error = outcome.clean().unwrap_err();
        assert!(
            error.to_string().contains("the check could not be completed"),
            "{error}"
        );
    });
}

#[test]
fn check_2_is_corrupt_and_3_is_leaks_and_the_repair_makes_it_0() {
    on_all(|tools, folder| {
        let image = folder.qcow2(tools, "a", MIB);
        tools.io.open(&image).command("write 0 128k").run_blocking().unwrap();
        let path = folder.path("a");
        let opened = qcow2::Image::open(&path).unwrap();
        let (l2_offset, l2) = opened.l2_table(0).unwrap().unwrap();
        for entry in &l2[..2] {
            let mapping = entry.mapping(opened.header());
            assert!(
                matches!(mapping, qcow2::Mapping::Data { .. }),
                "{mapping:?}"
            );
        }

        // A removed entry leaks its cluster.
        qcow2::poke(&path, l2_offset, &[0; 8]).unwrap();
        let outcome = tools.img.check(&image).run_blocking().unwrap();
        assert_eq!(outcome.verdict, CheckVerdict::Leaks);
        assert_eq!(outcome.report.as_ref().map(|report| report.leaks), Some(1));
        assert!(outcome.clean().unwrap_err().to_string().contains("it has leaked clusters"));
        let outcome = tools.img.check(&image).repair(Repair::Leaks).run_blocking().unwrap();
        assert_eq!(outcome.verdict, CheckVerdict::Clean);
        assert_eq!(outcome.report.unwrap().leaks_fixed, 1);

        // Two entries for the same cluster.
        qcow2::poke(&path, l2_offset, &l2[1].entry.to_be_bytes()).unwrap();
        let outcome = tools.img.check(&image).run_blocking().unwrap();
        assert_eq!(outcome.verdict, CheckVerdict::Corrupt);
        assert!(outcome.report.unwrap().corruptions > 0);
        assert!(
            outcome.output.stderr_text().contains("ERROR"),
            "details are on stderr"
        );
        let outcome = tools.img.check(&image).repair(Repair::All).run_blocking().unwrap();
        assert!(outcome.report.unwrap().corruptions_fixed > 0);
    });
}

#[test]
fn check_63_is_a_format_without_checks() {
    on_all(|tools, folder| {
        let outcome = tools.img.check(folder.raw("a", MIB)).run_blocking().unwrap();
        assert_eq!(outcome.verdict, CheckVerdict::Unsupported);
        assert!(outcome.report.is_none());
        assert!(matches!(outcome.clean(), Err(ImgError::NotClean(_))));
    });
}

#[test]
fn a_map_that_ends_too_early_is_an_error_with_what_there_was() {
    on_all(|tools, folder| {
        // The second L2 table cannot be read; what the first one has is printed before.
        let spec = folder.qcow2(tools, "a", 1 << 30);
        let image = folder.path("a");
        tools.io.open(&spec).command("write 0 64k").run_blocking().unwrap();
        let whole = tools.img.map(&spec).run_blocking().unwrap();
        assert_eq!(whole.last().unwrap().end(), 1 << 30);
        let entry = qcow2::Image::open(&image).unwrap().header().l1_table_offset + 8;
        qcow2::poke(&image, entry, &((1u64 << 63) | 512).to_be_bytes()).unwrap();
        let error = tools.img.map(&spec).run_blocking().unwrap_err();
        let ImgError::TruncatedMap {
            output,
            found,
            extents,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(output.status, Status::Exited(1));
        assert_eq!((extents, found), (whole[..1].to_vec(), 1));
        // As a stream they come first, and then the error.
        let mut stream = tools.img.map(&spec).stream_blocking().unwrap();
        assert_eq!(stream.next_blocking().unwrap().unwrap(), whole[0]);
        let error = stream.next_blocking().unwrap().unwrap_err();
        assert!(
            matches!(error, ImgError::TruncatedMap { found: 1, .. }),
            "{error}"
        );
        assert!(stream.next_blocking().is_none());

        let error = tools.img.map(failing(&image, "l2_load")).run_blocking().unwrap_err();
        assert!(matches!(error, ImgError::TruncatedMap { .. }), "{error}");
        let error = tools.img.map(folder.path("nothing")).run_blocking().unwrap_err();
        assert!(
            matches!(error, ImgError::Process(ProcessError::Status(_))),
            "{error}"
        );
    });
}

#[test]
fn all_other_subcommands_exit_with_0_or_1() {
    on_all(|tools, folder| {
        let img = &tools.img;
        let (good, other) = (folder.qcow2(tools, "a", MIB), folder.path("b"));
        let bad = folder.path("nothing");
        img.create(&other)
            .format("qcow2")
            .backing(folder.path("a"), "qcow2")
            .run_blocking()
            .unwrap();
        let top = ImageSpec::file(&other).format("qcow2");
        let copy = folder.path("c");
        let codes = |good: Result<Option<i32>, ImgError>, bad: Result<Option<i32>, ImgError>| {
            assert_eq!(good.unwrap_or_else(|error| panic!("{error}")), Some(0));
            let error = bad.unwrap_err();
            assert_eq!(error.code(), Some(1), "{error}");
        };
        macro_rules! cell {
            ($name:ident, $image:expr $(, $rest:expr)*) => {
                codes(
                    img.$name($image.clone() $(, $rest)*).output_blocking().map(|output| output.status.code()),
                    img.$name(&bad $(, $rest)*).run_blocking().map(|_| None),
                )
            };
        }
        cell!(info, good);
        cell!(backing_chain, top);
        cell!(snapshots, good);
        cell!(measure, good);
        cell!(amend, good, "lazy_refcounts=on");
        cell!(bench, good);
        cell!(commit, top);
        cell!(convert, good, &copy);
        cell!(dd, good, &copy);
        cell!(rebase, top, "");
        cell!(resize, good, Size::Grow(MIB));
        cell!(snapshot_create, good, "s");
        cell!(snapshot_apply, good, "s");
        cell!(snapshot_delete, good, "s");
        // The actions of a bitmap, and a folder that is not there.
        let add = |image: ImageSpec| img.bitmap(image, "b").arg("--add");
        codes(
            add(good.clone()).run_blocking().map(|output| output.status.code()),
            add(good.clone()).run_blocking().map(|_| None),
        );
        codes(
            img.create(&copy).size(MIB).run_blocking().map(|output| output.status.code()),
            img.create(format!("{bad}/x")).size(MIB).run_blocking().map(|_| None),
        );
        let usage = img.raw(["bogus"]).run_blocking().unwrap();
        assert_eq!(usage.status, Status::Exited(1));
    });
}

/// H08: output and status together, status alone, output alone, checked, and JSON.
#[test]
fn h08_a_call_gives_output_status_and_typed_json_as_wanted() {
    on_all(|tools, folder| {
        let (good, bad) = (folder.raw("a", MIB), folder.path("nothing"));
        let output = tools.img.info(&good).output_blocking().unwrap();
        assert!(output.status.is_success() && output.stdout_text().contains("virtual-size"));
        assert_eq!(
            tools.img.info(&good).run_blocking().unwrap().virtual_size,
            MIB
        );
        let output = tools.img.info(&bad).output_blocking().unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
        assert!(output.stderr_text().contains("No such file"));
        let error = tools.img.info(&bad).run_blocking().unwrap_err().to_string();
        assert!(
            error.contains("exited with status 1") && error.contains("No such file"),
            "{error}"
        );
    });
}

#[test]
fn an_image_that_is_open_elsewhere_is_refused_with_1_and_by_compare_with_2() {
    on_all(|tools, folder| {
        let image = folder.qcow2(tools, "a", MIB);
        let session = tools.io.open(&image).session_blocking().unwrap();
        let errors = [
            tools.img.info(&image).run_blocking().map(drop),
            tools.img.map(&image).run_blocking().map(drop),
            tools.img.check(&image).run_blocking().map(drop),
        ];
        for error in errors {
            let error = error.unwrap_err();
            assert_eq!(error.code(), Some(1));
            assert!(
                error.to_string().contains("Failed to get shared \"write\" lock"),
                "{error}"
            );
        }
        let error = tools.img.compare(&image, &image).run_blocking().unwrap_err();
        assert_eq!(compare_error(error), (ComparePhase::Open, Some(2)));
        tools.img.info(&image).force_share().run_blocking().unwrap();
        session.quit_blocking().unwrap();
        tools.img.info(&image).run_blocking().unwrap();
    });
}

#[test]
fn qemu_io_exits_with_1_for_a_command_that_fails_at_once_and_for_an_image_it_cannot_open() {
    on_all(|tools, folder| {
        let image = folder.raw("a", MIB);
        for (command, code) in [
            ("read 0 512", 0),
            ("nonsense", 1),
            ("read -P 1 0 512", 1),
            ("read 2M 512", 1),
            ("read x y", 1),
        ] {
            let output = tools.io.open(&image).command(command).output_blocking().unwrap();
            assert_eq!(output.status, Status::Exited(code), "{command}");
        }
        // The first failure counts, whatever follows.
        let mixed = tools.io.open(&image).commands(["read 2M 512", "read 0 512"]);
        assert_eq!(mixed.output_blocking().unwrap().status, Status::Exited(1));
        let error = tools.io.open(folder.path("nothing")).run_blocking().unwrap_err();
        assert!(
            matches!(&error, IoError::Process(ProcessError::Status(_))),
            "{error}"
        );
    });
}

#[test]
fn qemu_io_exits_with_0_for_aio_failures_which_are_errors_nevertheless() {
    on_all(|tools, folder| {
        let image = folder.raw("a", MIB);
        for command in ["aio_read -P 1 0 512", "aio_read 2M 512"] {
            let open = tools.io.open(&image).command(command);
            assert_eq!(
                open.output_blocking().unwrap().status,
                Status::Exited(0),
                "{command}"
            );
            let error = open.run_blocking().unwrap_err();
            assert!(matches!(&error, IoError::Commands { .. }), "{error}");
        }
    });
}

#[test]
fn qemu_io_leaves_out_what_follows_a_quit() {
    on_all(|tools, folder| {
        let open = tools.io.open(folder.raw("a", MIB)).command(IoCommand::quit());
        let output = open.command("read -P 1 0 512").run_blocking().unwrap();
        assert_eq!(output.stdout_text(), "");
    });
}

#[test]
fn a_signal_is_an_error_of_both_tools_whatever_status_was_expected() {
    on_all(|tools, folder| {
        let open = tools.io.open(folder.raw("a", MIB)).command(IoCommand::abort());
        let error = open.output_blocking().unwrap_err();
        let IoError::Process(ProcessError::Signal(output)) = error else {
            panic!("{error}")
        };
        assert_eq!(output.status.signal(), Some(6));

        let mut tool = tools.img.tool().clone();
        tool.wrapper = ["sh", "-c", "kill -SEGV $$"].map(str::to_owned).to_vec();
        let error = imgtools::img::QemuImg::new(tool).raw(["info"]).output_blocking().unwrap_err();
        let ImgError::Process(ProcessError::Signal(output)) = error else {
            panic!("{error}")
        };
        assert_eq!(output.status.signal(), Some(11));
    });
}

#[test]
fn valgrind_s_99_is_an_error_of_both_tools_whatever_status_was_expected() {
    on_all(|tools, folder| {
        let valgrind = folder.path("valgrind");
        std::os::unix::fs::symlink("/bin/sh", &valgrind).unwrap();
        let under = |mut tool: imgtools::tools::Tool| {
            tool.wrapper = vec![
                valgrind.clone(),
                "-c".to_owned(),
                "\"$@\"; exit 99".to_owned(),
                "sh".to_owned(),
            ];
            tool
        };
        let image = folder.raw("a", MIB);
        let img = imgtools::img::QemuImg::new(under(tools.img.tool().clone()));
        let error = img.info(&image).output_blocking().unwrap_err();
        assert!(
            matches!(error, ImgError::Process(ProcessError::Valgrind(_))),
            "{error}"
        );
        let io = imgtools::io::QemuIo::new(under(tools.io.tool().clone()));
        let error = io.open(&image).command("read 0 512").output_blocking().unwrap_err();
        assert!(
            matches!(error, IoError::Process(ProcessError::Valgrind(_))),
            "{error}"
        );
    });
}
