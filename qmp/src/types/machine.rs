//! The machine: running, stopping, resetting, powering down.

use super::enums::{PanicAction, RebootAction, RunState, ShutdownAction, WatchdogAction};
use crate::command::Empty;

qapi_struct! {
    /// Whether a machine runs.
    StatusInfo {
        /// Whether it does.
        running: bool,
        /// Its state.
        status: RunState,
    }
}

qapi_struct! {
    /// A type of machine.
    MachineInfo {
        /// Its name.
        name: String,
        /// The most processors.
        cpu_max: i64,
        /// Whether processors can be plugged.
        hotpluggable_cpus: bool,
        /// Whether it is about to be removed.
        deprecated: bool,
    }
    optional {
        /// Another name of it.
        alias: String,
        /// Whether it is the default.
        is_default: bool,
    }
}

qapi_struct! {
    /// Whether KVM is used.
    KvmInfo {
        /// Whether it is.
        enabled: bool,
        /// Whether it could be.
        present: bool,
    }
}

qapi_struct! {
    /// The machine's name.
    NameInfo {}
    optional {
        /// The name.
        name: String,
    }
}

qapi_struct! {
    /// An iothread.
    IOThreadInfo {
        /// Its id.
        id: String,
        /// Its thread in the host.
        thread_id: i64,
        /// How long it polls at most, in nanoseconds.
        poll_max_ns: i64,
    }
}

qapi_commands! {
    /// Tells whether the machine runs.
    "query-status" [emulator] QueryStatus -> StatusInfo {}

    /// Stops the machine.
    "stop" [emulator] Stop -> Empty {}

    /// Lets the machine run.
    "cont" [emulator] Cont -> Empty {}

    /// Resets the machine.
    "system_reset" [emulator] SystemReset -> Empty {}

    /// Asks the guest to power down.
    "system_powerdown" [emulator] SystemPowerdown -> Empty {}

    /// Wakes the guest up.
    "system_wakeup" [emulator] SystemWakeup -> Empty {}

    /// Says what the guest's requests and failures do.
    "set-action" [emulator] SetAction -> Empty {}
    optional {
        /// What a reset does.
        reboot: RebootAction,
        /// What a shutdown does.
        shutdown: ShutdownAction,
        /// What a panic does.
        panic: PanicAction,
        /// What the watchdog does.
        watchdog: WatchdogAction,
    }

    /// Executes a command of the human monitor and gives what it prints.
    "human-monitor-command" [emulator] HumanMonitorCommand -> String {
        /// The command.
        command_line: String,
    }
    optional {
        /// The processor for commands that need one.
        cpu_index: i64,
    }

    /// Gives the machine's name.
    "query-name" [emulator] QueryName -> NameInfo {}

    /// Lists the types of machines.
    "query-machines" [emulator] QueryMachines -> Vec<MachineInfo> {}

    /// Tells whether KVM is used.
    "query-kvm" [emulator] QueryKvm -> KvmInfo {}

    /// Lists the iothreads.
    "query-iothreads" [emulator] QueryIothreads -> Vec<IOThreadInfo> {}
}
