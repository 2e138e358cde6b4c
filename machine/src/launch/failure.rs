//! Building the error for a failed launch, with everything that the process left behind.

use super::monitor::NotReady;
use crate::builder::Common;
use crate::error::{LaunchError, StartFailure};
use imgtools::process::{Child, Output, ProcessError, Status};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kills the process and returns its output.
pub(super) async fn end(common: &Common, child: &Child) -> Result<Box<Output>, LaunchError> {
    child.kill();
    wait(common, child).await
}

/// The output of a process that has ended.
async fn wait(common: &Common, child: &Child) -> Result<Box<Output>, LaunchError> {
    child.wait().await.map(Box::new).map_err(|source| LaunchError::Lost {
        name: common.name.clone(),
        command: Box::new(child.command().clone()),
        source: Box::new(source),
    })
}

/// The error for a monitor that did not become ready. A dying process closes its monitor slightly
/// earlier, so it is given time to exit before it counts as alive.
pub(super) async fn failed(
    common: &Common,
    child: &Child,
    grace: Duration,
    reason: NotReady,
) -> LaunchError {
    let exited = tokio::time::timeout(grace, child.exited()).await.ok().flatten();
    let output = match exited {
        Some(_) => wait(common, child).await,
        None => end(common, child).await,
    };
    let name = common.name.clone();
    match (output, exited, reason) {
        (Err(lost), ..) => lost,
        (Ok(output), None, NotReady::Qmp(error)) => LaunchError::Monitor {
            name,
            output,
            source: Box::new(error),
        },
        (Ok(_), None, NotReady::Socket(source)) => LaunchError::Descriptor {
            name,
            what: "the monitor's connection".to_owned(),
            source,
        },
        // For a program of a foreign format `execvp` falls back to a shell, which fails to parse
        // it. A 32-bit program on a 64-bit host looks just as foreign, but runs.
        (Ok(output), ..) if is_shells(output.status) && is_foreign(&common.tool.path) => {
            LaunchError::NotStarted {
                program: common.tool.path.clone(),
                why: StartFailure::WrongFormat,
                source: None,
            }
        }
        (Ok(output), ..) => LaunchError::Exited { name, output },
    }
}

/// Whether a shell exits with this status when it cannot parse a script (POSIX, 2.8.2).
fn is_shells(status: Status) -> bool {
    matches!(status, Status::Exited(2 | 126 | 127))
}

/// Whether the file is an ELF program whose class, byte order or machine differs from ours.
fn is_foreign(program: &Path) -> bool {
    // e_ident[EI_CLASS], e_ident[EI_DATA] and e_machine (elf.h).
    let header = |path: &Path| {
        let mut start = [0; 20];
        File::open(path).and_then(|mut file| file.read_exact(&mut start)).ok()?;
        start.starts_with(b"\x7fELF").then(|| [start[4], start[5], start[18], start[19]])
    };
    match (header(program), header(Path::new("/proc/self/exe"))) {
        (Some(theirs), Some(ours)) => theirs != ours,
        _ => false,
    }
}

/// The error for a program that could not be executed.
pub(super) fn not_started(common: &Common, error: ProcessError) -> LaunchError {
    let wrapper = common.wrapper.as_ref().and_then(|w| w.words().into_iter().next());
    let program = wrapper.map_or_else(|| common.tool.path.clone(), PathBuf::from);
    let ProcessError::Spawn { source, .. } = &error else {
        let command = common.tool.command().command_line();
        let (name, command) = (common.name.clone(), Box::new(command));
        return LaunchError::Lost {
            name,
            command,
            source: Box::new(error),
        };
    };
    let why = match source.raw_os_error().map(Errno::from_raw_os_error) {
        _ if common.current_dir.as_ref().is_some_and(|dir| !dir.is_dir()) => {
            StartFailure::WorkingDirectory
        }
        Some(Errno::NOENT) if !program.exists() => StartFailure::Missing,
        // The file exists, so its interpreter is missing.
        Some(Errno::NOENT | Errno::NOEXEC) => StartFailure::WrongFormat,
        Some(Errno::ACCESS) if program.is_dir() => StartFailure::Directory,
        Some(Errno::ACCESS | Errno::PERM) => StartFailure::NotExecutable,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN) => StartFailure::Resources,
        _ => StartFailure::Other,
    };
    LaunchError::NotStarted {
        program,
        why,
        source: Some(Box::new(error)),
    }
}
