//! An interactive qemu-io, one command at a time.
//!
//! How it works:
//! - The prompt is the program's own name. It is learned from the first one that appears, so that
//!   renamed programs and wrapper scripts work.
//! - One line is sent for each prompt. qemu-io reads by stdio but waits by poll: of two lines sent at
//!   once the second stays in its buffer.
//! - The prompt is what flushes its standard output; standard error is not buffered. So all
//!   standard error output read by the time the prompt is seen belongs to the command, because the
//!   process runner reads standard error no later than the standard output that followed it.
//! - Output that does not end in a newline runs into the prompt, and data can look like a prompt. A
//!   prompt in the middle of a line is therefore only accepted if an empty command produces a
//!   second one right after it.
//! - A caller may stop waiting for a command, but qemu-io does not abandon it. So the session
//!   tracks what is outstanding, and waits for that before it sends another line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::command::Success;
use super::report::is_report;
use super::{IoCommand, IoError, Mismatch, Open, Transfer, failures, mismatches, transfers};
use crate::image::NameError;
use crate::process::{Child, Command, CommandLine, Output, ProcessError, Stream, View, block_on};

/// The output of a command of a session.
#[derive(Clone)]
#[non_exhaustive]
pub struct Reply {
    /// The command.
    pub command: String,
    /// Standard output, without the prompt.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    success: Success,
    /// How the session was started: it knows the secrets.
    session: Arc<CommandLine>,
}

/// Without secrets, like everything that is shown.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("command", &self.session.redact(&self.command))
            .field("stdout", &self.session.redact(&self.stdout))
            .field("stderr", &self.session.redact(&self.stderr))
            .finish_non_exhaustive()
    }
}

impl Reply {
    /// The command for a message, without secrets.
    pub(super) fn shown_command(&self) -> String {
        self.session.redact(&self.command).into_owned()
    }

    /// The output for a message, without secrets: standard output, then standard error.
    pub(super) fn shown_text(&self) -> String {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        self.session.redact(&text).into_owned()
    }

    /// The completed requests.
    pub fn transfers(&self) -> Vec<Transfer> {
        transfers(&self.stdout)
    }

    /// The pattern mismatches.
    pub fn mismatches(&self) -> Vec<Mismatch> {
        mismatches(&self.stdout)
    }

    /// Whether the command succeeded: it reported no failure, printed nothing on standard error,
    /// and reported success as such a command does.
    pub fn is_success(&self) -> bool {
        let only_reports = || self.stdout.lines().all(is_report);
        let said = match self.success {
            Success::Line(word) => self.stdout.lines().any(|line| line.starts_with(word)),
            // This may include output of earlier requests.
            Success::LaterLine(_) | Success::Silence => only_reports(),
            Success::Any => true,
        };
        self.stderr.is_empty() && failures(&self.stdout).is_empty() && said
    }

    /// Returns itself on success; anything else is an error.
    pub fn check(self) -> Result<Reply, IoError> {
        match self.is_success() {
            true => Ok(self),
            false => Err(IoError::Reply(self.into())),
        }
    }

    fn with(self, printed: Printed) -> Reply {
        Reply {
            stdout: printed.stdout,
            stderr: printed.stderr,
            ..self
        }
    }
}

/// A running qemu-io. Dropping it kills it.
#[derive(Debug)]
pub struct Session {
    child: Child,
    command: Arc<CommandLine>,
    prompt: Vec<u8>,
    deadline: Option<Duration>,
    /// How far the output has been read.
    stdout: u64,
    stderr: u64,
    awaited: Awaited,
    /// The last command sent, while unanswered.
    asked: Option<Reply>,
}

/// What has been sent and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// The prompt that follows a command.
    Prompt,
    /// The prompt after an empty command, sent because the first one was ambiguous.
    SecondPrompt,
}

/// The result of waiting for a prompt.
enum Found {
    Prompt(Printed),
    /// The output ends like a prompt, but in the middle of a line.
    Doubtful,
}

impl Session {
    pub(super) async fn start(open: &Open) -> Result<Session, IoError> {
        let child = starting(open)?.spawn_async().await?;
        match child.until(first_prompt(open)).await {
            Some(found) => {
                let mut session = Session::new(child, found, open.time_for_a_command());
                for command in open.first_commands() {
                    session.run(command).await?.check()?;
                }
                Ok(session)
            }
            None => Err(not_started(child.wait().await)),
        }
    }

    fn new(
        child: Child,
        (prompt, stdout, stderr): FirstPrompt,
        deadline: Option<Duration>,
    ) -> Session {
        child.set_deadline(None);
        Session {
            command: Arc::new(child.command().clone()),
            child,
            prompt,
            deadline,
            stdout,
            stderr,
            awaited: Awaited::Nothing,
            asked: None,
        }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// The prompt: qemu-io's own name, and `> `.
    pub fn prompt(&self) -> String {
        String::from_utf8_lossy(&self.prompt).into_owned()
    }

    /// The deadline of each command from now on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = Some(deadline);
    }

    /// Runs a command, and returns its output. [`Reply::check`] determines whether it succeeded.
    ///
    /// If the future is dropped before the answer arrives, the command continues in qemu-io, within
    /// its deadline. Its output is discarded; the next command is sent when it has finished.
    pub async fn run(&mut self, command: impl Into<IoCommand>) -> Result<Reply, IoError> {
        let command = command.into();
        let line = command.line()?;
        if self.awaited != Awaited::Nothing && self.printed().await.is_none() {
            let ended = self.child.wait().await;
            // It was the previously abandoned command that met this end.
            let asked = self.asked.take();
            let reply = asked.unwrap_or_else(|| self.reply(&command, line));
            return Err(self.died(reply, ended));
        }
        let reply = self.ask(&command, line);
        match self.printed().await {
            Some(printed) => Ok(reply.with(printed)),
            None => {
                let ended = self.child.wait().await;
                Err(self.died(reply, ended))
            }
        }
    }

    /// [`Session::run`] outside of async code.
    pub fn run_blocking(&mut self, command: impl Into<IoCommand>) -> Result<Reply, IoError> {
        block_on(self.run(command))
    }

    /// Waits for all aio requests. The reply has their output, whichever command started them,
    /// unless a command in between already has it.
    pub async fn aio_flush(&mut self) -> Result<Reply, IoError> {
        self.run(IoCommand::aio_flush()).await
    }

    /// Quits it cleanly, and returns its exit status and all output. The status is 1 if any command
    /// has failed; only a signal is an error here.
    pub async fn quit(self) -> Result<Output, IoError> {
        self.end();
        Ok(self.child.wait().await?.check_code(|_| true)?)
    }

    /// [`Session::quit`] outside of async code.
    pub fn quit_blocking(self) -> Result<Output, IoError> {
        block_on(self.quit())
    }

    /// `q` and the end of the input; then the deadline, SIGTERM, SIGKILL.
    fn end(&self) {
        self.child.set_deadline(self.deadline);
        self.child.write("q\n");
        self.child.close_stdin();
    }

    fn reply(&self, command: &IoCommand, line: String) -> Reply {
        Reply {
            command: line,
            stdout: String::new(),
            stderr: String::new(),
            success: command.success(),
            session: Arc::clone(&self.command),
        }
    }

    fn ask(&mut self, command: &IoCommand, line: String) -> Reply {
        self.child.set_deadline(self.deadline);
        // If qemu-io no longer reads, waiting for the prompt will detect it.
        self.child.write(format!("{line}\n"));
        self.awaited = Awaited::Prompt;
        let reply = self.reply(command, line);
        self.asked = Some(reply.clone());
        reply
    }

    /// Waits for the expected prompt; `None` if qemu-io exited without one.
    async fn printed(&mut self) -> Option<Printed> {
        loop {
            let found = self.child.until(|view| self.look(view)).await?;
            if let Some(printed) = self.found(found) {
                return Some(printed);
            }
        }
    }

    fn look(&self, view: &View<'_>) -> Option<Found> {
        let new = view.from(Stream::Stdout, self.stdout);
        let text = new.strip_suffix(&*self.prompt)?;
        let text = match self.awaited {
            Awaited::SecondPrompt => text.strip_suffix(&*self.prompt)?,
            _ if text.is_empty() || text.ends_with(b"\n") => text,
            _ => return Some(Found::Doubtful),
        };
        Some(Found::Prompt(Printed {
            stdout: String::from_utf8_lossy(text).into_owned(),
            stderr: String::from_utf8_lossy(view.from(Stream::Stderr, self.stderr)).into_owned(),
            ends: (view.end(Stream::Stdout), view.end(Stream::Stderr)),
        }))
    }

    /// Records a prompt, or requests a second one after an ambiguous one: an empty command prints
    /// only a prompt.
    fn found(&mut self, found: Found) -> Option<Printed> {
        match found {
            Found::Prompt(printed) => {
                self.child.set_deadline(None);
                (self.stdout, self.stderr) = printed.ends;
                self.awaited = Awaited::Nothing;
                Some(printed)
            }
            Found::Doubtful => {
                self.child.write("\n");
                self.awaited = Awaited::SecondPrompt;
                None
            }
        }
    }

    fn died(&self, mut reply: Reply, ended: Result<Output, ProcessError>) -> IoError {
        self.child.view(|view| {
            let text = |stream, from| String::from_utf8_lossy(view.from(stream, from)).into_owned();
            reply.stdout = text(Stream::Stdout, self.stdout);
            reply.stderr = text(Stream::Stderr, self.stderr);
        });
        let reply = Box::new(reply);
        match ended {
            Ok(output) => IoError::Died {
                reply,
                output: output.into(),
            },
            Err(ProcessError::Deadline { deadline, .. }) => IoError::Deadline { reply, deadline },
            Err(error) => error.into(),
        }
    }
}

/// The output before a prompt, and the positions after it.
struct Printed {
    stdout: String,
    stderr: String,
    ends: (u64, u64),
}

fn starting(open: &Open) -> Result<Command, NameError> {
    let command = open.interactive()?.stdin_piped();
    Ok(match open.time_for_a_command() {
        Some(deadline) => command.deadline(deadline),
        None => command,
    })
}

/// The prompt, and the positions after it.
type FirstPrompt = (Vec<u8>, u64, u64);

/// Looks for the first prompt: a last line that ends in `> `, and usually begins with the program's
/// file name.
fn first_prompt(open: &Open) -> impl FnMut(&View<'_>) -> Option<FirstPrompt> + use<> {
    let name = open.program().file_name().map(|name| format!("{}> ", name.display()));
    move |view| {
        let text = view.from(Stream::Stdout, 0);
        let known = name.as_ref().filter(|name| text.ends_with(name.as_bytes()));
        let prompt = match known {
            Some(name) => name.clone().into_bytes(),
            None if text.ends_with(b"> ") => {
                text.rsplit(|byte| *byte == b'\n').next().unwrap_or(text).to_vec()
            }
            None => return None,
        };
        Some((prompt, view.end(Stream::Stdout), view.end(Stream::Stderr)))
    }
}

/// H04: its output, status and arguments.
fn not_started(ended: Result<Output, ProcessError>) -> IoError {
    match ended {
        Ok(output) => IoError::Start(output.into()),
        Err(error) => error.into(),
    }
}
