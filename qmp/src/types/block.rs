//! Block nodes: what there is, and how it is added and removed.

use serde_json::Value;

use super::bitmap::BlockDirtyInfo;
use super::enums::{
    BlockDeviceIoStatus, BlockPermission, BlockdevDetectZeroesOptions, BlockdevDiscardOptions,
    BlockdevDriver, XDbgBlockGraphNodeType,
};
use crate::command::Empty;

qapi_struct! {
    /// How a node uses the host's cache, as asked for.
    BlockdevCacheOptions {}
    optional {
        /// Whether to go around it.
        direct: bool,
        /// Whether to ignore flushes.
        no_flush: bool,
    }
}

qapi_struct! {
    /// How a node uses the host's cache.
    BlockdevCacheInfo {
        /// Whether writes are cached.
        writeback: bool,
        /// Whether the host's cache is not used.
        direct: bool,
        /// Whether flushes are ignored.
        no_flush: bool,
    }
}

qapi_struct! {
    /// An internal snapshot.
    SnapshotInfo {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
        /// The size of the machine's state, in bytes.
        vm_state_size: u64,
        /// When it was made: seconds since 1970.
        date_sec: i64,
        /// When it was made: nanoseconds of the second.
        date_nsec: i64,
        /// The guest's clock: seconds.
        vm_clock_sec: i64,
        /// The guest's clock: nanoseconds of the second.
        vm_clock_nsec: i64,
    }
    optional {
        /// How many instructions were executed.
        icount: i64,
    }
}

qapi_struct! {
    /// An image.
    ImageInfo {
        /// Its file name.
        filename: String,
        /// Its format.
        format: String,
        /// Its size for the guest, in bytes.
        virtual_size: u64,
    }
    optional {
        /// Whether it was not closed properly.
        dirty_flag: bool,
        /// How many bytes it occupies.
        actual_size: u64,
        /// Its cluster size in bytes.
        cluster_size: u64,
        /// Whether it is encrypted.
        encrypted: bool,
        /// Whether all of it is compressed.
        compressed: bool,
        /// The name of its backing file, as it stands in the image.
        backing_filename: String,
        /// The full name of its backing file.
        full_backing_filename: String,
        /// The format of its backing file.
        backing_filename_format: String,
        /// Its internal snapshots.
        snapshots: Vec<SnapshotInfo>,
        /// Its backing image.
        backing_image: Box<ImageInfo>,
        /// What only its format has.
        format_specific: Value,
    }
}

qapi_struct! {
    /// A node, or the medium in a device.
    BlockDeviceInfo {
        /// The file name.
        file: String,
        /// Whether it is read-only.
        ro: bool,
        /// The driver.
        drv: String,
        /// How many backing files are below it.
        backing_file_depth = "backing_file_depth": u64,
        /// Whether it is encrypted.
        encrypted: bool,
        /// What happens to writes of zeroes.
        detect_zeroes = "detect_zeroes": BlockdevDetectZeroesOptions,
        /// The limit of bytes per second, 0 for none.
        bps: u64,
        /// The same for reading.
        bps_rd = "bps_rd": u64,
        /// The same for writing.
        bps_wr = "bps_wr": u64,
        /// The limit of operations per second, 0 for none.
        iops: u64,
        /// The same for reading.
        iops_rd = "iops_rd": u64,
        /// The same for writing.
        iops_wr = "iops_wr": u64,
        /// The image.
        image: ImageInfo,
        /// How it uses the host's cache.
        cache: BlockdevCacheInfo,
        /// The offset above which a write causes `BLOCK_WRITE_THRESHOLD`, 0 for none.
        write_threshold = "write_threshold": u64,
    }
    optional {
        /// Its name.
        node_name: String,
        /// The name of the backing file.
        backing_file = "backing_file": String,
        /// Whether it is active; inactive during migration.
        active @ "10.0..": bool,
        /// Its bitmaps.
        dirty_bitmaps: Vec<BlockDirtyInfo>,
        /// The throttle group.
        group: String,
    }
}

qapi_struct! {
    /// A block device of the machine.
    BlockInfo {
        /// The name of its backend, empty if it has none.
        device: String,
        /// Not used; always "unknown".
        kind = "type": String,
        /// Whether the medium can be changed.
        removable: bool,
        /// Whether the guest has locked the tray.
        locked: bool,
    }
    optional {
        /// The id or QOM path of the device.
        qdev: String,
        /// The medium.
        inserted: BlockDeviceInfo,
        /// Whether the tray is open, if there is one.
        tray_open = "tray_open": bool,
        /// The error state.
        io_status: BlockDeviceIoStatus,
    }
}

qapi_struct! {
    /// Counters of a node or device. Times are in nanoseconds.
    BlockDeviceStats {
        /// Bytes read.
        rd_bytes = "rd_bytes": u64,
        /// Bytes written.
        wr_bytes = "wr_bytes": u64,
        /// Bytes discarded.
        unmap_bytes = "unmap_bytes": u64,
        /// Reads.
        rd_operations = "rd_operations": u64,
        /// Writes.
        wr_operations = "wr_operations": u64,
        /// Flushes.
        flush_operations = "flush_operations": u64,
        /// Discards.
        unmap_operations = "unmap_operations": u64,
        /// The end of the highest write, in bytes.
        wr_highest_offset = "wr_highest_offset": u64,
        /// Reads that failed.
        failed_rd_operations = "failed_rd_operations": u64,
        /// Writes that failed.
        failed_wr_operations = "failed_wr_operations": u64,
        /// Whether invalid operations are counted.
        account_invalid = "account_invalid": bool,
        /// Whether failed operations are counted.
        account_failed = "account_failed": bool,
    }
}

qapi_struct! {
    /// Counters of a node or device, and of those below it.
    BlockStats {
        /// Its own.
        stats: BlockDeviceStats,
    }
    optional {
        /// The name of the backend.
        device: String,
        /// The id or QOM path of the device.
        qdev: String,
        /// The node.
        node_name: String,
        /// Those of the protocol node.
        parent: Box<BlockStats>,
        /// Those of the backing node.
        backing: Box<BlockStats>,
    }
}

qapi_struct! {
    /// A node of the block graph.
    XDbgBlockGraphNode {
        /// Its number in this graph.
        id: u64,
        /// What it is.
        kind = "type": XDbgBlockGraphNodeType,
        /// Its name.
        name: String,
    }
}

qapi_struct! {
    /// An edge of the block graph.
    XDbgBlockGraphEdge {
        /// The user.
        parent: u64,
        /// The used node.
        child: u64,
        /// What it is used as, such as "backing".
        name: String,
        /// What the user does.
        perm: Vec<BlockPermission>,
        /// What the user lets others do.
        shared_perm: Vec<BlockPermission>,
    }
}

qapi_struct! {
    /// The block graph.
    XDbgBlockGraph {
        /// Its nodes.
        nodes: Vec<XDbgBlockGraphNode>,
        /// Its edges.
        edges: Vec<XDbgBlockGraphEdge>,
    }
}

qapi_struct! {
    /// The options of a node that all drivers have; add the driver's own with `set`.
    BlockdevOptions {
        /// The driver.
        driver: BlockdevDriver,
    }
    optional {
        /// The node's name.
        node_name: String,
        /// What happens to discards.
        discard: BlockdevDiscardOptions,
        /// How to use the host's cache.
        cache: BlockdevCacheOptions,
        /// Whether to activate it; not for migration targets.
        active @ "10.0..": bool,
        /// Whether it is read-only.
        read_only: bool,
        /// Whether to fall back to read-only.
        auto_read_only: bool,
        /// Whether to open it although others write to it.
        force_share: bool,
        /// What happens to writes of zeroes.
        detect_zeroes: BlockdevDetectZeroesOptions,
    }
}

qapi_commands! {
    /// Adds a node. Add the options that only its driver has with `set`.
    "blockdev-add" [] BlockdevAdd -> Empty {
        /// The driver.
        driver: BlockdevDriver,
    }
    optional {
        /// The node's name.
        node_name: String,
        /// What happens to discards.
        discard: BlockdevDiscardOptions,
        /// How to use the host's cache.
        cache: BlockdevCacheOptions,
        /// Whether to activate it; not for migration targets.
        active @ "10.0..": bool,
        /// Whether it is read-only.
        read_only: bool,
        /// Whether to fall back to read-only.
        auto_read_only: bool,
        /// Whether to open it although others write to it.
        force_share: bool,
        /// What happens to writes of zeroes.
        detect_zeroes: BlockdevDetectZeroesOptions,
    }

    /// Changes options of nodes. Options that are not given go back to their defaults.
    "blockdev-reopen" [] BlockdevReopen -> Empty {
        /// One entry per node.
        options: Vec<BlockdevOptions>,
    }

    /// Removes a node.
    "blockdev-del" [] BlockdevDel -> Empty {
        /// The node.
        node_name: String,
    }

    /// Activates or inactivates nodes.
    "blockdev-set-active" @ "10.0.." [] BlockdevSetActive -> Empty {
        /// Whether to activate.
        active: bool,
    }
    optional {
        /// The node; all if absent.
        node_name: String,
    }

    /// Adds or removes a child of a node.
    "x-blockdev-change" [] XBlockdevChange -> Empty {
        /// The node.
        parent: String,
    }
    optional {
        /// The child to remove.
        child: String,
        /// The node to add.
        node: String,
    }

    /// Moves a node to an iothread.
    "x-blockdev-set-iothread" [] XBlockdevSetIothread -> Empty {
        /// The node.
        node_name: String,
        /// The iothread; null for the main thread.
        iothread: Value,
    }
    optional {
        /// Whether to do so although the node is in use.
        force: bool,
    }

    /// Lists the devices.
    "query-block" [] QueryBlock -> Vec<BlockInfo> {}

    /// Lists the nodes.
    "query-named-block-nodes" [] QueryNamedBlockNodes -> Vec<BlockDeviceInfo> {}
    optional {
        /// Whether to leave out backing images.
        flat: bool,
    }

    /// Gives counters.
    "query-blockstats" [] QueryBlockstats -> Vec<BlockStats> {}
    optional {
        /// Whether to go by nodes instead of devices.
        query_nodes: bool,
    }

    /// Gives the block graph. For tests.
    "x-debug-query-block-graph" [] XDebugQueryBlockGraph -> XDbgBlockGraph {}

    /// Changes the size of a node.
    "block_resize" [] BlockResize -> Empty {
        /// The new size in bytes.
        size: u64,
    }
    optional {
        /// The device.
        device: String,
        /// The node.
        node_name: String,
    }

    /// Changes the name of the backing file that stands in an image.
    "change-backing-file" [] ChangeBackingFile -> Empty {
        /// The device or root node of the chain.
        device: String,
        /// The image's node.
        image_node_name: String,
        /// The new name.
        backing_file: String,
    }

    /// Causes `BLOCK_WRITE_THRESHOLD` for writes above an offset.
    "block-set-write-threshold" [] BlockSetWriteThreshold -> Empty {
        /// The node.
        node_name: String,
        /// The offset in bytes, 0 for none.
        write_threshold: u64,
    }
}
