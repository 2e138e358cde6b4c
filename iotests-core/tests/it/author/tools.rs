//! Calls of tools.

use iotests_core::prelude::*;

use super::bench::{Bench, case, sets};

/// H08: output and status together, either alone, checked, as JSON.
#[test]
fn a_tool_gives_output_and_status_checked_or_not_and_json() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let output = t.qemu_img(["info", disk.filename()]).await?;
            assert!(output.status.is_success() && output.stdout_text().contains("virtual size"));
            assert_eq!(
                t.qemu_img(["info", "/nowhere"]).any_status().await?.status.code(),
                Some(1)
            );
            t.qemu_img(["info", "/nowhere"]).expect_status(1).await?;
            t.qemu_img(["info", "/nowhere"]).expect_error("No such file").await?;
            let failure = t.qemu_img(["info", "/nowhere"]).await.unwrap_err();
            assert!(failure.message().contains("No such file"), "{failure}");
            let info = t.qemu_img(["info", "--output=json", disk.filename()]).json().await?;
            assert_eq!(info["virtual-size"], MIB);
            let text = t.qemu_img(["info", disk.filename()]).text().await?;
            assert!(text.contains("file format: qcow2"));
            // Each of them refuses what it does not expect.
            let nowhere = || t.qemu_img(["info", "/nowhere"]);
            assert!(nowhere().expect_status(2).await.is_err());
            let wrong = nowhere().expect_error("other words").await.unwrap_err();
            assert!(wrong.message().contains("No such file"), "{wrong}");
            let works = || t.qemu_img(["info", disk.filename()]);
            assert!(works().expect_error("").await.is_err());
            assert!(nowhere().text().await.is_err());
            assert!(nowhere().json().await.is_err());
            let wrong = works().json().await.unwrap_err();
            assert!(wrong.message().contains("failed to read JSON"), "{wrong}");
        }));
        run.assert_passed();
    }
}

/// H05: the format comes from the call when it is there, else from the run; never both.
#[test]
fn qemu_io_takes_the_format_from_the_call_or_from_the_run_and_never_both() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let file = disk.filename();
            // As the format of the run, it is 1 MiB long; as raw, it is not.
            t.qemu_io(["-c", "read 512k 512k", file]).await?;
            t.qemu_io(["-f", "raw", "-c", "read 512k 512k", file]).expect_status(1).await?;
            t.qemu_io(["--format=raw", "-c", "read 512k 512k", file]).expect_status(1).await?;
            t.qemu_io(["-fraw", "-c", "read 512k 512k", file]).expect_status(1).await?;
            let opts = format!("driver=raw,file.filename={file}");
            t.qemu_io(["--image-opts", "-c", "read 512k 512k", &opts]).expect_status(1).await?;
            t.qemu_io(["--image-opts", "-c", "read 512k 512k", &disk.image_opts()]).await?;
        }));
        run.assert_passed();
    }
}

/// H38: qemu-io's output in the log shows neither test files nor times.
#[test]
fn what_qemu_io_prints_is_logged_without_paths_and_times() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            t.log(t.qemu_io(["-c", "write 0 64k", disk.filename()]).await?);
            t.log(t.qemu_io(["-c", "read 0 1", "/nowhere"]).any_status().await?);
            t.log(disk.info_text().await?);
        }));
        let log = run.log();
        assert!(
            log.contains("64 KiB, X ops; XX:XX:XX.X (XXX YYY/sec and XXX ops/sec)"),
            "{log}"
        );
        assert!(
            log.contains("image: TEST_IMG\nfile format: IMGFMT\n"),
            "{log}"
        );
        assert!(
            !log.contains("/tmp/") && !log.contains("disk size"),
            "{log}"
        );
        assert!(run.failure().message.contains("never compares its log"));
    }
}

/// H05: an interactive qemu-io has the image's own format, whatever that of the run is.
#[test]
fn an_interactive_qemu_io_has_the_format_of_its_image() {
    for set in sets() {
        for format in [RAW, QCOW2, LUKS] {
            let run = Bench::new(&set).format(RAW).run(case!(|t| {
                let disk = t.image("disk").format(format).size(MIB).create().await?;
                let mut io = disk.session().await?;
                let printed = io.run("write -P 7 0 64k").await?;
                assert!(printed.contains("wrote 65536/65536 bytes"), "{printed}");
                io.expect_error("read -P 8 0 64k", "Pattern verification failed").await?;
                io.expect_error("read 2M 512", "read failed").await?;
                assert!(io.run("read -P 8 0 64k").await.is_err());
                io.run("aio_write -P 9 64k 64k").await?;
                io.run("aio_flush").await?;
                io.close().await?;
                disk.assert_pattern(9, 64 * KIB..128 * KIB).await?;
            }));
            run.assert_passed();
        }
    }
}

#[test]
fn an_interactive_qemu_io_takes_more_arguments() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            let mut io = disk.session_with(&["--read-only"]).await?;
            io.run("read 0 512").await?;
            io.expect_error("write 0 512", "read-only").await?;
            io.close().await?;
        }));
        run.assert_passed();
    }
}

/// H04: an interactive qemu-io that does not start reports all that it printed, its status and its
/// arguments.
#[test]
fn an_interactive_qemu_io_that_does_not_start_tells_why() {
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").size(MIB).create().await?;
            std::fs::write(disk.file(), "no longer qcow2")?;
            disk.session().await?;
        }));
        let message = &run.failure().message;
        for expected in [
            "not in qcow2 format",
            "status 1",
            "TEST_DIR/disk",
            "qemu-io",
        ] {
            assert!(
                message.contains(expected),
                "no \"{expected}\" in: {message}"
            );
        }
    }
}

/// A tool that is a shell script.
fn script(bench: &mut Bench, kind: ToolKind, text: &str) {
    let path = bench.spec.test_dir.join("tool");
    crate::script::write(&path, &format!("#!/bin/sh\n{text}\n"));
    bench.spec.tools.insert(kind, imgtools::tools::Tool::new(kind, path));
}

/// H09: a tool that prints 10 MiB on both streams does not block.
#[test]
fn a_tool_that_prints_10_mib_on_both_streams_never_blocks() {
    for set in sets() {
        let mut bench = Bench::new(&set);
        script(
            &mut bench,
            ToolKind::Img,
            "head -c 10485760 /dev/zero >&2; head -c 10485760 /dev/zero",
        );
        let run = bench.run(case!(|t| {
            let output = t.qemu_img(["info"]).await?;
            let printed = (output.stdout.len() + output.stderr.len()) as u64 + output.truncated;
            assert_eq!(printed, 20 * MIB);
        }));
        run.assert_passed();
    }
}

/// H09: a parent whose daemon keeps its output open does not hang the caller.
#[test]
fn a_parent_that_leaves_a_daemon_with_its_output_does_not_hang_the_caller() {
    for set in sets() {
        let mut bench = Bench::new(&set);
        script(
            &mut bench,
            ToolKind::Nbd,
            "tail -f /dev/null & echo $! >\"$1\"; echo warned >&2; exit 1",
        );
        let run = bench.run(case!(|t| {
            let pid_file = t.file("pid")?;
            let output = t.qemu_nbd([pid_file.as_str()]).expect_status(1).await?;
            assert_eq!(output.combined_text(), "warned\n");
            let pid: i32 = std::fs::read_to_string(&pid_file)?.trim().parse()?;
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            // Alive until now.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        }));
        run.assert_passed();
    }
}

/// H09: the three outcomes of `qemu-nbd --fork` differ: ok, error, alive with a warning.
#[test]
fn the_outcomes_of_a_forking_qemu_nbd_are_told_apart() {
    use nbd::qemu_nbd::Forked;
    for set in sets() {
        let run = Bench::new(&set).run(case!(|t| {
            let disk = t.image("disk").format(RAW).size(MIB).create().await?;
            let socket = t.socket("fork")?;
            let nbd = || nbd::QemuNbd::new(t.spec().tools[&ToolKind::Nbd].clone());
            let ok = nbd().format("raw").fork(disk.filename(), &socket).await?;
            assert!(matches!(&ok, Forked::Serving(..)), "{ok:?}");
            drop(ok.daemon());
            // A raw image without a format is warned about.
            let warned = nbd().fork(disk.filename(), &socket).await?;
            assert!(matches!(&warned, Forked::ServingDespite(..)), "{warned:?}");
            drop(warned.daemon());
            let failed = nbd().format("raw").fork("/nowhere", &socket).await?;
            assert!(matches!(&failed, Forked::Failed(..)), "{failed:?}");
            assert!(failed.daemon().is_none());
        }));
        run.assert_passed();
    }
}
