//! The examples, run as they are.

// Each example has the same helper.
#![allow(clippy::duplicate_mod)]

use crate::qemu;

#[path = "../../examples/connect_and_query.rs"]
mod connect_and_query;
#[path = "../../examples/guest_exec.rs"]
mod guest_exec;
#[path = "../../examples/mirror.rs"]
mod mirror;
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

#[tokio::test]
async fn the_descriptor_example_runs_with_every_emulator() {
    for program in qemu::all("qemu-system-x86_64") {
        pass_fd::run(program.path()).await.unwrap();
    }
}

#[tokio::test]
async fn the_example_of_the_guest_agent_runs_against_the_mock() {
    guest_exec::run().await.unwrap();
}
