//! One call of qemu-img: what all subcommands have in common.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use super::running::{Made, Running};
use super::{ImgError, QemuImg};
use crate::image::{FileName, ImageSpec, NameError, Options, Secret};
use crate::process::{Command, Output, block_on};

/// A subcommand of qemu-img: its arguments, and how its output is parsed.
pub trait Operation: Sized {
    /// The result of a run.
    type Answer;

    /// The name of the subcommand; empty if the caller gives it.
    const NAME: &'static str;

    /// Adds the arguments of the subcommand.
    fn arguments(&self, args: &mut Arguments) -> Result<(), NameError>;

    /// Whether standard output is passed to [`Operation::take`] as it arrives, instead of being
    /// kept.
    const PULLS: bool = false;

    /// Takes a piece of standard output.
    fn take(&mut self, _bytes: &[u8]) {}

    /// Parses the output. Signals were handled before.
    fn answer(self, output: Output) -> Result<Self::Answer, ImgError>;

    /// The local file that it creates, if any.
    fn makes(&self) -> Option<&Path> {
        None
    }
}

/// A subcommand that can report its progress (`-p`).
pub trait ReportsProgress: Operation {}

/// The progress of a call.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
#[non_exhaustive]
pub struct Progress {
    /// From 0 to 100, as computed by qemu-img.
    pub percent: f32,
}

/// A builder for a call of qemu-img. Nothing happens until it is run.
///
/// A call has no deadline by default ([`Call::deadline`], [`QemuImg::deadline`]): it may take
/// hours. When its deadline passes or its future is dropped, it is killed. An image that it was
/// changing in place (`commit`, `rebase`, `amend`, `resize`, `check -r`, and `convert` into an
/// existing target) is then in the state of a crash of qemu-img: check it. A file that it was
/// creating is removed, so that a partial image is never mistaken for a whole one; a call that
/// fails by itself removes its file as well.
#[derive(Clone, Debug)]
#[must_use = "a call does nothing until it is run"]
pub struct Call<Op> {
    pub(super) img: QemuImg,
    pub(super) op: Op,
    flags: Vec<OsString>,
    deadline: Option<Duration>,
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

    /// The deadline of this call (default: that of [`QemuImg::deadline`], else none).
    pub fn deadline(mut self, deadline: Duration) -> Call<Op> {
        self.deadline = Some(deadline);
        self
    }

    /// Changes the builder's own part.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Op)) -> Call<Op> {
        change(&mut self.op);
        self
    }
}

impl<Op: Operation> Call<Op> {
    /// The command that would be run, for display or for running it in another way.
    pub fn command(&self) -> Result<Command, NameError> {
        let mut command = self.img.tool.command();
        if let Some(deadline) = self.deadline {
            command = command.deadline(deadline);
        }
        if !Op::NAME.is_empty() {
            command = command.arg(Op::NAME);
        }
        let mut args = Arguments {
            command: command.args(&self.flags),
            known: Vec::new(),
        };
        self.op.arguments(&mut args)?;
        Ok(args.command)
    }

    /// Runs it, and parses its answer. Dropping the future kills it.
    pub async fn run(self) -> Result<Op::Answer, ImgError> {
        self.started().await?.wait().await
    }

    /// [`Call::run`] outside of async code.
    pub fn run_blocking(self) -> Result<Op::Answer, ImgError> {
        block_on(self.run())
    }

    /// Runs it, and returns the output whatever the exit status; files left behind by a failed
    /// qemu-img are then kept. A signal is an error.
    pub async fn output(&self) -> Result<Output, ImgError> {
        let mut made = Made::before(self.op.makes());
        let output = self.command()?.run().await?.check_code(|_| true)?;
        made.keep();
        Ok(output)
    }

    /// [`Call::output`] outside of async code.
    pub fn output_blocking(&self) -> Result<Output, ImgError> {
        block_on(self.output())
    }

    async fn started(self) -> Result<Running<Op>, ImgError> {
        let made = Made::before(self.op.makes());
        let mut command = self.command()?;
        if Op::PULLS {
            command = command.pull_stdout();
        }
        let child = command.spawn_async().await?;
        Ok(Running::new(child, made, self.op))
    }
}

impl<Op: ReportsProgress> Call<Op> {
    /// Starts it, so that its progress can be followed.
    ///
    /// ```no_run
    /// # async fn example(img: imgtools::img::QemuImg) -> Result<(), imgtools::img::ImgError> {
    /// let mut running = img.convert("disk.vmdk", "disk.qcow2").output_format("qcow2").start().await?;
    /// while let Some(progress) = running.progress().await {
    ///     println!("{progress}");
    /// }
    /// running.wait().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start(self) -> Result<Running<Op>, ImgError> {
        self.arg("-p").started().await
    }

    /// [`Call::start`] outside of async code.
    pub fn start_blocking(self) -> Result<Running<Op>, ImgError> {
        block_on(self.start())
    }

    /// Runs it, and reports its progress to this function.
    pub async fn run_with_progress(
        self,
        mut show: impl FnMut(Progress),
    ) -> Result<Op::Answer, ImgError> {
        let mut running = self.start().await?;
        while let Some(progress) = running.progress().await {
            show(progress);
        }
        running.wait().await
    }

    /// [`Call::run_with_progress`] outside of async code.
    pub fn run_with_progress_blocking(
        self,
        show: impl FnMut(Progress),
    ) -> Result<Op::Answer, ImgError> {
        block_on(self.run_with_progress(show))
    }
}

/// The argument list of a call under construction.
#[derive(Debug)]
pub struct Arguments {
    command: Command,
    /// The secrets already passed: the id of an object can be given only once.
    known: Vec<String>,
}

impl Arguments {
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
            self.pair("-o", options.as_os_str());
        }
    }

    /// Passes secrets, each once.
    pub fn secrets(&mut self, secrets: &[Secret]) {
        for secret in secrets {
            if !self.known.iter().any(|id| id == secret.id()) {
                self.known.push(secret.id().to_owned());
                self.change(|command| crate::image::add_secret(command, secret));
            }
        }
    }

    /// Adds a flag and the file that is its value, with its format if that is known.
    pub(super) fn backing(
        &mut self,
        flag: &str,
        (file, format): &(FileName, Option<String>),
        format_flag: &str,
    ) {
        self.pair(flag, file.as_os_str());
        self.maybe(format_flag, format.as_ref());
    }

    /// Adds an image: its secrets, its format or `--image-opts`, and its name. Only operands may
    /// follow.
    pub fn image(&mut self, image: &ImageSpec) -> Result<(), NameError> {
        self.named(image, false)
    }

    /// The same, with the format in options, for a subcommand without `-f`.
    pub(super) fn image_without_format_flag(&mut self, image: &ImageSpec) -> Result<(), NameError> {
        self.named(image, image.known_format().is_some())
    }

    fn named(&mut self, image: &ImageSpec, by_options: bool) -> Result<(), NameError> {
        let words = image.words(by_options)?;
        self.secrets(image.secrets());
        self.flag("--image-opts", words.by_options);
        self.maybe("-f", words.format);
        self.operands([words.name]);
        Ok(())
    }

    /// Adds operands, which are never treated as options.
    pub fn operands(&mut self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) {
        self.push("--");
        for word in words {
            self.push(word);
        }
    }
}
