//! Migration of guests, and what the block layer makes of it.

mod before_arrival;
mod beside_a_mirror;
mod bitmap_granularity;
mod bitmap_mapping;
mod snapshot_after_migration;
