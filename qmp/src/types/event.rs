//! Events.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::enums::{
    BlockErrorAction, GuestPanicAction, IoOperationType, JobStatus, JobType, MigrationStatus,
    QuorumOpType, ShutdownCause, WatchdogAction,
};
use crate::decode::DecodeError;
use crate::message::Event;

/// The typed data of one event.
pub trait EventData: DeserializeOwned {
    /// The event's name.
    const NAME: &'static str;

    /// Gives an event's data this type; `None` if it is another event.
    ///
    /// # Errors
    /// When the data does not have the known form.
    fn from_event(event: &Event) -> Option<Result<Self, DecodeError>> {
        (event.name == Self::NAME).then(|| decode_data(event))
    }
}

fn decode_data<T: DeserializeOwned>(event: &Event) -> Result<T, DecodeError> {
    serde_path_to_error::deserialize(&event.data).map_err(|error| {
        let path = error.path().to_string();
        DecodeError {
            path,
            message: error.into_inner().to_string(),
        }
        .within("data")
    })
}

qapi_events! {
    /// A job has a new state.
    "JOB_STATUS_CHANGE" [] JobStatusChange {
        /// Its id.
        id: String,
        /// The state.
        status: JobStatus,
    }

    /// A block job has ended, by itself.
    "BLOCK_JOB_COMPLETED" [] BlockJobCompleted {
        /// What it did.
        kind = "type": JobType,
        /// Its id.
        device: String,
        /// How much there was to do.
        len: i64,
        /// How much was done.
        offset: i64,
        /// Its limit in bytes per second.
        speed: i64,
    }
    optional {
        /// Why it failed.
        error: String,
    }

    /// A block job was cancelled.
    "BLOCK_JOB_CANCELLED" [] BlockJobCancelled {
        /// What it did.
        kind = "type": JobType,
        /// Its id.
        device: String,
        /// How much there was to do.
        len: i64,
        /// How much was done.
        offset: i64,
        /// Its limit in bytes per second.
        speed: i64,
    }

    /// A block job can be completed.
    "BLOCK_JOB_READY" [] BlockJobReady {
        /// What it does.
        kind = "type": JobType,
        /// Its id.
        device: String,
        /// How much there is to do.
        len: i64,
        /// How much is done.
        offset: i64,
        /// Its limit in bytes per second.
        speed: i64,
    }

    /// A block job met an I/O error.
    "BLOCK_JOB_ERROR" [] BlockJobError {
        /// Its id.
        device: String,
        /// What it did.
        operation: IoOperationType,
        /// What followed.
        action: BlockErrorAction,
    }

    /// A block job waits to be finalized.
    "BLOCK_JOB_PENDING" [] BlockJobPending {
        /// What it does.
        kind = "type": JobType,
        /// Its id.
        id: String,
    }

    /// An export is gone.
    "BLOCK_EXPORT_DELETED" [] BlockExportDeleted {
        /// Its id.
        id: String,
    }

    /// A device met an I/O error. At most one per second.
    "BLOCK_IO_ERROR" [] BlockIoError {
        /// The backend's name, empty if it has none.
        device: String,
        /// What it did.
        operation: IoOperationType,
        /// What followed.
        action: BlockErrorAction,
        /// The error, for people.
        reason: String,
    }
    optional {
        /// The path of the device.
        qom_path @ "9.2..": String,
        /// The node.
        node_name: String,
        /// Whether there was no space left.
        nospace: bool,
    }

    /// An image is corrupt.
    "BLOCK_IMAGE_CORRUPTED" [] BlockImageCorrupted {
        /// The backend's name, empty if it has none.
        device: String,
        /// What is wrong, for people.
        msg: String,
        /// Whether the image cannot be used any more.
        fatal: bool,
    }
    optional {
        /// The node.
        node_name: String,
        /// Where, in bytes.
        offset: i64,
        /// How many bytes.
        size: i64,
    }

    /// A node was written to above its threshold, which is off from now on.
    "BLOCK_WRITE_THRESHOLD" [] BlockWriteThreshold {
        /// The node.
        node_name: String,
        /// How far above, in bytes.
        amount_exceeded: u64,
        /// The threshold in bytes.
        write_threshold: u64,
    }

    /// A child of a quorum node is wrong. At most one per second and node.
    "QUORUM_REPORT_BAD" [] QuorumReportBad {
        /// What it did.
        kind = "type": QuorumOpType,
        /// The child's node.
        node_name: String,
        /// The first sector.
        sector_num: i64,
        /// How many sectors.
        sectors_count: i64,
    }
    optional {
        /// The error, if it was not wrong data.
        error: String,
    }

    /// A quorum node could not decide. At most one per second.
    "QUORUM_FAILURE" [] QuorumFailure {
        /// The node or device.
        reference: String,
        /// The first sector.
        sector_num: i64,
        /// How many sectors.
        sectors_count: i64,
    }

    /// A tray was opened or closed.
    "DEVICE_TRAY_MOVED" [emulator] DeviceTrayMoved {
        /// The backend's name.
        device: String,
        /// The device's id.
        id: String,
        /// Whether it is open.
        tray_open: bool,
    }

    /// A device is gone. A virtio device gives two: one for the child without id.
    "DEVICE_DELETED" [emulator] DeviceDeleted {
        /// Its path.
        path: String,
    }
    optional {
        /// Its id.
        device: String,
    }

    /// The guest would not give up a device.
    "DEVICE_UNPLUG_GUEST_ERROR" [emulator] DeviceUnplugGuestError {
        /// Its path.
        path: String,
    }
    optional {
        /// Its id.
        device: String,
    }

    /// The machine was stopped.
    "STOP" [emulator] StopEvent {}

    /// The machine runs again.
    "RESUME" [emulator] ResumeEvent {}

    /// The guest is suspended.
    "SUSPEND" [emulator] SuspendEvent {}

    /// The guest is awake again.
    "WAKEUP" [emulator] WakeupEvent {}

    /// The guest was asked to power down.
    "POWERDOWN" [emulator] PowerdownEvent {}

    /// The machine shut down. QEMU exits, unless `-no-shutdown` was given.
    "SHUTDOWN" [emulator] ShutdownEvent {
        /// Whether the guest did it.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    }

    /// The machine was reset.
    "RESET" [emulator] ResetEvent {
        /// Whether the guest did it.
        guest: bool,
        /// Why.
        reason: ShutdownCause,
    }

    /// The guest panicked.
    "GUEST_PANICKED" [emulator] GuestPanicked {
        /// What followed.
        action: GuestPanicAction,
    }
    optional {
        /// What the guest tells of it.
        info: Value,
    }

    /// The watchdog ran out.
    "WATCHDOG" [emulator] WatchdogEvent {
        /// What followed.
        action: WatchdogAction,
    }

    /// A migration has a new state. Only with the capability `events`.
    "MIGRATION" [emulator] MigrationEvent {
        /// The state.
        status: MigrationStatus,
    }

    /// A migration starts over the memory. Only with the capability `events`.
    "MIGRATION_PASS" [emulator] MigrationPass {
        /// How often it has, from 1 on.
        pass: i64,
    }

    /// The guest set its clock. At most one per second.
    "RTC_CHANGE" [emulator] RtcChange {
        /// How far it is from the host's, in seconds.
        offset: i64,
    }
    optional {
        /// The path of the clock.
        qom_path @ "7.1..": String,
    }
}
