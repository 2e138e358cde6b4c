//! Live migration.

use crate::machine::Machine;
use qmp::{EventStream, Matcher, RecvError};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// The name under which both ends know the descriptor of [`Machine::migrate_to`].
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
        /// QEMU's words.
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
        /// What was asked for.
        doing: &'static str,
        /// Why.
        source: Box<qmp::Error>,
    },
    /// The socket between the two could not be made.
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

/// How far a migration has come (`query-migrate`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// `MigrationStatus`: `setup`, `active`, `postcopy-active`, `completed`, …
    pub status: String,
    /// Bytes of guest memory sent so far.
    pub transferred: u64,
    /// Bytes of guest memory still to be sent, which grows when the guest writes.
    pub remaining: u64,
    /// Bytes of guest memory in all.
    pub total: u64,
}

/// A migration that has begun, seen from its source. Dropping it leaves the migration running.
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
        self.ask(
            "enable the migration events",
            "migrate-set-capabilities",
            events(),
        )
        .await?;
        let events = self.qmp().subscribe(Matcher::event("MIGRATION"));
        self.ask("begin the migration", "migrate", json!({ "uri": uri }))
            .await?;
        Ok(Migration {
            source: self,
            events,
        })
    }

    /// Begins to migrate to a machine of this host that was launched with
    /// [`Incoming::Defer`](crate::args::Incoming::Defer), through a socket pair.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`] or [`MigrationError::Socket`], if it does not begin.
    pub async fn migrate_to(&self, target: &Machine) -> Result<Migration<'_>, MigrationError> {
        let (ours, theirs) = UnixStream::pair().map_err(MigrationError::Socket)?;
        target.pass(theirs.into()).await?;
        let uri = format!("fd:{FD_NAME}");
        target
            .ask(
                "await the migration",
                "migrate-incoming",
                json!({ "uri": uri }),
            )
            .await?;
        self.pass(ours.into()).await?;
        self.migrate(&uri).await
    }

    async fn pass(&self, fd: OwnedFd) -> Result<(), MigrationError> {
        self.getfd(FD_NAME, fd)
            .await
            .map_err(|source| MigrationError::Qmp {
                name: self.name().to_owned(),
                doing: "pass the descriptor",
                source: Box::new(source),
            })
    }

    async fn ask(
        &self,
        doing: &'static str,
        command: &str,
        arguments: Value,
    ) -> Result<Value, MigrationError> {
        let asked = self.qmp().execute(command, arguments).await;
        asked.map_err(|source| MigrationError::Qmp {
            name: self.name().to_owned(),
            doing,
            source: Box::new(source),
        })
    }
}

/// Without this capability there is no `MIGRATION` event.
fn events() -> Value {
    json!({"capabilities": [{"capability": "events", "state": true}]})
}

impl Migration<'_> {
    /// How far it has come.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`].
    pub async fn progress(&self) -> Result<Progress, MigrationError> {
        Ok(progress(&self.query().await?))
    }

    async fn query(&self) -> Result<Value, MigrationError> {
        self.source
            .ask("query the migration", "query-migrate", json!({}))
            .await
    }

    /// Switches to post-copy: the target runs and fetches what it misses. Both ends need the
    /// capability `postcopy-ram`, set before the migration.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`].
    pub async fn start_postcopy(&self) -> Result<(), MigrationError> {
        let asked = self
            .source
            .ask("start post-copy", "migrate-start-postcopy", json!({}));
        asked.await.map(drop)
    }

    /// Asks QEMU to cancel it; [`wait`](Self::wait) then reports how it ended.
    ///
    /// # Errors
    /// [`MigrationError::Qmp`].
    pub async fn cancel(&self) -> Result<(), MigrationError> {
        let asked = self
            .source
            .ask("cancel the migration", "migrate_cancel", json!({}));
        asked.await.map(drop)
    }

    /// Waits for its end, however long it takes: then the source is in the run state
    /// `postmigrate`, and the target has the guest.
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
            match event.text("status") {
                Some("completed") => break,
                Some("failed") => {
                    let reason = self.query().await?;
                    let reason = reason["error-desc"]
                        .as_str()
                        .unwrap_or("QEMU gives no reason");
                    return Err(MigrationError::Failed {
                        name: name(),
                        reason: reason.to_owned(),
                    });
                }
                Some("cancelled") => return Err(MigrationError::Cancelled { name: name() }),
                _ => {}
            }
        }
        // The event comes from the migration's thread, which enters the run state afterwards;
        // no event announces that. Each question is a round trip through the main loop, which is
        // what the thread waits for.
        loop {
            let state = self
                .source
                .ask("query the run state", "query-status", json!({}))
                .await?;
            if state["status"] != "finish-migrate" {
                break;
            }
        }
        self.progress().await
    }
}

fn progress(answer: &Value) -> Progress {
    let ram = |member: &str| answer["ram"][member].as_u64().unwrap_or(0);
    Progress {
        status: answer["status"].as_str().unwrap_or("none").to_owned(),
        transferred: ram("transferred"),
        remaining: ram("remaining"),
        total: ram("total"),
    }
}
