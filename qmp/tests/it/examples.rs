//! The examples, run as they are.

// Each example has the same helper.
#![allow(clippy::duplicate_mod)]

use crate::qemu;

#[path = "../../examples/blocking.rs"]
mod blocking;
#[path = "../../examples/connect_and_query.rs"]
mod connect_and_query;
#[path = "../../examples/guest_devices.rs"]
mod guest_devices;
#[path = "../../examples/guest_exec.rs"]
mod guest_exec;
#[path = "../../examples/migrate.rs"]
mod migrate;
#[path = "../../examples/mirror.rs"]
mod mirror;
#[path = "../../examples/mock_monitor.rs"]
mod mock_monitor;
#[path = "../../examples/pass_fd.rs"]
mod pass_fd;
#[path = "../../examples/replay_transcript.rs"]
mod replay_transcript;

#[tokio::test]
async fn the_examples_run_with_every_storage_daemon() {
    for program in qemu::all("qemu-storage-daemon") {
        let program = program.path();
        connect_and_query::run(program).await.unwrap();
        mirror::run(program).await.unwrap();
        pass_fd::run(program).await.unwrap();
        replay_transcript::run(program).await.unwrap();
    }
}

#[test]
fn the_example_without_async_runs_with_every_storage_daemon() {
    for program in qemu::all("qemu-storage-daemon") {
        blocking::run(program.path()).unwrap();
    }
}

#[tokio::test]
async fn the_examples_run_with_every_emulator() {
    for program in qemu::all("qemu-system-x86_64") {
        let program = program.path();
        pass_fd::run(program).await.unwrap();
        migrate::run(program).await.unwrap();
        guest_devices::run(program).await.unwrap();
    }
}

#[tokio::test]
async fn the_examples_of_a_mock_run() {
    guest_exec::run().await.unwrap();
    mock_monitor::run().await.unwrap();
}
