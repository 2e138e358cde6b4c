//! Live migration.

use crate::machine::Machine;
use qmp::types::{
    EventData as _, Migrate, MigrateCancel, MigrateIncoming, MigrateSetCapabilities,
    MigrateStartPostcopy, Migration as MigrationEvent, MigrationCapability,
    MigrationCapabilityStatus, MigrationInfo, MigrationStatus, QueryMigrate, QueryStatus,
    QueryYank, RunState, YankInstance,
};
use qmp::{Command, EventStream, RecvError};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// The name of the descriptor of [`Machine::migrate_to`] on both ends.
const FD_NAME: &str = "migration";

/// Why a migration did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrationError {
    /// It failed; the source still has the guest.
    #[error("failed to migrate {name}: {reason}")]
    Failed {
        /// The source's name in messages.
        name: String,
        /// QEMU's error message.
        reason: String,
    },
    /// It was cancelled; the source still has the guest.
    #[error("failed to migrate {name}: it was cancelled")]
    Cancelled {
        /// The source's name in messages.
        name: String,
    },
    /// A monitor refused.
    #[error("failed to {doing} of {name}")]
    Qmp {
        /// The name of the machine in messages.
        name: String,
        /// The operation.
        doing: &'static str,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The socket pair could not be created.
    #[error("failed to make the migration's socket pair")]
    Socket(#[source] std::io::Error),
    /// The session ended, or events were lost, before the migration's end was seen.
    #[error("failed to see the end of the migration of {name}")]
    Lost {
        /// The source's name in messages.
        name: String,
        /// Why.
        source: RecvError,
    },
}

/// The progress of a migration (`query-migrate`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Its status; [`MigrationStatus::None`] if there is no migration.
    pub status: MigrationStatus,
    /// Bytes of guest memory sent so far.
    pub transferred: u64,
    /// Bytes of guest memory still to be sent, which grows when the guest writes.
    pub remaining: u64,
    /// Bytes of guest memory in all.
    pub total: u64,
}

/// A running migration, seen from its source. Dropping it leaves the migration running.
#[derive(Debug)]
#[must_use = "whether a migration succeeds is known after wait()"]
pub struct Migration<'m> {
    source: &'m Machine,
    events: EventStream,
}

impl Machine {
    /// Begins to migrate to this URI, where a machine with
    /// [`incoming`](crate::Builder::incoming) listens: `unix:PATH`, `tcp:HOST:PORT`, `exec:COMMAND`,
    /// `file:PATH`.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`], if it does not begin.
    pub async fn migrate(&self, uri: &str) -> Result<Migration<'_>, MigrationError> {
        // Without this capability QEMU sends no `MIGRATION` event.
        let events = MigrationCapabilityStatus::new(MigrationCapability::Events, true);
        let events = MigrateSetCapabilities::new([events]);
        self.ask("enable the migration events", events).await?;
        let events = self.qmp().subscribe(MigrationEvent::NAME);
        self.ask("begin the migration", Migrate::new().uri(uri)).await?;
        Ok(Migration {
            source: self,
            events,
        })
    }

    /// Begins to migrate to a machine on this host that was launched with
    /// [`Incoming::Defer`](crate::args::Incoming::Defer), through a socket pair.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`] or [`MigrationError::Socket`], if it does not begin.
    pub async fn migrate_to(&self, target: &Machine) -> Result<Migration<'_>, MigrationError> {
        let (ours, theirs) = UnixStream::pair().map_err(MigrationError::Socket)?;
        target.pass(theirs.into()).await?;
        let uri = format!("fd:{FD_NAME}");
        let incoming = MigrateIncoming::new().uri(&*uri);
        target.ask("await the migration", incoming).await?;
        self.pass(ours.into()).await?;
        self.migrate(&uri).await
    }

    async fn pass(&self, fd: OwnedFd) -> Result<(), MigrationError> {
        self.getfd(FD_NAME, fd).await.map_err(|source| MigrationError::Qmp {
            name: self.name().to_owned(),
            doing: "pass the descriptor",
            source: Box::new(source),
        })
    }

    async fn ask<C: Command>(
        &self,
        doing: &'static str,
        command: C,
    ) -> Result<C::Return, MigrationError> {
        let asked = self.qmp().call(command).await;
        asked.map_err(|source| MigrationError::Qmp {
            name: self.name().to_owned(),
            doing,
            source: Box::new(source),
        })
    }
}

impl Migration<'_> {
    /// The current progress.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`].
    pub async fn progress(&self) -> Result<Progress, MigrationError> {
        Ok(progress(&self.query().await?))
    }

    async fn query(&self) -> Result<MigrationInfo, MigrationError> {
        self.source.ask("query the migration", QueryMigrate::new()).await
    }

    /// Switches to post-copy: the target runs and fetches missing pages. Both ends need the
    /// capability `postcopy-ram`, set before the migration.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`].
    pub async fn start_postcopy(&self) -> Result<(), MigrationError> {
        let asked = self.source.ask("start post-copy", MigrateStartPostcopy::new());
        asked.await.map(drop)
    }

    /// Asks QEMU to cancel it; [`wait`](Self::wait) then reports how it ended.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`].
    pub async fn cancel(&self) -> Result<(), MigrationError> {
        let asked = self.source.ask("cancel the migration", MigrateCancel::new());
        asked.await.map(drop)
    }

    /// Waits for completion, without a deadline: then the source is in the run state `postmigrate`,
    /// and the target has the guest.
    ///
    /// # Errors
    /// See [`MigrationError`].
    pub async fn wait(mut self) -> Result<Progress, MigrationError> {
        let name = || self.source.name().to_owned();
        loop {
            let event = self.events.recv().await;
            let event = event.map_err(|source| MigrationError::Lost {
                name: name(),
                source,
            })?;
            // Ignore one that cannot be decoded; another follows.
            let Some(Ok(change)) = MigrationEvent::from_event(&event) else {
                continue;
            };
            match change.status {
                MigrationStatus::Completed => break,
                MigrationStatus::Failed => {
                    self.settle().await?;
                    let reason = self.query().await?.error_desc;
                    return Err(MigrationError::Failed {
                        name: name(),
                        reason: reason.unwrap_or_else(|| "QEMU gave no reason".to_owned()),
                    });
                }
                MigrationStatus::Cancelled => {
                    self.settle().await?;
                    return Err(MigrationError::Cancelled { name: name() });
                }
                _ => {}
            }
        }
        // The event is sent by the migration thread, which enters the run state afterwards; no
        // event announces that. Each query is a round trip through the main loop, which the thread
        // waits for.
        loop {
            let state = self.source.ask("query the run state", QueryStatus::new()).await?;
            if state.status != RunState::FinishMigrate {
                break;
            }
        }
        self.progress().await
    }
}

impl Migration<'_> {
    /// QEMU announces the end before it has cleaned up, and refuses another migration until then
    /// ("duplicate yank instance"). No event reports the clean-up, but the migration's yank
    /// instance disappears; each query is a round trip through the main loop, which the clean-up
    /// waits for.
    async fn settle(&self) -> Result<(), MigrationError> {
        loop {
            let kept =
                self.source.ask("query what is left of the migration", QueryYank::new()).await?;
            let is_ours = |instance: &YankInstance| matches!(instance, YankInstance::Migration(_));
            if !kept.iter().any(is_ours) {
                return Ok(());
            }
        }
    }
}

fn progress(info: &MigrationInfo) -> Progress {
    // QEMU's counters are signed, and never negative.
    let bytes = |count: Option<i64>| count.and_then(|count| count.try_into().ok()).unwrap_or(0);
    let ram = info.ram.as_ref();
    Progress {
        status: info.status.clone().unwrap_or(MigrationStatus::None),
        transferred: bytes(ram.map(|ram| ram.transferred)),
        remaining: bytes(ram.map(|ram| ram.remaining)),
        total: bytes(ram.map(|ram| ram.total)),
    }
}
