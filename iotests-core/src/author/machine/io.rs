//! Reading and writing on a node of a machine, as a guest would.
//!
//! On an emulator, commands go through the human monitor's `qemu-io`, whose reply says nothing of how
//! they went; what they print is a part of the machine's output. QEMU writes that line by line, so it
//! is there before the reply, and is read after it. On a storage daemon the node is exported over NBD on a private socket, and a qemu-io process works on
//! that; the export stays, so that it follows the node's place in the graph as a guest device does.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::PoisonError;

use imgtools::process::{Child, Stream};
use serde_json::json;
use tokio::sync::Mutex;

use super::Machine;
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Failure};
use crate::author::files::TestFile;
use crate::author::image::{Image, io_command, pieces};
use crate::author::tool::ToolCall;
use crate::case::{Backend, ToolKind};

/// Where a command reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A block node, or a drive of an emulator (`drive0`).
    Node(String),
    /// A guest device of an emulator, by id or path, through its own backend.
    Device(String),
}

impl Target {
    /// A guest device of an emulator.
    #[must_use]
    pub fn device(id: &str) -> Self {
        Target::Device(id.to_owned())
    }
}

impl From<&str> for Target {
    fn from(node: &str) -> Self {
        Target::Node(node.to_owned())
    }
}

impl From<&Image> for Target {
    /// The image's node.
    fn from(image: &Image) -> Self {
        Target::Node(image.name().to_owned())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Target::Node(name) | Target::Device(name)) = self;
        f.write_str(name)
    }
}

/// The exports through which a storage daemon's nodes are accessed.
#[derive(Default)]
pub(crate) struct NodeAccess(Mutex<Option<Exports>>);

struct Exports {
    socket: TestFile,
    nodes: BTreeSet<String>,
}

impl NodeAccess {
    /// Ends all access, because the case starts an NBD server of its own: a process has only one.
    pub(crate) async fn close(&self, machine: &Machine) -> CaseResult {
        if self.0.lock().await.take().is_some() {
            machine
                .monitor
                .ask("nbd-server-stop", serde_json::Value::Null)
                .await?;
        }
        Ok(())
    }

    /// The URI under which a node of a storage daemon can be reached.
    async fn uri(&self, machine: &Machine, node: &str) -> CaseResult<String> {
        let mut access = self.0.lock().await;
        let monitor = &machine.monitor;
        let exports = match access.take() {
            Some(exports) => exports,
            None => {
                let number = monitor.shared.next_number();
                let socket = monitor.shared.directories.socket(&format!("io{number}"))?;
                let addr = json!({"type": "unix", "data": {"path": socket}});
                monitor
                    .ask("nbd-server-start", json!({"addr": addr}))
                    .await?;
                Exports {
                    socket,
                    nodes: BTreeSet::new(),
                }
            }
        };
        let exports = access.insert(exports);
        if !exports.nodes.contains(node) {
            let export = json!({
                "type": "nbd", "id": format!("io-{node}"), "node-name": node, "name": node, "writable": true,
            });
            monitor.ask("block-export-add", export).await?;
            exports.nodes.insert(node.to_owned());
        }
        Ok(nbd::Uri::unix(&*exports.socket, node).to_string())
    }
}

/// How far a machine's standard output was looked at, and which failures in it the case was told.
#[derive(Default)]
pub(super) struct Printed(std::sync::Mutex<(u64, Vec<String>)>);

impl Printed {
    fn state(&self) -> std::sync::MutexGuard<'_, (u64, Vec<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was printed since the last time.
    fn news(&self, process: &Child) -> String {
        let mut state = self.state();
        process.view(|view| {
            let news = String::from_utf8_lossy(view.from(Stream::Stdout, state.0)).into_owned();
            state.0 = view.end(Stream::Stdout);
            news
        })
    }

    fn tell(&self, failures: &[&str]) {
        let told = failures.iter().map(|line| (*line).to_owned());
        self.state().1.extend(told);
    }

    /// These failures but for those that the case was told, each as often as it was.
    pub(super) fn untold<'a>(&self, failures: Vec<&'a str>) -> Vec<&'a str> {
        let told = &mut self.state().1;
        let is_news = |line: &&str| match told.iter().position(|old| old == line) {
            Some(at) => {
                told.swap_remove(at);
                false
            }
            None => true,
        };
        failures.into_iter().filter(is_news).collect()
    }
}

impl Machine {
    /// Runs a qemu-io command on a node, and returns what it printed; on an emulator also what the
    /// machine has printed to its standard output since the last command, such as the ends of
    /// asynchronous requests. A command that fails is an error; an asynchronous one is as soon as
    /// it is looked at again, at the latest when the machine ends.
    #[track_caller]
    pub fn io(&self, target: impl Into<Target>, command: &str) -> Action<'_, String> {
        self.io_all(target, [command])
    }

    /// Runs several qemu-io commands on a node one after another, as [`Machine::io`] runs one.
    #[track_caller]
    pub fn io_all(
        &self,
        target: impl Into<Target>,
        commands: impl IntoIterator<Item = impl Into<String>>,
    ) -> Action<'_, String> {
        let target = target.into();
        let commands: Vec<String> = commands.into_iter().map(Into::into).collect();
        let first = commands.first().map(String::as_str).unwrap_or_default();
        Action::new(format!("\"{first}\" on {target}"), async move {
            match (self.backend(), &target) {
                (Backend::System, target) => {
                    let mut printed = String::new();
                    for command in &commands {
                        printed += &self.io_by_hmp(target, command).await?;
                    }
                    Ok(printed)
                }
                (Backend::Qsd, Target::Node(node)) => self.io_by_nbd(node, &commands).await,
                (Backend::Qsd, Target::Device(_)) => {
                    Err(Failure::new("a storage daemon has no guest devices"))
                }
            }
        })
    }

    async fn io_by_hmp(&self, target: &Target, command: &str) -> CaseResult<String> {
        use machine::host::IoTarget;
        let machine = self.inner()?;
        let target = match target {
            // A drive's own requests do not conflict with those of its guest device, and follow the
            // drive when a job moves it to another node.
            Target::Node(name) => match self.drives.get(name) {
                Some(drive) => IoTarget::Drive(drive.clone()),
                None => IoTarget::Node(name.clone()),
            },
            Target::Device(name) => IoTarget::Qdev(name.clone()),
        };
        let reply = machine.io(&target, command).await?;
        machine.process().drained().await;
        let printed = self.printed.news(machine.process());
        let failed: Vec<&str> = imgtools::io::failures(&printed)
            .into_iter()
            .filter(|line| !self.tolerates(line))
            .collect();
        if failed.is_empty() {
            return Ok(reply + &printed);
        }
        self.printed.tell(&failed);
        Err(Failure::new(format!(
            "failed to run `{command}` on {target}:\n  {}",
            failed.join("\n  ")
        )))
    }

    async fn io_by_nbd(&self, node: &str, commands: &[String]) -> CaseResult<String> {
        let uri = self.access.uri(self, node).await?;
        if commands.is_empty() {
            // The node is exported from now on all the same; qemu-io would ask for commands.
            return Ok(String::new());
        }
        let mut call = ToolCall::new(&self.monitor.shared, ToolKind::Io).args(["-f", "raw"]);
        for command in commands {
            call = call.args(["-c", command]);
        }
        Ok(call.arg(&uri).await?.combined_text())
    }

    /// Writes this byte to a range of a node.
    #[track_caller]
    pub fn write(
        &self,
        target: impl Into<Target>,
        pattern: u8,
        range: Range<u64>,
    ) -> Action<'_, ()> {
        self.each_piece("write -P", target.into(), pattern, range)
    }

    /// Every byte in this range of a node is this one.
    #[track_caller]
    pub fn assert_pattern(
        &self,
        target: impl Into<Target>,
        pattern: u8,
        range: Range<u64>,
    ) -> Action<'_, ()> {
        self.each_piece("read -P", target.into(), pattern, range)
    }

    #[track_caller]
    fn each_piece(
        &self,
        verb: &'static str,
        target: Target,
        pattern: u8,
        range: Range<u64>,
    ) -> Action<'_, ()> {
        Action::new(format!("\"{verb}\" on {target}"), async move {
            let commands = pieces(&range).map(|piece| io_command(verb, pattern, &piece));
            self.io_all(target, commands).await?;
            Ok(())
        })
    }

    /// Holds back the requests of a drive that raise this blkdebug event, from now on and until the
    /// value is resumed. Emulators only; for a drive [`with_breakpoints`](super::Drive::with_breakpoints).
    #[track_caller]
    pub fn hold(&self, target: impl Into<Target>, event: &str) -> Action<'_, Held<'_>> {
        let (target, event) = (target.into(), event.to_owned());
        Action::new(format!("a breakpoint on {target}"), async move {
            let tag = format!("bp{}", self.monitor.shared.next_number());
            self.io(target.clone(), &format!("break {event} {tag}"))
                .await?;
            Ok(Held {
                machine: self,
                target,
                tag,
            })
        })
    }
}

/// A breakpoint that holds back requests.
#[must_use = "requests are held back until they are resumed"]
pub struct Held<'m> {
    machine: &'m Machine,
    target: Target,
    tag: String,
}

impl<'m> Held<'m> {
    /// Waits until a request has hit the breakpoint. To resume one that has not can hang QEMU for
    /// good, so resuming always waits first.
    #[track_caller]
    pub fn wait_hit(&self) -> Action<'_, ()> {
        Action::new(
            format!("a request to hit the breakpoint on {}", self.target),
            async move {
                self.machine
                    .io(self.target.clone(), &format!("wait_break {}", self.tag))
                    .await?;
                Ok(())
            },
        )
    }

    /// Waits until a request has hit the breakpoint, then lets it pass. Later ones are not held: the
    /// first to hit a breakpoint has removed it.
    #[track_caller]
    pub fn resume(self) -> Action<'m, ()> {
        Action::new(format!("the requests on {}", self.target), async move {
            self.wait_hit().await?;
            self.machine
                .io(self.target.clone(), &format!("resume {}", self.tag))
                .await?;
            Ok(())
        })
    }

    /// Removes the breakpoint, whether or not a request has hit it; a held one passes.
    #[track_caller]
    pub fn remove(self) -> Action<'m, ()> {
        Action::new(format!("the breakpoint on {}", self.target), async move {
            let command = format!("remove_break {}", self.tag);
            match self.machine.io(self.target.clone(), &command).await {
                // QEMU says so also when it has let a request pass that was held.
                Err(failure) if failure.message().contains(NO_BREAKPOINT) => Ok(()),
                removed => removed.map(drop),
            }
        })
    }
}

/// What `remove_break` prints of a breakpoint that a request has hit.
const NO_BREAKPOINT: &str = "Could not remove breakpoint";
