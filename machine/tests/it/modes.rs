//! Keeping the guest from running, on the available emulators.

use crate::tools::{LONG, all, skip};
use imgtools::tools::{Tool, ToolKind};
use machine::accel::{Accel, Mode};
use machine::args::{Blockdev, Device};
use machine::probe::{Capabilities, probe};
use machine::{Builder, Deadlines, LaunchError, Machine, Qemu};
use serde_json::Value;

/// The emulators with what they can do, found out once.
async fn each() -> Vec<(Tool, Capabilities)> {
    static FOUND: tokio::sync::OnceCell<Vec<(Tool, Capabilities)>> =
        tokio::sync::OnceCell::const_new();
    let ask = async || {
        let mut found = Vec::new();
        for tool in all(ToolKind::System) {
            let probed = probe(&tool, Deadlines::default()).await.unwrap();
            found.push((tool, probed.capabilities));
        }
        found
    };
    FOUND.get_or_init(ask).await.clone()
}

async fn run_state(machine: &Machine) -> String {
    let status = machine.qmp().execute("query-status", ()).await.unwrap();
    status["status"].as_str().unwrap().to_owned()
}

/// A disk that the firmware would read if it ran.
fn with_disk(builder: Builder<Qemu>) -> Builder<Qemu> {
    builder
        .blockdev(&Blockdev::new("null-co").node("disk").set("read-zeroes", true))
        .device(&Device::new("virtio-blk").drive("disk").id("vda").set("bootindex", 0))
}

async fn reads(machine: &Machine) -> i64 {
    let stats = machine.qmp().execute("query-blockstats", ()).await.unwrap();
    let reads = |d: &Value| d["stats"]["rd_operations"].as_i64().unwrap();
    stats.as_array().unwrap().iter().map(reads).sum()
}

#[tokio::test]
async fn a_stopped_machine_reads_no_disk() {
    for (tool, can) in each().await {
        let vm = with_disk(Qemu::builder(tool).mode(
            Mode::Stopped,
            &can.usable_accelerators(),
            can.target.as_deref().unwrap_or_default(),
        ))
        .launch()
        .await
        .unwrap();
        let expected = if can.usable_accelerators().contains(&Accel::Qtest) {
            "running"
        } else {
            "prelaunch"
        };
        assert_eq!(run_state(&vm).await, expected);
        assert_eq!(reads(&vm).await, 0);
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_machine_runs_stops_and_resumes_but_reads_no_disk() {
    for (tool, can) in each().await {
        let builder = Qemu::builder(tool).mode(
            Mode::RunningIdle,
            &can.usable_accelerators(),
            can.target.as_deref().unwrap_or_default(),
        );
        // With a disk by the idle ROM, without a board otherwise; under qtest as it is.
        for builder in [with_disk(builder.clone()), builder] {
            let vm = builder.launch().await.unwrap();
            assert_eq!(run_state(&vm).await, "running");
            let (_, event) = vm.qmp().execute("stop", ()).and_event("STOP").await.unwrap();
            assert_eq!(event.name, "STOP");
            assert_eq!(run_state(&vm).await, "paused");
            vm.qmp().execute("cont", ()).and_event("RESUME").await.unwrap();
            assert_eq!(run_state(&vm).await, "running");
            assert_eq!(reads(&vm).await, 0);
            vm.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn the_idle_rom_halts_the_processor() {
    for (tool, can) in each().await {
        if can.usable_accelerators().contains(&Accel::Qtest) {
            continue;
        }
        let vm = with_disk(Qemu::builder(tool).mode(
            Mode::RunningIdle,
            &can.usable_accelerators(),
            can.target.as_deref().unwrap_or_default(),
        ))
        .launch()
        .await
        .unwrap();
        assert!(vm.command_line().to_string().contains("-bios /proc/self/fd/"));
        // The CPU reaches the HLT eventually; each query gives it time.
        let halted = async { while !vm.hmp("info registers").await.unwrap().contains("HLT=1") {} };
        tokio::time::timeout(LONG, halted).await.unwrap();
        let registers = vm.hmp("info registers").await.unwrap();
        assert!(
            registers.contains("EIP=0000fff2"),
            "past the HLT: {registers}"
        );
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_native_machine_runs_its_firmware() {
    for (tool, can) in each().await {
        let builder = with_disk(Qemu::builder(tool).mode(
            Mode::Native,
            &can.usable_accelerators(),
            can.target.as_deref().unwrap_or_default(),
        ))
        .console();
        let vm = builder.launch().await.unwrap();
        assert_eq!(run_state(&vm).await, "running");
        // The firmware reads the boot sector.
        let booting = async { while reads(&vm).await == 0 {} };
        tokio::time::timeout(LONG, booting).await.unwrap();
        vm.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn a_virtual_clock_is_moved_or_its_lack_is_told() {
    for (tool, can) in each().await {
        let builder = Qemu::builder(tool.clone())
            .mode(
                Mode::VirtualClock,
                &can.usable_accelerators(),
                can.target.as_deref().unwrap_or_default(),
            )
            .machine("none")
            .qtest();
        if can.usable_accelerators().contains(&Accel::Qtest) {
            let vm = builder.launch().await.unwrap();
            let qtest = vm.qtest().unwrap();
            // Not by 0: newer versions refuse to step by nothing.
            let before = qtest.clock_step(1).await.unwrap();
            assert_eq!(
                qtest.clock_step(1_000_000).await.unwrap(),
                before + 1_000_000
            );
            vm.shutdown().await.unwrap();
        } else {
            let error = builder.launch().await.unwrap_err();
            assert!(matches!(error, LaunchError::Mode(_)), "{error:?}");
            let path = tool.path.display();
            // Not a failure even where all is required: distributions build without it.
            eprintln!("note: {path} has no qtest accelerator, clock_step was not tried");
        }
    }
}

#[tokio::test]
async fn an_accelerator_that_does_not_work_gives_way_to_the_next() {
    for (tool, can) in each().await {
        let Some(works) = can.usable_accelerators().into_iter().find(|a| *a != Accel::Qtest) else {
            return skip("no accelerator works");
        };
        let builder =
            Qemu::builder(tool).machine("none").accel(Accel::Other("xen".into())).accel(works);
        let vm = builder.launch().await.unwrap();
        vm.shutdown().await.unwrap();
    }
}
