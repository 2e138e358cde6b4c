//! Live migration between two emulators on this host, all typed: the state travels through a socket
//! pair, and events report the progress.
//!
//! `cargo run --features types-migration --example migrate [qemu-system-x86_64]`

mod support;

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use qmp::types::{
    EventData as _, Getfd, Migrate, MigrateIncoming, MigrateSetCapabilities, Migration,
    MigrationCapability, MigrationCapabilityStatus, MigrationStatus, QueryMigrate,
};
use qmp::{Client, Options};

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-system-x86_64".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    let (_from, socket) = support::start(program, &[], Stdio::null())?;
    let source = Client::from_fd(socket, Options::default()).await?;
    let (_to, socket) = support::start(program, &["-incoming", "defer"], Stdio::null())?;
    let target = Client::from_fd(socket, Options::default()).await?;

    // Each gets one end of a socket pair, under a name by which its URI refers to it.
    let (ours, theirs) = UnixStream::pair()?;
    source.call(Getfd::new("state")).fd(ours).await?;
    target.call(Getfd::new("state")).fd(theirs).await?;

    // Without this capability QEMU sends no migration events.
    let events = MigrationCapabilityStatus::new(MigrationCapability::Events, true);
    let events = MigrateSetCapabilities::new([events]);
    source.call(events).await?;
    let mut changes = source.subscribe(Migration::NAME);

    let incoming = MigrateIncoming::new().uri("fd:state");
    target.call(incoming).await?;
    source.call(Migrate::new().uri("fd:state")).await?;
    loop {
        let event = changes.recv().await?;
        let Some(change) = Migration::from_event(&event).transpose()? else {
            continue;
        };
        println!("{}", change.status);
        match change.status {
            MigrationStatus::Completed => break,
            MigrationStatus::Failed | MigrationStatus::Cancelled => {
                let why = source.call(QueryMigrate::new()).await?.error_desc;
                return Err(why.unwrap_or_else(|| "QEMU gave no reason".into()).into());
            }
            _ => {}
        }
    }
    let end = source.call(QueryMigrate::new()).await?;
    if let (Some(sent), Some(time)) = (end.ram, end.total_time) {
        println!("{} bytes in {time} ms", sent.transferred);
    }
    source.quit().await?;
    target.quit().await?;
    Ok(())
}
