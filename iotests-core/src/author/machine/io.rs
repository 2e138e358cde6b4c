//! I/O on a machine: on a disk as the guest, or on any node.
//!
//! On an emulator, commands use the human monitor's `qemu-io`, whose reply does not report success;
//! their output is part of the machine's output. QEMU writes it line by line, so it is complete
//! before the reply arrives, and is read after it. On a storage daemon, our own NBD client uses an
//! export of the disk, or an export of the node that exists only during the requests; commands that
//! only qemu-io supports are run by a qemu-io process.

use std::fmt;
use std::future::IntoFuture;
use std::ops::Range;
use std::panic::Location;
use std::sync::PoisonError;

use imgtools::process::{Child, Stream};
use machine::host::IoTarget;
use serde_json::Value;

use super::Machine;
use super::disk::{Way, nbd_export};
use super::{guest, running};
use crate::author::action::Action;
use crate::author::failure::{CaseResult, Failure};
use crate::author::image::{Image, pieces};
use crate::author::origin::Origin;
use crate::author::storage::{Request, Storage};
use crate::author::tool::ToolCall;
use crate::case::{Backend, ToolKind};

/// A node of a machine, or the disk attached to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A block node, or a drive of an emulator (`drive0`).
    Node(String),
    /// A disk: the node to which it is attached at the time.
    Disk(String),
}

impl From<&str> for Target {
    fn from(node: &str) -> Self {
        Target::Node(node.to_owned())
    }
}

impl From<&String> for Target {
    fn from(node: &String) -> Self {
        Target::Node(node.clone())
    }
}

impl From<String> for Target {
    fn from(node: String) -> Self {
        Target::Node(node)
    }
}

impl From<&Image> for Target {
    /// The image's node.
    fn from(image: &Image) -> Self {
        Target::Node(image.name().to_owned())
    }
}

impl From<&super::Node> for Target {
    fn from(node: &super::Node) -> Self {
        Target::Node(node.name().unwrap_or_default().to_owned())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Target::Node(name) | Target::Disk(name)) = self;
        f.write_str(name)
    }
}

impl Machine {
    /// The name of the target node.
    pub(super) async fn resolve(&self, target: &Target) -> CaseResult<String> {
        match target {
            Target::Node(name) => Ok(name.clone()),
            Target::Disk(id) => self.node_of(id).await,
        }
    }

    /// A block node of the machine, for queries and for I/O that is not a guest's. Awaiting it
    /// returns what `query-named-block-nodes` reports about the node.
    #[must_use]
    #[track_caller]
    pub fn node(&self, name: impl Into<Target>) -> BlockNode<'_> {
        BlockNode {
            access: Access::new(self, name.into()),
            place: Location::caller(),
        }
    }
}

/// A block node of a running machine.
#[derive(Clone)]
pub struct BlockNode<'m> {
    access: Access<'m>,
    place: &'static Location<'static>,
}

impl<'m> std::ops::Deref for BlockNode<'m> {
    type Target = Access<'m>;

    fn deref(&self) -> &Access<'m> {
        &self.access
    }
}

impl<'m> IntoFuture for BlockNode<'m> {
    type Output = CaseResult<Value>;
    type IntoFuture = Action<'m, Value>;

    fn into_future(self) -> Self::IntoFuture {
        let what = format!("the node {}", self.access);
        Action::at(self.place, what, async move {
            let (machine, name) = (self.access.machine, self.access.node_name().await?);
            let node = machine.inner()?.node(&name).await?;
            let node = node.ok_or_else(|| Failure::new(format!("there is no node {name}")))?;
            Ok(serde_json::to_value(node)?)
        })
    }
}

/// A target for I/O on a machine: [`Machine::disk`] or [`Machine::node`].
#[derive(Clone)]
pub struct Access<'m> {
    machine: &'m Machine,
    target: Target,
}

impl<'m> Access<'m> {
    pub(super) fn new(machine: &'m Machine, target: Target) -> Self {
        Access { machine, target }
    }

    pub(super) fn machine(&self) -> &'m Machine {
        self.machine
    }

    pub(super) fn name(&self) -> &str {
        let (Target::Node(name) | Target::Disk(name)) = &self.target;
        name
    }

    async fn node_name(&self) -> CaseResult<String> {
        self.machine.resolve(&self.target).await
    }

    /// Its current size, in bytes.
    #[track_caller]
    pub fn size(&self) -> Action<'_, u64> {
        Action::new(format!("the size of {self}"), async move {
            let info = self.machine.node(self.node_name().await?).await?;
            let size = info.pointer("/image/virtual-size").and_then(Value::as_u64);
            size.ok_or_else(|| Failure::new(format!("{self} has no size: {info}")))
        })
    }

    /// Runs a qemu-io command and returns its output; on an emulator, also everything that the
    /// machine has printed to its standard output since the last command, such as the completion of
    /// asynchronous requests. A failed command is an error; a failed asynchronous request becomes
    /// one at the next check of the output, at the latest when the machine ends.
    #[track_caller]
    pub fn io(&self, command: &str) -> Action<'_, String> {
        self.io_all([command])
    }

    /// Runs several qemu-io commands one after another, each like [`Access::io`].
    #[track_caller]
    pub fn io_all(
        &self,
        commands: impl IntoIterator<Item = impl Into<String>>,
    ) -> Action<'_, String> {
        let commands: Vec<String> = commands.into_iter().map(Into::into).collect();
        let first = commands.first().map(String::as_str).unwrap_or_default();
        Action::new(format!("\"{first}\" on {self}"), async move {
            if self.machine.backend() == Backend::Qsd {
                return self.io_by_nbd(&commands).await;
            }
            let mut printed = String::new();
            for command in &commands {
                printed += &self.io_by_hmp(command).await?;
            }
            Ok(printed)
        })
    }

    async fn io_by_hmp(&self, command: &str) -> CaseResult<String> {
        let machine = self.machine;
        let target = match &self.target {
            Target::Node(name) => IoTarget::Node(name.clone()),
            Target::Disk(id) => {
                let disk = machine.disks.find(id);
                // A disk's own requests do not conflict with those of its guest, and follow the disk
                // when a job moves it to another node.
                match disk.map(|disk| (disk.qdev(), disk.way)) {
                    Some((None, Way::Drive(name))) => IoTarget::Drive(name),
                    Some((Some(device), _)) => IoTarget::Qdev(device),
                    // A device that the case plugged by hand.
                    _ => IoTarget::Qdev(id.clone()),
                }
            }
        };
        let inner = machine.inner()?;
        let process = inner.process();
        // Earlier output does not belong to this command.
        let _ = machine.printed.news(process, Stream::Stderr);
        let reply = inner.io(&target, command).await?;
        process.drained().await;
        let printed = machine.printed.news(process, Stream::Stdout);
        // Complaints about unknown commands appear here.
        let complaints = machine.printed.news(process, Stream::Stderr);
        // A successful command reports that on standard output, and the monitor's reply is empty.
        let refusals = reply.lines().filter(|line| !line.trim().is_empty());
        let failures = imgtools::io::failures(&printed).into_iter().chain(refusals);
        let complaints = complaints.lines().filter(|line| running::is_complaint(line));
        let failed: Vec<&str> =
            failures.chain(complaints).filter(|line| !machine.tolerates(line)).collect();
        if failed.is_empty() {
            return Ok(printed);
        }
        machine.printed.know(&failed);
        Err(Failure::new(format!(
            "failed to run `{command}` on {self}:\n  {}",
            failed.join("\n  ")
        )))
    }

    /// The export that gives access to it on a storage daemon.
    async fn reach(&self) -> CaseResult<Reached> {
        let machine = self.machine;
        match &self.target {
            Target::Disk(id) => match machine.attached(id)?.way {
                Way::Export(export) => Ok(Reached {
                    writable: export.writable == Some(true),
                    export: export.id,
                    temporary: false,
                }),
                _ => Err(Failure::new(format!("the disk {id} is not exported"))),
            },
            Target::Node(node) => {
                let id = format!("io{}", machine.monitor.shared.next_number());
                let writable = machine.node(node).await?["ro"] != true;
                machine.nbd.add(machine, nbd_export(id.clone(), node, writable)).await?;
                Ok(Reached {
                    export: id,
                    writable,
                    temporary: true,
                })
            }
        }
    }

    async fn io_by_nbd(&self, commands: &[String]) -> CaseResult<String> {
        if commands.is_empty() {
            // Without commands, qemu-io would be interactive.
            return Ok(String::new());
        }
        let (machine, reached) = (self.machine, self.reach().await?);
        let mut call = ToolCall::new(&machine.monitor.shared, ToolKind::Io);
        for command in commands {
            call = call.args(["-c", command]);
        }
        if !reached.writable {
            call = call.arg("-r");
        }
        let call = machine.nbd.named(machine, &reached.export, call).await?;
        let output = call.await;
        if reached.temporary {
            machine.nbd.remove(machine, &reached.export).await?;
        }
        Ok(output?.combined_text())
    }

    /// Whether our own client can send them.
    async fn sent_by_nbd(&self, requests: &[Request]) -> CaseResult<bool> {
        let (machine, reached) = (self.machine, self.reach().await?);
        let client = machine.nbd.client(machine, &reached.export).await?;
        let sent = guest::try_send(client, requests, machine.monitor.shared.spec.cache).await;
        if reached.temporary {
            machine.nbd.remove(machine, &reached.export).await?;
        }
        sent.map_err(|failure| failure.context(format!("failed to use {self}")))
    }

    /// Writes this byte to a range.
    #[track_caller]
    pub fn write(&self, pattern: u8, range: Range<u64>) -> Action<'_, ()> {
        self.each_piece(&range, |piece| Request::Write(pattern, piece))
    }

    /// Writes zeroes to a range, with a write-zeroes request.
    #[track_caller]
    pub fn zero(&self, range: Range<u64>) -> Action<'_, ()> {
        self.each_piece(&range, Request::Zero)
    }

    /// Discards a range.
    #[track_caller]
    pub fn discard(&self, range: Range<u64>) -> Action<'_, ()> {
        self.each_piece(&range, Request::Discard)
    }

    /// Flushes written data. On an emulator a failure goes unnoticed: its monitor drops the error
    /// of qemu-io's `flush`.
    #[track_caller]
    pub fn flush(&self) -> Action<'_, ()> {
        self.request_all(vec![Request::Flush])
    }

    /// Asserts that every byte in this range is this one.
    #[track_caller]
    pub fn assert_pattern(&self, pattern: u8, range: Range<u64>) -> Action<'_, ()> {
        self.each_piece(&range, |piece| Request::Read(pattern, piece))
    }

    #[track_caller]
    fn each_piece(
        &self,
        range: &Range<u64>,
        request: impl Fn(Range<u64>) -> Request,
    ) -> Action<'_, ()> {
        self.request_all(pieces(range).map(request).collect())
    }

    /// Holds the requests of a disk that raise this blkdebug event, from now on until the returned
    /// breakpoint is resumed. Emulators only; for a disk
    /// [`with_breakpoints`](super::DiskBuilder::with_breakpoints).
    #[track_caller]
    pub fn hold(&self, event: &str) -> Action<'_, Held<'m>> {
        let (place, event) = (Location::caller(), event.to_owned());
        Action::at(place, format!("a breakpoint on {self}"), async move {
            let tag = format!("bp{}", self.machine.monitor.shared.next_number());
            self.io(&format!("break {event} {tag}")).await?;
            Ok(Held {
                access: self.clone(),
                tag,
                set: Some(Origin::of(place.into())),
            })
        })
    }
}

/// An export of a storage daemon.
struct Reached {
    export: String,
    writable: bool,
    /// Whether it exists only for this use.
    temporary: bool,
}

impl Storage for Access<'_> {
    #[track_caller]
    fn size(&self) -> Action<'_, u64> {
        Access::size(self)
    }

    #[track_caller]
    fn io_all(&self, commands: Vec<String>) -> Action<'_, String> {
        Access::io_all(self, commands)
    }

    #[track_caller]
    fn request_all(&self, requests: Vec<Request>) -> Action<'_, ()> {
        let first = requests.first().map(Request::to_string).unwrap_or_default();
        Action::new(format!("\"{first}\" on {self}"), async move {
            let by_client = self.machine.backend() == Backend::Qsd && !requests.is_empty();
            if by_client && self.sent_by_nbd(&requests).await? {
                return Ok(());
            }
            self.io_all(requests.iter().map(Request::to_string)).await?;
            Ok(())
        })
    }
}

impl fmt::Display for Access<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<&Access<'_>> for Target {
    fn from(access: &Access<'_>) -> Self {
        access.target.clone()
    }
}

impl From<&BlockNode<'_>> for Target {
    fn from(node: &BlockNode<'_>) -> Self {
        node.access.target.clone()
    }
}

/// How much of a machine's output was checked, and which failures in it the case has seen.
#[derive(Default)]
pub(super) struct Printed(std::sync::Mutex<Seen>);

#[derive(Default)]
struct Seen {
    stdout: u64,
    stderr: u64,
    known: Vec<String>,
}

impl Printed {
    fn state(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was printed to this stream since the last call; for stderr, where lines arrive in
    /// pieces, only whole lines while the process runs.
    fn news(&self, process: &Child, stream: Stream) -> String {
        let mut state = self.state();
        let from = match stream {
            Stream::Stdout => &mut state.stdout,
            Stream::Stderr => &mut state.stderr,
        };
        process.view(|view| {
            let mut news = view.from(stream, *from);
            let start = view.end(stream) - news.len() as u64;
            if stream == Stream::Stderr && view.status().is_none() {
                news = whole_lines(news);
            }
            *from = start + news.len() as u64;
            String::from_utf8_lossy(news).into_owned()
        })
    }

    fn know(&self, lines: &[&str]) {
        let lines = lines.iter().map(|line| (*line).to_owned());
        self.state().known.extend(lines);
    }

    /// These lines without those that the case has seen, each as many times as seen.
    pub(super) fn unknown<'a>(&self, lines: Vec<&'a str>) -> Vec<&'a str> {
        let known = &mut self.state().known;
        let is_news = |line: &&str| match known.iter().position(|old| old == line) {
            Some(at) => {
                known.swap_remove(at);
                false
            }
            None => true,
        };
        lines.into_iter().filter(is_news).collect()
    }
}

/// The part that consists of complete lines.
pub(super) fn whole_lines(printed: &[u8]) -> &[u8] {
    let last = printed.iter().rposition(|byte| *byte == b'\n');
    &printed[..last.map_or(0, |at| at + 1)]
}

impl Machine {
    /// What it has printed to stderr since the last check; from now on it counts as seen by the
    /// case.
    pub(super) async fn printed_to_stderr(&self) -> CaseResult<Vec<String>> {
        let process = self.inner()?.process();
        process.drained().await;
        let news = self.printed.news(process, Stream::Stderr);
        let lines: Vec<&str> = news.lines().filter(|line| !line.trim().is_empty()).collect();
        self.printed.know(&lines);
        Ok(lines.into_iter().map(str::to_owned).collect())
    }
}

/// A breakpoint that holds requests. It must be resumed or removed: a machine with a held request
/// does not end.
#[must_use = "requests are held back until they are resumed"]
pub struct Held<'m> {
    access: Access<'m>,
    tag: String,
    /// Where it was set, until it is resumed or removed.
    set: Option<Origin>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let monitor = &self.access.machine.monitor;
        if let (Some(set), false) = (&self.set, monitor.has_ended()) {
            let problem = format!("the breakpoint on {} was never resumed", self.access);
            monitor.shared.problem(set, problem);
        }
    }
}

impl<'m> Held<'m> {
    /// Records that there is nothing left to resume.
    fn settle(&mut self) {
        self.set = None;
    }

    /// Waits until a request has hit the breakpoint. Resuming a breakpoint that no request has hit
    /// can hang QEMU permanently, so resuming always waits first.
    #[track_caller]
    pub fn wait_hit(&self) -> Action<'_, ()> {
        let what = format!("a request to hit the breakpoint on {}", self.access);
        Action::new(what, async move {
            self.access.io(&format!("wait_break {}", self.tag)).await?;
            Ok(())
        })
    }

    /// Waits until a request has hit the breakpoint, then lets it continue. Later requests are not
    /// held: the first hit removes the breakpoint.
    #[track_caller]
    pub fn resume(mut self) -> Action<'m, ()> {
        Action::new(format!("the requests on {}", self.access), async move {
            self.wait_hit().await?;
            self.access.io(&format!("resume {}", self.tag)).await?;
            self.settle();
            Ok(())
        })
    }

    /// Removes the breakpoint, whether or not a request has hit it; a held request continues.
    #[track_caller]
    pub fn remove(mut self) -> Action<'m, ()> {
        Action::new(format!("the breakpoint on {}", self.access), async move {
            let command = format!("remove_break {}", self.tag);
            self.settle();
            match self.access.io(&command).await {
                // QEMU also reports this after releasing a held request.
                Err(failure) if failure.message().contains(NO_BREAKPOINT) => Ok(()),
                removed => removed.map(drop),
            }
        })
    }
}

/// What `remove_break` prints for a breakpoint that a request has hit.
const NO_BREAKPOINT: &str = "Could not remove breakpoint";

#[cfg(test)]
mod tests {
    use imgtools::process::{Command, Stream};

    use super::Printed;

    /// An incomplete line is neither recorded nor judged until the rest or the end arrives.
    #[tokio::test]
    async fn a_line_is_news_when_all_of_it_is_there() {
        let script = "printf 'one\\ntwo' >&2; read go; printf ' and three\\nfour' >&2";
        let command = Command::new("sh").args(["-c", script]).stdin_piped();
        let child = command.spawn_async().await.unwrap();
        let half = b"one\ntwo".len() as u64;
        child.until(|view| (view.end(Stream::Stderr) == half).then_some(())).await.unwrap();
        let printed = Printed::default();
        assert_eq!(printed.news(&child, Stream::Stderr), "one\n");
        assert_eq!(printed.news(&child, Stream::Stderr), "");
        assert!(child.write("go\n"));
        child.exited().await.unwrap();
        assert_eq!(printed.news(&child, Stream::Stderr), "two and three\nfour");
    }
}
