//! The program and its defaults, and command lists that run to completion.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::command::Success;
use super::{IoCommand, IoError, Session, failures};
use crate::image::{ImageSpec, NameError, add_secret};
use crate::process::{Command, Output, block_on};
use crate::tools::Tool;

/// Defaults for calls that do not override them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IoDefaults {
    /// The format.
    pub format: Option<String>,
    /// The cache mode. qemu-io's own default is writethrough.
    pub cache: Option<String>,
    /// The asynchronous I/O mode.
    pub aio: Option<String>,
    /// Whether buffers are misaligned on purpose.
    pub misalign: bool,
}

/// qemu-io, with the defaults for all its calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QemuIo {
    tool: Arc<Tool>,
    defaults: Arc<IoDefaults>,
    deadline: Option<Duration>,
}

impl QemuIo {
    /// Wraps this program.
    pub fn new(tool: Tool) -> QemuIo {
        QemuIo {
            tool: Arc::new(tool),
            defaults: Arc::default(),
            deadline: None,
        }
    }

    /// Sets defaults for calls that do not override them.
    pub fn defaults(mut self, defaults: IoDefaults) -> QemuIo {
        self.defaults = Arc::new(defaults);
        self
    }

    /// The deadline of each command list, and of each command of a session (default: none).
    pub fn deadline(mut self, deadline: Duration) -> QemuIo {
        self.deadline = Some(deadline);
        self
    }

    /// The program.
    pub fn tool(&self) -> &Tool {
        &self.tool
    }

    /// Opens an image. Its format is its own if set, else the default; an image named by options
    /// includes its format.
    pub fn open(&self, image: impl Into<ImageSpec>) -> Open {
        let image = image.into().or_format(self.defaults.format.as_deref());
        Open::new(self, Some(image))
    }

    /// Opens no image; the command `open` can do so later.
    pub fn open_nothing(&self) -> Open {
        Open::new(self, None)
    }
}

/// A builder for a call of qemu-io. Nothing happens until it is run.
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is run or a session is started"]
pub struct Open {
    tool: Arc<Tool>,
    image: Option<ImageSpec>,
    flags: Vec<OsString>,
    cache: Option<String>,
    aio: Option<String>,
    misalign: bool,
    commands: Vec<IoCommand>,
    deadline: Option<Duration>,
}

impl Open {
    fn new(io: &QemuIo, image: Option<ImageSpec>) -> Open {
        Open {
            tool: Arc::clone(&io.tool),
            image,
            flags: Vec::new(),
            cache: io.defaults.cache.clone(),
            aio: io.defaults.aio.clone(),
            misalign: io.defaults.misalign,
            commands: Vec::new(),
            deadline: io.deadline,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Open {
        self.flags.push(arg.into());
        self
    }

    /// Opens it for reading only.
    pub fn read_only(self) -> Open {
        self.arg("-r")
    }

    /// Opens it even if it is in use by others.
    pub fn force_share(self) -> Open {
        self.arg("-U")
    }

    /// Writes go to a temporary overlay.
    pub fn snapshot(self) -> Open {
        self.arg("-s")
    }

    /// Copies what is read from a backing file.
    pub fn copy_on_read(self) -> Open {
        self.arg("-C")
    }

    /// The cache mode.
    pub fn cache(mut self, mode: &str) -> Open {
        self.cache = Some(mode.to_owned());
        self
    }

    /// The asynchronous I/O mode. `native` needs the cache mode `none` or `directsync`.
    pub fn aio(mut self, mode: &str) -> Open {
        self.aio = Some(mode.to_owned());
        self
    }

    /// How discards are handled: `ignore` (qemu-io's own default: `unmap`).
    pub fn discard(self, mode: &str) -> Open {
        self.arg("-d").arg(mode)
    }

    /// Adds a command.
    pub fn command(mut self, command: impl Into<IoCommand>) -> Open {
        self.commands.push(command.into());
        self
    }

    /// Adds commands.
    pub fn commands(self, commands: impl IntoIterator<Item = impl Into<IoCommand>>) -> Open {
        commands.into_iter().fold(self, Open::command)
    }

    /// The deadline of the command list, or of each command of the session.
    pub fn deadline(mut self, deadline: Duration) -> Open {
        self.deadline = Some(deadline);
        self
    }

    pub(super) fn time_for_a_command(&self) -> Option<Duration> {
        self.deadline
    }

    pub(super) fn program(&self) -> &Path {
        &self.tool.path
    }

    pub(super) fn first_commands(&self) -> &[IoCommand] {
        &self.commands
    }

    /// The process as it would be run, with neither deadline nor input.
    pub fn process(&self) -> Result<Command, NameError> {
        self.process_with(&self.commands)
    }

    /// The process of a session: with commands on its command line it would exit after them.
    pub(super) fn interactive(&self) -> Result<Command, NameError> {
        self.process_with(&[])
    }

    fn process_with(&self, commands: &[IoCommand]) -> Result<Command, NameError> {
        let mut command = self.tool.command();
        for (flag, value) in [("--cache", &self.cache), ("--aio", &self.aio)] {
            if let Some(value) = value {
                command = command.arg(flag).arg(value);
            }
        }
        if self.misalign {
            command = command.arg("--misalign");
        }
        command = command.args(&self.flags);
        let image = self.image.as_ref();
        let words = image.map(|image| image.words(false)).transpose()?;
        let secrets = image.into_iter().flat_map(ImageSpec::secrets);
        command = secrets.fold(command, add_secret);
        if let Some(words) = &words {
            if words.by_options {
                command = command.arg("--image-opts");
            }
            if let Some(format) = words.format {
                command = command.args(["-f", format]);
            }
        }
        for io in commands {
            command = command.arg("-c").arg(io.to_string());
        }
        Ok(match &words {
            Some(words) => command.arg("--").arg(&words.name),
            None => command,
        })
    }

    /// Runs the commands. A nonzero exit status is an error, and so is any line that reports a
    /// failure: failures of aio requests do not affect the status.
    pub async fn run(&self) -> Result<Output, IoError> {
        let output = self.output().await?;
        verified(output, &self.commands)
    }

    /// [`Open::run`] outside of async code.
    pub fn run_blocking(&self) -> Result<Output, IoError> {
        block_on(self.run())
    }

    /// Runs the commands, and returns the output whatever the exit status. A signal is an error.
    pub async fn output(&self) -> Result<Output, IoError> {
        let mut process = self.process()?;
        if let Some(deadline) = self.deadline {
            process = process.deadline(deadline);
        }
        Ok(process.run().await?.check_code(|_| true)?)
    }

    /// [`Open::output`] outside of async code.
    pub fn output_blocking(&self) -> Result<Output, IoError> {
        block_on(self.output())
    }

    /// Starts a session, and runs the added commands; each must succeed.
    pub async fn session(&self) -> Result<Session, IoError> {
        Session::start(self).await
    }

    /// [`Open::session`] outside of async code.
    pub fn session_blocking(&self) -> Result<Session, IoError> {
        block_on(self.session())
    }
}

/// The commands that did not report success: qemu-io prints a refusal like any other line.
fn unreported(commands: &[IoCommand], stdout: &str) -> Vec<String> {
    let mut expected: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for command in commands.iter().take_while(|command| !command.is_quit()) {
        if let Success::Line(line) | Success::LaterLine(line) = command.success() {
            expected.entry(line).or_default().push(command.to_string());
        }
    }
    let missing = |(line, commands): (&str, Vec<String>)| {
        let reported = stdout.lines().filter(|found| found.starts_with(line)).count();
        (reported < commands.len()).then(|| {
            format!(
                "{reported} of {} reported success: {}",
                commands.len(),
                commands.join("; ")
            )
        })
    };
    expected.into_iter().filter_map(missing).collect()
}

fn verified(output: Output, commands: &[IoCommand]) -> Result<Output, IoError> {
    let output = output.check()?;
    let stdout = output.stdout_text();
    let mut failures: Vec<String> = failures(&stdout).into_iter().map(str::to_owned).collect();
    if failures.is_empty() {
        failures = unreported(commands, &stdout);
    }
    let failures: Vec<String> =
        failures.iter().map(|line| output.command.redact(line).into_owned()).collect();
    match failures.is_empty() {
        true => Ok(output),
        false => Err(IoError::Commands {
            failures,
            output: output.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Secret;
    use crate::tools::ToolKind;

    fn io() -> QemuIo {
        QemuIo::new(Tool::new(ToolKind::Io, "qemu-io")).defaults(IoDefaults {
            format: Some("qcow2".to_owned()),
            cache: Some("none".to_owned()),
            aio: Some("native".to_owned()),
            misalign: true,
        })
    }

    fn shown(open: &Open) -> String {
        open.process().unwrap().command_line().to_string()
    }

    /// H05: the format is that of the call or the default one, never both.
    #[test]
    fn h05_the_format_is_that_of_the_call_else_the_default_and_never_both() {
        let plain = QemuIo::new(Tool::new(ToolKind::Io, "qemu-io"));
        for (open, expected) in [
            (plain.open("x"), "qemu-io -- x"),
            (
                plain.open(ImageSpec::file("x").format("raw")),
                "qemu-io -f raw -- x",
            ),
            (
                io().open("x"),
                "qemu-io --cache none --aio native --misalign -f qcow2 -- x",
            ),
            (
                io().open(ImageSpec::file("x").format("raw")),
                "qemu-io --cache none --aio native --misalign -f raw -- x",
            ),
            (
                io().open(ImageSpec::options("driver=raw").format("qed")),
                "qemu-io --cache none --aio native --misalign --image-opts -- driver=raw",
            ),
            (
                io().open_nothing(),
                "qemu-io --cache none --aio native --misalign",
            ),
            (
                io().open("x").cache("unsafe").aio("threads").read_only().command("map"),
                "qemu-io --cache unsafe --aio threads --misalign -r -f qcow2 -c map -- x",
            ),
        ] {
            assert_eq!(shown(&open), expected);
        }
    }

    #[test]
    fn a_luks_image_is_opened_by_options_with_its_secret_in_a_file() {
        let secret = Secret::new("sec0", "hunter2").unwrap();
        let open = QemuIo::new(Tool::new(ToolKind::Io, "qemu-io"))
            .defaults(IoDefaults {
                format: Some("luks".to_owned()),
                ..IoDefaults::default()
            })
            .open(ImageSpec::luks("a,b", &secret));
        let expected = "qemu-io --object secret,id=sec0,file=FILE --image-opts -- \
                        driver=luks,key-secret=sec0,file.filename=a,,b";
        assert_eq!(
            shown(&open).replace(secret.path().to_str().unwrap(), "FILE"),
            expected
        );
    }
}
