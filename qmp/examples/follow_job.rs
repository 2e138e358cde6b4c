//! Mirrors a node to another and follows the job to its end.
//!
//! `cargo run --example follow_job [qemu-storage-daemon]`

mod support;

use std::error::Error;
use std::process::Stdio;

use qmp::types::EventData;
use qmp::types::{BlockdevAdd, BlockdevDriver, BlockdevMirror, JobStatusChange, MirrorSyncMode};
use qmp::{Client, Options};

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "qemu-storage-daemon".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let (_qemu, socket) = support::start(program, &[], Stdio::null())?;
    let client = Client::from_fd(socket, Options::default()).await?;
    for name in ["source", "target"] {
        let node = BlockdevAdd::new(BlockdevDriver::NullCo).node_name(name);
        client
            .call(node.set("size", 1 << 20).set("read-zeroes", true))
            .await?;
    }

    // Both before the job starts, so that nothing is missed.
    let mut job = client.job("mirror0");
    let mut changes = client.subscribe(JobStatusChange::NAME);

    let mirror = BlockdevMirror::new("source", "target", MirrorSyncMode::Full);
    client
        .call(mirror.job_id("mirror0").auto_dismiss(false))
        .await?;

    job.wait_ready().await?;
    job.complete().await?;
    println!("ended: {}", job.wait_end().await?);
    job.dismiss().await?;

    while let Some(event) = changes.try_recv()? {
        if let Some(change) = JobStatusChange::from_event(&event) {
            println!("{}: {}", event.timestamp.seconds, change?.status);
        }
    }
    client.quit().await?;
    Ok(())
}
