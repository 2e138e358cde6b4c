//! SIGKILL of the process that launches machines, at any moment, leaves none of them.

use crate::tools::{daemon, emulator, idle_vm, wait_all_gone};
use machine::StorageDaemon;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

/// What the killed process does: launches and ends machines forever. Its standard input is the pipe
/// that all of them hold.
fn victim() {
    let lifeline = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let lifeline = std::sync::Arc::new(lifeline);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut daemon = StorageDaemon::builder(daemon().unwrap());
        daemon.inherit(std::sync::Arc::clone(&lifeline));
        let vm = emulator().map(|tool| {
            let mut vm = idle_vm(tool);
            vm.inherit(lifeline);
            vm
        });
        loop {
            println!("round");
            let one = daemon.launch().await.unwrap();
            if let Some(vm) = &vm {
                let two = vm.launch().await.unwrap();
                two.shutdown().await.unwrap();
            }
            one.shutdown().await.unwrap();
        }
    });
}

#[test]
fn killing_the_harness_at_any_moment_leaves_no_machine() {
    if std::env::var_os("MACHINE_TEST_VICTIM").is_some() {
        return victim();
    }
    if daemon().is_none() {
        return;
    }
    let name = "killed_harness::killing_the_harness_at_any_moment_leaves_no_machine";
    const MOMENTS: u32 = 15;
    for moment in 0..MOMENTS {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env("MACHINE_TEST_VICTIM", "1")
            .stdin(OwnedFd::from(writer))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept open: without a reader the victim would exit by itself.
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let mut round = || {
            let is_mark = |line: String| line.ends_with("round");
            assert!(
                lines.by_ref().map_while(Result::ok).any(is_mark),
                "it ended by itself"
            );
            Instant::now()
        };
        // The rounds differ little, so a given fraction of each is the same phase: all phases are
        // hit, in whatever order.
        let (_, begun) = (round(), round());
        let length = round() - begun;
        let (from, offset) = (round(), length * moment / MOMENTS);
        while from.elapsed() < offset {
            std::hint::spin_loop();
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        wait_all_gone(&reader);
    }
}
