//! Why a private QEMU could not be had.

use std::io;
use std::path::PathBuf;

/// A prefix that could not be made; each says what a person can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// This system's packages cannot be unpacked without installing them.
    #[error(
        "failed to provision QEMU: only Debian, Ubuntu and their relatives are fetched \
         automatically; install it yourself with\n  {command}"
    )]
    Unsupported {
        /// What a person types instead.
        command: &'static str,
    },
    /// The package manager is Debian's, but a program of it is missing.
    #[error("failed to provision QEMU: the program `{program}` is needed and was not found")]
    MissingProgram {
        /// Its name.
        program: &'static str,
    },
    /// A step of the package manager failed.
    #[error("failed to {what}: `{command}` ended with {status}\n{output}")]
    Step {
        /// What was attempted.
        what: &'static str,
        /// The command line, which can be pasted.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it printed.
        output: String,
    },
    /// A step of the package manager could not be run to its end.
    #[error("failed to {what}")]
    Run {
        /// What was attempted.
        what: &'static str,
        /// Why.
        #[source]
        source: imgtools::process::ProcessError,
    },
    /// A source offers no emulator, or no tools of the emulator's version.
    #[error(
        "failed to find a QEMU in {source_name}: {why}; \
         choose another source, or install QEMU with\n  {command}"
    )]
    NoPackage {
        /// Where was looked.
        source_name: String,
        /// What was missing.
        why: String,
        /// What a person types instead.
        command: &'static str,
    },
    /// The machine's package sources do not name Debian's archive.
    #[error(
        "failed to find Debian's archive in this machine's package sources; \
         say where it is in the environment variable {variable}",
        variable = super::source::MIRROR_VARIABLE
    )]
    NoArchive,
    /// A part of the archive could not be read.
    #[error("failed to learn what {source_name} offers: {why}")]
    Silent {
        /// The suite.
        source_name: String,
        /// What the package manager said.
        why: String,
    },
    /// The archive has no such version.
    #[error("failed to find QEMU {wanted}; there is {offers}")]
    NotOffered {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offers: String,
    },
    /// More than one of the sets could not be made.
    #[error("{0}")]
    Several(String),
    /// A program or a library is not what its format says.
    #[error("failed to bind {path} to its own libraries", path = path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: super::elf::ElfError,
    },
    /// The unpacked QEMU does not run here.
    #[error("failed to use the unpacked {program}: {why}")]
    Broken {
        /// Which program.
        program: String,
        /// Its status and what it printed.
        why: String,
    },
    /// A folder or file of the prefix could not be used.
    #[error("failed to {verb} {path}", path = path.display())]
    File {
        /// What was attempted.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The prefix's path cannot be written into a library path.
    #[error("failed to provision QEMU below {path}: its name has a ':' or is not UTF-8; choose another build folder", path = path.display())]
    Path {
        /// The folder.
        path: PathBuf,
    },
}

impl ProvisionError {
    /// One error of all of them.
    pub(super) fn several(all: Vec<(String, Self)>) -> Self {
        let each = all
            .iter()
            .map(|(source, error)| format!("{source}: {}", chain(error)));
        Self::Several(each.collect::<Vec<_>>().join("\n"))
    }
}

/// An error with its causes.
pub(super) fn chain(error: &ProvisionError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
