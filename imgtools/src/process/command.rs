//! The builder of a process.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use super::block_on::block_on;
use super::echo::Echo;
use super::exec::FdMap;
use super::shared::{Input, Shared};
use super::watcher::{self, Hook, Plan};
use super::{Child, CommandLine, Convention, Output, ProcessError, REDACTED, Stream};

/// How many bytes of each output stream are kept by default; see [`Command::cap`].
pub const DEFAULT_CAP: usize = 64 << 20;

/// The default time between SIGTERM and SIGKILL; see [`Command::grace`].
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// A process to run.
///
/// It gets its own process group, is killed by the kernel if we die, reads `/dev/null`, and
/// inherits only the file descriptors passed to it.
#[must_use = "a command does nothing until it is run or spawned"]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    wrapper: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    directory: Option<PathBuf>,
    shown: CommandLine,
    convention: Option<Convention>,
    input: Option<Input>,
    fds: FdMap,
    pdeathsig: bool,
    group: bool,
    deadline: Option<Duration>,
    grace: Duration,
    cap: usize,
    pull: bool,
    echo: bool,
    until_exit: bool,
    end_group: bool,
    hook: Option<Hook>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.command_line())
    }
}

impl Command {
    /// Runs this program, looked for in `PATH` if it has no slash.
    pub fn new(program: impl AsRef<OsStr>) -> Command {
        let program = program.as_ref().to_owned();
        let mut shown = CommandLine::default();
        shown.push_word(&program);
        Command {
            program,
            args: Vec::new(),
            wrapper: Vec::new(),
            env: Vec::new(),
            directory: None,
            shown,
            convention: None,
            input: None,
            fds: FdMap::default(),
            pdeathsig: true,
            group: true,
            deadline: None,
            grace: DEFAULT_GRACE,
            cap: DEFAULT_CAP,
            pull: false,
            echo: false,
            until_exit: false,
            end_group: false,
            hook: None,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Command {
        self.shown.push_word(arg.as_ref());
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        args.into_iter().fold(self, Command::arg)
    }

    /// Adds an argument that is redacted, also in the output of the process.
    ///
    /// Every local user can read the arguments of a running process. Prefer passing secrets in a
    /// file or through [`Command::fd`].
    pub fn secret_arg(mut self, arg: impl AsRef<OsStr>) -> Command {
        self.shown.push_word(OsStr::new(REDACTED));
        self.shown.push_secret(&arg.as_ref().to_string_lossy());
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Redacts a text wherever it occurs in the command or its output.
    pub fn secret(mut self, secret: &str) -> Command {
        self.shown.push_secret(secret);
        self
    }

    /// Sets an environment variable. It is shown as part of the command.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Command {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.shown.push_env(key, value);
        self.env.push((key.to_owned(), Some(value.to_owned())));
        self
    }

    /// Sets environment variables.
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        self,
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Command {
        vars.into_iter().fold(self, |command, (key, value)| command.env(key, value))
    }

    /// Removes an inherited environment variable.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Command {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// Runs it in this directory.
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Command {
        self.shown.set_directory(directory.as_ref());
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Feeds these bytes to its standard input, then end of file. It need not read them.
    pub fn stdin_data(mut self, data: impl Into<Vec<u8>>) -> Command {
        self.input = Some(Input {
            data: data.into(),
            more: false,
        });
        self
    }

    /// Lets it read what [`Child::write`] sends.
    pub fn stdin_piped(mut self) -> Command {
        self.input = Some(Input {
            data: Vec::new(),
            more: true,
        });
        self
    }

    /// Passes a file descriptor, which gets this number in the process. Not for the standard
    /// streams (0 to 2).
    pub fn fd(mut self, fd: impl Into<OwnedFd>, number: RawFd) -> Command {
        self.fds.push(fd.into(), number);
        self
    }

    /// Whether the kernel kills the process when we die (default: yes).
    pub fn pdeathsig(mut self, yes: bool) -> Command {
        self.pdeathsig = yes;
        self
    }

    /// Whether it gets its own process group (default: yes), so that its children are ended with
    /// it, and Ctrl-C in our terminal reaches none of them.
    pub fn new_group(mut self, yes: bool) -> Command {
        self.group = yes;
        self
    }

    /// The time by which it must have finished (default: none). When it has passed the group gets
    /// SIGTERM and, after the grace period, SIGKILL; the run then fails with
    /// [`ProcessError::Deadline`].
    pub fn deadline(mut self, deadline: Duration) -> Command {
        self.deadline = Some(deadline);
        self
    }

    /// The deadline set by [`Command::deadline`].
    pub fn time(&self) -> Option<Duration> {
        self.deadline
    }

    /// The time between SIGTERM and SIGKILL (default: [`DEFAULT_GRACE`]).
    pub fn grace(mut self, grace: Duration) -> Command {
        self.grace = grace;
        self
    }

    /// How many bytes of each output stream are kept (default: [`DEFAULT_CAP`]). The excess is
    /// dropped from the front, and counted; the process never waits for us.
    pub fn cap(mut self, bytes: usize) -> Command {
        self.cap = bytes;
        self
    }

    /// Does not keep its standard output, which is taken by [`Child::pull`] as it arrives. The
    /// process blocks while nothing is pulled, so memory is bounded however much it prints.
    pub fn pull_stdout(mut self) -> Command {
        self.pull = true;
        self
    }

    /// Whether its output is also copied to our standard error as it arrives, with secrets redacted
    /// (default: no). A possible beginning of a secret is held back until more arrives. If our
    /// standard error blocks for long, some output is dropped, with a note.
    pub fn echo(mut self, yes: bool) -> Command {
        self.echo = yes;
        self
    }

    /// Passes each piece of output to this function as it arrives. It is called from another
    /// thread, and the process is not served during the call. If it panics the process is killed,
    /// and the run fails with [`ProcessError::Watch`].
    pub fn on_output(mut self, hook: impl FnMut(Stream, &[u8]) + Send + 'static) -> Command {
        self.hook = Some(Box::new(hook));
        self
    }

    /// Waits only for the process to exit, not for the end of its output: a daemon that it leaves
    /// behind may keep the pipes open. Output up to then is captured.
    pub fn until_exit(mut self) -> Command {
        self.until_exit = true;
        self
    }

    /// After it has exited, however it did, kills the rest of its process group: helpers that it
    /// started, or, for a wrapper, the program that it ran. A daemon has left the group.
    pub fn end_group(mut self) -> Command {
        self.end_group = true;
        self
    }

    /// Runs it under another program, such as `valgrind --error-exitcode=99`.
    pub fn wrapper(mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let words: Vec<OsString> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.shown.push_words_before(&words);
        self.wrapper.splice(0..0, words);
        self
    }

    /// How to interpret the exit status (default: by the wrapper's name, see [`Convention`]; a
    /// shell that `exec`s the program is [`Convention::Direct`]).
    pub fn convention(mut self, convention: Convention) -> Command {
        self.convention = Some(convention);
        self
    }

    /// The command as it may be shown.
    pub fn command_line(&self) -> CommandLine {
        self.shown.clone()
    }

    /// Runs it to completion. No exit status is an error here; see [`Output::check`].
    ///
    /// Dropping the future kills the process and reaps it.
    pub async fn run(self) -> Result<Output, ProcessError> {
        self.start()?.wait().await
    }

    /// [`Command::run`] outside of async code.
    pub fn run_blocking(self) -> Result<Output, ProcessError> {
        block_on(self.run())
    }

    /// Starts it. Returns when the program is running, within a millisecond or so, so it may be
    /// called from async code; [`Command::spawn_async`] does not block even for that.
    pub fn spawn(self) -> Result<Child, ProcessError> {
        block_on(self.spawn_async())
    }

    /// Starts it, and waits without blocking until the program is running.
    pub async fn spawn_async(self) -> Result<Child, ProcessError> {
        self.start()?.started().await
    }

    fn start(self) -> Result<Child, ProcessError> {
        let shown = self.shown.clone();
        self.start_watcher().map_err(|source| ProcessError::Spawn {
            command: Box::new(shown),
            source,
        })
    }

    fn start_watcher(self) -> std::io::Result<Child> {
        let mut words = self.wrapper.iter().chain([&self.program]).chain(&self.args);
        let convention = self.convention.unwrap_or_else(|| by_name(self.wrapper.first()));
        let mut command = process::Command::new(words.next().unwrap_or(&self.program));
        command.args(words);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.group {
            command.process_group(0);
        }
        let has_stdin = self.input.is_some();
        let shared = Arc::new(Shared::new(
            self.shown,
            convention,
            self.group,
            self.cap,
            self.deadline,
            self.pull,
            self.input,
        )?);
        let plan = Plan {
            command,
            fds: self.fds,
            pdeathsig: self.pdeathsig,
            grace: self.grace,
            until_exit: self.until_exit,
            end_group: self.end_group,
            echo: self.echo.then(Echo::start).transpose()?,
            hook: self.hook,
        };
        watcher::start(plan, Arc::clone(&shared), has_stdin)?;
        Ok(Child::new(shared))
    }
}

fn by_name(wrapper: Option<&OsString>) -> Convention {
    match wrapper.and_then(|program| Path::new(program).file_name()).and_then(OsStr::to_str) {
        Some("valgrind") => Convention::Valgrind,
        _ => Convention::Direct,
    }
}
