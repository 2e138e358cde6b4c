//! qemu-io that is talked to, one command at a time.
//!
//! What makes this work, beyond a loop:
//! - The prompt is the program's own name. It is learned from the first one that comes, so that
//!   renamed programs and wrapper scripts work.
//! - One line is sent for each prompt. qemu-io reads by stdio but waits by poll: of two lines sent at
//!   once the second stays in its buffer.
//! - The prompt is what flushes its standard output; standard error is not buffered. So what is on
//!   standard error when the prompt is seen belongs to the command, all of it, because the process
//!   runner never shows standard output later than it has read standard error.
//! - Output that does not end in a newline runs into the prompt, and data can look like a prompt. A
//!   prompt in the middle of a line is therefore only believed when an empty command has brought a
//!   second one right behind it.
//! - A caller may give up waiting for a command, but qemu-io does not give up the command. So the
//!   session knows what it still waits for, and waits for that before it sends another line.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::command::Success;
use super::report::is_report;
use super::{IoCommand, IoError, Mismatch, Open, Transfer, failures, mismatches, transfers};
use crate::image::NameError;
use crate::process::{Child, Command, CommandLine, Output, ProcessError, Stream, View, block_on};

/// What a command of a session printed.
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

/// Without secrets, as all that is shown.
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

    /// What was printed for a message, without secrets: standard output, then standard error.
    pub(super) fn shown_text(&self) -> String {
        let lines = self.stdout.lines().chain(self.stderr.lines());
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        self.session.redact(&text).into_owned()
    }

    /// The requests that were done.
    pub fn transfers(&self) -> Vec<Transfer> {
        transfers(&self.stdout)
    }

    /// The patterns that were not found.
    pub fn mismatches(&self) -> Vec<Mismatch> {
        mismatches(&self.stdout)
    }

    /// Whether the command did what it should: it reported no failure, printed nothing on standard
    /// error, and reported its success as such a command does.
    pub fn is_success(&self) -> bool {
        let only_reports = || self.stdout.lines().all(is_report);
        let said = match self.success {
            Success::Line(word) => self.stdout.lines().any(|line| line.starts_with(word)),
            // Here may be what earlier requests have to say.
            Success::LaterLine(_) | Success::Silence => only_reports(),
            Success::Any => true,
        };
        self.stderr.is_empty() && failures(&self.stdout).is_empty() && said
    }

    /// Passes on a success; everything else is an error.
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
    /// The last command that was sent, without an answer.
    asked: Option<Reply>,
}

/// What has been sent and not yet been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Nothing,
    /// The prompt that follows a command.
    Prompt,
    /// The one that follows an empty command, sent because the first one was doubtful.
    SecondPrompt,
}

/// What waiting for a prompt has come to.
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

    /// The prompt: the name by which qemu-io calls itself, and `> `.
    pub fn prompt(&self) -> String {
        String::from_utf8_lossy(&self.prompt).into_owned()
    }

    /// The time that each command has from now on.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = Some(deadline);
    }

    /// Runs a command, and gives what it printed. Whether it succeeded is for [`Reply::check`] to
    /// tell.
    ///
    /// Where the future is dropped before the answer is there, the command goes on in qemu-io, within
    /// its deadline. What it prints is nobody's then; the next command is sent when it has ended.
    pub async fn run(&mut self, command: impl Into<IoCommand>) -> Result<Reply, IoError> {
        let command = command.into();
        let line = command.line()?;
        if self.awaited != Awaited::Nothing && self.printed().await.is_none() {
            let ended = self.child.wait().await;
            // It is the one that was given up before which has met this end.
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

    /// Waits for all aio requests. The reply has what they printed, whichever command started them,
    /// as far as no command between has already.
    pub async fn aio_flush(&mut self) -> Result<Reply, IoError> {
        self.run(IoCommand::aio_flush()).await
    }

    /// Ends it as it should end, and gives its exit status and all that it printed. The status is 1 if
    /// any command has failed; only a signal is an error here.
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
        // If nobody reads it any longer, waiting for the prompt will tell.
        self.child.write(format!("{line}\n"));
        self.awaited = Awaited::Prompt;
        let reply = self.reply(command, line);
        self.asked = Some(reply.clone());
        reply
    }

    /// Waits for the prompt that is awaited; None if qemu-io ended without one.
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

    /// Takes note of a prompt, or has a doubtful one followed by a second one: an empty command
    /// prints nothing but a prompt.
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

/// What was printed before a prompt, and the positions after it.
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

/// Looks for the first prompt: a last line that ends in `> `, and most often begins with the file
/// name of the program.
fn first_prompt(open: &Open) -> impl FnMut(&View<'_>) -> Option<FirstPrompt> + use<> {
    let name = open
        .program()
        .file_name()
        .map(|name| format!("{}> ", name.display()));
    move |view| {
        let text = view.from(Stream::Stdout, 0);
        let known = name.as_ref().filter(|name| text.ends_with(name.as_bytes()));
        let prompt = match known {
            Some(name) => name.clone().into_bytes(),
            None if text.ends_with(b"> ") => text
                .rsplit(|byte| *byte == b'\n')
                .next()
                .unwrap_or(text)
                .to_vec(),
            None => return None,
        };
        Some((prompt, view.end(Stream::Stdout), view.end(Stream::Stderr)))
    }
}

/// H04: what it printed, its status and its arguments.
fn not_started(ended: Result<Output, ProcessError>) -> IoError {
    match ended {
        Ok(output) => IoError::Start(output.into()),
        Err(error) => error.into(),
    }
}
