//! Operations on a running guest: plugging and unplugging devices, migration, snapshots.

mod devices;
mod migration;
mod snapshot;

pub use devices::UnplugError;
pub use migration::{Migration, MigrationError, Progress};
pub use snapshot::{SnapshotAction, SnapshotError};
