//! Jobs on block nodes: commit, stream, mirror, backup, create, amend.

use super::enums::{
    BitmapSyncMode, BlockDeviceIoStatus, BlockdevDriver, BlockdevOnError, JobStatus, JobType,
    MirrorCopyMode, MirrorSyncMode, NewImageMode,
};
use crate::command::Empty;

qapi_struct! {
    /// A block job, as the older interface shows it.
    BlockJobInfo {
        /// What it does.
        kind = "type": JobType,
        /// Its id.
        device: String,
        /// How much there is to do; an estimate that may grow.
        len: i64,
        /// How much is done.
        offset: i64,
        /// Whether it is working right now.
        busy: bool,
        /// Whether it is paused, or about to be.
        paused: bool,
        /// Its limit in bytes per second, 0 for none.
        speed: i64,
        /// Its error state.
        io_status: BlockDeviceIoStatus,
        /// Whether it can be completed.
        ready: bool,
        /// Its state.
        status: JobStatus,
        /// Whether it finalizes itself.
        auto_finalize: bool,
        /// Whether it dismisses itself.
        auto_dismiss: bool,
    }
    optional {
        /// Why it failed.
        error: String,
    }
}

qapi_struct! {
    /// How fast a backup works.
    BackupPerf {}
    optional {
        /// Whether to let the host copy.
        use_copy_range: bool,
        /// How many requests at a time.
        max_workers: i64,
        /// The largest request in bytes, 0 for no limit.
        max_chunk: i64,
        /// The smallest unit in bytes.
        min_cluster_size @ "9.2..": u64,
    }
}

qapi_struct! {
    /// How to make an image; add the driver's own options with `set`.
    BlockdevCreateOptions {
        /// The driver.
        driver: BlockdevDriver,
    }
}

qapi_struct! {
    /// What to change of an image; add the driver's own options with `set`.
    BlockdevAmendOptions {
        /// The driver.
        driver: BlockdevDriver,
    }
}

qapi_commands! {
    /// Commits an image into one of its backing files.
    "block-commit" [] BlockCommit -> Empty {
        /// The device or root node of the chain.
        device: String,
    }
    optional {
        /// The job's id; the device's name if absent.
        job_id: String,
        /// The node to commit into; the lowest if absent.
        base_node: String,
        /// The same by file name.
        base: String,
        /// The node to commit; the active one if absent.
        top_node: String,
        /// The same by file name.
        top: String,
        /// What to write as backing file into the image above `top`.
        backing_file: String,
        /// Whether to write a format instead of a protocol driver there.
        backing_mask_protocol @ "9.0..": bool,
        /// The limit in bytes per second.
        speed: i64,
        /// What to do on errors.
        on_error: BlockdevOnError,
        /// The name for the node that the job inserts.
        filter_node_name: String,
        /// Whether it finalizes itself; default true.
        auto_finalize: bool,
        /// Whether it dismisses itself; default true.
        auto_dismiss: bool,
    }

    /// Copies backing files into an image.
    "block-stream" [] BlockStream -> Empty {
        /// The device or node.
        device: String,
    }
    optional {
        /// The job's id; the device's name if absent.
        job_id: String,
        /// The file name of the image that stays the backing file.
        base: String,
        /// The same by node.
        base_node: String,
        /// What to write as backing file into the image.
        backing_file: String,
        /// Whether to write a format instead of a protocol driver there.
        backing_mask_protocol @ "9.0..": bool,
        /// The lowest node to copy from.
        bottom: String,
        /// The limit in bytes per second.
        speed: i64,
        /// What to do on errors.
        on_error: BlockdevOnError,
        /// The name for the node that the job inserts.
        filter_node_name: String,
        /// Whether it finalizes itself; default true.
        auto_finalize: bool,
        /// Whether it dismisses itself; default true.
        auto_dismiss: bool,
    }

    /// Mirrors a node to another.
    "blockdev-mirror" [] BlockdevMirror -> Empty {
        /// The device or node.
        device: String,
        /// The target's node.
        target: String,
        /// What to copy.
        sync: MirrorSyncMode,
    }
    optional {
        /// The job's id; the device's name if absent.
        job_id: String,
        /// The node that the target takes the place of in the end.
        replaces: String,
        /// The limit in bytes per second.
        speed: i64,
        /// How many bytes one bit of the job's bitmap stands for.
        granularity: u64,
        /// The most bytes in flight.
        buf_size: i64,
        /// What to do on errors of the source.
        on_source_error: BlockdevOnError,
        /// What to do on errors of the target.
        on_target_error: BlockdevOnError,
        /// The name for the node that the job inserts.
        filter_node_name: String,
        /// Where new data goes.
        copy_mode: MirrorCopyMode,
        /// Whether it finalizes itself; default true.
        auto_finalize: bool,
        /// Whether it dismisses itself; default true.
        auto_dismiss: bool,
    }

    /// Mirrors a node to a file.
    "drive-mirror" [] DriveMirror -> Empty {
        /// The device or node.
        device: String,
        /// The target's file name.
        target: String,
        /// What to copy.
        sync: MirrorSyncMode,
    }
    optional {
        /// The job's id; the device's name if absent.
        job_id: String,
        /// The target's format; the source's if absent.
        format: String,
        /// The name for the target's node.
        node_name: String,
        /// The node that the target takes the place of in the end.
        replaces: String,
        /// Whether to make the file.
        mode: NewImageMode,
        /// The limit in bytes per second.
        speed: i64,
        /// How many bytes one bit of the job's bitmap stands for.
        granularity: u64,
        /// The most bytes in flight.
        buf_size: i64,
        /// What to do on errors of the source.
        on_source_error: BlockdevOnError,
        /// What to do on errors of the target.
        on_target_error: BlockdevOnError,
        /// Whether to discard instead of writing zeroes.
        unmap: bool,
        /// Where new data goes.
        copy_mode: MirrorCopyMode,
        /// Whether it finalizes itself; default true.
        auto_finalize: bool,
        /// Whether it dismisses itself; default true.
        auto_dismiss: bool,
    }

    /// Copies a node, as it is now, to another.
    "blockdev-backup" [] BlockdevBackup -> Empty {
        /// The device or node.
        device: String,
        /// The target's node.
        target: String,
        /// What to copy.
        sync: MirrorSyncMode,
    }
    optional {
        /// The job's id; the device's name if absent.
        job_id: String,
        /// The limit in bytes per second.
        speed: i64,
        /// The bitmap that says what to copy.
        bitmap: String,
        /// What happens to it.
        bitmap_mode: BitmapSyncMode,
        /// Whether to compress.
        compress: bool,
        /// What to do on errors of the source.
        on_source_error: BlockdevOnError,
        /// What to do on errors of the target.
        on_target_error: BlockdevOnError,
        /// Whether it finalizes itself; default true.
        auto_finalize: bool,
        /// Whether it dismisses itself; default true.
        auto_dismiss: bool,
        /// The name for the node that the job inserts.
        filter_node_name: String,
        /// Whether to discard from the source what was copied.
        discard_source @ "9.1..": bool,
        /// How fast to work.
        x_perf: BackupPerf,
    }

    /// Copies a node, as it is now, to a file.
    "drive-backup" [] DriveBackup -> Empty {
        /// The device or node.
        device: String,
        /// The target's file name.
        target: String,
        /// What to copy.
        sync: MirrorSyncMode,
    }
    optional {
        /// The job's id; the device's name if absent.
        job_id: String,
        /// The target's format; the source's if absent.
        format: String,
        /// Whether to make the file.
        mode: NewImageMode,
        /// The limit in bytes per second.
        speed: i64,
        /// The bitmap that says what to copy.
        bitmap: String,
        /// What happens to it.
        bitmap_mode: BitmapSyncMode,
        /// Whether to compress.
        compress: bool,
        /// What to do on errors of the source.
        on_source_error: BlockdevOnError,
        /// What to do on errors of the target.
        on_target_error: BlockdevOnError,
        /// Whether it finalizes itself; default true.
        auto_finalize: bool,
        /// Whether it dismisses itself; default true.
        auto_dismiss: bool,
        /// The name for the node that the job inserts.
        filter_node_name: String,
        /// Whether to discard from the source what was copied.
        discard_source @ "9.1..": bool,
        /// How fast to work.
        x_perf: BackupPerf,
    }

    /// Makes an image.
    "blockdev-create" [] BlockdevCreate -> Empty {
        /// The job's id.
        job_id: String,
        /// How to make it.
        options: BlockdevCreateOptions,
    }

    /// Changes the options of an image.
    "x-blockdev-amend" [] XBlockdevAmend -> Empty {
        /// The job's id.
        job_id: String,
        /// The image's node.
        node_name: String,
        /// What to change.
        options: BlockdevAmendOptions,
    }
    optional {
        /// Whether to do what may lose data.
        force: bool,
    }

    /// Lists the block jobs.
    "query-block-jobs" [] QueryBlockJobs -> Vec<BlockJobInfo> {}

    /// Limits the rate of a block job.
    "block-job-set-speed" [] BlockJobSetSpeed -> Empty {
        /// The job's id.
        device: String,
        /// The limit in bytes per second, 0 for none.
        speed: i64,
    }

    /// Cancels a block job; one that is ready completes without switching over, unless forced.
    "block-job-cancel" [] BlockJobCancel -> Empty {
        /// The job's id.
        device: String,
    }
    optional {
        /// Whether to cancel at once.
        force: bool,
    }

    /// Pauses a block job.
    "block-job-pause" [] BlockJobPause -> Empty {
        /// The job's id.
        device: String,
    }

    /// Lets a block job go on.
    "block-job-resume" [] BlockJobResume -> Empty {
        /// The job's id.
        device: String,
    }

    /// Completes a block job that is ready.
    "block-job-complete" [] BlockJobComplete -> Empty {
        /// The job's id.
        device: String,
    }

    /// Lets a block job that is pending make its changes.
    "block-job-finalize" [] BlockJobFinalize -> Empty {
        /// The job's id.
        id: String,
    }

    /// Removes a block job that is concluded.
    "block-job-dismiss" [] BlockJobDismiss -> Empty {
        /// The job's id.
        id: String,
    }

    /// Changes a running mirror, the only job that can be changed so far.
    "block-job-change" @ "8.2.." [] BlockJobChange -> Empty {
        /// The job's id.
        id: String,
        /// What it does.
        kind = "type": JobType,
        /// Where new data goes from now on.
        copy_mode: MirrorCopyMode,
    }
}
