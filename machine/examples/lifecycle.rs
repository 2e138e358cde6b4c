//! The life of a virtual machine: launch, talk to its guest, plug a disk, migrate it live, press
//! its power button, and inspect one that crashes.
//!
//! ```text
//! cargo run --example lifecycle            # the emulator is found as everywhere: $QEMU_PROG, PATH
//! ```

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use machine::accel::Accel;
use machine::args::{Blockdev, Device, Incoming};
use machine::imgtools::process::Signal;
use machine::imgtools::tools::{Finder, Tool, ToolKind};
use machine::qmp::types::{BlockdevOptions, BlockdevOptionsNull, BlockdevOptionsVariant};
use machine::{Builder, Console, EndError, Mark, Qemu};

const MIB: u64 = 1 << 20;

/// Timeout for each guest operation, on a busy host.
const LIMIT: Duration = Duration::from_secs(60);

/// A self-contained guest: it prints a prompt, answers each typed line, and powers off when its
/// power button is pressed.
const GUEST: &[u8] = &[
    0xfa, // cli
    0x31, 0xc0, // xor ax, ax
    0x8e, 0xd8, // mov ds, ax
    0xba, 0x02, 0x06, // mov dx, PM1_EN
    0xb8, 0x00, 0x01, // mov ax, PWRBTN
    0xef, // out dx, ax
    0xbe, 0x4a, 0x7c, // mov si, prompt
    0xac, // print: lodsb
    0x84, 0xc0, // test al, al
    0x74, 0x06, // jz poll
    0xba, 0xf8, 0x03, // mov dx, COM1
    0xee, // out dx, al
    0xeb, 0xf5, // jmp print
    0xba, 0x00, 0x06, // poll: mov dx, PM1_STS
    0xed, // in ax, dx
    0xf6, 0xc4, 0x01, // test ah, PWRBTN >> 8
    0x75, 0x16, // jnz off
    0xba, 0xfd, 0x03, // mov dx, COM1 + 5
    0xec, // in al, dx
    0xa8, 0x01, // test al, 1
    0x74, 0xef, // jz poll
    0xba, 0xf8, 0x03, // mov dx, COM1
    0xec, // in al, dx
    0xee, // out dx, al
    0x3c, 0x0a, // cmp al, '\n'
    0x75, 0xe6, // jne poll
    0xbe, 0x41, 0x7c, // mov si, answer
    0xeb, 0xd6, // jmp print
    0xba, 0x04, 0x06, // off: mov dx, PM1_CNT
    0xb8, 0x00, 0x20, // mov ax, SLP_EN
    0xef, // out dx, ax
    0xf4, // hlt
];
/// Data after the code: the answer, followed by the prompt.
const ANSWER: &[u8] = b"it is me\nready> \0";

/// Writes a disk that the firmware boots from.
fn write_disk(path: &Path) -> std::io::Result<()> {
    let mut sector = [GUEST, ANSWER].concat();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    std::fs::write(path, sector)?;
    let disk = std::fs::File::options().write(true).open(path)?;
    disk.set_len(16 * MIB)
}

/// The guest with its disk, a disk controller, and a serial console.
fn guest(tool: &Tool, disk: &Path) -> Result<Builder<Qemu>, Box<dyn Error>> {
    // Nodes are a few keys, or what QMP has types for.
    let boot = Blockdev::file(disk)?.node("boot").set("read-only", true);
    let null = BlockdevOptionsNull::new().size(64 << 20);
    let spare = BlockdevOptions::new(BlockdevOptionsVariant::NullCo(Box::new(null)));
    Ok(Qemu::builder(tool.clone())
        .machine("q35")
        .accel(Accel::Kvm)
        .accel(Accel::Tcg)
        .memory(64 * MIB)
        .blockdev(&boot)
        .blockdev(&Blockdev::from(&spare.node_name("spare")))
        .device(&Device::new("virtio-blk-pci").drive("boot"))
        .device(&Device::new("virtio-scsi-pci").id("scsi"))
        .console())
}

/// Types a line, and returns the guest's answer.
async fn ask(console: &Console, line: &str) -> Result<String, machine::ConsoleError> {
    let mark = console.mark();
    console.send(format!("{line}\n").as_bytes(), LIMIT).await?;
    // The echo of the input comes first, then the answer.
    let (_, echoed) = console.wait_after(mark, line, LIMIT).await?;
    let (answer, _) = console.wait_after(echoed, "ready> ", LIMIT).await?;
    Ok(answer)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let tool = Finder::new().find(ToolKind::System)?;
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk.img");
    write_disk(&disk)?;

    // Launched means that the monitor answers. The error of a failed launch has all of QEMU's
    // output.
    let vm = guest(&tool, &disk)?.name("source").launch().await?;
    println!("{} runs QEMU {}", vm.name(), vm.qmp().greeting().version);

    // The guest boots; talk to it.
    let console = vm.console().ok_or("it was built with a console")?;
    console.wait_after(Mark::START, "ready> ", LIMIT).await?;
    println!("it says {:?}", ask(console, "who is it?").await?.trim());

    // Hot-plug; unplugging waits until the guest has released the device.
    let disk0 = Device::new("scsi-hd").id("disk0").drive("spare");
    vm.plug(disk0).await?;
    vm.unplug("disk0", LIMIT).await?;

    // Live migration to another process on this host, where the guest continues.
    let target = guest(&tool, &disk)?.incoming(&Incoming::Defer);
    let target = target.name("target").launch().await?;
    let migration = vm.migrate_to(&target).await?;
    println!("under way: {}", migration.progress().await?.status);
    let end = migration.wait().await?;
    println!("{}: {} bytes sent", end.status, end.transferred);
    vm.shutdown().await?;
    let console = target.console().ok_or("it was built with a console")?;
    println!("over there {:?}", ask(console, "still you?").await?.trim());

    // The power button: this guest reacts to it. One that does not is terminated by SIGTERM, which
    // is an error.
    let exit = target.powerdown(LIMIT).await?;
    println!("{} {}", exit.name, exit.status());
    for stage in &exit.stages {
        println!("  {stage}");
    }

    // A crash is an error that shows the signal, the command line and the last output.
    let vm = guest(&tool, &disk)?.name("crashing").launch().await?;
    vm.signal(Signal::SIGABRT);
    match vm.wait_exit().await {
        Err(error @ EndError::Status { .. }) => println!("{error}"),
        Err(error) => return Err(error.into()),
        Ok(exit) => return Err(format!("it {} well", exit.status()).into()),
    }
    Ok(())
}
