//! What a process prints: all of it, in its order, within its bounds.

use std::os::fd::AsFd as _;
use std::time::Duration;

use imgtools::process::{Command, ProcessError, Status, Stream};

use super::{LONG, exists, sh};

/// H09: pipes are drained while waiting.
#[test]
fn ten_mebibytes_on_both_pipes_are_drained_at_once() {
    let half = "head -c 10485760 /dev/zero | tr '\\0'";
    let output = sh(&format!("{half} o & {half} e >&2; wait")).run_blocking().unwrap();
    assert_eq!(output.status, Status::Exited(0));
    assert_eq!(
        (output.stdout.len(), output.stderr.len()),
        (10 << 20, 10 << 20)
    );
    assert!(output.stdout.iter().all(|byte| *byte == b'o'));
    assert!(output.stderr.iter().all(|byte| *byte == b'e'));
    assert_eq!(output.truncated, 0);
}

#[tokio::test]
async fn draining_waits_for_all_that_was_printed_before() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    // The hook holds back the first piece of output, and with it all that follows. It all fits into
    // the pipe.
    let child = sh("seq 10000; printf . >&9; read line")
        .stdin_piped()
        .fd(writer, 9)
        .on_output(move |_, _| {
            let _ = held.recv();
        })
        .spawn()
        .unwrap();
    let mut answer = [0];
    std::io::Read::read_exact(&mut reader, &mut answer).unwrap();
    let mut drained = Box::pin(child.drained());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(drained.as_mut().poll(&mut context).is_pending());
    drop(release);
    drained.await;
    assert!(child.output().stdout_text().ends_with("\n9999\n10000\n"));
}

#[test]
fn what_is_over_the_cap_is_dropped_from_the_front() {
    let output = sh("seq 100000; echo error >&2").cap(100).run_blocking().unwrap();
    assert_eq!(output.stdout.len(), 100);
    assert!(output.stdout_text().ends_with("99999\n100000\n"));
    assert_eq!(output.stderr_text(), "error\n");
    assert_eq!(output.truncated, 588_895 - 100);
}

#[test]
fn each_piece_of_output_is_shown_to_the_hook() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let hook = move |stream, bytes: &[u8]| sender.send((stream, bytes.to_vec())).unwrap();
    sh("echo one; echo two >&2").on_output(hook).run_blocking().unwrap();
    let mut seen: Vec<_> = receiver.iter().collect();
    seen.sort_by_key(|(stream, _)| *stream == Stream::Stderr);
    let expected = [
        (Stream::Stdout, b"one\n".to_vec()),
        (Stream::Stderr, b"two\n".to_vec()),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_hook_that_panics_ends_the_process_and_leaves_nobody_waiting() {
    let child = sh("echo; exec sleep 1000").on_output(|_, _| panic!("on purpose"));
    let child = child.spawn().unwrap();
    let error = child.wait_blocking().unwrap_err();
    assert!(matches!(error, ProcessError::Watch { .. }), "{error}");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    let source = source.unwrap_or_default();
    assert!(source.ends_with(" has panicked"), "{source}");
    assert!(!exists(child.pid()));
}

#[test]
fn all_that_a_process_has_printed_is_there_with_its_exit_however_much_its_pipes_hold() {
    const SIZE: usize = 500_000;
    // The program is this test again; it has its pipes enlarged, and writes faster than we read.
    if std::env::var_os("IMGTOOLS_TEST_LARGE").is_some() {
        for pipe in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
            rustix::pipe::fcntl_setpipe_size(pipe, 1 << 20).unwrap();
            rustix::io::write(pipe, &[b'#'; SIZE]).unwrap();
        }
        return;
    }
    let name = "process::output::all_that_a_process_has_printed_is_there_with_its_exit_however_much_its_pipes_hold";
    let (release, held) = std::sync::mpsc::channel::<()>();
    let command = Command::new(std::env::current_exe().unwrap());
    let child = command
        .args(["--exact", name, "--nocapture"])
        .env("IMGTOOLS_TEST_LARGE", "1")
        .until_exit()
        .deadline(LONG)
        .on_output(move |_, _| {
            let _ = held.recv();
        })
        .spawn()
        .unwrap();
    // It has exited before the first piece of output is let through.
    let pid = rustix::process::Pid::from_raw(child.pid() as i32).unwrap();
    let options = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
    rustix::process::waitid(rustix::process::WaitId::Pid(pid), options).unwrap();
    drop(release);
    let output = child.wait_blocking().unwrap().check().unwrap();
    for bytes in [&output.stdout, &output.stderr] {
        assert_eq!(bytes.iter().filter(|byte| **byte == b'#').count(), SIZE);
    }
}

#[test]
fn stderr_is_never_seen_later_than_the_stdout_that_followed_it() {
    let script = "while read x; do echo $x >&2; echo $x; done";
    let child = sh(script).stdin_piped().spawn().unwrap();
    let (mut out, mut err) = (0, 0);
    for number in 0..500 {
        let line = format!("{number}\n");
        child.write(&line);
        let seen = child.until_blocking(|view| {
            let stdout = view.from(Stream::Stdout, out);
            stdout
                .ends_with(b"\n")
                .then(|| (stdout.to_vec(), view.from(Stream::Stderr, err).to_vec()))
        });
        assert_eq!(
            seen.unwrap(),
            (line.clone().into_bytes(), line.clone().into_bytes())
        );
        out += line.len() as u64;
        err += line.len() as u64;
    }
}

#[test]
fn of_a_program_in_full_flow_stdout_is_never_ahead_of_the_stderr_before_it() {
    const COUNT: usize = 300_000;
    // The program is this test again; it writes as fast as it can.
    if std::env::var_os("IMGTOOLS_TEST_FLOW").is_some() {
        for _ in 0..COUNT {
            rustix::io::write(std::io::stderr(), b"#").unwrap();
            rustix::io::write(std::io::stdout(), b"#").unwrap();
        }
        return;
    }
    let name =
        "process::output::of_a_program_in_full_flow_stdout_is_never_ahead_of_the_stderr_before_it";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("IMGTOOLS_TEST_FLOW", "1")
        .deadline(LONG)
        .spawn()
        .unwrap();
    let (mut positions, mut counts) = ([0, 0], [0, 0]);
    let ahead = child.until_blocking(|view| {
        for (index, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            let new = view.from(stream, positions[index]);
            counts[index] += new.iter().filter(|byte| **byte == b'#').count();
            positions[index] = view.end(stream);
        }
        (counts[0] > counts[1]).then_some(counts)
    });
    assert_eq!(ahead, None);
    assert_eq!(counts, [COUNT, COUNT]);
}

#[test]
fn the_tail_in_a_message_is_bounded() {
    let error = sh("seq 10000 >&2; exit 1").run_blocking().unwrap().check().unwrap_err();
    let message = error.to_string();
    assert!(message.len() < 8 << 10, "{}", message.len());
    assert!(
        message.contains("bytes before]") && message.ends_with("\n  | 10000"),
        "{message}"
    );
}

#[test]
fn a_process_whose_stdout_is_pulled_waits_for_its_reader_and_loses_nothing() {
    let numbers = || sh("seq 1000000; echo end >&2").pull_stdout();
    let child = numbers().spawn().unwrap();
    let mut pulled = Vec::new();
    loop {
        let piece = child.pull_blocking();
        if piece.is_empty() {
            break;
        }
        // What may wait, and what is read at once.
        assert!(piece.len() <= (256 + 64) << 10, "{}", piece.len());
        pulled.extend(piece);
    }
    let output = child.wait_blocking().unwrap();
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b""[..], &b"end\n"[..])
    );
    let text = String::from_utf8(pulled).unwrap();
    assert!(text.lines().eq((1..=1_000_000).map(|n| n.to_string())));

    // Without a reader it blocks, and its deadline holds.
    let child = numbers().deadline(Duration::from_millis(300)).spawn();
    let error = child.unwrap().wait_blocking().unwrap_err();
    assert!(
        matches!(error, ProcessError::Deadline { exited: false, .. }),
        "{error}"
    );
    assert_eq!(error.output().unwrap().stderr_text(), "");
    // Nor does dropping it wait.
    drop(numbers().spawn().unwrap());
}
