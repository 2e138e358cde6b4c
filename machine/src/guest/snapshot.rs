//! Snapshots of a whole guest, memory included.

use crate::machine::Machine;
use qmp::JobOutcome;
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is done with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotAction {
    /// `snapshot-save`.
    Save,
    /// `snapshot-load`.
    Load,
    /// `snapshot-delete`.
    Delete,
}

impl fmt::Display for SnapshotAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnapshotAction::Save => "save",
            SnapshotAction::Load => "load",
            SnapshotAction::Delete => "delete",
        })
    }
}

/// Why a snapshot was not saved, loaded or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The monitor refused, or its session ended before the job did.
    #[error("failed to {action} the snapshot {tag:?} of {name}")]
    Qmp {
        /// The machine's name in messages.
        name: String,
        /// What was asked for.
        action: SnapshotAction,
        /// The snapshot.
        tag: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The job ended, but not well.
    #[error("failed to {action} the snapshot {tag:?} of {name}: {outcome}")]
    Job {
        /// The machine's name in messages.
        name: String,
        /// What was asked for.
        action: SnapshotAction,
        /// The snapshot.
        tag: String,
        /// How it ended.
        outcome: JobOutcome,
    },
}

impl Machine {
    /// Saves the guest's memory and devices into the node `vmstate`, and the disks at the same
    /// point into the nodes `devices`, all as internal snapshots of this name (`snapshot-save`).
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn save_snapshot(
        &self,
        tag: &str,
        vmstate: &str,
        devices: &[&str],
    ) -> Result<(), SnapshotError> {
        let arguments = json!({"tag": tag, "vmstate": vmstate, "devices": devices});
        self.snapshot(SnapshotAction::Save, tag, arguments).await
    }

    /// Takes the guest back to a snapshot (`snapshot-load`). The machine is stopped afterwards if
    /// it was stopped before.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn load_snapshot(
        &self,
        tag: &str,
        vmstate: &str,
        devices: &[&str],
    ) -> Result<(), SnapshotError> {
        let arguments = json!({"tag": tag, "vmstate": vmstate, "devices": devices});
        self.snapshot(SnapshotAction::Load, tag, arguments).await
    }

    /// Deletes a snapshot from these nodes (`snapshot-delete`).
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn delete_snapshot(&self, tag: &str, devices: &[&str]) -> Result<(), SnapshotError> {
        let arguments = json!({"tag": tag, "devices": devices});
        self.snapshot(SnapshotAction::Delete, tag, arguments).await
    }

    async fn snapshot(
        &self,
        action: SnapshotAction,
        tag: &str,
        mut arguments: Value,
    ) -> Result<(), SnapshotError> {
        // Not the tag, which may hold what no id can.
        static JOBS: AtomicU64 = AtomicU64::new(0);
        let command = format!("snapshot-{action}");
        let id = format!("{command}-{}", JOBS.fetch_add(1, Ordering::Relaxed));
        arguments["job-id"] = id.as_str().into();
        let mut job = self.qmp().job(id);
        let end = async {
            self.qmp().execute(&command, arguments).await?;
            let outcome = job.wait_end().await?;
            // These jobs stay until then, so that their error can be read.
            job.dismiss().await?;
            Ok(outcome)
        };
        let (name, tag) = (self.name().to_owned(), tag.to_owned());
        match end.await {
            Ok(JobOutcome::Completed) => Ok(()),
            Ok(outcome) => Err(SnapshotError::Job {
                name,
                action,
                tag,
                outcome,
            }),
            Err(source) => Err(SnapshotError::Qmp {
                name,
                action,
                tag,
                source: Box::new(source),
            }),
        }
    }
}
