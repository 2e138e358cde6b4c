//! The life of a virtual machine: launch, plug a disk, look at its console, migrate it live, power it
//! off, and what is known of one that crashes.
//!
//! ```text
//! cargo run --example lifecycle            # the emulator is found as everywhere: $QEMU_PROG, PATH
//! ```

use std::error::Error;
use std::time::Duration;

use machine::accel::Accel;
use machine::args::{Blockdev, Device, Incoming};
use machine::imgtools::process::Signal;
use machine::imgtools::tools::{Finder, Tool, ToolKind};
use machine::{Builder, EndError, Qemu};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A guest with a disk controller. It has no system to boot, so its firmware is all that runs.
fn guest(tool: &Tool) -> Builder<Qemu> {
    Qemu::builder(tool.clone())
        .machine("q35")
        .accel(Accel::Kvm)
        .accel(Accel::Tcg)
        .memory(64 * MIB)
        .device(&Device::new("virtio-scsi-pci").id("scsi"))
        .blockdev(&Blockdev::new("null-co").node("disk").set("size", 64 * MIB))
        .console()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let tool = Finder::new().find(ToolKind::System)?;

    // Launched means: its monitor answers. The error of a launch that fails has all that QEMU said.
    let vm = guest(&tool).name("source").launch().await?;
    println!("{} runs QEMU {}", vm.name(), vm.qmp().greeting().version);

    // Hot-plug; unplugging waits until the guest has let go.
    let disk = Device::new("scsi-hd").id("disk0").drive("disk");
    vm.plug(&disk).await?;
    vm.unplug("disk0", LIMIT).await?;

    // The serial console: what is typed, and what comes after a position.
    if let Some(console) = vm.console() {
        let mark = console.mark();
        console.send(b"\n", LIMIT).await?;
        println!("the console had printed {} bytes", console.log().len());
        println!("and is now at {mark:?}");
    }

    // Live migration to another process on this host.
    let target = guest(&tool).name("target").incoming(&Incoming::Defer);
    let target = target.launch().await?;
    let migration = vm.migrate_to(&target).await?;
    println!("under way: {}", migration.progress().await?.status);
    let end = migration.wait().await?;
    println!("{}: {} bytes sent", end.status, end.transferred);
    vm.shutdown().await?;

    // Power off. This guest has no system that reacts to the button, so SIGTERM follows, which is
    // an error: the end was not the one that was asked for.
    match target.powerdown(Duration::from_millis(100)).await {
        Err(EndError::Escalated(exit)) => {
            for stage in &exit.stages {
                println!("  {stage}");
            }
        }
        other => println!("it went down by itself: {}", other?.status()),
    }

    // A crash is an error that shows the signal, the command line and the last words.
    let vm = guest(&tool).name("crashing").launch().await?;
    vm.signal(Signal::SIGABRT);
    let Err(error) = vm.wait_exit().await else {
        return Err("a crash was not noticed".into());
    };
    println!("{error}");
    Ok(())
}
