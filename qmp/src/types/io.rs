//! Media and rates of guest devices.

use super::enums::BlockdevChangeReadOnlyMode;
use crate::command::Empty;

qapi_commands! {
    /// Opens a tray.
    "blockdev-open-tray" [emulator] BlockdevOpenTray -> Empty {}
    optional {
        /// The backend's name.
        device: String,
        /// The device's id.
        id: String,
        /// Whether to do so although the guest has locked it.
        force: bool,
    }

    /// Closes a tray.
    "blockdev-close-tray" [emulator] BlockdevCloseTray -> Empty {}
    optional {
        /// The backend's name.
        device: String,
        /// The device's id.
        id: String,
    }

    /// Takes the medium out of an open tray.
    "blockdev-remove-medium" [emulator] BlockdevRemoveMedium -> Empty {
        /// The device's id.
        id: String,
    }

    /// Puts a medium into an open tray.
    "blockdev-insert-medium" [emulator] BlockdevInsertMedium -> Empty {
        /// The device's id.
        id: String,
        /// The node.
        node_name: String,
    }

    /// Changes a medium.
    "blockdev-change-medium" [emulator] BlockdevChangeMedium -> Empty {
        /// The new image's file name.
        filename: String,
    }
    optional {
        /// The backend's name.
        device: String,
        /// The device's id.
        id: String,
        /// The new image's format.
        format: String,
        /// Whether to do so although the guest has locked the tray.
        force @ "7.1..": bool,
        /// The access mode.
        read_only_mode: BlockdevChangeReadOnlyMode,
    }

    /// Ejects a medium.
    "eject" [emulator] Eject -> Empty {}
    optional {
        /// The backend's name.
        device: String,
        /// The device's id.
        id: String,
        /// Whether to do so although the guest has locked the tray.
        force: bool,
    }

    /// Limits the rates of a device. 0 means no limit.
    "block_set_io_throttle" [emulator] BlockSetIoThrottle -> Empty {
        /// Bytes per second.
        bps: i64,
        /// Bytes per second for reading.
        bps_rd = "bps_rd": i64,
        /// Bytes per second for writing.
        bps_wr = "bps_wr": i64,
        /// Operations per second.
        iops: i64,
        /// Operations per second for reading.
        iops_rd = "iops_rd": i64,
        /// Operations per second for writing.
        iops_wr = "iops_wr": i64,
    }
    optional {
        /// The backend's name.
        device: String,
        /// The device's id.
        id: String,
        /// Bytes per second in bursts.
        bps_max = "bps_max": i64,
        /// Operations per second in bursts.
        iops_max = "iops_max": i64,
        /// The length of a burst in seconds.
        bps_max_length = "bps_max_length": i64,
        /// The length of a burst in seconds.
        iops_max_length = "iops_max_length": i64,
        /// How many bytes count as one operation.
        iops_size = "iops_size": i64,
        /// The throttle group.
        group: String,
    }
}
