//! How a command and its output are shown, without blocking anything.

use std::time::Duration;

use imgtools::process::{Command, ProcessError, Stream};

use super::{LONG, sh};

#[test]
fn a_secret_argument_is_in_no_message() {
    let secret = "open-sesame-123";
    let command = sh("echo \"got $1\" >&2; exit 7").secret_arg(secret);
    let shown = format!("{command:?} {}", command.command_line());
    let output = command.run_blocking().unwrap();
    assert!(
        output.stderr_text().contains(secret),
        "the process did get it"
    );
    let error = output.clone().check().unwrap_err();
    let texts = [
        shown,
        format!("{error} {error:?}"),
        format!("{output:?}"),
        output.tail(),
    ];
    for text in texts {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(error.to_string().ends_with("\n  | got REDACTED"), "{error}");
}

#[test]
fn echoed_output_is_on_our_stderr_as_it_comes_and_without_secrets() {
    if std::env::var_os("IMGTOOLS_TEST_ECHO").is_some() {
        // The secret comes in two pieces, the second one not before the first one was read.
        let child = sh("printf 'spoken open-se'; read x; printf 'same é open-s'")
            .secret("open-sesame")
            .stdin_piped()
            .echo(true)
            .spawn()
            .unwrap();
        child.until_blocking(|view| (view.end(Stream::Stdout) > 0).then_some(()));
        child.write("\n");
        child.wait_blocking().unwrap();
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "process::shown::echoed_output_is_on_our_stderr_as_it_comes_and_without_secrets",
            "--nocapture",
        ])
        .env("IMGTOOLS_TEST_ECHO", "1")
        .deadline(LONG)
        .run_blocking()
        .unwrap();
    assert_eq!(output.stderr_text(), "spoken REDACTED é open-s");
}

/// The watcher of a process must never wait for our standard error.
#[test]
fn a_deadline_holds_though_nobody_reads_our_stderr() {
    use std::io::Read as _;

    if std::env::var_os("IMGTOOLS_TEST_STUCK_ECHO").is_some() {
        let late = sh("head -c 4000000 /dev/zero; exec sleep 100").echo(true);
        let error = late.deadline(Duration::from_millis(300)).run_blocking();
        assert!(matches!(error, Err(ProcessError::Deadline { .. })));
        println!("in time");
        return;
    }
    // A pipe that stays full.
    let mut stuck = std::process::Command::new("timeout")
        .arg(LONG.as_secs().to_string())
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "process::shown::a_deadline_holds_though_nobody_reads_our_stderr",
            "--nocapture",
        ])
        .env("IMGTOOLS_TEST_STUCK_ECHO", "1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut stdout = stuck.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert!(said.contains("in time"), "{said}");
    drop(stuck.stderr.take());
    stuck.wait().unwrap();
}
