//! One call of qemu-img: what all subcommands have in common.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use super::{ImgError, QemuImg};
use crate::image::{ImageSpec, Options, Secret};
use crate::process::{Command, Output};

/// A subcommand of qemu-img: its arguments, and what it makes of the output.
pub trait Operation {
    /// What a run gives.
    type Answer;

    /// The name of the subcommand; empty if the caller gives it.
    const NAME: &'static str;

    /// Adds the arguments of the subcommand.
    fn arguments(&self, args: &mut Arguments<'_>);

    /// Reads the output. Signals are dealt with before.
    fn answer(&self, output: Output) -> Result<Self::Answer, ImgError>;
}

/// A call of qemu-img that is being put together. Nothing happens before it is run.
#[derive(Clone, Debug)]
#[must_use = "a call does nothing until it is run"]
pub struct Call<Op> {
    pub(super) img: QemuImg,
    pub(super) op: Op,
    flags: Vec<OsString>,
    deadline: Duration,
}

impl<Op> Call<Op> {
    pub(super) fn new(img: &QemuImg, op: Op) -> Call<Op> {
        Call {
            img: img.clone(),
            op,
            flags: Vec::new(),
            deadline: img.deadline,
        }
    }

    /// Adds an argument before those of the builder.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Call<Op> {
        self.flags.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments before those of the builder.
    pub fn args(self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Call<Op> {
        args.into_iter().fold(self, Call::arg)
    }

    /// The time that this call has.
    pub fn deadline(mut self, deadline: Duration) -> Call<Op> {
        self.deadline = deadline;
        self
    }

    /// Changes the builder's own part.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Op)) -> Call<Op> {
        change(&mut self.op);
        self
    }
}

impl<Op: Operation> Call<Op> {
    /// The command that would be run, for showing it or running it in another way.
    pub fn command(&self) -> Command {
        let mut command = self.img.tool.command().deadline(self.deadline);
        if !Op::NAME.is_empty() {
            command = command.arg(Op::NAME);
        }
        let mut args = Arguments {
            img: &self.img,
            command: command.args(&self.flags),
            known: Vec::new(),
        };
        self.op.arguments(&mut args);
        args.command
    }

    /// Runs it, and reads its answer.
    pub async fn run(self) -> Result<Op::Answer, ImgError> {
        let output = self.output().await?;
        self.op.answer(output)
    }

    /// [`Call::run`] outside of async code.
    pub fn run_blocking(self) -> Result<Op::Answer, ImgError> {
        let output = self.output_blocking()?;
        self.op.answer(output)
    }

    /// Runs it, and gives what came out whatever the exit status. A signal is an error.
    pub async fn output(&self) -> Result<Output, ImgError> {
        Ok(self.command().run().await?.check_code(|_| true)?)
    }

    /// [`Call::output`] outside of async code.
    pub fn output_blocking(&self) -> Result<Output, ImgError> {
        Ok(self.command().run_blocking()?.check_code(|_| true)?)
    }
}

/// The argument list of a call while it is made.
#[derive(Debug)]
pub struct Arguments<'c> {
    pub(super) img: &'c QemuImg,
    command: Command,
    /// The secrets that are known already: the id of an object can be given only once.
    known: Vec<String>,
}

impl Arguments<'_> {
    fn change(&mut self, change: impl FnOnce(Command) -> Command) {
        let command = std::mem::replace(&mut self.command, Command::new(""));
        self.command = change(command);
    }

    /// Adds a word.
    pub fn push(&mut self, word: impl AsRef<OsStr>) {
        self.change(|command| command.arg(word));
    }

    /// Adds a flag and its value.
    pub fn pair(&mut self, flag: &str, value: impl AsRef<OsStr>) {
        self.change(|command| command.arg(flag).arg(value));
    }

    /// Adds a flag and its value, if there is one.
    pub fn maybe(&mut self, flag: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.pair(flag, value.to_string());
        }
    }

    /// Adds a flag if it is on.
    pub fn flag(&mut self, flag: &str, on: bool) {
        if on {
            self.push(flag);
        }
    }

    /// Adds `-o` if there are options.
    pub fn options(&mut self, options: &Options) {
        if !options.is_empty() {
            self.pair("-o", options.as_str());
        }
    }

    /// Makes secrets known, each once.
    pub fn secrets(&mut self, secrets: &[Secret]) {
        for secret in secrets {
            if !self.known.iter().any(|id| id == secret.id()) {
                self.known.push(secret.id().to_owned());
                self.change(|command| crate::image::add_secret(command, secret));
            }
        }
    }

    /// Adds an image: its secrets, its format or `--image-opts`, and its name, which must be last.
    pub fn image(&mut self, image: &ImageSpec) {
        self.image_options(image, "-f");
        self.push(image.word());
    }

    /// What must be said of an image before it is named.
    pub(super) fn image_options(&mut self, image: &ImageSpec, format_flag: &str) {
        self.secrets(image.secrets());
        self.flag("--image-opts", image.is_options());
        self.maybe(format_flag, image.known_format());
    }
}
