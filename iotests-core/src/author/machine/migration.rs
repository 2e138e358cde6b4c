//! Migration of a guest from one machine to another, or away.

use std::future::IntoFuture;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::Location;

use qmp::types::{
    Getfd, MigrateIncoming, MigrateSetCapabilities, MigrationCapabilityStatus, MigrationInfo,
    MigrationStatus, QueryMigrate, QueryStatus, RunState,
};
use serde_json::{Map, Value};

use super::Machine;
use super::monitor::event_json;
use crate::author::action::Action;
use crate::author::expect::ErrorText;
use crate::author::failure::{CaseResult, Failure};
use crate::author::files::TestFile;
use crate::author::test::Test;

/// The destination of a guest.
#[derive(Clone, Copy)]
pub enum Destination<'m> {
    /// This machine, launched with `.incoming("defer")`.
    Machine(&'m Machine),
    /// Nowhere: its state is discarded, and its disks become free for other users.
    Nowhere,
}

impl<'m> From<&'m Machine> for Destination<'m> {
    fn from(machine: &'m Machine) -> Self {
        Destination::Machine(machine)
    }
}

/// The channel for the state of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channel {
    /// A UNIX socket.
    #[default]
    Unix,
    /// A pair of connected descriptors, one passed to each machine.
    Fd,
    /// A command that writes the state to a file, and one that reads it once the source is done.
    Exec,
    /// The same file, written and read by QEMU itself. Since 8.2.
    File,
}

/// A migration to run. Awaiting it runs it to its end; it must succeed on both sides.
#[must_use = "a guest migrates when this is awaited"]
pub struct Migration<'m> {
    source: &'m Machine,
    target: Destination<'m>,
    channel: Channel,
    capabilities: Vec<String>,
    parameters: [Map<String, Value>; 2],
    arguments: Map<String, Value>,
    ends_in: Option<String>,
    place: &'static Location<'static>,
}

/// A migration that has ended.
#[derive(Clone, Debug)]
pub struct Migrated {
    /// What `query-migrate` reports at the source; `None` if the source has ended.
    pub source: Option<MigrationInfo>,
    /// What `query-migrate` reports at the target; `None` if there is no target or it has ended.
    pub target: Option<MigrationInfo>,
}

impl Test {
    /// Migrates a guest.
    #[track_caller]
    pub fn migrate<'m>(
        &self,
        source: &'m Machine,
        target: impl Into<Destination<'m>>,
    ) -> Migration<'m> {
        Migration {
            source,
            target: target.into(),
            channel: Channel::default(),
            capabilities: vec!["events".to_owned()],
            parameters: Default::default(),
            arguments: Map::new(),
            ends_in: None,
            place: Location::caller(),
        }
    }
}

impl<'m> Migration<'m> {
    /// Uses another channel than a UNIX socket.
    pub fn over(mut self, channel: Channel) -> Self {
        self.channel = channel;
        self
    }

    /// Enables a capability on both sides: `dirty-bitmaps`, `postcopy-ram` …
    pub fn capability(mut self, name: &str) -> Self {
        self.capabilities.push(name.to_owned());
        self
    }

    /// Sets a parameter on both sides (`MigrateSetParameters` in QEMU's `qapi/migration.json`).
    pub fn parameter(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.source_parameter(name, value.clone()).target_parameter(name, value)
    }

    /// Sets a parameter on the source.
    pub fn source_parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters[0].insert(name.to_owned(), value.into());
        self
    }

    /// Sets a parameter on the target.
    pub fn target_parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters[1].insert(name.to_owned(), value.into());
        self
    }

    /// Migrates dirty bitmaps, with these mappings of their names (`block-bitmap-mapping`) on the
    /// source and on the target, where given.
    pub fn bitmaps(
        mut self,
        source: impl Into<Option<Value>>,
        target: impl Into<Option<Value>>,
    ) -> Self {
        const MAPPING: &str = "block-bitmap-mapping";
        if let Some(mapping) = source.into() {
            self = self.source_parameter(MAPPING, mapping);
        }
        if let Some(mapping) = target.into() {
            self = self.target_parameter(MAPPING, mapping);
        }
        self.capability("dirty-bitmaps")
    }

    /// Sets any argument of the command `migrate`.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.arguments.insert(name.to_owned(), value.into());
        self
    }

    /// Sets the run state to wait for on the target: `running`, `paused` …
    pub fn ends_in(mut self, run_state: &str) -> Self {
        self.ends_in = Some(run_state.to_owned());
        self
    }

    /// Starts it, for a case that does something while it runs.
    pub fn start(self) -> Action<'m, Migrating<'m>> {
        Action::at(self.place, "a migration to start", self.begin())
    }

    /// The migration must fail, and one of the two sides must report this text. A target that gives
    /// up exits with status 1, for [`Machine::wait_exit_status`].
    pub fn expect_failure(self, text: impl Into<ErrorText>) -> Action<'m, Migrated> {
        let (place, text) = (self.place, text.into());
        Action::at(place, "a migration to fail", async move {
            self.begin().await?.fail(&text).await
        })
    }

    async fn begin(mut self) -> CaseResult<Migrating<'m>> {
        let source = self.source;
        let status = source.monitor.query(QueryStatus::new()).await?;
        if status.status == RunState::Running && self.ends_in.is_none() {
            self.ends_in = Some("running".to_owned());
        }
        let way = Way::new(source, self.target, self.channel).await?;
        source.prepare_migration(&self.capabilities, &self.parameters[0]).await?;
        let connects = !way.is_stored && !self.arguments.contains_key("uri");
        let mut pending = None;
        if let Destination::Machine(target) = self.target {
            target.prepare_migration(&self.capabilities, &self.parameters[1]).await?;
            let incoming = MigrateIncoming::new().uri(way.incoming);
            match way.is_stored {
                true => pending = Some(incoming),
                false => drop(target.monitor.send(incoming).await?),
            }
        }
        let uri = self.arguments.entry("uri");
        uri.or_insert(way.outgoing.into());
        source.cmd("migrate", &self.arguments).await?;
        Ok(Migrating {
            source,
            target: self.target,
            ends_in: self.ends_in,
            pending,
            connects,
            _file: way.file,
        })
    }
}

impl<'m> IntoFuture for Migration<'m> {
    type Output = CaseResult<Migrated>;
    type IntoFuture = Action<'m, Migrated>;

    fn into_future(self) -> Self::IntoFuture {
        Action::at(self.place, "a migration", async move {
            self.begin().await?.succeed().await
        })
    }
}

/// A running migration.
#[must_use = "a migration is seen through by finish()"]
pub struct Migrating<'m> {
    source: &'m Machine,
    target: Destination<'m>,
    ends_in: Option<String>,
    /// The command that makes the target read the state once the source has written all of it.
    pending: Option<MigrateIncoming>,
    /// Whether the source sends directly to the target.
    connects: bool,
    // Contains the state, if the channel uses a file.
    _file: Option<TestFile>,
}

impl<'m> Migrating<'m> {
    /// Waits for its end; it must succeed on both sides.
    #[track_caller]
    pub fn finish(self) -> Action<'m, Migrated> {
        Action::new("a migration", self.succeed())
    }

    /// Waits for its end; it must fail, and one of the two sides must report this text.
    #[track_caller]
    pub fn expect_failure(self, text: impl Into<ErrorText>) -> Action<'m, Migrated> {
        let text = text.into();
        Action::new("a migration to fail", async move { self.fail(&text).await })
    }

    async fn succeed(self) -> CaseResult<Migrated> {
        let end = self.end().await?;
        if end.is_success() {
            return Ok(end.migrated);
        }
        let story = end.story().await?;
        Err(Failure::new(format!("the migration failed\n{story}")))
    }

    async fn fail(self, text: &ErrorText) -> CaseResult<Migrated> {
        let end = self.end().await?;
        if end.is_success() {
            return Err(Failure::new(format!(
                "the migration should have failed with {text}, but it has completed"
            )));
        }
        let story = end.story().await?;
        let said = |line: &str| text.allows(line.split_once(": ").map_or(line, |(_, line)| line));
        if !story.lines().any(|line| text.allows(line) || said(line)) {
            text.check("the migration", &story)?;
        }
        Ok(end.migrated)
    }

    async fn end(self) -> CaseResult<End<'m>> {
        let source = self.source;
        let (reached, sent) = source.migration_end().await?;
        let left = has_completed(sent.as_ref());
        let mut received = None;
        if left {
            source.wait_run_state("postmigrate").await?;
        }
        let arrived = match self.target {
            Destination::Nowhere => left,
            // It has received nothing, and keeps waiting for another attempt.
            Destination::Machine(_) if !(left || reached && self.connects) => false,
            Destination::Machine(target) => {
                if let Some(incoming) = self.pending {
                    target.monitor.send(incoming).await?;
                }
                received = target.migration_end().await?.1;
                let loaded = has_completed(received.as_ref());
                if !loaded {
                    target.give_up().await?;
                } else if let (true, Some(state)) = (left, &self.ends_in) {
                    target.wait_run_state(state).await?;
                }
                left && loaded
            }
        };
        Ok(End {
            source,
            target: self.target,
            migrated: Migrated {
                source: sent,
                target: received,
            },
            arrived,
        })
    }
}

fn has_completed(info: Option<&MigrationInfo>) -> bool {
    info.is_some_and(|info| info.status == Some(MigrationStatus::Completed))
}

/// The result of a migration on both sides.
struct End<'m> {
    source: &'m Machine,
    target: Destination<'m>,
    migrated: Migrated,
    /// Whether the source has released the guest and the target, if any, has it.
    arrived: bool,
}

impl End<'_> {
    fn is_success(&self) -> bool {
        self.arrived
    }

    /// Everything that is known about a failure, one fact per line. From now on, the machines'
    /// output counts as seen by the case.
    async fn story(&self) -> CaseResult<String> {
        let mut story = Vec::new();
        let target = match self.target {
            Destination::Machine(target) => Some((target, &self.migrated.target)),
            Destination::Nowhere => None,
        };
        for (machine, info) in [(self.source, &self.migrated.source)].into_iter().chain(target) {
            let status = info.as_ref().map(|info| info.status.as_ref());
            let status = status.map_or(Some("ended"), |status| Some(status?.as_str()));
            if let Some(status) = status {
                story.push(format!("{}: {status}", machine.name()));
            }
            if let Some(error) = info.as_ref().and_then(|info| info.error_desc.as_deref()) {
                story.push(format!("{}: {error}", machine.name()));
                // It is also printed, perhaps later.
                machine.tolerate(error);
            }
            let printed = machine.printed_to_stderr().await?;
            story.extend(printed.iter().map(|line| format!("{}: {line}", machine.name())));
        }
        Ok(story.join("\n"))
    }
}

/// How the state is transferred.
struct Way {
    outgoing: String,
    incoming: String,
    /// The socket or file used.
    file: Option<TestFile>,
    /// Whether it is complete before the target reads it.
    is_stored: bool,
}

impl Way {
    async fn new(source: &Machine, target: Destination<'_>, channel: Channel) -> CaseResult<Way> {
        let shared = &source.monitor.shared;
        let name = format!("migration{}", shared.next_number());
        let Destination::Machine(target) = target else {
            return Ok(Way {
                outgoing: "exec:cat > /dev/null".to_owned(),
                incoming: String::new(),
                file: None,
                is_stored: true,
            });
        };
        let same = |uri: String, file| Way {
            outgoing: uri.clone(),
            incoming: uri,
            file,
            is_stored: channel == Channel::File,
        };
        Ok(match channel {
            Channel::Unix => {
                let socket = shared.directories.socket(&name)?;
                same(format!("unix:{}", socket.as_str()), Some(socket))
            }
            Channel::Fd => {
                let (one, other) = UnixStream::pair()?;
                for (machine, end) in [(source, one), (target, other)] {
                    let get = machine.monitor.send(Getfd::new(&name));
                    get.fd(OwnedFd::from(end)).await?;
                }
                same(format!("fd:{name}"), None)
            }
            Channel::Exec => {
                let file = shared.directories.file(&name)?;
                let word = shlex::try_quote(file.as_str())?;
                Way {
                    outgoing: format!("exec:cat > {word}"),
                    incoming: format!("exec:cat {word}"),
                    file: Some(file),
                    is_stored: true,
                }
            }
            Channel::File => {
                let file = shared.directories.file(&name)?;
                same(format!("file:{}", file.as_str()), Some(file))
            }
        })
    }
}

impl Machine {
    async fn prepare_migration(
        &self,
        capabilities: &[String],
        parameters: &Map<String, Value>,
    ) -> CaseResult {
        let on = |name: &String| MigrationCapabilityStatus::new(name.as_str(), true);
        let all: Vec<_> = capabilities.iter().map(on).collect();
        self.monitor.send(MigrateSetCapabilities::new(all)).await?;
        if !parameters.is_empty() {
            self.cmd("migrate-set-parameters", parameters).await?;
        }
        Ok(())
    }

    /// Whether the transfer of the state had begun, and what `query-migrate` reports after the
    /// migration; `None` if the process ended with it.
    async fn migration_end(&self) -> CaseResult<(bool, Option<MigrationInfo>)> {
        let monitor = &self.monitor;
        let mut reached = false;
        let status = loop {
            let events = monitor.events.with_deadline(monitor.shared.wait_limit());
            let event = match events.wait(qmp::Matcher::event("MIGRATION")).await {
                Ok(event) => event,
                Err(_) if monitor.client.closed_cause().is_some() => {
                    return Ok((reached, None));
                }
                Err(error) => return Err(Failure::from(error).context(self.name())),
            };
            monitor.narrate_event(&event);
            match event.text("status") {
                Some(status @ ("completed" | "failed" | "cancelled")) => break status.to_owned(),
                Some("active") => reached = true,
                Some(_) => {}
                None => {
                    let event = event_json(&event);
                    return Err(Failure::new(format!(
                        "a migration event without status: {event}"
                    )));
                }
            }
        };
        match monitor.query(QueryMigrate::new()).await {
            Ok(info) => Ok((reached, Some(info))),
            // A failed target exits.
            Err(_) if status == "failed" => Ok((reached, None)),
            Err(error) => Err(error),
        }
    }

    /// Waits for the exit of a target that failed to receive the guest; it prints the reason first.
    async fn give_up(&self) -> CaseResult {
        let limit = self.monitor.shared.wait_limit();
        let ended = tokio::time::timeout(limit, self.inner()?.process().exited()).await;
        let runs = || {
            let name = self.name();
            Failure::new(format!("{name} failed to load the guest but did not exit"))
        };
        ended.map(drop).map_err(|_| runs())
    }

    /// Waits until the guest is in this run state: `running`, `postmigrate`, `paused` …
    #[track_caller]
    pub fn wait_run_state(&self, run_state: &str) -> Action<'static, ()> {
        let expected = run_state.to_owned();
        let what = format!("{} in run state {expected}", self.name());
        // Most run states begin or end with one of these; no event announces `postmigrate`.
        let announced = ["STOP", "RESUME", "SUSPEND", "WAKEUP", "MIGRATION"];
        let announced = qmp::Matcher::one_of(announced);
        self.monitor.until(what, "query-status", announced, move |status| {
            Ok((status["status"] == expected.as_str()).then_some(()))
        })
    }
}
