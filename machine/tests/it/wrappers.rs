//! Running under other programs.

use crate::tools::{LONG, daemon, skip, wait_all_gone};
use machine::{Deadlines, EndError, StorageDaemon, Wrapper};

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[tokio::test]
async fn any_program_can_stand_in_front() {
    let Some(tool) = daemon() else { return };
    let wrapper = Wrapper::Custom(["env", "WRAPPED=yes"].map(Into::into).to_vec());
    let daemon = StorageDaemon::builder(tool).wrapper(wrapper).launch().await.unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("WRAPPED=yes"));
    assert!(daemon.command_line().to_string().starts_with("env WRAPPED=yes "));
    daemon.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_shell_as_a_parent_is_ended_and_explained_with_its_child() {
    let Some(tool) = daemon() else { return };
    let script = "\"$@\"; exit $?";
    let wrapper = Wrapper::Custom(["sh", "-c", script, "sh"].map(Into::into).to_vec());
    let (lifeline, held) = std::io::pipe().unwrap();
    let mut deadlines = Deadlines::default();
    deadlines.diagnose_command = LONG;
    let builder = StorageDaemon::builder(tool).wrapper(wrapper);
    let mut builder = builder.deadlines(deadlines);
    builder.inherit(std::os::fd::OwnedFd::from(held));
    let daemon = builder.launch().await.unwrap();
    let processes = daemon.diagnose().await.processes;
    assert!(processes.len() >= 2, "{processes:?}");
    assert!(processes[1].command_line.contains("qemu-storage-daemon"));
    daemon.shutdown().await.unwrap();
    let daemon = builder.launch().await.unwrap();
    drop(builder);
    drop(daemon);
    wait_all_gone(&lifeline);
}

#[tokio::test]
async fn strace_follows_the_process() {
    let Some(tool) = daemon() else { return };
    if !on_path("strace") {
        return skip_optional("strace");
    }
    let trace = traced(StorageDaemon::builder(tool), &[]).await;
    assert!(trace.contains("exited with 0"));
}

/// What strace writes of a daemon from its start to its end.
async fn traced(builder: machine::Builder<StorageDaemon>, options: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("trace");
    let wrapper = Wrapper::Strace {
        output: Some(output.clone()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let daemon = builder.wrapper(wrapper).launch().await.unwrap();
    daemon.shutdown().await.unwrap();
    std::fs::read_to_string(output).unwrap()
}

/// In the thread of the monitor, a client that is early can be accepted by two threads at once.
#[tokio::test]
async fn a_monitor_that_listens_takes_its_launcher_before_it_has_a_thread() {
    let Some(tool) = daemon() else { return };
    if !on_path("strace") {
        return skip_optional("strace");
    }
    let dir = tempfile::tempdir().unwrap();
    let monitor = machine::Monitor::Listen(dir.path().join("monitor"));
    let builder = StorageDaemon::builder(tool).monitor(monitor);
    let trace = traced(builder, &["-e", "trace=execve,accept,accept4"]).await;
    let (first, _) = trace.split_once(" execve(").expect(&trace);
    let begins = |line: &&str| line.contains(" accept") && !line.contains(" resumed");
    let accepts: Vec<_> = trace.lines().filter(begins).collect();
    assert!(
        matches!(accepts[..], [line] if line.split(' ').next() == Some(first)),
        "{trace}"
    );
}

#[tokio::test]
async fn reports_that_valgrind_writes_to_a_file_are_found() {
    let Some(tool) = daemon() else { return };
    let dir = tempfile::tempdir().unwrap();
    // In the place of valgrind, which is slow and finds nothing; written by another process, see
    // `bad_input`.
    let script = r#"#!/bin/sh
for word; do
  case $word in
    --log-file=*) log=$(printf '%s' "${word#*=}" | sed "s/%p/$$/") ;;
    --*) ;;
    *) break ;;
  esac
  shift
done
echo '==1== Invalid read of size 8' > "$log"
exec "$@"
"#;
    let write = imgtools::process::Command::new("sh")
        .args(["-c", "cat > valgrind && chmod 755 valgrind"])
        .current_dir(dir.path())
        .stdin_data(script);
    write.run_blocking().unwrap().check().unwrap();
    let mut path = std::ffi::OsString::from(dir.path());
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let wrapper = Wrapper::Valgrind {
        options: Vec::new(),
        log_file: Some("reports.%p".into()),
    };
    let builder = StorageDaemon::builder(tool)
        .findings_are_errors(true)
        .wrapper(wrapper)
        .current_dir(dir.path())
        .env("PATH", path);
    let error = builder.launch().await.unwrap().shutdown().await;
    let error = error.unwrap_err();
    assert!(matches!(error, EndError::Findings(_)), "{error:?}");
    assert!(error.to_string().contains("Invalid read of size 8"));
}

#[tokio::test]
async fn gdbserver_waits_for_a_debugger_and_serves_it() {
    let Some(tool) = daemon() else { return };
    if !on_path("gdbserver") || !on_path("gdb") {
        return skip_optional("gdbserver or gdb");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrapper = Wrapper::gdbserver(free.to_string());
    let builder = StorageDaemon::builder(tool).wrapper(wrapper);
    let launch = tokio::spawn(async move { builder.launch().await });
    // The debugger retries until something listens.
    let target = format!("target remote {free}");
    let attach = async move {
        imgtools::process::Command::new("gdb")
            .args(["-nx", "-batch", "-iex", "set debuginfod enabled off"])
            .args(["-ex", &target, "-ex", "continue"])
            .run()
            .await
    };
    let debugger = tokio::spawn(attach);
    let daemon = launch.await.unwrap().unwrap();
    daemon.shutdown().await.unwrap();
    let output = debugger.await.unwrap().unwrap();
    assert!(
        output.captured.stdout_text().contains("exited normally"),
        "{output:?}"
    );
}

#[tokio::test]
#[ignore = "slow: valgrind needs about 15 s for a start; cargo test -p qemu-machine --test it -- --ignored valgrind"]
async fn valgrind_runs_the_process_and_its_verdict_counts() {
    let Some(tool) = daemon() else { return };
    if !on_path("valgrind") {
        return skip("there is no valgrind");
    }
    let daemon = StorageDaemon::builder(tool).wrapper(Wrapper::valgrind()).launch().await.unwrap();
    match daemon.shutdown().await {
        Ok(exit) => assert!(exit.status().is_success()),
        // A distribution's build may have findings of its own; then they are reported.
        Err(EndError::Findings(exit)) => {
            assert!(exit.log().contains("=="), "{}", exit.log());
            assert_eq!(exit.status().code(), Some(99));
        }
        Err(other) => panic!("{other}"),
    }
}

/// A missing wrapper is not a reason to fail: nothing else depends on it.
fn skip_optional(what: &str) {
    eprintln!("skipped: there is no {what}");
}
