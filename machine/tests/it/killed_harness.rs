//! SIGKILL of the process that launches machines, at any moment, leaves none of them.

use crate::tools::{daemon, emulator, idle_vm, wait_all_gone};
use machine::StorageDaemon;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

/// What the killed process does: launches and ends machines for ever. Its standard input is
/// the pipe that all of them hold.
fn victim() {
    let lifeline = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let lifeline = std::sync::Arc::new(lifeline);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
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
            println!("one");
            if let Some(vm) = &vm {
                let two = vm.launch().await.unwrap();
                println!("two");
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
    // After each line in turn, and then so much later that all parts of a round are met.
    for moment in 0..15 {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env("MACHINE_TEST_VICTIM", "1")
            .stdin(OwnedFd::from(writer))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let marks = ["round", "one", "two"];
        let mark = marks[moment % 3];
        assert!(
            lines.map_while(Result::ok).any(|l| l.ends_with(mark)),
            "no {mark:?} came"
        );
        // A little later, by nothing but work, so that launches are met in the middle.
        let spins = 40_000 * (moment / 3);
        (0..spins).for_each(|i| {
            std::hint::black_box(i);
        });
        victim.kill().unwrap();
        victim.wait().unwrap();
        wait_all_gone(&reader);
    }
}
