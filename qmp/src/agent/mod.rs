//! The QEMU guest agent: its commands, and higher-level operations built from several of them.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use qmp::agent::{Agent, Exec};
//!
//! // -chardev socket,path=/run/agent,server=on,wait=off,id=agent
//! // -device virtio-serial -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0
//! let agent = Agent::connect_unix("/run/agent", qmp::Options::default()).await?;
//! let output = agent.exec(Exec::new("uname").arg("-r")).await?;
//! println!("{}", String::from_utf8_lossy(&output.stdout));
//! agent.write_file("/etc/motd", b"hello\n").await?;
//! # Ok(()) }
//! ```
//!
//! All commands are in [`types`] and go through [`Agent::call`]. A command that is answered only on
//! failure, such as [`types::GuestShutdown`], counts as successful once the agent has been silent
//! for two seconds.

#[allow(unused_imports, clippy::enum_variant_names, clippy::large_enum_variant)]
pub mod types;

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;

use crate::client::{Call, Client, Options};
use crate::command::Command;
use crate::error::{ConnectError, Error};
use types::{
    GuestExecCommand, GuestExecStatus, GuestExecStatusCommand, GuestFileClose, GuestFileFlush,
    GuestFileOpen, GuestFileReadCommand, GuestFileWriteCommand, GuestPing,
};

/// How much of a file one command carries: small enough for the agent's memory, and for other
/// commands to get through the guest's serial line soon.
const PIECE: usize = 1 << 20;

/// The backoff between two polls for a program's exit. The agent has no event for it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How often an agent that may still be starting is polled.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A session with the guest agent of one guest. Clones share it.
#[derive(Clone, Debug)]
pub struct Agent {
    client: Client,
}

/// Why the agent could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A command failed.
    #[error(transparent)]
    Command(#[from] Error),
    /// The agent sent data that is not base64.
    #[error("failed to read {what}: it is not base64")]
    Base64 {
        /// What the data was.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: base64::DecodeError,
    },
    /// The agent accepted none of the remaining content of a file.
    #[error("failed to write {path} in the guest: the agent took nothing after {written} bytes")]
    Stalled {
        /// The path in the guest.
        path: String,
        /// How many bytes had been written.
        written: usize,
    },
    /// The program did not exit before the deadline. It keeps running.
    #[error("failed to see the end of {program} in the guest (pid {pid}) within {after:?}")]
    Timeout {
        /// Its path.
        program: String,
        /// Its process ID in the guest.
        pid: i64,
        /// The time allowed.
        after: Duration,
    },
}

/// A program to execute in the guest.
#[derive(Clone, Debug)]
pub struct Exec {
    path: String,
    args: Vec<String>,
    env: Vec<String>,
    input: Option<Vec<u8>>,
    timeout: Option<Duration>,
}

impl Exec {
    /// A program, by its path or by a name that is looked up in the agent's `PATH`.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            input: None,
            timeout: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable. Once one is set, the program inherits no others.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// What the program reads from its standard input.
    #[must_use]
    pub fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = Some(input.into());
        self
    }

    /// Limits the time from starting the program to its exit. Default: none.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// How a program in the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecOutput {
    /// Its exit code, if it exited.
    pub code: Option<i64>,
    /// The signal or, on Windows, the exception that ended it.
    pub signal: Option<i64>,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// The agent dropped part of the output, because it was too long (16 MiB).
    pub truncated: bool,
}

impl ExecOutput {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl Agent {
    /// Waits for the agent behind a Unix socket, even one that has not started yet, until
    /// [`Options::connect_deadline`].
    ///
    /// # Errors
    /// As [`Client::connect_unix`]; [`ConnectError::NoAgent`] when no agent answers.
    pub async fn connect_unix(
        path: impl AsRef<Path>,
        options: Options,
    ) -> Result<Self, ConnectError> {
        let client = Client::connect_unix(path, options.guest_agent()).await?;
        Ok(Self { client })
    }

    /// An agent whose session was started with [`Options::guest_agent`].
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The session.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A command. Await it to send it.
    pub fn call<C: Command>(&self, command: C) -> Call<C::Return> {
        self.client.call(command)
    }

    /// Waits until the agent answers, for instance while the guest reboots, however long that takes.
    ///
    /// # Errors
    /// When the session ends.
    pub async fn wait_ready(&self) -> Result<(), Error> {
        loop {
            match self.call(GuestPing::new()).deadline(ASK_AGAIN).await {
                Ok(_) => return Ok(()),
                // Once this call is abandoned, the next command polls for the agent again each
                // second.
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Executes a program in the guest, waits for its exit and returns its output.
    ///
    /// Each command that this sends has the session's call deadline; the whole operation has
    /// [`Exec::timeout`]. Dropping the future leaves the program running.
    ///
    /// # Errors
    /// When the agent refuses, the session ends, or the program does not exit in time. A program
    /// that fails is not an error here; see [`ExecOutput::success`].
    pub async fn exec(&self, exec: Exec) -> Result<ExecOutput, AgentError> {
        let Exec {
            path,
            args,
            env,
            input,
            timeout,
        } = exec;
        let mut command = GuestExecCommand::new(path.as_str()).capture_output(true);
        if !args.is_empty() {
            command = command.arg(args);
        }
        if !env.is_empty() {
            command = command.env(env);
        }
        if let Some(input) = input {
            command = command.input_data(STANDARD.encode(input));
        }
        let begins = Instant::now();
        let mut start = self.call(command);
        if let Some(limit) = timeout.into_iter().chain(self.client.deadline()).min() {
            start = start.deadline(limit);
        }
        let pid = start.await?.pid;
        let Some(after) = timeout else {
            return self.wait_exit(pid).await;
        };
        let left = after.saturating_sub(begins.elapsed());
        let ended = tokio::time::timeout(left, self.wait_exit(pid)).await;
        ended.unwrap_or(Err(AgentError::Timeout {
            program: path,
            pid,
            after,
        }))
    }

    async fn wait_exit(&self, pid: i64) -> Result<ExecOutput, AgentError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let status = self.call(GuestExecStatusCommand::new(pid)).await?;
            if status.exited {
                return output(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Reads a whole guest file into memory; do not use it on endless files such as `/dev/zero`.
    /// Dropping the future leaves the file open in the agent.
    ///
    /// # Errors
    /// When the agent refuses, or the session ends.
    pub async fn read_file(&self, path: &str) -> Result<Vec<u8>, AgentError> {
        let handle = self.call(GuestFileOpen::new(path)).await?;
        let read = self.read_all(handle).await;
        let closed = self.call(GuestFileClose::new(handle)).await;
        let content = read?;
        closed?;
        Ok(content)
    }

    async fn read_all(&self, handle: i64) -> Result<Vec<u8>, AgentError> {
        let mut content = Vec::new();
        loop {
            let read = GuestFileReadCommand::new(handle).count(PIECE as i64);
            let piece = self.call(read).await?;
            content.extend(decode("a piece of a file", &piece.buf_b64)?);
            // At end of file, and when there is nothing more to read for now.
            if piece.eof || piece.count == 0 {
                return Ok(content);
            }
        }
    }

    /// Writes a guest file, replacing its content. Dropping the future leaves the file partly
    /// written, and open in the agent.
    ///
    /// # Errors
    /// When the agent refuses, or the session ends. The file may then be partly written.
    pub async fn write_file(&self, path: &str, content: &[u8]) -> Result<(), AgentError> {
        let handle = self.call(GuestFileOpen::new(path).mode("w")).await?;
        let written = self.write_all(path, handle, content).await;
        let closed = self.call(GuestFileClose::new(handle)).await;
        written?;
        closed?;
        Ok(())
    }

    async fn write_all(&self, path: &str, handle: i64, content: &[u8]) -> Result<(), AgentError> {
        let mut written = 0;
        while written < content.len() {
            let end = content.len().min(written + PIECE);
            let piece = STANDARD.encode(&content[written..end]);
            let taken = self.call(GuestFileWriteCommand::new(handle, piece)).await?;
            match usize::try_from(taken.count) {
                Ok(count) if count > 0 => written = end.min(written + count),
                _ => {
                    let path = path.to_owned();
                    return Err(AgentError::Stalled { path, written });
                }
            }
        }
        self.call(GuestFileFlush::new(handle)).await?;
        Ok(())
    }
}

fn output(status: GuestExecStatus) -> Result<ExecOutput, AgentError> {
    let decoded = |what, data: Option<String>| match data {
        Some(data) => decode(what, &data),
        None => Ok(Vec::new()),
    };
    Ok(ExecOutput {
        code: status.exitcode,
        signal: status.signal,
        stdout: decoded("the output of a program", status.out_data)?,
        stderr: decoded("the errors of a program", status.err_data)?,
        truncated: status.out_truncated == Some(true) || status.err_truncated == Some(true),
    })
}

fn decode(what: &'static str, data: &str) -> Result<Vec<u8>, AgentError> {
    let decoded = STANDARD.decode(data);
    decoded.map_err(|source| AgentError::Base64 { what, source })
}
