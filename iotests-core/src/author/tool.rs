//! Calls of QEMU's tools, checked unless the case requests otherwise.

use std::ffi::{OsStr, OsString};
use std::future::IntoFuture;
use std::panic::Location;
use std::sync::Arc;

use imgtools::image::Secret;
use imgtools::process::{Command, Output};
use serde_json::Value;

use super::action::Action;
use super::expect::ErrorText;
use super::failure::{CaseResult, Failure};
use super::image::{KEY, KEY_ID};
use super::log::Entry;
use super::shared::Shared;
use super::test::Test;
use crate::case::{Tool, ToolKind};

/// A call of a tool. Awaiting it runs the tool and requires exit status 0; the methods change what
/// is required.
#[derive(Clone)]
#[must_use = "a tool runs when the call is awaited"]
pub struct ToolCall {
    shared: Arc<Shared>,
    kind: ToolKind,
    arguments: Vec<Argument>,
    place: &'static Location<'static>,
}

#[derive(Clone)]
enum Argument {
    Plain(OsString),
    /// The id and the value of a secret object.
    Secret(String, String),
}

impl ToolCall {
    #[track_caller]
    pub(crate) fn new(shared: &Arc<Shared>, kind: ToolKind) -> Self {
        let place = Location::caller();
        ToolCall {
            shared: shared.clone(),
            kind,
            arguments: Vec::new(),
            place,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(Argument::Plain(argument.as_ref().to_owned()));
        self
    }

    /// Adds arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let arguments = arguments.into_iter();
        self.arguments.extend(arguments.map(|a| Argument::Plain(a.as_ref().to_owned())));
        self
    }

    /// Adds a secret with this id (`--object secret`): its value is passed in a file and never
    /// shown.
    pub fn secret(mut self, id: &str, value: &str) -> Self {
        let secret = Argument::Secret(id.to_owned(), value.to_owned());
        self.arguments.push(secret);
        self
    }

    /// Whether the arguments contain one of these, alone or as a prefix.
    pub(crate) fn has_any(&self, options: &[&str]) -> bool {
        self.arguments.iter().any(|argument| {
            let Argument::Plain(text) = argument else {
                return false;
            };
            text.to_str().is_some_and(|text| {
                options.iter().any(|option| {
                    text == *option
                        || (option.starts_with("--") && text.starts_with(&format!("{option}=")))
                        || (!option.starts_with("--") && text.starts_with(option))
                })
            })
        })
    }

    pub(crate) fn place(&self) -> &'static Location<'static> {
        self.place
    }

    /// The program, which must be qemu-io.
    pub(crate) fn io_tool(&self) -> CaseResult<Tool> {
        if self.kind != ToolKind::Io {
            return Err(Failure::new(format!("{} takes no commands", self.kind)));
        }
        self.shared.tool(self.kind)
    }

    /// The arguments, for callers that build the command in another way. None may be secret.
    pub(crate) fn plain_arguments(&self) -> CaseResult<Vec<OsString>> {
        let plain = |argument: &Argument| match argument {
            Argument::Plain(text) => Ok(text.clone()),
            Argument::Secret(..) => Err(Failure::new("a secret cannot be given this way")),
        };
        self.arguments.iter().map(plain).collect()
    }

    /// The command, and the files with its secrets, which it needs until it ends.
    fn command(&self) -> CaseResult<(Command, Vec<Secret>)> {
        let mut command = self.shared.tool(self.kind)?.command();
        let mut secrets = Vec::new();
        for argument in &self.arguments {
            command = match argument {
                Argument::Plain(text) => command.arg(text),
                Argument::Secret(id, value) => {
                    let secret = self.shared.secret(id, value)?;
                    let object = secret.object();
                    secrets.push(secret);
                    let command = command.secret(value).arg("--object");
                    command.arg(object.as_os_str())
                }
            };
        }
        Ok((command, secrets))
    }

    fn run<T: 'static>(
        self,
        read: impl FnOnce(Output) -> CaseResult<T> + 'static,
    ) -> Action<'static, T> {
        let (place, kind) = (self.place, self.kind);
        Action::at(place, format!("{kind}"), async move {
            let (mut command, _secrets) = self.command()?;
            if kind == ToolKind::Nbd {
                // `qemu-nbd --fork` leaves a daemon behind that may keep the output open.
                command = command.until_exit();
            }
            let output = command.run().await?;
            self.shared.note_output(&output);
            read(output)
        })
    }

    /// Runs the tool and accepts any exit status. Death by a signal is still a failure.
    pub fn any_status(self) -> Action<'static, Output> {
        self.run(|output| Ok(output.check_code(|_| true)?))
    }

    /// Runs the tool, which must exit with this status.
    pub fn expect_status(self, status: i32) -> Action<'static, Output> {
        self.run(move |output| Ok(output.check_code(|code| code == status)?))
    }

    /// Runs the tool, which must fail and print this text.
    pub fn expect_error(self, text: impl Into<ErrorText>) -> Action<'static, Output> {
        let (text, kind) = (text.into(), self.kind);
        self.run(move |output| expect_error(&kind.to_string(), output, &text))
    }

    /// Runs the tool and returns everything that it printed, both streams in order.
    pub fn text(self) -> Action<'static, String> {
        self.run(|output| Ok(output.check()?.combined_text()))
    }

    /// Runs the tool and parses its standard output as JSON.
    ///
    /// An exit status that only reports a finding (2 and 3 of `qemu-img check`) is not an error if
    /// there is JSON.
    pub fn json(self) -> Action<'static, Value> {
        self.run(json)
    }
}

/// Checks the output of a tool that must have failed and printed this text.
#[track_caller]
pub(crate) fn expect_error(what: &str, output: Output, text: &ErrorText) -> CaseResult<Output> {
    let output = output.check_code(|code| code != 0)?;
    let printed = output.combined_text();
    text.check(what, printed.trim_end())?;
    Ok(output)
}

/// Parses a tool's standard output as JSON.
#[track_caller]
pub(crate) fn json(output: Output) -> CaseResult<Value> {
    match serde_json::from_slice(&output.stdout) {
        Ok(value) => {
            output.check_code(|_| true)?;
            Ok(value)
        }
        Err(error) => {
            let output = output.check()?;
            let text = output.stdout_text().into_owned();
            Err(Failure::new(format!(
                "failed to read JSON: {error}; the tool printed: {text}"
            )))
        }
    }
}

impl IntoFuture for ToolCall {
    type Output = CaseResult<Output>;
    type IntoFuture = Action<'static, Output>;

    fn into_future(self) -> Self::IntoFuture {
        let kind = self.kind;
        self.run(move |output| {
            let output = output.check()?;
            let printed = output.combined_text();
            // The status of qemu-io does not cover asynchronous requests.
            match imgtools::io::failures(&printed).as_slice() {
                failures @ [_, ..] if kind == ToolKind::Io => {
                    let failures = failures.join("\n  ");
                    Err(Failure::new(format!(
                        "failed to run `{}`:\n  {failures}",
                        output.command
                    )))
                }
                _ => Ok(output),
            }
        })
    }
}

/// A tool's output as a log entry.
impl From<&Output> for Entry {
    fn from(output: &Output) -> Self {
        Entry::from(output.combined_text().trim_end().to_owned())
    }
}

impl From<Output> for Entry {
    fn from(output: Output) -> Self {
        Entry::from(&output)
    }
}

impl Shared {
    /// A secret, stored in a file of the test directory for as long as the value lives.
    pub(crate) fn secret(&self, id: &str, value: &str) -> CaseResult<Secret> {
        Ok(Secret::in_dir(self.directories.test(), id, value)?)
    }

    /// The key of encrypted images.
    pub(crate) fn key(&self) -> CaseResult<Secret> {
        self.secret(KEY_ID, KEY)
    }

    /// The tool of this run.
    #[track_caller]
    pub(crate) fn tool(&self, kind: ToolKind) -> CaseResult<Tool> {
        self.spec.tools.get(&kind).cloned().ok_or_else(|| {
            Failure::new(format!(
                "there is no {kind} here, and the case does not declare that it needs it"
            ))
        })
    }
}

impl Test {
    /// Calls qemu-img with exactly these arguments, for calls that are not typed on
    /// [`Image`](super::Image) or are wrong on purpose.
    #[track_caller]
    pub fn qemu_img(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ToolCall {
        ToolCall::new(&self.shared, ToolKind::Img).args(arguments)
    }

    /// Calls qemu-io with the cache and aio mode of the run. The format is the one in the arguments
    /// (`-f`, `--image-opts`) if there is one, otherwise that of the run.
    #[track_caller]
    pub fn qemu_io(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ToolCall {
        let call = ToolCall::new(&self.shared, ToolKind::Io).args(arguments);
        self.shared.with_io_defaults(call)
    }

    /// Calls qemu-nbd. With `--fork` the call ends when the parent exits, and the case must stop
    /// the daemon. For most servers, [`Test::nbd_server`] is simpler.
    #[track_caller]
    pub fn qemu_nbd(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> ToolCall {
        ToolCall::new(&self.shared, ToolKind::Nbd).args(arguments)
    }
}

impl Shared {
    /// Adds the arguments that every qemu-io of the run gets.
    pub(crate) fn with_io_defaults(&self, call: ToolCall) -> ToolCall {
        // A `json:` name contains the format as well.
        let given = call.has_any(&["-f", "--format", "--image-opts", "json:"]);
        let mut options = vec![
            "--cache".to_owned(),
            self.spec.cache.to_string(),
            "--aio".to_owned(),
            self.spec.aio.to_string(),
        ];
        if !given {
            options.extend(["-f".to_owned(), self.spec.format.to_string()]);
        }
        let front = options.into_iter().map(|option| Argument::Plain(option.into()));
        let arguments = front.chain(call.arguments).collect();
        ToolCall { arguments, ..call }
    }
}
