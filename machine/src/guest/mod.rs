//! What is done with a running guest: devices plugged and unplugged, migrations, snapshots.

mod devices;
mod migration;
mod snapshot;

pub use devices::UnplugError;
pub use migration::{Migration, MigrationError, Progress};
pub use snapshot::{SnapshotAction, SnapshotError};
