//! What a VMM does: connects, adds nodes, mirrors one to another with live progress, handles a job
//! that fails and a command that is refused, and quits. Everything is typed.
//!
//! `cargo run --example mirror [qemu-storage-daemon]`

mod support;

use std::error::Error;
use std::process::Stdio;
use std::time::Duration;

use qmp::types::{
    BlkdebugEvent, BlkdebugInjectErrorOptions, BlockdevAdd, BlockdevDel, BlockdevMirror,
    BlockdevOptions, BlockdevOptionsBlkdebug, BlockdevOptionsFile, BlockdevOptionsRaw, JobStatus,
    MirrorSyncMode,
};
use qmp::{Client, JobOutcome, Options};

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-storage-daemon".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (_qemu, socket) = support::start(program, &[], Stdio::null())?;
    let client = Client::from_fd(socket, Options::default()).await?;
    println!("QEMU {}", client.greeting().version);

    let file = |name| {
        let path = folder.path().join(name);
        std::fs::write(&path, vec![1; 8 << 20])?;
        let file = BlockdevOptionsFile::new(path.display().to_string());
        Ok::<_, std::io::Error>(BlockdevOptions::new(file))
    };
    for name in ["disk", "copy"] {
        let node = BlockdevOptions::new(BlockdevOptionsRaw::new(file(name)?)).node_name(name);
        client.call(BlockdevAdd(node)).await?;
    }

    // Followed from before it starts, so that nothing is missed.
    let mut job = client.job("copying");
    let mirror = BlockdevMirror::new("disk", "copy", MirrorSyncMode::Full).job_id("copying");
    client.call(mirror).await?;
    let mut progress = job.progress(Duration::from_millis(100));
    while let Some(info) = progress.next().await? {
        println!(
            "{}: {} of {}",
            info.status, info.current_progress, info.total_progress
        );
        if info.status == JobStatus::Ready {
            break;
        }
    }
    drop(progress);
    job.complete().await?;
    match job.wait_end().await? {
        JobOutcome::Completed => println!("the guest's disk is the copy now"),
        outcome => return Err(format!("the mirror did not complete: {outcome}").into()),
    }

    // A job that fails keeps QEMU's reason. This target fails every write with ENOSPC (28).
    let full = BlkdebugInjectErrorOptions::new(BlkdebugEvent::None).errno(28);
    let full = BlockdevOptionsBlkdebug::new(file("full")?).inject_error(vec![full]);
    let node = BlockdevOptions::new(full).node_name("full");
    client.call(BlockdevAdd(node)).await?;
    let mut job = client.job("failing");
    let mirror = BlockdevMirror::new("copy", "full", MirrorSyncMode::Full).job_id("failing");
    client.call(mirror).await?;
    match job.wait_end().await? {
        JobOutcome::Failed(reason) => println!("the second mirror failed: {reason}"),
        outcome => return Err(format!("the second mirror did not fail: {outcome}").into()),
    }

    // A refused command is an error with QEMU's description; the session stays open.
    let mirror = BlockdevMirror::new("copy", "nowhere", MirrorSyncMode::Full).job_id("refused");
    match client.call(mirror).await {
        Err(error) if error.command().is_some() => println!("refused: {}", error.report()),
        Err(error) => return Err(error.into()),
        Ok(_) => return Err("a mirror to a node that does not exist was started".into()),
    }
    client.call(BlockdevDel::new("disk")).await?;
    client.quit().await?;
    Ok(())
}
