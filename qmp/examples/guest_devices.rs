//! The machine and its devices, all typed: lists devices, plugs one in, starts and resets the
//! guest.
//!
//! `cargo run --features types-system --example guest_devices [qemu-system-x86_64]`

mod support;

use std::error::Error;
use std::process::Stdio;

use qmp::types::{
    Cont, DeviceAdd, EventData as _, ObjectAdd, ObjectOptions, ObjectOptionsVariant, QueryCpusFast,
    QueryPci, QueryStatus, Reset, Resume, RngProperties, RunState, SystemReset,
};
use qmp::{Client, Options};

#[allow(dead_code)]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let program = std::env::args().nth(1).unwrap_or_else(|| "qemu-system-x86_64".into());
    run(&program).await
}

pub(crate) async fn run(program: &str) -> Result<(), Box<dyn Error>> {
    // A PC whose processor is paused.
    let (_qemu, socket) = support::start(program, &["-machine", "pc", "-S"], Stdio::null())?;
    let client = Client::from_fd(socket, Options::default()).await?;
    let status = client.call(QueryStatus::new()).await?;
    println!("the machine is {}", status.status);
    for cpu in client.call(QueryCpusFast::new()).await? {
        println!("CPU {} is {}", cpu.cpu_index, cpu.qom_path);
    }

    // A device's backend comes first; device-specific properties are set by name.
    let rng = ObjectOptionsVariant::RngBuiltin(Box::new(RngProperties::new()));
    client.call(ObjectAdd(ObjectOptions::new("rng", rng))).await?;
    let device = DeviceAdd::new("virtio-rng-pci").id("rng0");
    client.call(device.set("rng", "rng")).await?;
    for bus in client.call(QueryPci::new()).await? {
        for device in bus.devices.iter().filter(|it| it.qdev_id == "rng0") {
            println!("{} is in slot {}", device.qdev_id, device.slot);
        }
    }

    // A command and the event that it causes.
    client.call(Cont::new()).and_event(Resume::NAME).await?;
    let status = client.call(QueryStatus::new()).await?;
    assert_eq!(status.status, RunState::Running);
    let (_, event) = client.call(SystemReset::new()).and_event(Reset::NAME).await?;
    if let Some(reset) = Reset::from_event(&event).transpose()? {
        println!("reset, by the guest: {}", reset.guest);
    }
    client.quit().await?;
    Ok(())
}
