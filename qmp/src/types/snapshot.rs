//! Snapshots and transactions.

use serde_json::Value;

use super::block::SnapshotInfo;
use super::enums::{ActionCompletionMode, NewImageMode, TransactionActionKind};
use crate::command::{Command, Empty};

qapi_struct! {
    /// An action of a transaction.
    TransactionAction {
        /// What it does: a command's name.
        kind = "type": TransactionActionKind,
        /// The command's arguments.
        data: Value,
    }
}

impl TransactionAction {
    /// A command as an action.
    ///
    /// # Errors
    /// When the command cannot be serialized.
    pub fn of<C: Command>(command: &C) -> Result<Self, serde_json::Error> {
        Ok(Self::new(C::NAME, serde_json::to_value(command)?))
    }
}

qapi_struct! {
    /// How a transaction behaves.
    TransactionProperties {}
    optional {
        /// What happens to the other jobs when one fails.
        completion_mode: ActionCompletionMode,
    }
}

qapi_commands! {
    /// Does several things, or none.
    "transaction" [] Transaction -> Empty {
        /// What to do.
        actions: Vec<TransactionAction>,
    }
    optional {
        /// How.
        properties: TransactionProperties,
    }

    /// Puts a node on top of another.
    "blockdev-snapshot" [] BlockdevSnapshot -> Empty {
        /// The node that becomes the backing file.
        node: String,
        /// The node on top.
        overlay: String,
    }

    /// Puts a new image on top of a node.
    "blockdev-snapshot-sync" [] BlockdevSnapshotSync -> Empty {
        /// The new image's file name.
        snapshot_file: String,
    }
    optional {
        /// The device.
        device: String,
        /// The node.
        node_name: String,
        /// The name for the new node.
        snapshot_node_name: String,
        /// The new image's format; default qcow2.
        format: String,
        /// Whether to make the file.
        mode: NewImageMode,
    }

    /// Makes an internal snapshot.
    "blockdev-snapshot-internal-sync" [] BlockdevSnapshotInternalSync -> Empty {
        /// The device or node.
        device: String,
        /// The snapshot's name.
        name: String,
    }

    /// Deletes an internal snapshot, and tells what it was.
    "blockdev-snapshot-delete-internal-sync" [] BlockdevSnapshotDeleteInternalSync -> SnapshotInfo {
        /// The device or node.
        device: String,
    }
    optional {
        /// The snapshot's id.
        id: String,
        /// The snapshot's name.
        name: String,
    }
}
