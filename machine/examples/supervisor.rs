//! A supervisor: one task watches a machine and restarts it when it crashes, others use it.
//!
//! ```text
//! cargo run --example supervisor
//! ```

use std::error::Error;
use std::sync::Arc;

use machine::args::Blockdev;
use machine::imgtools::process::Signal;
use machine::imgtools::tools::{Finder, ToolKind};
use machine::{Builder, Machine, StorageDaemon};
use tokio::sync::watch;

/// Keeps a machine running until it exits cleanly. The channel holds the current machine.
async fn supervise(
    builder: Builder<StorageDaemon>,
    current: watch::Sender<Option<Arc<Machine>>>,
) -> Result<(), machine::LaunchError> {
    loop {
        let machine = Arc::new(builder.launch().await?);
        current.send_replace(Some(Arc::clone(&machine)));
        match machine.wait_exit().await {
            Ok(exit) => {
                println!("{} {}", exit.name, exit.status());
                return Ok(());
            }
            Err(error) => println!("restarted after a crash:\n{error}"),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let tool = Finder::new().find(ToolKind::StorageDaemon)?;
    let builder = StorageDaemon::builder(tool).blockdev(&Blockdev::new("null-co").node("disk"));
    let (sender, mut current) = watch::channel(None);
    let supervisor = tokio::spawn(supervise(builder, sender));

    let first = next(&mut current).await?;
    println!("process {} is up", first.pid());
    first.signal(Signal::SIGSEGV);

    let second = next(&mut current).await?;
    println!("process {} took over", second.pid());
    // The supervisor sees this shutdown as well: both share the machine.
    second.shutdown().await?;
    supervisor.await??;
    Ok(())
}

/// The machine that is started next.
async fn next(
    current: &mut watch::Receiver<Option<Arc<Machine>>>,
) -> Result<Arc<Machine>, Box<dyn Error>> {
    current.changed().await?;
    let machine = current.borrow_and_update().clone();
    machine.ok_or_else(|| "there is no machine".into())
}
