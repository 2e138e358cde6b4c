//! Snapshots of a whole guest, memory included.

use crate::machine::Machine;
use qmp::types::{
    SnapshotDelete, SnapshotLoad, SnapshotLoadRequired, SnapshotSave, SnapshotSaveRequired,
};
use qmp::{Command, JobOutcome};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// An operation on a snapshot.
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
        /// The operation.
        action: SnapshotAction,
        /// The snapshot.
        tag: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The job did not complete.
    #[error("failed to {action} the snapshot {tag:?} of {name}: {outcome}")]
    Job {
        /// The machine's name in messages.
        name: String,
        /// The operation.
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
        let save = |job_id| {
            SnapshotSave::new(SnapshotSaveRequired {
                job_id,
                tag: tag.to_owned(),
                vmstate: vmstate.to_owned(),
                devices: owned(devices),
            })
        };
        self.snapshot(SnapshotAction::Save, tag, save).await
    }

    /// Restores the guest from a snapshot (`snapshot-load`). The machine is stopped afterwards if
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
        let load = |job_id| {
            SnapshotLoad::new(SnapshotLoadRequired {
                job_id,
                tag: tag.to_owned(),
                vmstate: vmstate.to_owned(),
                devices: owned(devices),
            })
        };
        self.snapshot(SnapshotAction::Load, tag, load).await
    }

    /// Deletes a snapshot from these nodes (`snapshot-delete`).
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn delete_snapshot(&self, tag: &str, devices: &[&str]) -> Result<(), SnapshotError> {
        let delete = |job_id: String| SnapshotDelete::new(job_id, tag, owned(devices));
        self.snapshot(SnapshotAction::Delete, tag, delete).await
    }

    async fn snapshot<C: Command>(
        &self,
        action: SnapshotAction,
        tag: &str,
        command: impl FnOnce(String) -> C,
    ) -> Result<(), SnapshotError> {
        // Not the tag, which may contain characters that are invalid in an id.
        static JOBS: AtomicU64 = AtomicU64::new(0);
        let id = format!("{}-{}", C::NAME, JOBS.fetch_add(1, Ordering::Relaxed));
        let mut job = self.qmp().job(&*id);
        let end = async {
            self.qmp().call(command(id)).await?;
            let outcome = job.wait_end().await?;
            // These jobs stay until dismissed, so that their error can be read.
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

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
