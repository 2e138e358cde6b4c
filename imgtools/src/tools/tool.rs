//! One program of QEMU, ready to run.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::Version;
use crate::process::Command;

/// A program of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum ToolKind {
    /// `qemu-img`.
    Img,
    /// `qemu-io`.
    Io,
    /// `qemu-nbd`.
    Nbd,
    /// `qemu-storage-daemon`.
    StorageDaemon,
    /// `qemu-system-ARCH`.
    System,
}

impl ToolKind {
    /// All of them.
    pub const ALL: [ToolKind; 5] = [
        ToolKind::Img,
        ToolKind::Io,
        ToolKind::Nbd,
        ToolKind::StorageDaemon,
        ToolKind::System,
    ];

    /// The program's name; for the emulator the part before the architecture.
    pub fn name(self) -> &'static str {
        match self {
            ToolKind::Img => "qemu-img",
            ToolKind::Io => "qemu-io",
            ToolKind::Nbd => "qemu-nbd",
            ToolKind::StorageDaemon => "qemu-storage-daemon",
            ToolKind::System => "qemu-system",
        }
    }

    /// The environment variable that names the program, as in QEMU's own iotests.
    pub fn program_variable(self) -> &'static str {
        match self {
            ToolKind::Img => "QEMU_IMG_PROG",
            ToolKind::Io => "QEMU_IO_PROG",
            ToolKind::Nbd => "QEMU_NBD_PROG",
            ToolKind::StorageDaemon => "QSD_PROG",
            ToolKind::System => "QEMU_PROG",
        }
    }

    /// The environment variable with options that are always passed to the program.
    pub fn options_variable(self) -> &'static str {
        match self {
            ToolKind::Img => "QEMU_IMG_OPTIONS",
            ToolKind::Io => "QEMU_IO_OPTIONS",
            ToolKind::Nbd => "QEMU_NBD_OPTIONS",
            ToolKind::StorageDaemon => "QSD_OPTIONS",
            ToolKind::System => "QEMU_OPTIONS",
        }
    }

    /// The text before the version in the first line of `--version`. (`qemu-io` and `qemu-nbd`
    /// print the name by which they were started.)
    pub(super) fn banner_name(self) -> &'static str {
        match self {
            ToolKind::Img => "qemu-img version",
            ToolKind::Io => "qemu-io version",
            ToolKind::Nbd => "qemu-nbd",
            ToolKind::StorageDaemon => "qemu-storage-daemon version",
            ToolKind::System => "QEMU emulator version",
        }
    }
}

impl fmt::Display for ToolKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program of QEMU, with its fixed environment and options.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tool {
    /// Which one it is.
    pub kind: ToolKind,
    /// Its path.
    pub path: PathBuf,
    /// Additions to its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Options that come before all others.
    pub options: Vec<String>,
    /// The program it is run under, such as `valgrind --error-exitcode=99`; empty for nothing.
    pub wrapper: Vec<String>,
    /// Whether its output is copied to our standard error as it arrives, redacted.
    #[cfg_attr(feature = "serde", serde(default))]
    pub echo: bool,
    /// The version, if it was queried.
    pub version: Option<Version>,
}

impl Tool {
    /// The program at this path, unchecked.
    pub fn new(kind: ToolKind, path: impl Into<PathBuf>) -> Tool {
        Tool {
            kind,
            path: path.into(),
            env: Vec::new(),
            options: Vec::new(),
            wrapper: Vec::new(),
            echo: false,
            version: None,
        }
    }

    /// Adds to its environment.
    pub fn with_env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Tool {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Adds an option that comes before all others.
    pub fn with_option(mut self, option: impl Into<String>) -> Tool {
        self.options.push(option.into());
        self
    }

    /// Runs it under another program.
    pub fn with_wrapper(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Tool {
        self.wrapper = words.into_iter().map(Into::into).collect();
        self
    }

    /// A command that runs it, to which arguments can be added.
    pub fn command(&self) -> Command {
        let command = Command::new(&self.path)
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .args(&self.options)
            .echo(self.echo);
        match self.wrapper.is_empty() {
            true => command,
            false => command.wrapper(&self.wrapper),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_all_that_the_tool_always_gets() {
        let tool = Tool::new(ToolKind::Img, "/q/qemu-img")
            .with_env("LD_LIBRARY_PATH", "/q/lib")
            .with_option("-T")
            .with_option("x*")
            .with_wrapper(["valgrind", "-q"]);
        let shown = tool.command().arg("info").command_line().to_string();
        assert_eq!(
            shown,
            "LD_LIBRARY_PATH=/q/lib valgrind -q /q/qemu-img -T 'x*' info"
        );
    }
}
