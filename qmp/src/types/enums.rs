//! Enumerations that several commands share.

qapi_enum! {
    /// The state of a job (`qapi/job.json`).
    JobStatus {
        /// Not known; never seen.
        Undefined = "undefined",
        /// Made, not yet running.
        Created = "created",
        /// Working.
        Running = "running",
        /// Paused by a user or by QEMU.
        Paused = "paused",
        /// In sync; waits for `job-complete`.
        Ready = "ready",
        /// Paused while ready.
        Standby = "standby",
        /// Waits for other jobs of its transaction.
        Waiting = "waiting",
        /// Waits for `job-finalize`.
        Pending = "pending",
        /// Cleaning up after a failure or a cancellation.
        Aborting = "aborting",
        /// Ended; waits for `job-dismiss`.
        Concluded = "concluded",
        /// Gone; seen in events only.
        Null = "null",
    }
}

qapi_enum! {
    /// What a job does.
    JobType {
        /// Commits an image into its backing file.
        Commit = "commit",
        /// Copies backing files into an image.
        Stream = "stream",
        /// Copies a node continuously.
        Mirror = "mirror",
        /// Copies a node at a point in time.
        Backup = "backup",
        /// Makes an image.
        Create = "create",
        /// Changes the options of an image.
        Amend = "amend",
        /// Loads an internal snapshot of a machine.
        SnapshotLoad = "snapshot-load",
        /// Saves one.
        SnapshotSave = "snapshot-save",
        /// Deletes one.
        SnapshotDelete = "snapshot-delete",
    }
}

qapi_enum! {
    /// What a mirror or backup copies.
    MirrorSyncMode {
        /// What is allocated in the topmost image.
        Top = "top",
        /// Everything.
        Full = "full",
        /// Only what is written from now on.
        None = "none",
        /// What a bitmap says; it is cleared on success.
        Incremental = "incremental",
        /// What a bitmap says.
        Bitmap = "bitmap",
    }
}

qapi_enum! {
    /// What a backup does to its bitmap.
    BitmapSyncMode {
        /// Updates it if the backup succeeds.
        OnSuccess = "on-success",
        /// Leaves it alone.
        Never = "never",
        /// Updates it even if the backup fails.
        Always = "always",
    }
}

qapi_enum! {
    /// What a job does on an I/O error.
    BlockdevOnError {
        /// Reports it and fails.
        Report = "report",
        /// Goes on.
        Ignore = "ignore",
        /// Pauses if the device is full, else reports.
        Enospc = "enospc",
        /// Pauses the job.
        Stop = "stop",
        /// The same as the guest device.
        Auto = "auto",
    }
}

qapi_enum! {
    /// Where a mirror's new data goes.
    MirrorCopyMode {
        /// Copied later.
        Background = "background",
        /// Written to both sides before a guest's write completes.
        WriteBlocking = "write-blocking",
    }
}

qapi_enum! {
    /// Whether an image is made by the command.
    NewImageMode {
        /// It is there already.
        Existing = "existing",
        /// It is made, with the absolute path of its backing file.
        AbsolutePaths = "absolute-paths",
    }
}

qapi_enum! {
    /// The error state of a device or job.
    BlockDeviceIoStatus {
        /// No error.
        Ok = "ok",
        /// An I/O error.
        Failed = "failed",
        /// No space left.
        Nospace = "nospace",
    }
}

qapi_enum! {
    /// What happens to writes of zeroes.
    BlockdevDetectZeroesOptions {
        /// They are written.
        Off = "off",
        /// They become writes of zeroes without data.
        On = "on",
        /// They become discards.
        Unmap = "unmap",
    }
}

qapi_enum! {
    /// What happens to discards.
    BlockdevDiscardOptions {
        /// Nothing.
        Ignore = "ignore",
        /// They are passed on.
        Unmap = "unmap",
    }
}

qapi_enum! {
    /// Block drivers, as far as a build has them.
    BlockdevDriver {
        /// Injects errors.
        Blkdebug = "blkdebug",
        /// Logs writes.
        Blklogwrites = "blklogwrites",
        /// Records and replays.
        Blkreplay = "blkreplay",
        /// Compares with another image.
        Blkverify = "blkverify",
        Bochs = "bochs",
        Cloop = "cloop",
        /// Writes compressed clusters.
        Compress = "compress",
        /// Keeps a point in time.
        CopyBeforeWrite = "copy-before-write",
        /// Copies on read.
        CopyOnRead = "copy-on-read",
        Dmg = "dmg",
        /// A file of the host.
        File = "file",
        /// Reads a point in time of `copy-before-write`.
        SnapshotAccess = "snapshot-access",
        HostCdrom = "host_cdrom",
        HostDevice = "host_device",
        Luks = "luks",
        Nbd = "nbd",
        NullAio = "null-aio",
        NullCo = "null-co",
        Nvme = "nvme",
        Parallels = "parallels",
        /// Allocates ahead.
        Preallocate = "preallocate",
        Qcow = "qcow",
        Qcow2 = "qcow2",
        Qed = "qed",
        /// Reads from several children.
        Quorum = "quorum",
        Raw = "raw",
        Replication = "replication",
        /// Limits the rate.
        Throttle = "throttle",
        Vdi = "vdi",
        Vhdx = "vhdx",
        Vmdk = "vmdk",
        Vpc = "vpc",
        /// A folder as a FAT file system.
        Vvfat = "vvfat",
    }
}

qapi_enum! {
    /// The state of a machine.
    RunState {
        /// Stopped by a debugger.
        Debug = "debug",
        /// Waits for an incoming migration.
        Inmigrate = "inmigrate",
        /// QEMU cannot go on.
        InternalError = "internal-error",
        /// Stopped by an I/O error.
        IoError = "io-error",
        /// Stopped by `stop`.
        Paused = "paused",
        /// Stopped after a migration.
        Postmigrate = "postmigrate",
        /// Not started yet.
        Prelaunch = "prelaunch",
        /// Stopped to finish a migration.
        FinishMigrate = "finish-migrate",
        /// Restoring a state.
        RestoreVm = "restore-vm",
        /// Running.
        Running = "running",
        /// Saving a state.
        SaveVm = "save-vm",
        /// Shut down, with `-no-shutdown`.
        Shutdown = "shutdown",
        /// Suspended by the guest.
        Suspended = "suspended",
        /// Stopped by the watchdog.
        Watchdog = "watchdog",
        /// Stopped by a panic of the guest.
        GuestPanicked = "guest-panicked",
        /// Stopped for COLO.
        Colo = "colo",
    }
}

qapi_enum! {
    /// Why a machine shut down or was reset.
    ShutdownCause {
        None = "none",
        HostError = "host-error",
        HostQmpQuit = "host-qmp-quit",
        HostQmpSystemReset = "host-qmp-system-reset",
        HostSignal = "host-signal",
        HostUi = "host-ui",
        GuestShutdown = "guest-shutdown",
        GuestReset = "guest-reset",
        GuestPanic = "guest-panic",
        SubsystemReset = "subsystem-reset",
        SnapshotLoad = "snapshot-load",
    }
}

qapi_enum! {
    /// The state of a migration.
    MigrationStatus {
        None = "none",
        Setup = "setup",
        Cancelling = "cancelling",
        Cancelled = "cancelled",
        Active = "active",
        PostcopyActive = "postcopy-active",
        PostcopyPaused = "postcopy-paused",
        PostcopyRecoverSetup = "postcopy-recover-setup" @ "9.1..",
        PostcopyRecover = "postcopy-recover",
        Completed = "completed",
        Failed = "failed",
        Colo = "colo",
        PreSwitchover = "pre-switchover",
        Device = "device",
        WaitUnplug = "wait-unplug",
    }
}

qapi_enum! {
    /// An ability of migration that can be switched on.
    MigrationCapability {
        Xbzrle = "xbzrle",
        RdmaPinAll = "rdma-pin-all",
        AutoConverge = "auto-converge",
        Compress = "compress" @ "..9.0",
        /// `MIGRATION` events.
        Events = "events",
        PostcopyRam = "postcopy-ram",
        ReleaseRam = "release-ram",
        /// Disk contents with the machine.
        Block = "block" @ "..9.0",
        ReturnPath = "return-path",
        PauseBeforeSwitchover = "pause-before-switchover",
        Multifd = "multifd",
        /// Bitmaps with the machine.
        DirtyBitmaps = "dirty-bitmaps",
        LateBlockActivate = "late-block-activate",
        ValidateUuid = "validate-uuid",
        BackgroundSnapshot = "background-snapshot",
        SwitchoverAck = "switchover-ack" @ "8.1..",
        DirtyLimit = "dirty-limit" @ "8.2..",
        MappedRam = "mapped-ram" @ "9.0..",
    }
}

qapi_enum! {
    /// How a node is offered.
    BlockExportType {
        /// By the built-in NBD server.
        Nbd = "nbd",
        VhostUserBlk = "vhost-user-blk",
        Fuse = "fuse",
        VduseBlk = "vduse-blk",
    }
}

qapi_enum! {
    /// How an export is removed.
    BlockExportRemoveMode {
        /// Only if nobody uses it.
        Safe = "safe",
        /// At once.
        Hard = "hard",
    }
}

qapi_enum! {
    /// A kind of socket address.
    SocketAddressType {
        /// Host and port.
        Inet = "inet",
        /// A path.
        Unix = "unix",
        Vsock = "vsock",
        /// A file descriptor by name or number.
        Fd = "fd",
    }
}

qapi_enum! {
    /// Reading or writing.
    IoOperationType {
        Read = "read",
        Write = "write",
    }
}

qapi_enum! {
    /// What followed an I/O error.
    BlockErrorAction {
        /// It was ignored.
        Ignore = "ignore",
        /// The guest or the job was told.
        Report = "report",
        /// The machine or the job was stopped.
        Stop = "stop",
    }
}

qapi_enum! {
    /// An action of a transaction.
    TransactionActionKind {
        Abort = "abort",
        BlockDirtyBitmapAdd = "block-dirty-bitmap-add",
        BlockDirtyBitmapRemove = "block-dirty-bitmap-remove",
        BlockDirtyBitmapClear = "block-dirty-bitmap-clear",
        BlockDirtyBitmapEnable = "block-dirty-bitmap-enable",
        BlockDirtyBitmapDisable = "block-dirty-bitmap-disable",
        BlockDirtyBitmapMerge = "block-dirty-bitmap-merge",
        BlockdevBackup = "blockdev-backup",
        BlockdevSnapshot = "blockdev-snapshot",
        BlockdevSnapshotInternalSync = "blockdev-snapshot-internal-sync",
        BlockdevSnapshotSync = "blockdev-snapshot-sync",
        DriveBackup = "drive-backup",
    }
}

qapi_enum! {
    /// What happens to the other jobs of a transaction when one fails.
    ActionCompletionMode {
        /// Nothing.
        Individual = "individual",
        /// They are cancelled.
        Grouped = "grouped",
    }
}

qapi_enum! {
    /// The access mode of a new medium.
    BlockdevChangeReadOnlyMode {
        /// That of the old one.
        Retain = "retain",
        ReadOnly = "read-only",
        ReadWrite = "read-write",
    }
}

qapi_enum! {
    /// What a node of the block graph is.
    XDbgBlockGraphNodeType {
        BlockBackend = "block-backend",
        BlockJob = "block-job",
        BlockDriver = "block-driver",
    }
}

qapi_enum! {
    /// What a user of a node may do.
    BlockPermission {
        /// Read what was written.
        ConsistentRead = "consistent-read",
        /// Change it.
        Write = "write",
        /// Write what is there already.
        WriteUnchanged = "write-unchanged",
        /// Change its size.
        Resize = "resize",
    }
}

qapi_enum! {
    /// The operation that a quorum child got wrong.
    QuorumOpType {
        Read = "read",
        Write = "write",
        Flush = "flush",
    }
}

qapi_enum! {
    /// What a watchdog does.
    WatchdogAction {
        Reset = "reset",
        Shutdown = "shutdown",
        Poweroff = "poweroff",
        Pause = "pause",
        Debug = "debug",
        None = "none",
        InjectNmi = "inject-nmi",
    }
}

qapi_enum! {
    /// What a guest's reset request does.
    RebootAction {
        Reset = "reset",
        Shutdown = "shutdown",
    }
}

qapi_enum! {
    /// What a guest's shutdown request does.
    ShutdownAction {
        Poweroff = "poweroff",
        Pause = "pause",
    }
}

qapi_enum! {
    /// What a guest's panic does.
    PanicAction {
        Pause = "pause",
        Shutdown = "shutdown",
        ExitFailure = "exit-failure",
        None = "none",
    }
}

qapi_enum! {
    /// What a guest's panic did.
    GuestPanicAction {
        Pause = "pause",
        Poweroff = "poweroff",
        Run = "run",
    }
}
