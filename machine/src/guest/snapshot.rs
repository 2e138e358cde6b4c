//! Snapshots of a whole guest, memory included.

use crate::machine::Machine;
use qmp::{Matcher, RecvError};
use serde_json::{Value, json};

/// Why a snapshot was not saved, loaded or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The monitor refused.
    #[error("failed to {doing} the snapshot {tag:?}")]
    Qmp {
        /// What was asked for.
        doing: &'static str,
        /// The snapshot.
        tag: String,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The job failed.
    #[error("failed to {doing} the snapshot {tag:?}: {reason}")]
    Failed {
        /// What was asked for.
        doing: &'static str,
        /// The snapshot.
        tag: String,
        /// QEMU's words.
        reason: String,
    },
    /// The session ended, or events were lost, before the job's end was seen.
    #[error("failed to see whether the snapshot {tag:?} came about")]
    Lost {
        /// The snapshot.
        tag: String,
        /// Why.
        source: RecvError,
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
        self.snapshot("save", "snapshot-save", tag, arguments).await
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
        self.snapshot("load", "snapshot-load", tag, arguments).await
    }

    /// Deletes a snapshot from these nodes (`snapshot-delete`).
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub async fn delete_snapshot(&self, tag: &str, devices: &[&str]) -> Result<(), SnapshotError> {
        let arguments = json!({"tag": tag, "devices": devices});
        self.snapshot("delete", "snapshot-delete", tag, arguments)
            .await
    }

    async fn snapshot(
        &self,
        doing: &'static str,
        command: &str,
        tag: &str,
        mut arguments: Value,
    ) -> Result<(), SnapshotError> {
        let id = format!("{command}-{tag}");
        arguments["job-id"] = id.as_str().into();
        let refused = |source: qmp::Error| SnapshotError::Qmp {
            doing,
            tag: tag.to_owned(),
            source: Box::new(source),
        };
        let own = id.clone();
        let concluded = move |event: &qmp::Event| {
            event.text("id") == Some(&own) && event.text("status") == Some("concluded")
        };
        let mut end = self
            .qmp()
            .subscribe(Matcher::event("JOB_STATUS_CHANGE").when(concluded));
        self.qmp()
            .execute(command, arguments)
            .await
            .map_err(refused)?;
        // These jobs stay until they are dismissed, so that their error can be read.
        end.recv().await.map_err(|source| SnapshotError::Lost {
            tag: tag.to_owned(),
            source,
        })?;
        let jobs = self
            .qmp()
            .execute("query-jobs", ())
            .await
            .map_err(refused)?;
        let job = jobs
            .as_array()
            .and_then(|jobs| jobs.iter().find(|job| job["id"] == *id));
        let reason = job.and_then(|job| job["error"].as_str()).map(str::to_owned);
        let dismiss = self.qmp().execute("job-dismiss", json!({ "id": id }));
        dismiss.await.map_err(refused)?;
        match reason {
            Some(reason) => Err(SnapshotError::Failed {
                doing,
                tag: tag.to_owned(),
                reason,
            }),
            None => Ok(()),
        }
    }
}
