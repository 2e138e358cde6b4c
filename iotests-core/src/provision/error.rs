//! Why a private QEMU could not be provided.

use std::io;
use std::path::PathBuf;

/// Why a prefix could not be created; each error tells the user what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionError {
    /// This system's packages cannot be unpacked without installing them.
    #[error(
        "failed to provision QEMU: only Debian, Ubuntu and their relatives are fetched \
         automatically; install it yourself with\n  {command}"
    )]
    Unsupported {
        /// The command to type instead.
        command: &'static str,
    },
    /// The package manager is Debian's, but one of its programs is missing.
    #[error("failed to provision QEMU: the program `{program}` is needed and was not found")]
    MissingProgram {
        /// Its name.
        program: &'static str,
    },
    /// A step of the package manager failed.
    #[error("failed to {what}: `{command}` ended with {status}\n{output}")]
    Step {
        /// The attempted operation.
        what: &'static str,
        /// The command line, ready to paste.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// A step of the package manager could not be run to completion.
    #[error("failed to {what}")]
    Run {
        /// The attempted operation.
        what: &'static str,
        /// The cause.
        #[source]
        source: imgtools::process::ProcessError,
    },
    /// A source offers no emulator, or no tools of the emulator's version.
    #[error(
        "failed to find a QEMU in {source_name}: {why}; \
         choose another source, or install QEMU with\n  {command}"
    )]
    NoPackage {
        /// The source that was searched.
        source_name: String,
        /// What was missing.
        why: String,
        /// The command to type instead.
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
        /// The suite concerned.
        source_name: String,
        /// The package manager's message.
        why: String,
    },
    /// The archive has no such version.
    #[error("failed to find QEMU {wanted}; available: {offers}")]
    NotOffered {
        /// The requested version.
        wanted: String,
        /// The available versions.
        offers: String,
    },
    /// Several sets could not be created.
    #[error("{0}")]
    Several(String),
    /// A program or a library is not a valid file of its format.
    #[error("failed to bind {path} to its own libraries", path = path.display())]
    Elf {
        /// The file.
        path: PathBuf,
        /// The cause.
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
        /// The attempted operation.
        verb: &'static str,
        /// The path concerned.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The prefix's path cannot be part of a library path.
    #[error("failed to provision QEMU below {path}: its name has a ':' or is not UTF-8; choose another build folder", path = path.display())]
    Path {
        /// The folder.
        path: PathBuf,
    },
}

impl ProvisionError {
    /// Combines all of them into one error.
    pub(super) fn several(all: Vec<(String, Self)>) -> Self {
        let each = all.iter().map(|(source, error)| format!("{source}: {}", chain(error)));
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
