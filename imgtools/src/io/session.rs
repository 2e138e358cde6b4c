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

use std::time::Duration;

use super::{IoCommand, IoError, Mismatch, Open, Transfer, failures, mismatches, transfers};
use crate::process::{Child, Output, ProcessError, Stream, View};

/// What a command of a session printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The command.
    pub command: String,
    /// Standard output, without the prompt.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    success: Option<&'static str>,
}

impl Reply {
    /// The requests that were done.
    pub fn transfers(&self) -> Vec<Transfer> {
        transfers(&self.stdout)
    }

    /// The patterns that were not found.
    pub fn mismatches(&self) -> Vec<Mismatch> {
        mismatches(&self.stdout)
    }

    /// Whether the command did what it should: it reported no failure, printed nothing on standard
    /// error, and reported success if it is one that does so.
    pub fn is_success(&self) -> bool {
        let said = |word| self.stdout.lines().any(|line| line.starts_with(word));
        self.stderr.is_empty() && failures(&self.stdout).is_empty() && self.success.is_none_or(said)
    }

    /// Passes on a success; everything else is an error.
    pub fn check(self) -> Result<Reply, IoError> {
        match self.is_success() {
            true => Ok(self),
            false => Err(IoError::Reply(self.into())),
        }
    }
}

/// A running qemu-io. Dropping it kills it.
#[derive(Debug)]
pub struct Session {
    child: Child,
    prompt: Vec<u8>,
    deadline: Duration,
    /// How far the output has been read.
    stdout: u64,
    stderr: u64,
}

/// What waiting for a prompt has come to. The texts are without the prompt.
enum Found {
    Prompt(Vec<u8>, Vec<u8>),
    /// The output ends like a prompt, but in the middle of a line.
    Doubtful,
}

impl Session {
    pub(super) async fn start(open: &Open) -> Result<Session, IoError> {
        let child = starting(open).spawn_async().await?;
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

    pub(super) fn start_blocking(open: &Open) -> Result<Session, IoError> {
        let child = starting(open).spawn()?;
        match child.until_blocking(first_prompt(open)) {
            Some(found) => {
                let mut session = Session::new(child, found, open.time_for_a_command());
                for command in open.first_commands() {
                    session.run_blocking(command)?.check()?;
                }
                Ok(session)
            }
            None => Err(not_started(child.wait_blocking())),
        }
    }

    fn new(child: Child, (prompt, stdout, stderr): FirstPrompt, deadline: Duration) -> Session {
        child.set_deadline(None);
        Session {
            child,
            prompt,
            deadline,
            stdout,
            stderr,
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
        self.deadline = deadline;
    }

    /// Runs a command, and gives what it printed. Whether it succeeded is for [`Reply::check`] to
    /// tell.
    pub async fn run(&mut self, command: impl Into<IoCommand>) -> Result<Reply, IoError> {
        let asked = self.ask(command.into())?;
        let mut found = self.child.until(|view| self.look(view)).await;
        if let Some(Found::Doubtful) = found {
            self.probe();
            found = self.child.until(|view| self.look_after_probe(view)).await;
        }
        match self.found(asked, found) {
            Ok(reply) => Ok(reply),
            Err(asked) => Err(self.died(asked, self.child.wait().await)),
        }
    }

    /// [`Session::run`] outside of async code.
    pub fn run_blocking(&mut self, command: impl Into<IoCommand>) -> Result<Reply, IoError> {
        let asked = self.ask(command.into())?;
        let mut found = self.child.until_blocking(|view| self.look(view));
        if let Some(Found::Doubtful) = found {
            self.probe();
            found = self
                .child
                .until_blocking(|view| self.look_after_probe(view));
        }
        match self.found(asked, found) {
            Ok(reply) => Ok(reply),
            Err(asked) => Err(self.died(asked, self.child.wait_blocking())),
        }
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
        self.end();
        Ok(self.child.wait_blocking()?.check_code(|_| true)?)
    }

    /// `q` and the end of the input; then the deadline, SIGTERM, SIGKILL.
    fn end(&self) {
        self.child.set_deadline(Some(self.deadline));
        self.child.write("q\n");
        self.child.close_stdin();
    }

    fn ask(&self, command: IoCommand) -> Result<Reply, IoError> {
        let line = command.line()?;
        self.child.set_deadline(Some(self.deadline));
        // If nobody reads it any longer, waiting for the prompt will tell.
        self.child.write(format!("{line}\n"));
        let success = command.success();
        Ok(Reply {
            command: line,
            stdout: String::new(),
            stderr: String::new(),
            success,
        })
    }

    /// An empty command prints nothing but a prompt.
    fn probe(&self) {
        self.child.write("\n");
    }

    fn look(&self, view: &View<'_>) -> Option<Found> {
        let new = view.from(Stream::Stdout, self.stdout);
        let text = new.strip_suffix(&*self.prompt)?;
        if text.is_empty() || text.ends_with(b"\n") {
            return Some(self.prompt_seen(view, text));
        }
        Some(Found::Doubtful)
    }

    fn look_after_probe(&self, view: &View<'_>) -> Option<Found> {
        let new = view.from(Stream::Stdout, self.stdout);
        // Of two prompts in a row the last is that of the empty command.
        let text = new
            .strip_suffix(&*self.prompt)?
            .strip_suffix(&*self.prompt)?;
        Some(self.prompt_seen(view, text))
    }

    fn prompt_seen(&self, view: &View<'_>, text: &[u8]) -> Found {
        Found::Prompt(
            text.to_vec(),
            view.from(Stream::Stderr, self.stderr).to_vec(),
        )
    }

    /// Completes the reply, or gives it back if there was no prompt.
    fn found(&mut self, mut reply: Reply, found: Option<Found>) -> Result<Reply, Reply> {
        let Some(Found::Prompt(stdout, stderr)) = found else {
            return Err(reply);
        };
        self.child.set_deadline(None);
        (self.stdout, self.stderr) = self
            .child
            .view(|view| (view.end(Stream::Stdout), view.end(Stream::Stderr)));
        reply.stdout = String::from_utf8_lossy(&stdout).into_owned();
        reply.stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(reply)
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

fn starting(open: &Open) -> crate::process::Command {
    open.interactive()
        .stdin_piped()
        .deadline(open.time_for_a_command())
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
