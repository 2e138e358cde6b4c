//! Migration.

use serde_json::Value;

use super::enums::{MigrationCapability, MigrationStatus};
use crate::command::Empty;

qapi_struct! {
    /// A capability, and whether it is on.
    MigrationCapabilityStatus {
        /// Which.
        capability: MigrationCapability,
        /// Whether it is on.
        state: bool,
    }
}

qapi_struct! {
    /// Counters of a migration's memory.
    MigrationStats {
        /// Bytes sent.
        transferred: i64,
        /// Bytes left.
        remaining: i64,
        /// Bytes in all.
        total: i64,
        /// Pages sent.
        normal: i64,
        /// Pages of zeroes.
        duplicate: i64,
        /// How often dirty pages were looked for.
        dirty_sync_count: i64,
    }
}

qapi_struct! {
    /// A bitmap in a migration.
    BitmapMigrationBitmapAlias {
        /// Its name.
        name: String,
        /// Its name in the stream.
        alias: String,
    }
    optional {
        /// What to change of it on the way.
        transform: Value,
    }
}

qapi_struct! {
    /// A node in a migration of bitmaps.
    BitmapMigrationNodeAlias {
        /// Its name.
        node_name: String,
        /// Its name in the stream.
        alias: String,
        /// Its bitmaps.
        bitmaps: Vec<BitmapMigrationBitmapAlias>,
    }
}

qapi_struct! {
    /// How a migration is going.
    MigrationInfo {}
    optional {
        /// Its state.
        status: MigrationStatus,
        /// Its memory.
        ram: MigrationStats,
        /// How long it has taken, in milliseconds.
        total_time: i64,
        /// How long the guest stood still, in milliseconds.
        downtime: i64,
        /// How long setting up took, in milliseconds.
        setup_time: i64,
        /// Why it failed.
        error_desc: String,
        /// What stands in its way.
        blocked_reasons: Vec<String>,
    }
}

qapi_commands! {
    /// Starts a migration.
    "migrate" [emulator] Migrate -> Empty {
        /// Where to.
        uri: String,
    }
    optional {
        /// Whether to resume one that is paused in postcopy.
        resume: bool,
    }

    /// Starts an incoming migration, with `-incoming defer`.
    "migrate-incoming" [emulator] MigrateIncoming -> Empty {
        /// Where from.
        uri: String,
    }

    /// Cancels a migration.
    "migrate_cancel" [emulator] MigrateCancel -> Empty {}

    /// Lets a migration go on that waits before switching over.
    "migrate-continue" [emulator] MigrateContinue -> Empty {
        /// The state that it must be in.
        state: MigrationStatus,
    }

    /// Goes over to postcopy.
    "migrate-start-postcopy" [emulator] MigrateStartPostcopy -> Empty {}

    /// Pauses a migration in postcopy.
    "migrate-pause" [emulator, oob] MigratePause -> Empty {}

    /// Makes a paused target listen again.
    "migrate-recover" [emulator, oob] MigrateRecover -> Empty {
        /// Where.
        uri: String,
    }

    /// Switches capabilities on and off.
    "migrate-set-capabilities" [emulator] MigrateSetCapabilities -> Empty {
        /// Which.
        capabilities: Vec<MigrationCapabilityStatus>,
    }

    /// Lists capabilities.
    "query-migrate-capabilities" [emulator] QueryMigrateCapabilities -> Vec<MigrationCapabilityStatus> {}

    /// Sets parameters; add others with `set`.
    "migrate-set-parameters" [emulator] MigrateSetParameters -> Empty {}
    optional {
        /// The limit in bytes per second.
        max_bandwidth: u64,
        /// How long the guest may stand still, in milliseconds.
        downtime_limit: u64,
        /// How many connections.
        multifd_channels: i64,
        /// The limit in postcopy, in bytes per second.
        max_postcopy_bandwidth: u64,
        /// Names of nodes and bitmaps in the stream.
        block_bitmap_mapping: Vec<BitmapMigrationNodeAlias>,
    }

    /// Gives the parameters.
    "query-migrate-parameters" [emulator] QueryMigrateParameters -> Value {}

    /// Tells how a migration is going.
    "query-migrate" [emulator] QueryMigrate -> MigrationInfo {}
}
