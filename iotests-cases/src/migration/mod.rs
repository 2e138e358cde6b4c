//! Migration of guests, and what the block layer makes of it.

mod snapshot_after_migration;
