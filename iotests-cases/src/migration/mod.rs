//! Migration of guests, and what the block layer makes of it.

mod bitmap_mapping;
mod snapshot_after_migration;
